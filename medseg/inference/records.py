"""What inference writes down: records without torch, so that reports read them in no time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from medseg.files import RESEARCH_USE, Output, Record
from medseg.inference.measuring.record import StructureStatistics
from medseg.inference.quality import Quality
from medseg.inference.trust.records import Oddity, StructureTrust
from medseg.planning.plan import Name

VERSION = 3
LEAST_CONCERN = 0.1  # of a remark that is no doubt of the prediction


class Prediction(Record):
    """What is known of one finished case; no path and no patient.

    seconds: of all stages, which overlap with those of other cases; stages_s: of each. scan: SHA-256 of the bytes of
    its files. stamp: digest of their sizes and times, by which they are known again without being read; empty where
    these are not to be trusted. key: digest of all that the results depend on. warnings: what was mended or relaxed on
    reading, and how it had to be computed. odd: what is unlike the training scans. statistics: of every structure, and
    of instances where they were asked for (in `predictions.json` they are left out: `statistics.csv` has them all).
    """

    version: int = VERSION
    case: str
    input: str
    seconds: float
    stages_s: dict[str, float] = Field(default_factory=dict)
    volumes_ml: dict[str, float]
    warnings: tuple[str, ...]
    odd: tuple[Oddity, ...] = ()
    trust: tuple[StructureTrust, ...] = ()
    statistics: tuple[StructureStatistics, ...] = ()
    cut: tuple[str, ...] = ()  # structures that the field of view cuts, in words
    deviation_mm: float  # the largest error of place that reading the results back found
    scan: str = ""
    stamp: str = ""
    key: str
    model: str  # digest of the weights that made it
    probabilities_of: tuple[str, ...] = ()  # along the fourth axis of that file, where it was asked for
    outputs: tuple[Output, ...]

    @property
    def concern(self) -> float:
        """How much the case asks to be looked at: what is unlike the training scans counts most, then the structure
        that is likeliest to be wrong (0 to 1), then what else there is to say.
        """
        worst = max((one.concern for one in self.trust), default=0.0)
        return round(len(self.odd) + worst + LEAST_CONCERN * (len(self.cut) + len(self.warnings)), 6)

    @property
    def look_at(self) -> tuple[str, ...]:
        """What to look at, in words, the most important first."""
        doubtful = sorted((one for one in self.trust if one.look), key=lambda one: -one.concern)
        unlike = (one.what for one in self.odd)
        return (*unlike, *(f"{one.structure}: {one.words}" for one in doubtful), *self.cut, *self.warnings)


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

    models: a digest of the weights that were compared. cleaned: the winner after post-processing. qualities: Dice of
    the first member at each quality of inference (see `quality`), one network a case, before post-processing.
    """

    version: int = VERSION
    members: tuple[Name, ...]
    cleaning: tuple[Cleaning, ...]
    cases: int
    models: str
    candidates: tuple[Candidate, ...]
    cleaned: Candidate
    qualities: dict[Quality, float] = Field(default_factory=dict)
    notice: str = RESEARCH_USE


class Unread(Record):
    """A case that failed, with the reason in one line; `model` is the digest of the weights that were to predict it."""

    version: int = VERSION
    case: str
    reason: str
    model: str = ""


class Effort(Record):
    """What one run on the folder, or on a part of it, was expected to take, and what it took.

    scans: that were to be done; done: that were done before; failed: of `scans`. at_a_time: cases that overlapped at
    most. minutes, ram_gb (of the whole process, at its peak), gpu_gb and disk_gb as measured; `expected_` as told
    beforehand. None where nothing tells. basis: what the expectations rest on, in words.
    """

    device: str
    threads: int
    scans: int
    done: int
    failed: int
    at_a_time: int
    expected_minutes: float | None
    minutes: float
    expected_ram_gb: float | None
    ram_gb: float | None
    expected_gpu_gb: float | None
    gpu_gb: float | None
    expected_disk_gb: float
    disk_gb: float
    basis: tuple[str, ...]


class Predictions(Record):
    """`predictions.json`: all finished cases of the folder, what to look at first before the others, and those of the
    scans given last that failed.

    labels: of the values in the files. regions: what was trained instead, made of these values; volumes are theirs.
    configurations: whose probabilities were averaged. postprocessing: its steps, in words. machine: what the last run
    of each part took, by part (`0/1` is the whole folder).
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
    machine: dict[str, Effort] = Field(default_factory=dict)
    notice: str = RESEARCH_USE


def in_order_of_concern(cases: Iterable[Prediction]) -> tuple[Prediction, ...]:
    """The cases, those to look at first before the others; equal ones by name."""
    return tuple(sorted(cases, key=lambda case: (-case.concern, case.case)))
