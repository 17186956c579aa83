"""A plan for fine-tuning a model: its network, its patch, and how it sees scans are taken over; the rest is decided
for the new data set as ever.
"""

from __future__ import annotations

from collections.abc import Sequence

from medseg.errors import InputError, ResourceError
from medseg.imaging.structures import alike
from medseg.networks.topology import NetworkSettings
from medseg.networks.work import activations
from medseg.planning import explain
from medseg.planning.architecture import Fitted
from medseg.planning.configure import descent, foreground_share
from medseg.planning.cost import (
    GB,
    PROCESS_BYTES,
    Machine,
    Measured,
    cache_bytes,
    cost,
    inference_s,
    preparing_bytes,
    training_bytes,
    within,
)
from medseg.planning.decide import Decided, decide, family_named
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.fitting import CPU_BATCH, Fit
from medseg.planning.plan import Configuration, Cost, Name, Plan, Reason, Region, Request, Schedule, Structure
from medseg.planning.spacing import median_shape
from medseg.preprocessing.settings import PreprocessingSettings

AS_MODEL = "that of the model that training begins with"
# The usual rate stays: on four phantoms with a structure more, a third of it reached Dice 0.57 in 100 steps and 0.67 in
# 300, the whole 0.55 and 0.73 (from scratch: 0.26 and 0.60).
WARM_UP_SHARE = 0.1


def decide_like(
    fingerprint: Fingerprint,
    structures: Sequence[Structure],
    channels: Sequence[str],
    request: Request,
    machine: Machine,
    model: Plan,
    regions: Sequence[Region] = (),
    ignore: int | None = None,
) -> Decided:
    """The one configuration with which `model`, the plan of a trained model, is fine-tuned on a data set.

    The other arguments are those of `decide`.

    Raises:
        InputError: the model cannot be fine-tuned, or the data set holds nothing to learn.
        ResourceError: the machine has too little memory for a training step of the model.
    """
    theirs = model.configuration
    if theirs.previous is not None:
        what = "--init names the second stage of a cascade, which cannot be fine-tuned"
        raise InputError(what, fix="give a model of full or low resolution")
    told_gb = family_named(model.request.network).gb  # with a memory that is told no network is tried out
    untried = request.model_copy(update={"memory_gb": told_gb})
    decided = decide(fingerprint, structures, channels, untried, machine, regions, ignore)
    name: Name = "2d" if theirs.slice_axis is not None else "3d"
    own = decided.configurations[name]
    settings = _settings(own.preprocessing, channels, model)
    answers = {"in_channels": own.network.in_channels, "classes": own.network.classes}
    network = theirs.network.model_copy(update=answers)
    batch = theirs.schedule.batch if request.device == "cuda" else min(theirs.schedule.batch, CPU_BATCH)
    patch = tuple(n for axis, n in enumerate(theirs.patch) if axis != theirs.slice_axis)
    measured = machine.measure(network, patch, batch)
    if measured is None:
        what = "the memory does not suffice for a training step of the model that --init names"
        raise ResourceError(what, fix="end what else uses it, or fine-tune a smaller model")
    steps = within(decided.budget, measured.seconds)[1]
    schedule = own.schedule.model_copy(update=descent(request.device, steps))
    made = own.model_copy(
        update={
            "slice_axis": theirs.slice_axis,
            "preprocessing": settings,
            "patch": theirs.patch,
            "network": network,
            "schedule": _begun_slowly(schedule, batch, theirs.slice_axis),
            "window": theirs.window,
            "median_shape": median_shape(fingerprint, settings.spacing_mm),
        }
    )
    spent = _cost(fingerprint, made, decided, measured, request.device)
    fit = Fit(
        Fitted(network, patch, batch, activations(network, patch), float("inf")),
        measured.seconds,
        GB * spent.training_gb,
        True,
        AS_MODEL,
        AS_MODEL,
        {"seconds a step": measured.seconds},
    )
    made = made.model_copy(update={"cost": spent, "reasons": _reasons(made, own, fit, model)})
    reasons = tuple(_taken_over(reason, name, settings, own.preprocessing) for reason in decided.reasons)
    return Decided({name: made}, name, decided.budget, reasons, ())


