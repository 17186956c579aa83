"""What inference writes down: records without torch, so that reports read them in no time."""

from __future__ import annotations

from medseg.files import RESEARCH_USE, Output, Record

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


class Unread(Record):
    """A case that failed, with the reason in one line."""

    case: str
    reason: str


class Predictions(Record):
    """`predictions.json`: all finished cases of the folder, and those that failed in the last run."""

    version: int = VERSION
    labels: dict[str, str]
    folds: tuple[str, ...]
    device: str
    cases: tuple[Prediction, ...]
    failed: tuple[Unread, ...]
    notice: str = RESEARCH_USE
