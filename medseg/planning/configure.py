"""Configurations: how each sees a scan, what its network is fitted to, and the record with its reasons and cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from medseg.planning import explain
from medseg.planning.architecture import Fitted, low_resolution
from medseg.planning.cost import PROCESS_BYTES, cache_bytes, cost, inference_s, preparing_bytes, within
from medseg.planning.families import Family
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.fitting import Fit, Fitter, Question
from medseg.planning.plan import Budget, Configuration, Name, Reason, Request, Schedule, Window
from medseg.planning.spacing import Numbers, coarsest_axis, exact_median_shape, median_shape, target_spacing
from medseg.preprocessing.settings import PreprocessingSettings

AVERAGE_SHARE = 0.1  # on the hippocampus set, 480 steps: Dice 0.875 instead of 0.873, HD95 1.38 mm instead of 1.46
_RESAMPLING = tuple(f"preprocessing.resampling.{name}" for name in ("order", "thick", "float32_spacing"))
OF_SPACING = ("preprocessing.spacing_mm", *_RESAMPLING, "median_shape")  # what the reason of a spacing decides
FEW_STEPS = 5000  # fewer than this are too few for SGD's small rate


@dataclass(frozen=True)
class View:
    """How a configuration sees scans: cut along an axis or whole, at a spacing (mm), of a median shape (exact)."""

    name: Name
    axis: int | None
    spacing: Numbers
    shape: Numbers
    reason: Reason

    @property
    def axes(self) -> list[int]:
        """Those of the network."""
        return [a for a in range(3) if a != self.axis]

    @property
    def target(self) -> tuple[float | None, float | None, float | None]:
        """What scans are resampled to."""
        x, y, z = (None if a == self.axis else s for a, s in enumerate(self.spacing))
        return x, y, z


@dataclass(frozen=True)
class Found:
    """A view, what was asked for it, and the network that fits."""

    view: View
    question: Question
    fit: Fit

    @property
    def patch(self) -> tuple[int, int, int]:
        """Along R, A, S."""
        full = dict(zip(self.view.axes, self.fit.fitted.patch, strict=True))
        x, y, z = (full.get(a, 1) for a in range(3))
        return x, y, z


@dataclass(frozen=True)
class Maker:
    """Makes configurations of a data set.

    classes: outputs of the network. values: label values that prepared cases hold, the background among them. names: of
    the outputs. weights: what each of them weighs in the loss, where they are not alike.
    """

    fingerprint: Fingerprint
    request: Request
    family: Family
    channels: int
    classes: int
    values: int
    names: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()

    def view(self, name: Literal["2d", "3d"]) -> View:
        """Whole scans, or slices across the coarsest axis."""
        axis = coarsest_axis(self.fingerprint) if name == "2d" else None
        plane = [a for a in range(3) if a != axis]
        spacing, reason = target_spacing(self.fingerprint, self.request.spacing, plane)
        target = [None if a == axis else s for a, s in enumerate(spacing)]
        return View(name, axis, spacing, exact_median_shape(self.fingerprint, target), reason)

    def question(self, view: View) -> Question:
        """What the network of a view is to be fitted to; every slice of the data set teaches, in 2D too."""
        spacing, shape = (tuple(of[a] for a in view.axes) for of in (view.spacing, view.shape))
        return self._question(spacing, shape, math.prod(self._whole(view)))

    def _whole(self, view: View) -> Numbers:
        """The median scan whose voxels are counted: nnU-Net counts those at its full resolution for 2D as well."""
        if self.request.spacing == "median":
            return exact_median_shape(self.fingerprint, target_spacing(self.fingerprint, "median")[0])
        return view.shape

    def _question(self, spacing: Sequence[float], shape: Sequence[float], voxels: float) -> Question:
        total = voxels * len(self.fingerprint.cases)
        return Question(tuple(spacing), tuple(shape), self.channels, self.classes, total, self.family)

    def low_resolution(self, full: Found, fitter: Fitter) -> tuple[View, Question] | None:
        """The coarser view for scans much larger than the patch."""
        asked = full.question

        def refit(spacing: tuple[float, ...], shape: tuple[int, ...], voxels: float) -> Fitted:
            nonlocal asked
            asked = self._question(spacing, shape, voxels)
            return fitter.fit(asked).fitted

        found = low_resolution(asked.spacing, asked.shape, full.fit.fitted, refit)
        if found is None:
            return None
        x, y, z = found.spacing
        shape = exact_median_shape(self.fingerprint, found.spacing)
        return View("3d_lowres", None, (x, y, z), shape, full.view.reason), asked

    def configuration(
        self,
        of: Found,
        settings: PreprocessingSettings,
        mirror: Sequence[int],
        budget: Budget,
        staged: bool,
    ) -> Configuration:
        """The configuration of a view and its network, with its reasons and its cost."""
        view, fit, window = of.view, of.fit, Window()
        shape = median_shape(self.fingerprint, view.target)
        spacing = [view.spacing[a] for a in view.axes]
        mirrored = tuple(a for a in mirror if a != view.axis)
        device = self.request.device
        steps = within(budget, fit.step_s)[1]
        pooled = device == "cuda" and (view.name == "2d" or (staged and view.name != "3d_lowres"))
        schedule = _schedule(device, steps, fit.fitted.batch, mirrored, pooled)
        schedule = schedule.model_copy(update={"loss": self.request.loss, "class_weights": self.weights})
        seconds = fit.step_s and inference_s(fit.step_s, fit.fitted.batch, shape, of.patch, window.step)
        disk = cache_bytes(self.fingerprint, view.target, settings.channels, self.values)
        training = fit.memory_bytes + (PROCESS_BYTES if device == "cpu" else 0.0)
        preparing = preparing_bytes(self.fingerprint, view.target, self.channels)
        found = view.reason.model_copy(update={"fields": OF_SPACING})
        return Configuration(
            name=view.name,
            slice_axis=view.axis,
            preprocessing=settings.model_copy(update={"spacing_mm": view.target}),
            patch=of.patch,
            network=fit.fitted.network,
            schedule=schedule,
            window=window,
            median_shape=shape,
            previous="3d_lowres" if view.name == "3d_cascade" else None,
            cost=cost(budget, fit.step_s, training, preparing, seconds, disk, fit.measured),
            reasons=(
                found,
                explain.slices(view.axis),
                explain.patch(fit, of.patch, view.spacing, shape),
                explain.network(fit, self.family),
                explain.depth(fit, spacing, self.family),
                explain.batch(fit, of.question.dataset_voxels, self.family),
                *explain.schedule(schedule, steps, device, self.names),
                explain.window(window),
                explain.previous(view.name),
            ),
        )


def foreground_share(batch: int) -> float:
    """The share of a batch that lies on a structure: a third as in nnU-Net, of two patches one."""
    return 1 / 3 if batch > 2 else 0.5


def _schedule(device: str, steps: int | None, batch: int, mirror: tuple[int, ...], batch_dice: bool) -> Schedule:
    """nnU-Net's for long training; for few steps, as on every CPU, an optimiser that learns more in them.

    `steps`: that the budget holds, where they are known.
    """
    shared = {
        "batch": batch,
        "foreground_share": foreground_share(batch),
        "mirror_axes": mirror,
        "batch_dice": batch_dice,
        "average_share": AVERAGE_SHARE,
    }
    return Schedule(**descent(device, steps), **shared)


def descent(device: str, steps: int | None) -> dict[str, str | float]:
    """The fields of a schedule that say how weights move, for so many steps, where they are known."""
    if device == "cuda" and (steps is None or steps >= FEW_STEPS):
        return {"optimiser": "sgd", "learning_rate": 0.01, "weight_decay": 3e-5, "warm_up_share": 0.0}
    return {"optimiser": "adamw", "learning_rate": 3e-3, "weight_decay": 1e-2, "warm_up_share": 0.03}
