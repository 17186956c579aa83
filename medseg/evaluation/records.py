"""What is known of a whole cohort, as records: what `scores.json` holds."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, model_validator

from medseg.evaluation.metrics import Better, Unit
from medseg.evaluation.score import Number, StructureScore
from medseg.evaluation.settings import DEFAULT, Settings, SurfaceMode
from medseg.evaluation.statistics import FEWEST_FOR_MEDIAN
from medseg.files import RESEARCH_USE, Record

QUANTILES = {"min": 0.0, "p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}
_OF_MEDIAN = ("median_low", "median_high")


class Summary(Record):
    """One metric over the `n` cases, of `n_patients`, of a structure in which it is defined (all but `both_empty`).

    Mean and SD (of the sample) of a distance are over the `n_finite` finite cases; `mean_penalised` counts an infinite
    one as the diagonal of its image. The quantiles take infinities as they are; where n > 0, null is such an infinity.
    mean_low, mean_high: the 95 % interval of the mean, of a distance of the penalised one (bootstrap over patients);
    None of fewer than 5 patients. median_low, median_high: that of the median, by order statistics of the patients'
    medians; there is one from 6 patients on, so that null then is an infinity.
    """

    n: int
    n_finite: int
    n_patients: int = 0
    mean: float | None
    sd: float | None
    median: Number | None
    p25: Number | None
    p75: Number | None
    min: Number | None
    max: Number | None
    p5: Number | None = None
    p95: Number | None = None
    mean_penalised: float | None = None
    mean_low: float | None = None
    mean_high: float | None = None
    median_low: Number | None = None
    median_high: Number | None = None

    @model_validator(mode="before")
    @classmethod
    def _infinite_again(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        never_none = tuple(QUANTILES) if values.get("n") else ()
        never_none += _OF_MEDIAN if values.get("n_patients", 0) >= FEWEST_FOR_MEDIAN else ()
        return {key: math.inf if key in never_none and value is None else value for key, value in values.items()}

    @property
    def counted_mean(self) -> float | None:
        """The mean in which every case counts, of a distance the penalised one: what the interval is of."""
        return self.mean if self.mean_penalised is None else self.mean_penalised


class StructureSummary(Record):
    """One structure over all cases; `worst` names the cases of lowest Dice, then lowest NSD."""

    structure: str
    n: int
    n_scored: int
    n_missed: int
    n_spurious: int
    n_both_empty: int
    metrics: dict[str, Summary]
    worst: tuple[str, ...]


class MacroMean(Record):
    """Mean over structures of their means over cases; structures without a value are left out of `n`.

    mean_low, mean_high: its 95 % interval, all structures of a patient drawn together; of a distance of the penalised.
    """

    n: int
    mean: float | None
    mean_penalised: float | None = None
    mean_low: float | None = None
    mean_high: float | None = None

    @property
    def counted_mean(self) -> float | None:
        """The mean in which every case counts: of a distance the penalised one."""
        return self.mean if self.mean_penalised is None else self.mean_penalised


class CaseMean(Record):
    """Mean Dice of one case over the structures (see `Scores.mean_over`) that either of its maps holds."""

    case: str
    dice: float


class MetricMeant(Record):
    """What a column means, as `scores.json` tells it."""

    label: str
    unit: Unit
    better: Better
    version: int
    definition: str


class VolumeAgreement(Record):
    """Bland-Altman of a structure's volumes in ml, prediction - reference, over the cases where either map holds it.

    loa_low_ml, loa_high_ml: limits of agreement, bias -/+ 1.96 SD. Each `_interval` is the 95 % one, None of fewer than
    5 patients. ccc: Lin's concordance; pearson: correlation, which does not tell agreement. slope: of the difference
    on the mean of both volumes, in ml per ml: a bias that grows with the structure. None where volumes do not vary.
    """

    structure: str
    n: int
    n_patients: int
    bias_ml: float
    bias_interval: tuple[float, float] | None = None
    sd_ml: float | None = None
    loa_low_ml: float | None = None
    loa_low_interval: tuple[float, float] | None = None
    loa_high_ml: float | None = None
    loa_high_interval: tuple[float, float] | None = None
    ccc: float | None = None
    pearson: float | None = None
    slope: float | None = None
    slope_interval: tuple[float, float] | None = None


class Stratum(Record):
    """The `n` cases of `n_patients` that have one value in a column of the metadata.

    value: in words, as a range where numbers were put together. structures: summaries of the main metrics by structure
    and metric; means: those over structures. warning: why little can be said of it, or empty.
    """

    column: str
    value: str
    n: int
    n_patients: int
    means: dict[str, MacroMean]
    structures: dict[str, dict[str, Summary]]
    warning: str = ""


class Scores(Record):
    """Everything that an evaluation found, as `scores.json` holds it.

    tolerance_mm: the main one. medseg: the version that measured; software: those of the libraries that it stands on.
    metrics: what the columns mean. patients: cases of one patient bear one number; a case that is not named is a
    patient of its own. agreement: of volumes, a record a structure. strata: groups of cases by the metadata. methods:
    a paragraph for a paper.
    """

    version: Literal[1, 2] = 2
    medseg: str = ""
    software: dict[str, str] = Field(default_factory=dict)
    surface: SurfaceMode = "surfel"
    notice: str = RESEARCH_USE
    tolerance_mm: float
    settings: Settings = DEFAULT
    metrics: dict[str, MetricMeant] = Field(default_factory=dict)
    mean_over: tuple[str, ...] = ()  # the regions that means are over, where there are any; else all structures
    mean_over_structures: dict[str, MacroMean]
    worst_cases: tuple[CaseMean, ...]
    structures: tuple[StructureSummary, ...]
    agreement: tuple[VolumeAgreement, ...] = ()
    strata: tuple[Stratum, ...] = ()
    methods: str = ""
    missing_predictions: tuple[str, ...] = ()
    unpaired_predictions: tuple[str, ...] = ()
    failed: dict[str, str] = Field(default_factory=dict)
    diagonals_mm: dict[str, float]
    patients: dict[str, int] = Field(default_factory=dict)
    scores: tuple[StructureScore, ...]
