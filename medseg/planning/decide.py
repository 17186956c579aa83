"""From a fingerprint and what the user asked to configurations with reasons: the rules, put in order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from medseg.errors import InputError
from medseg.planning import explain
from medseg.planning.alternatives import alternatives
from medseg.planning.architecture import cascaded
from medseg.planning.configure import Found, Maker, View
from medseg.planning.cost import Machine
from medseg.planning.families import FAMILIES, Family
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.fitting import Fitter, ForCpu, ForGpu, ForMemory, Question
from medseg.planning.intensities import normalisation
from medseg.planning.mirroring import mirror_axes
from medseg.planning.plan import Alternative, Budget, Configuration, Name, Reason, Region, Request, Structure
from medseg.planning.spacing import check_spacing, coarsest_axis
from medseg.planning.volumes import Volumes, volumes
from medseg.planning.weights import class_weights, outputs_of
from medseg.preprocessing.crop import crop_for
from medseg.preprocessing.settings import PreprocessingSettings

DEFAULT_BUDGET_S = {"cpu": 3600.0, "cuda": 8 * 3600.0}
MOST_STRUCTURES = 65_535  # classes are kept in two bytes
FEWEST_SLICES = 8  # a 3D network cannot halve fewer
ASKED: dict[str, Name] = {"2d": "2d", "3d": "3d", "lowres": "3d_lowres", "cascade": "3d_cascade"}
SMALLEST_VOXELS = 100  # a structure of fewer is lost in the width of its own border


@dataclass(frozen=True)
class Decided:
    """All configurations by name, the one chosen, the reasons that concern them all, and what was not chosen."""

    configurations: dict[Name, Configuration]
    chosen: Name
    budget: Budget
    reasons: tuple[Reason, ...]
    alternatives: tuple[Alternative, ...]


def decide(
    fingerprint: Fingerprint,
    structures: Sequence[Structure],
    channels: Sequence[str],
    request: Request,
    machine: Machine,
    regions: Sequence[Region] = (),
    ignore: int | None = None,
) -> Decided:
    """Configurations for a data set; `machine` is the one that will train.

    regions: what the network finds instead of the structures. ignore: the value of voxels that nobody labelled.

    Raises:
        InputError: an option cannot be used, or the data set holds nothing to learn.
        ResourceError: the machine has too little memory for any training step.
    """
    values = 1 + len(structures) + (ignore is not None)
    if values > MOST_STRUCTURES + 1:
        fix = f"plan for at most {MOST_STRUCTURES} of them"
        raise InputError(f"there are {len(structures)} structures, too many for one network", fix=fix)
    asked = request.budget.seconds is not None or request.budget.steps is not None
    budget = request.budget if asked else Budget(seconds=DEFAULT_BUDGET_S[request.device])
    sizes = volumes(fingerprint, structures)
    intensities = [normalisation(fingerprint, k, name) for k, name in enumerate(channels)]
    mirror, mirroring = mirror_axes(fingerprint, structures)
    crop = crop_for(channels)

    names = outputs_of(structures, regions)
    weights = class_weights(request.class_weights, structures, regions, sizes)
    family = family_named(request.network)
    maker = Maker(fingerprint, request, family, len(channels), len(names), values, names, weights)
    fitted, chosen, dimensions = _fitted(maker, _fitter(request, budget, machine), sizes)
    settings = PreprocessingSettings(
        spacing_mm=(None, None, None), channels=tuple(how for how, _ in intensities), crop=crop
    )
    made = {
        name: maker.configuration(one, settings, mirror, budget, "3d_lowres" in fitted) for name, one in fitted.items()
    }
    reasons = (
        dimensions,
        explain.data(channels, structures, sizes, bool(request.labels), regions, ignore),
        explain.budget(budget, asked, request.device),
        *(reason.model_copy(update={"fields": ("preprocessing.channels",)}) for _, reason in intensities),
        explain.crop(crop, fingerprint),
        mirroring,
    )
    others = alternatives(fingerprint, request, made, chosen, sizes)
    return Decided(made, chosen, budget, reasons, tuple(others))


def family_named(name: str) -> Family:
    """The family of networks of this name.

    Raises:
        InputError: there is none.
    """
    if name not in FAMILIES:
        raise InputError(f"--network {name} is no family of networks", fix=f"give one of {', '.join(FAMILIES)}")
    return FAMILIES[name]


def _fitter(request: Request, budget: Budget, machine: Machine) -> Fitter:
    if request.memory_gb is not None:
        return ForMemory(request.memory_gb, request.device)
    return ForGpu(machine, budget) if request.device == "cuda" else ForCpu(machine, budget)


def _fitted(maker: Maker, fitter: Fitter, sizes: Sequence[Volumes]) -> tuple[dict[Name, Found], Name, Reason]:
    """Every configuration's network, the configuration chosen, and why. What will be trained may be tried out."""
    full = maker.view("3d")
    chosen, why = _dimensions(maker.request, maker.fingerprint, full)

    def fit(view: View, question: Question) -> Found:
        tried = "3d" if chosen == "3d_cascade" else chosen  # whose patch and batch a cascade has
        return Found(view, question, fitter.trial(question) if view.name == tried else fitter.fit(question))

    made: dict[Name, Found] = {"3d": fit(full, maker.question(full))}
    low = maker.low_resolution(made["3d"], fitter)
    if low is not None:
        made["3d_lowres"] = _explained(fit(*low), made["3d"])
        three = made["3d"].fit
        cascade = replace(three, fitted=cascaded(three.fitted, len(sizes)), measured=False)
        made["3d_cascade"] = replace(made["3d"], view=replace(full, name="3d_cascade"), fit=cascade)
    elif chosen in ("3d_lowres", "3d_cascade"):
        share = math.prod(made["3d"].patch) / math.prod(full.shape)
        what = f"--dims {maker.request.dims} has no use: a patch holds {100 * share:.0f} %"
        what += " of the median scan at full resolution"
        raise InputError(what, fix="give 3d or auto")
    flat = maker.view("2d")
    made["2d"] = fit(flat, maker.question(flat))
    if low is not None and chosen == "3d" and isinstance(fitter, ForCpu) and _free(maker.request):
        coarse = _coarse_is_better(made["3d"], made["3d_lowres"], sizes)
        chosen, why = ("3d_lowres", coarse) if coarse else (chosen, why)
    return made, chosen, why