def _settings(own: PreprocessingSettings, channels: Sequence[str], model: Plan) -> PreprocessingSettings:
    """As the model sees scans; a channel that it does not know as the data set tells."""
    theirs = model.configuration.preprocessing
    known = {alike(name): how for name, how in zip(model.channels, theirs.channels, strict=True)}
    how = tuple(known.get(alike(name), mine) for name, mine in zip(channels, own.channels, strict=True))
    return theirs.model_copy(update={"channels": how})


def _begun_slowly(own: Schedule, batch: int, slice_axis: int | None) -> Schedule:
    """The schedule that is usual here, whose rate is reached more slowly."""
    return own.model_copy(
        update={
            "batch": batch,
            "foreground_share": foreground_share(batch),
            "warm_up_share": max(own.warm_up_share, WARM_UP_SHARE),
            "mirror_axes": tuple(axis for axis in own.mirror_axes if axis != slice_axis),
        }
    )


def _cost(fingerprint: Fingerprint, made: Configuration, decided: Decided, measured: Measured, device: str) -> Cost:
    target, batch, step = made.preprocessing.spacing_mm, made.schedule.batch, made.window.step
    network: NetworkSettings = made.network
    seconds = inference_s(measured.seconds, batch, made.median_shape, made.patch, step)
    disk = cache_bytes(fingerprint, target, made.preprocessing.channels, network.classes)
    patch = tuple(n for axis, n in enumerate(made.patch) if axis != made.slice_axis)
    training = measured.memory_bytes or training_bytes(network, patch, batch)
    training += PROCESS_BYTES if device == "cpu" else 0.0
    preparing = preparing_bytes(fingerprint, target, len(made.preprocessing.channels))
    return cost(decided.budget, measured.seconds, training, preparing, seconds, disk, True)


def _reasons(made: Configuration, own: Configuration, fit: Fit, model: Plan) -> tuple[Reason, ...]:
    """Those of the data set's own configuration, but for what is the model's."""
    target = made.preprocessing.spacing_mm
    spacing = [1.0 if s is None else s for s in target]
    spacing_words = explain.mm([s for s in target if s is not None])
    stage_spacing = [s for axis, s in enumerate(spacing) if axis != made.slice_axis]
    rate = explain.schedule(made.schedule, None, "")[0]
    slow = f"{rate.why}; the rate is reached slowly, so that what is fresh does not spoil what is learnt"
    new = {
        "spacing": Reason(topic="spacing", choice=spacing_words, why=AS_MODEL),
        "slices": explain.slices(made.slice_axis),
        "patch": explain.patch(fit, made.patch, spacing, made.median_shape),
        "network": explain.network(fit, family_named(model.request.network)),
        "depth": explain.depth(fit, stage_spacing, family_named(model.request.network)),
        "batch": Reason(topic="batch", choice=f"{made.schedule.batch} patches", why=AS_MODEL),
        "prediction": explain.window(made.window),
    }
    kept = []
    for reason in own.reasons:
        if reason.topic == "optimiser":
            kept.append(rate.model_copy(update={"fields": reason.fields, "why": slow}))
        elif reason.topic in new:
            kept.append(new[reason.topic].model_copy(update={"fields": reason.fields, "why": AS_MODEL}))
        else:
            kept.append(reason)
    return tuple(kept)


def _taken_over(reason: Reason, name: Name, settings: PreprocessingSettings, own: PreprocessingSettings) -> Reason:
    """A reason of the whole plan, where the model decides it."""
    if "chosen" in reason.fields:
        return reason.model_copy(update={"choice": explain.IN_WORDS[name], "why": AS_MODEL})
    if "preprocessing.channels" in reason.fields and settings.channels != own.channels:
        return reason.model_copy(update={"choice": "as the model scales them", "why": AS_MODEL, "numbers": {}})
    if "preprocessing.crop" in reason.fields and settings.crop != own.crop:
        choice = "to the body" if settings.crop == "body" else "to what is not zero"
        return reason.model_copy(update={"choice": choice, "why": AS_MODEL, "numbers": {}})
    return reason
