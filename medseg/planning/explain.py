"""Decisions in words: for each part of a configuration the reason that a radiologist can follow, with its numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from medseg.planning.families import Family
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.fitting import MOST_SEEN, Fit
from medseg.planning.plan import AXES, Budget, LossName, Name, Reason, Region, Schedule, Structure, Window
from medseg.planning.spacing import Numbers
from medseg.planning.volumes import Volumes
from medseg.preprocessing.settings import Crop

IN_WORDS: dict[Name, str] = {
    "2d": "2D",
    "3d": "3D",
    "3d_lowres": "3D at low resolution",
    "3d_cascade": "3D cascade",
}


LOSSES: dict[LossName, tuple[str, str]] = {  # in words, and why one would ask for it
    "dice_ce": ("Dice of {} + cross-entropy", ""),
    "dice_focal": ("Dice of {} + focal loss", "voxels that are right already count less"),
    "tversky": ("Tversky of {} + cross-entropy", "a missed voxel costs more than one too many"),
    "focal_tversky": ("focal Tversky of {} + cross-entropy", "a missed voxel costs more, most where little is found"),
    "iou": ("intersection over union of {} + cross-entropy", "a poor overlap costs more than by Dice"),
    "boundary": ("Dice of {} + cross-entropy + distances", "errors far from a structure's border cost most"),
}


def by(shape: Sequence[int]) -> str:
    """`64 x 64 x 32`."""
    return " x ".join(map(str, shape))


def mm(spacing: Sequence[float]) -> str:
    """`0.77 x 0.77 x 1.5 mm`; `1.5 mm` where all axes are alike."""
    told = [f"{s:.3g}" for s in spacing]
    return f"{told[0] if len(set(told)) == 1 else ' x '.join(told)} mm"


def data(
    channels: Sequence[str],
    structures: Sequence[Structure],
    volumes: Sequence[Volumes],
    chosen: bool,
    regions: Sequence[Region] = (),
    ignore: int | None = None,
) -> Reason:
    """What goes in and what comes out."""
    why = "structures as asked by --labels" if chosen else "all channels and structures that the data set names"
    out = counted(len(structures), "structure")
    if regions:
        out = f"{counted(len(regions), 'region')} ({', '.join(region.name for region in regions)})"
        why = "the data set orders regions: each is found as a whole, and painted over those before it"
    if ignore is not None:
        why += f"; voxels of value {ignore}, which nobody labelled, teach nothing and are not scored"
    numbers: dict[str, float] = {}
    for found in volumes:
        numbers |= {f"cases with {found.name}": found.cases, f"median ml of {found.name}": found.median_ml}
    return Reason(
        topic="data",
        choice=f"{', '.join(map(channel, channels))} in; {out} out",
        why=why,
        fields=("channels", "structures", "regions", "ignore", "network.in_channels", "network.classes"),
        numbers=numbers,
    )


def crop(how: Crop, fingerprint: Fingerprint) -> Reason:
    """Which part of a scan is looked at."""
    kept = sorted(math.prod(c.cropped) / math.prod(c.shape) for c in fingerprint.cases)
    share = kept[len(kept) // 2]
    why = "the air about it is not zero but holds nothing" if how == "body" else "what is zero holds nothing"
    return Reason(
        topic="crop",
        choice="to the body" if how == "body" else "to what is not zero",
        why=f"{why}; {100 * share:.0f} % of the median scan stay",
        fields=("preprocessing.crop",),
        numbers={"share of the median scan": share},
    )


def slices(axis: int | None) -> Reason:
    """Along which axis a scan is cut, and how it is turned before."""
    choice = "whole volumes" if axis is None else f"slices across {AXES[axis]}"
    why = "a 3D network reads along all axes"
    if axis is not None:
        why = "the coarsest axis as stored, which is never resampled"
    why += "; every scan is turned to the same axes first, however it is stored"
    return Reason(topic="slices", choice=choice, why=why, fields=("slice_axis", "preprocessing.orientation"))


def coarser(spacing: Numbers, shape: Sequence[int], share_before: float, share: float) -> Reason:
    """The spacing of a low resolution."""
    return Reason(
        topic="spacing",
        choice=mm(spacing),
        why=f"coarsened in steps of 3 % until a patch holds a quarter of the median scan: {100 * share:.0f} % of "
        f"{by(shape)} voxels, {100 * share_before:.2g} % at full resolution",
        numbers={"share of the scan in a patch": share, "the same at full resolution": share_before},
    )


def patch(found: Fit, whole: Sequence[int], spacing: Sequence[float], shape: Sequence[int]) -> Reason:
    """How much the network sees at once; all for its own axes."""
    size = [float(n * s) for n, s in zip(whole, spacing, strict=True)]
    numbers = {f"mm along axis {k}": n for k, n in enumerate(size)}
    numbers["share of the median scan"] = math.prod(whole) / math.prod(shape)
    choice = f"{by(whole)} voxels ({by([round(n) for n in size])} mm)"
    return Reason(
        topic="patch", choice=choice, why=found.how, fields=("patch", "network.patch"), numbers=found.numbers | numbers
    )


def network(found: Fit, family: Family) -> Reason:
    """Which network, and how wide."""
    made = found.fitted.network
    levels = len(made.features)
    return Reason(
        topic="network",
        choice=f"{family.title}, {counted(levels, 'level')}, {made.features[0]} to {made.features[-1]} features",
        why=found.why,
        fields=tuple(
            f"network.{name}"
            for name in ("kind", "dims", "features", "convs_encoder", "convs_decoder", "deep_supervision", "up_bias")
        ),
        numbers={"levels": levels, **found.numbers},
    )


def depth(found: Fit, spacing: Sequence[float], family: Family) -> Reason:
    """How often each axis is halved, and how far each convolution reaches."""
    strides = found.fitted.network.strides
    halved = [sum(stride[a] > 1 for stride in strides) for a in range(len(strides[0]))]
    thin = [k for k in found.fitted.network.kernels if 1 in k]
    why = "down to 4 voxels, and only axes whose voxels are within twice the finest"
    if family.deepest:
        why += f"; {family.title} goes no deeper than {family.deepest} levels"
    why += f"; {counted(len(thin), 'level')} without a look across thick slices" if thin else ""
    if family.widths:
        cells = 2 ** (len(family.widths) - 1)
        why = f"{family.title} halves every axis alike, however thick slices are, and takes multiples of {cells} voxels"
    return Reason(
        topic="depth",
        choice=f"axes halved {by(halved)} times",
        why=why,
        fields=("network.kernels", "network.strides"),
        numbers={f"mm a voxel along axis {k}": n for k, n in enumerate(spacing)},
    )


def batch(found: Fit, dataset_voxels: float, family: Family) -> Reason:
    """How many patches a step sees."""
    size = found.fitted.batch
    seen = size * math.prod(found.fitted.patch) / dataset_voxels
    if found.fitted.limit == float("inf"):
        why = "many small steps learn more on a CPU than few large ones"
    elif size == 2:
        why = "the fewest that train steadily; memory goes to the patch first"
    elif found.capped:
        why = f"nnU-Net's own, or at most {100 * MOST_SEEN:.0f} % of all voxels in a step, though the GPU holds more"
    elif round(dataset_voxels * family.dataset_share / math.prod(found.fitted.patch)) <= size:
        why = f"no more, since a step shall see at most {100 * family.dataset_share:.0f} % of all voxels"
    else:
        why = "what the memory holds of this patch"
    numbers = {"share of all voxels in a step": seen}
    return Reason(topic="batch", choice=f"{size} patches", why=why, fields=("schedule.batch",), numbers=numbers)


def schedule(
    made: Schedule, steps: int | None, device: str, names: Sequence[str] = ()
) -> tuple[Reason, Reason, Reason]:
    """How the network learns: its optimiser, what it is shown, and its loss.

    `steps`: that the budget holds, if known. `names` are those of the network's outputs.
    """
    sgd = made.optimiser == "sgd"
    rate = f"rate {made.learning_rate:g}"
    optimiser = Reason(
        topic="optimiser",
        choice=f"SGD, momentum 0.99, {rate}" if sgd else f"AdamW, {rate}, short warm-up",
        why=("nnU-Net's recipe for long training" if sgd else f"learns more than SGD in {_few(steps, device)}")
        + f"; a moving average over {100 * made.average_share:.0f} % of the training is kept, which is less noisy",
        fields=tuple(
            f"schedule.{n}" for n in ("optimiser", "learning_rate", "weight_decay", "warm_up_share", "average_share")
        ),
        numbers={
            "rate": made.learning_rate,
            "decay": made.weight_decay,
            "share of warm-up": made.warm_up_share,
            "share of the average": made.average_share,
            **({"steps in the budget": steps} if steps is not None else {}),
        },
    )
    sampling = Reason(
        topic="sampling",
        choice=f"{100 * made.foreground_share:.0f} % of patches lie on a structure",
        why="small structures would else be rarely seen (nnU-Net's share); patches are turned, scaled, and changed in "
        "brightness and noise, so that the network meets more than the few scans show",
        fields=("schedule.foreground_share", "schedule.augment"),
        numbers={"share": made.foreground_share},
    )
    return optimiser, sampling, _loss(made, device, names)


def _few(steps: int | None, device: str) -> str:
    where = "the few steps of a CPU" if device == "cpu" else "few steps"
    return where if steps is None else f"{where} (about {steps})"


def _loss(made: Schedule, device: str, names: Sequence[str]) -> Reason:
    """What is made small, and what each structure weighs in it."""
    words, asked = LOSSES[made.loss]
    choice = words.format("the whole batch" if made.batch_dice else "each patch")
    why = f"as asked: {asked}; {_dice_why(made.batch_dice, device)}" if asked else _dice_why(made.batch_dice, device)
    weights = dict(zip(names, made.class_weights, strict=False))
    if weights:
        choice += f"; weights {', '.join(f'{name} {weight:.3g}' for name, weight in weights.items())}"
        why += "; weights as asked by --class-weights"
    return Reason(
        topic="loss",
        choice=choice,
        why=why,
        fields=("schedule.batch_dice", "schedule.loss", "schedule.class_weights"),
        numbers={f"weight of {name}": weight for name, weight in weights.items()},
    )


def _dice_why(batch_dice: bool, device: str) -> str:
    """Why overlaps are counted so."""
    if batch_dice:
        return "a patch sees little of a scan, so that many hold none of a structure (nnU-Net's rule)"
    if device == "cpu":
        return "with two patches a step there is little to pool"
    return "a patch sees enough of a scan (nnU-Net's rule)"


def window(made: Window) -> Reason:
    """How a whole scan is predicted."""
    return Reason(
        topic="prediction",
        choice=f"patches overlap by {100 * (1 - made.step):.0f} %; no mirroring",
        why="neighbouring answers are blended by a Gaussian (nnU-Net's rule); averaging those of mirrored scans would "
        "double the time with every axis",
        fields=("window.step", "window.mirror_axes", "window.centre"),
        numbers={"step": made.step},
    )


def previous(name: Name) -> Reason:
    """What a configuration builds on."""
    if name == "3d_cascade":
        choice, why = "reads the segmentation at low resolution too", "a coarse look at the whole guides the fine one"
    else:
        choice, why = "reads the scan alone", "no coarser look at the scan comes before it"
    return Reason(topic="input", choice=choice, why=why, fields=("previous",))


def budget(taken: Budget, asked: bool, device: str) -> Reason:
    """How long training may take."""
    choice = f"{taken.steps} steps" if taken.steps else duration(taken.seconds or 0.0)
    default = f"the default on a {'GPU' if device == 'cuda' else 'CPU'}; --budget sets another"
    numbers = {"steps": float(taken.steps)} if taken.steps else {"seconds": taken.seconds or 0.0}
    fields = ("budget.seconds", "budget.steps")
    return Reason(topic="budget", choice=choice, why="as asked" if asked else default, fields=fields, numbers=numbers)


def short(number: float) -> str:
    """Two digits; whole from a hundred on: `0.45`, `3.4`, `340`."""
    return f"{number:.2g}" if number < 99.5 else f"{number:.0f}"


def size(gb: float) -> str:
    """`1.2 GB`, `3.4 MB`."""
    return f"{short(gb)} GB" if gb >= 0.1 else f"{short(1000 * gb)} MB"


def counted(n: int, what: str) -> str:
    """`1 case`, `3 cases`."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def channel(name: str) -> str:
    """A name that is a number stands for a channel of which nothing else is known."""
    return f"channel {name}" if name.isdecimal() else name


def duration(seconds: float) -> str:
    """`45 s`, `20 min`, `8 h`."""
    if seconds < 90:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.3g} min" if seconds < 2 * 3600 else f"{seconds / 3600:.3g} h"
