"""What inference writes down: records without torch, so that reports read them in no time."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from medseg.files import RESEARCH_USE, Output, Record
from medseg.planning.plan import Name

VERSION = 1


class Prediction(Record):
    """What is known of one finished case; no path and no patient."""

    version: int = VERSION
    case: str
    input: str
    seconds: float
    volumes_ml: dict[str, float]
    warnings: tuple[str, ...]  # what is odd, and what was mended or relaxed on reading
    deviation_mm: float  # the largest error of place that reading the results back found
    key: str
    model: str  # digest of the weights that made it
    outputs: tuple[Output, ...]


class Cleaning(Record):
    """One step of post-processing, of the structures with these label values taken as one.

    `largest` keeps their largest component; `at_least` those of at least `ml`; what goes becomes background. `fill`
    gives background that they enclose to the one of them that touches it most.
    """

    kind: Literal["largest", "at_least", "fill"]
    values: tuple[int, ...]
    what: str  # in words: `liver`, or `all structures together`
    ml: float = 0.0

    @property
    def words(self) -> str:
        """For people: `liver: only the largest component is kept`."""
        done = {
            "largest": "only the largest component is kept",
            "at_least": f"components below {self.ml:g} ml are removed",
            "fill": "holes are filled",
        }
        return f"{self.what}: {done[self.kind]}"


class Candidate(Record):
    """A configuration, or several whose probabilities are averaged, and its cross-validated Dice.

    dice: the mean over structures of their means over cases. structures: these means; of a structure that no case
    holds there is none.
    """

    members: tuple[Name, ...]
    dice: float
    structures: dict[str, float]

    @property
    def words(self) -> str:
        """`3d + 2d`."""
        return " + ".join(self.members)


class Selection(Record):
    """`selected.json`: what `medseg select` chose, from what, and how well it did before and after post-processing.

    models: a digest of the weights that were compared. cleaned: the winner after post-processing.
    """

    version: int = VERSION
    members: tuple[Name, ...]
    cleaning: tuple[Cleaning, ...]
    cases: int
    models: str
    candidates: tuple[Candidate, ...]
    cleaned: Candidate
    notice: str = RESEARCH_USE


class Unread(Record):
    """A case that failed, with the reason in one line."""

    case: str
    reason: str


class Predictions(Record):
    """`predictions.json`: all finished cases of the folder, and those that failed in the last run.

    labels: of the values in the files. regions: what was trained instead, made of these values; volumes are theirs.
    configurations: whose probabilities were averaged. postprocessing: its steps, in words.
    """

    version: int = VERSION
    labels: dict[str, str]
    regions: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    configurations: tuple[str, ...]
    folds: tuple[str, ...]
    postprocessing: tuple[str, ...]
    device: str
    cases: tuple[Prediction, ...]
    failed: tuple[Unread, ...]
    notice: str = RESEARCH_USE
