"""The plan: every decision that training and inference follow, each with its reason, in one record."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from medseg.errors import InputError
from medseg.files import Record
from medseg.imaging.source import ReadOptions
from medseg.networks.topology import NetworkSettings
from medseg.preprocessing.settings import PreprocessingSettings

VERSION = 3
EPOCH_STEPS = 250

Name = Literal["2d", "3d", "3d_lowres", "3d_cascade"]
LossName = Literal["dice_ce", "dice_focal", "tversky", "focal_tversky", "iou", "boundary"]
Centre = Literal["middle", "upper"]
Axis = Literal["left-right", "front-back", "head-foot"]
AXES: tuple[Axis, Axis, Axis] = ("left-right", "front-back", "head-foot")


class Reason(Record):
    """One decision: what it is about, what came out, and why, with the numbers that it rests on.

    `fields` are those of the plan that it decides: one of the plan itself such as `chosen`, or one of a configuration
    such as `schedule.batch`. Every decision of a plan is named by a reason.
    """

    topic: str
    choice: str
    why: str
    fields: tuple[str, ...] = ()
    numbers: dict[str, float] = Field(default_factory=dict)


class Alternative(Record):
    """Something that was not chosen: what it would have cost or given, and why it was not."""

    what: str
    cost: str
    why_not: str


class Cost(Record):
    """What a configuration is expected to take on the device it was planned for; None where nothing tells.

    hours, steps: of training, within the budget. step_s: seconds a step. training_gb: memory that a step needs, on a
    GPU, or in RAM with the program itself. preparing_gb: RAM to prepare the largest case. inference_s: seconds for the
    median scan. cache_gb: disk for all prepared cases. measured: a step was timed, and on a GPU its memory read, at
    exactly this patch and batch; else both are estimates.
    """

    hours: float | None
    steps: int | None
    step_s: float | None
    training_gb: float
    preparing_gb: float
    inference_s: float | None
    cache_gb: float
    measured: bool


class Structure(Record):
    """A structure that the model finds: the value it has in label maps, and its name. Class k + 1 is entry k."""

    value: int
    name: str


class Region(Record):
    """A structure made of several label values, and the value that is painted where it is found."""

    name: str
    values: tuple[int, ...]
    value: int


class Budget(Record):
    """How long training may take: seconds of wall time for the whole command, or a number of steps."""

    seconds: float | None = None
    steps: int | None = None


_UNITS_S = {"s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BUDGET = re.compile(r"\s*(\d+(?:\.\d*)?)\s*([a-z]+)\s*")


def budget_from(text: str) -> Budget:
    """Read `20min`, `8h`, `90s`, `2d`, `500epochs` (of 250 steps) or `3000steps`.

    Raises:
        InputError: it is none of these, or nothing.
    """
    match = _BUDGET.fullmatch(text.lower())
    amount, unit = (float(match[1]), match[2]) if match else (0.0, "")
    if amount > 0 and unit in _UNITS_S:
        return Budget(seconds=amount * _UNITS_S[unit])
    if amount > 0 and unit in ("epoch", "epochs"):
        return Budget(steps=max(1, round(amount * EPOCH_STEPS)))
    if amount >= 1 and unit in ("step", "steps"):
        return Budget(steps=round(amount))
    raise InputError(f"--budget {text} is no budget", fix="give a time such as 90s, 20min or 8h, or 500epochs")


class Schedule(Record):
    """How the network is trained. Axes count R, A, S as 0, 1, 2.

    class_weights: one for each output of the network; none means that all weigh alike. average_share: the weights that
    are kept are a moving average over about this share of the schedule; 0 keeps the last.
    """

    batch: int
    optimiser: Literal["sgd", "adamw"]
    learning_rate: float
    weight_decay: float
    warm_up_share: float  # of the whole schedule
    foreground_share: float  # of each batch, centred on a labelled voxel
    batch_dice: bool
    mirror_axes: tuple[int, ...]
    augment: bool = True
    loss: LossName = "dice_ce"
    class_weights: tuple[float, ...] = ()
    average_share: float = 0.0


class Window(Record):
    """How a trained network is slid over a scan: step as a share of the patch, axes mirrored for averaging.

    centre: of a tile, where its answer weighs most: its middle, or as in nnU-Net the voxel above it.
    """

    step: float = 0.5
    mirror_axes: tuple[int, ...] = ()
    centre: Centre = "middle"


class Configuration(Record):
    """One way to do it; `patch` counts voxels along R, A, S, and is 1 along `slice_axis` for a 2D network.

    previous: the configuration whose segmentation is this one's further input (a class a channel), if any.
    """

    name: Name
    slice_axis: int | None
    preprocessing: PreprocessingSettings
    patch: tuple[int, int, int]
    network: NetworkSettings
    schedule: Schedule
    window: Window
    median_shape: tuple[int, int, int]
    previous: Literal["3d_lowres"] | None = None
    cost: Cost
    reasons: tuple[Reason, ...]

    @property
    def cache(self) -> Name:
        """The folder of prepared cases that it reads: a cascade sees scans as the full resolution does."""
        return "3d" if self.name == "3d_cascade" else self.name


class Request(Record):
    """What the user asked of planning: kept, so that the same command can tell that its work is done.

    options: how scans are read. series: a rule for each channel that selects DICOM volumes. labels: names
    of the structures to train on; none means all. splits: a digest of the folds that were given, if any. also:
    configurations prepared besides the chosen one. init: a digest of the model that training begins with, if any.
    """

    spacing: str = "isotropic"
    dims: Literal["auto", "2d", "3d", "lowres", "cascade"] = "auto"
    network: str = "unet"
    memory_gb: float | None = None
    budget: Budget = Budget()
    device: Literal["cpu", "cuda"] = "cpu"
    seed: int = 0
    options: ReadOptions = ReadOptions()
    series: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    splits: str = ""
    also: tuple[Name, ...] = ()
    loss: LossName = "dice_ce"
    class_weights: str = "even"
    init: str = ""


class Plan(Record):
    """Several configurations, the one chosen, and why; and what else was thought of.

    structures: the plain labels, on which classes are numbered. regions: if any, the network has an output for each of
    them instead, in the order in which they are painted. ignore: the value of voxels that nobody labelled.
    """

    version: int = VERSION
    medseg: str
    dataset: str
    channels: tuple[str, ...]
    structures: tuple[Structure, ...]
    regions: tuple[Region, ...] = ()
    ignore: int | None = None
    cases: int
    fingerprint: str
    request: Request
    budget: Budget
    configurations: dict[Name, Configuration]
    chosen: Name
    reasons: tuple[Reason, ...]
    alternatives: tuple[Alternative, ...] = ()

    @field_validator("version")
    @classmethod
    def _readable(cls, version: int) -> int:
        if version != VERSION:
            told = f"it is of version {version}, which this medseg cannot read: plan again"
            raise PydanticCustomError("version", "{told}", {"told": told})
        return version

    @property
    def configuration(self) -> Configuration:
        """The chosen one."""
        return self.configurations[self.chosen]

    @property
    def values(self) -> tuple[int, ...]:
        """Label values, in the order of the network's classes."""
        return tuple(s.value for s in self.structures)

    @property
    def names(self) -> dict[int, str]:
        """Label value -> name."""
        return {s.value: s.name for s in self.structures}


class Fold(Record):
    """Names of the cases to train on and to validate on."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


class Splits(Record):
    """The folds of the cross-validation; `given` if the user gave them."""

    version: int = 1
    seed: int
    folds: tuple[Fold, ...]
    given: bool = False
