"""How far two surfaces lie apart: Hausdorff distances, mean distances, surface Dice (NSD), boundary F1, Boundary IoU.

What counts as surface is a mode, of which every output tells the name (`settings.SurfaceMode`). Outside of the image
counts as background. Distances are exact, in float64; what is equal to a tolerance lies within it, rounding forgiven.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from medseg.evaluation.cells import surfel_sizes
from medseg.evaluation.engine.values import Elements, Engine, Floats, Labels, Spacing
from medseg.evaluation.metrics import at_tolerance
from medseg.evaluation.settings import SurfaceMode
from medseg.imaging.volume import LabelMap

PERCENTILE = 0.95


@dataclass(frozen=True, slots=True)
class Apart:
    """Distance in mm (N,) from every element of one surface to the other surface, and the elements' sizes (N,)."""

    distances_mm: Floats
    sizes: Floats


@dataclass(frozen=True, slots=True)
class Place:
    """Where elements lie: spacing in mm of the axes of their lattice; `planar`: of a single slice, along the first.

    axes: which axis of the label map each of them is.
    """

    spacing_mm: Spacing
    planar: bool
    axes: tuple[int, int, int] = (0, 1, 2)


def arranged(reference: LabelMap, prediction: LabelMap) -> tuple[Labels, Labels, Place]:
    """Both arrays with an axis of a single slice first and the fastest axis last, which no metric depends on."""
    r, p = reference.array, prediction.array
    spacing_mm = reference.grid.spacing_mm
    order = sorted(range(3), key=lambda axis: -abs(r.strides[axis]))
    planar = 1 in r.shape
    if planar:  # of several such axes the coarsest, so that the order of axes does not decide
        single = max((axis for axis in range(3) if r.shape[axis] == 1), key=lambda axis: spacing_mm[axis])
        order = [single, *(axis for axis in order if axis != single)]
    kind = np.result_type(r, p)
    i, j, k = order
    r, p = (array.transpose(order).astype(kind, copy=False) for array in (r, p))
    return r, p, Place((spacing_mm[i], spacing_mm[j], spacing_mm[k]), planar, (i, j, k))


def surfels_apart(engine: Engine, here: Elements, there: Elements, place: Place) -> Apart:
    """Corners with the pieces of surface at them (mm^2; mm in 2D), as DeepMind's surface-distance has them."""
    sizes = surfel_sizes(place.spacing_mm[1:] if place.planar else place.spacing_mm)
    return Apart(engine.nearest_mm(here, there, place.spacing_mm), sizes[here.codes])


def voxels_apart(engine: Engine, here: Elements, there: Elements, place: Place) -> Apart:
    """Centres of border voxels, each of weight 1, as MONAI, medpy and panoptica have them."""
    return Apart(engine.nearest_mm(here, there, place.spacing_mm), np.ones(len(here)))


def triangles_apart(engine: Engine, here: Elements, there: Elements, place: Place) -> Apart:
    """Triangles of the 0.5-isosurface, from their centres to the nearest point of any."""
    areas, distances_mm = engine.triangles_mm(here, there, place.spacing_mm, place.planar)
    return Apart(distances_mm, areas)


MODES: Final[Mapping[SurfaceMode, Callable[[Engine, Elements, Elements, Place], Apart]]] = {
    "surfel": surfels_apart,
    "voxel": voxels_apart,
    "mesh": triangles_apart,
}


def surface_metrics(
    engine: Engine, mode: SurfaceMode, there: Apart, back: Apart, tolerances_mm: Sequence[float]
) -> dict[str, float]:
    """Reduce the distances of both directions, reference first, to the metrics by name; the main tolerance is first.

    HD and HD95 are the larger of the two directions, ASSD pools both (Heimann 2009), NSD is the share of both surfaces
    within the tolerance (Nikolov 2018), boundary F1 the harmonic mean of the two shares (Csurka 2013).
    """
    limits = [mm + 1e-6 * max(1.0, mm) for mm in tolerances_mm]
    r, p = (engine.sums(one.distances_mm, one.sizes, limits) for one in (there, back))
    both = Apart(
        *(np.concatenate(pair) for pair in ((there.distances_mm, back.distances_mm), (there.sizes, back.sizes)))
    )
    hd95s = (_percentile_mm(engine, mode, one) for one in (there, back))
    found = {
        "hd_mm": max(r.largest, p.largest),
        "hd95_mm": max(hd95s),
        "hd95_pooled_mm": _percentile_mm(engine, mode, both),
        "assd_mm": (r.moment + p.moment) / (r.size + p.size),
        "masd_mm": (r.moment / r.size + p.moment / p.size) / 2,
        "mean_ref_to_pred_mm": r.moment / r.size,
        "mean_pred_to_ref_mm": p.moment / p.size,
    }
    for n, tolerance_mm in enumerate(tolerances_mm):
        recall, precision = r.within[n] / r.size, p.within[n] / p.size
        at = {
            "nsd": (r.within[n] + p.within[n]) / (r.size + p.size),
            "boundary_f1": 2 * recall * precision / (recall + precision) if recall + precision else 0.0,
            "boundary_precision": precision,
            "boundary_recall": recall,
        }
        found |= {at_tolerance(name, tolerance_mm) if n else name: value for name, value in at.items()}
    return found


def _percentile_mm(engine: Engine, mode: SurfaceMode, of: Apart) -> float:
    """Of voxels as MONAI and numpy take it, between two of them; else the distance that a share does not exceed."""
    if mode == "voxel":
        return float(np.quantile(of.distances_mm, PERCENTILE))
    return engine.percentile_mm(of.distances_mm, of.sizes, PERCENTILE)


def touches_border(elements: Elements, place: Place) -> bool:
    """Whether the structure reaches the end of the image along any axis that it has."""
    axes = range(1 if place.planar else 0, 3)
    return any(elements.low[axis] == 0 or elements.high[axis] == elements.shape[axis] - 1 for axis in axes)


def without_fov_faces(elements: Elements, mode: SurfaceMode, place: Place) -> Elements:
    """The elements that would be surface too if the image went on beyond its end as it ends."""
    if mode == "voxel":
        return elements.kept(elements.codes == 1)
    codes = elements.codes.copy()
    places = elements.places().T
    for axis in range(1 if place.planar else 0, 3):
        step, high = np.uint8(_STEPS[axis]), np.uint8(_FIRST[axis])
        below, above = places[axis] == 0, places[axis] == elements.shape[axis] - 1
        codes[below] = (codes[below] & ~high) | (codes[below] & ~high) << step
        codes[above] = (codes[above] & high) | (codes[above] & high) >> step
    return elements.kept((codes != 0) & (codes != (15 if place.planar else 255)))


# Of the 8 bits of a code: how far apart the two neighbours along each axis stand, and which bits are the first of two.
_STEPS: Final = (4, 2, 1)
_FIRST: Final = (0b11110000, 0b11001100, 0b10101010)