def _free(request: Request) -> bool:
    """True if neither dimensions nor a number of mm were asked for."""
    return request.dims == "auto" and check_spacing(request.spacing) is None


def _explained(low: Found, full: Found) -> Found:
    """The low resolution with the reason for its spacing, from the patch that was found for it in the end."""
    before, share = (math.prod(f.patch) / math.prod(f.view.shape) for f in (full, low))
    shape = tuple(round(n) for n in low.view.shape)
    return replace(low, view=replace(low.view, reason=explain.coarser(low.view.spacing, shape, before, share)))


def _dimensions(request: Request, fingerprint: Fingerprint, full: View) -> tuple[Name, Reason]:
    """2D, 3D, low resolution or cascade: as asked, else 3D if there are slices enough."""
    axis = coarsest_axis(fingerprint)
    slices = round(float(np.median([c.cropped[axis] for c in fingerprint.cases])))
    shape = tuple(round(n) for n in full.shape)
    numbers = {"slices of the median scan": slices, "voxels along its shortest axis at the target spacing": min(shape)}
    enough = min(slices, *shape) >= FEWEST_SLICES
    why = f"{slices} slices, {explain.by(shape)} voxels at the target spacing: "
    why += "enough along every axis for 3D" if enough else f"3D cannot halve fewer than {FEWEST_SLICES}"
    chosen: Name = "3d" if enough else "2d"
    if request.dims != "auto":
        chosen, why = ASKED[request.dims], "as asked"
    choice = explain.IN_WORDS[chosen]
    return chosen, Reason(topic="dimensions", choice=choice, why=why, fields=("chosen",), numbers=numbers)


def _coarse_is_better(full: Found, low: Found, sizes: Sequence[Volumes]) -> Reason | None:
    """On a CPU, whose patches are small: if they see less than the largest structure, and the smallest still counts."""
    held = [size for size in sizes if size.cases]
    largest, smallest = max(held, key=lambda s: s.median_ml), min(held, key=lambda s: s.median_ml)
    reach, wide = (min(n * s for n, s in zip(f.patch, f.view.spacing, strict=True)) for f in (full, low))
    voxels = smallest.voxels(low.view.spacing)
    if reach >= largest.diameter_mm or voxels < SMALLEST_VOXELS:
        return None
    across = largest.diameter_mm
    why = f"at full resolution a CPU's patch of {reach:.0f} mm sees only part of {largest.name} (about {across:.0f} mm)"
    why += f"; at {explain.mm(low.view.spacing)} it sees {wide:.0f} mm, and {smallest.name}, the smallest structure, "
    why += f"still has {voxels:.0f} voxels"
    return Reason(
        topic="dimensions",
        choice=explain.IN_WORDS["3d_lowres"],
        why=why,
        fields=("chosen",),
        numbers={
            "mm in a patch": reach,
            "mm in a patch at low resolution": wide,
            f"mm across {largest.name}": across,
            f"voxels of {smallest.name} at low resolution": voxels,
        },
    )
