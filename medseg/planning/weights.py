"""The loss that was asked for, and what each output of the network weighs in it: all alike, the smaller structures
more, or as asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

from medseg.errors import InputError
from medseg.imaging.structures import alike
from medseg.planning.plan import LossName, Region, Structure
from medseg.planning.volumes import Volumes

BACKGROUND = "background"
MOST = 10.0
_FIX = "give even, volume, or names with numbers above 0: liver=1,tumour=4"


def outputs_of(structures: Sequence[Structure], regions: Sequence[Region]) -> tuple[str, ...]:
    """The names of the network's outputs."""
    return tuple(r.name for r in regions) or (BACKGROUND, *(s.name for s in structures))


def class_weights(
    asked: str, structures: Sequence[Structure], regions: Sequence[Region], sizes: Sequence[Volumes]
) -> tuple[float, ...]:
    """One weight for each output; none if all are alike.

    `even`; `volume`: the square root of how much smaller a structure is than the largest, at most 10, so that neither
    the large nor noise in the few voxels of the small rules; or `name=number,...`, where the others, the background
    among them, are 1.

    Raises:
        InputError: it is none of these, or names something else.
    """
    if asked == "even":
        return ()
    if asked == "volume":
        return _by_volume(structures, regions, sizes)
    given = _given(asked)
    names = outputs_of(structures, regions)
    if unknown := [name for name in given if name not in map(alike, names)]:
        raise InputError(f"--class-weights names {unknown[0]}", fix=f"name {', '.join(names[:20])}")
    return tuple(given.get(alike(name), 1.0) for name in names)


def loss_named(name: str) -> LossName:
    """The loss of this name, however it is written: `dice_ce`, `dice-ce`.

    Raises:
        InputError: there is none.
    """
    known: tuple[LossName, ...] = get_args(LossName)
    for one in known:
        if one == name.lower().replace("-", "_"):
            return one
    raise InputError(f"--loss {name} is no loss", fix=f"give one of {', '.join(known)}")


def check_weights(asked: str) -> str:
    """What was asked for, if it can be understood.

    Raises:
        InputError: it cannot.
    """
    if asked not in ("even", "volume"):
        _given(asked)
    return asked


def _by_volume(
    structures: Sequence[Structure], regions: Sequence[Region], sizes: Sequence[Volumes]
) -> tuple[float, ...]:
    """A structure that no case holds weighs as much as the largest: it has no voxels to weigh."""
    of_value = {s.value: size.median_ml for s, size in zip(structures, sizes, strict=True)}
    ml = [sum(of_value[v] for v in region.values) for region in regions] or list(of_value.values())
    weights = [min(MOST, math.sqrt(max(ml) / one)) if one > 0 else 1.0 for one in ml]
    return tuple(round(w, 3) for w in (weights if regions else [1.0, *weights]))


def _given(asked: str) -> dict[str, float]:
    given: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in asked.split(","))):
        name, equals, number = part.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not (equals and name.strip() and math.isfinite(weight) and weight > 0) or alike(name) in given:
            raise InputError(f"--class-weights {asked} cannot be used", fix=_FIX)
        given[alike(name)] = weight
    if not given:
        raise InputError(f"--class-weights {asked} cannot be used", fix=_FIX)
    return given
