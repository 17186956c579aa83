"""One case: a reference and a prediction in, one score for each structure out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from medseg.errors import GeometryError
from medseg.evaluation.engine.choice import engine
from medseg.evaluation.engine.values import Elements, Engine, Labels
from medseg.evaluation.overlap import Overlap
from medseg.evaluation.score import StructureScore, expected, structure_score
from medseg.evaluation.settings import DEFAULT, Settings, SurfaceMode
from medseg.evaluation.surface import MODES, Place, arranged, surface_metrics, touches_border, without_fov_faces
from medseg.imaging.grid import Grid
from medseg.imaging.volume import LabelMap

RESAMPLE = "predict on the reference's grid, or give --resample to take the nearest voxels"

WORTH_THREADS = 1 << 20  # voxels

Surfaces = Mapping[int, Elements]
Each = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


def score_case(
    case: str,
    reference: LabelMap,
    prediction: LabelMap,
    settings: Settings = DEFAULT,
    threads: int = 1,
    by: Engine | None = None,
) -> tuple[StructureScore, ...]:
    """Score every structure that either map names or holds, in the order of the label values.

    A volume of a single slice is scored in 2D: as a solid, its flat faces would outweigh its contour. by: another
    engine than the fastest there is.

    Raises:
        GeometryError: the two grids differ.
    """
    _refuse_other_grid(reference.grid, prediction.grid)
    names = {**prediction.names, **reference.names}
    scoring = _Scoring(*arranged(reference, prediction), settings, by or engine())
    overlaps = scoring.engine.overlaps(scoring.reference, scoring.prediction)
    called = {value: names.get(value, str(value)) for value in sorted({*overlaps, *names} - {0})}
    threads = threads if scoring.reference.size >= WORTH_THREADS else 1
    with ThreadPoolExecutor(threads) if threads > 1 else nullcontext() as pool:
        each: Each = pool.map if pool else map
        surfaces = scoring.surfaces(each, threads)
        by_size = sorted(overlaps, key=lambda value: -overlaps[value].reference - overlaps[value].prediction)
        found = each(lambda value: scoring.beyond_counts(value, called[value], overlaps[value], surfaces), by_size)
        metrics = dict(zip(by_size, found, strict=True))
    return tuple(
        structure_score(
            case,
            name,
            overlaps.get(value, Overlap(0, 0, 0)),
            reference.grid.voxel_ml,
            settings,
            metrics.get(value, {}),
            any(touches_border(side.surface[value], scoring.place) for side in surfaces if value in side.surface),
        )
        for value, name in called.items()
    )


@dataclass(frozen=True, eq=False)
class _Side:
    """The surfaces of one map by label: as the mode has them, and as border voxels."""

    surface: Surfaces
    borders: Surfaces


@dataclass(frozen=True, eq=False)
class _Scoring:
    """Two maps (I, J, K), the fastest axis last, and what they are compared by."""

    reference: Labels
    prediction: Labels
    place: Place
    settings: Settings
    engine: Engine

    def surfaces(self, each: Each, threads: int) -> tuple[_Side, _Side]:
        """Both maps at once, where there are threads for it."""
        of_each = (threads + 1) // 2
        reference, prediction = each(lambda labels: self._side(labels, of_each), (self.reference, self.prediction))
        return reference, prediction

    def _side(self, labels: Labels, threads: int) -> _Side:
        borders = self.engine.borders(labels, self.place.planar, threads)
        if self.settings.surface == "voxel":
            return _Side(borders, borders)
        return _Side(self.engine.corners(labels, self.place.planar, threads), borders)

    def beyond_counts(
        self, value: int, name: str, overlap: Overlap, surfaces: tuple[_Side, _Side]
    ) -> dict[str, float | None]:
        """All metrics of a structure but those of voxel counts; of one that only one map holds those of its lesions."""
        found: dict[str, float | None] = {}
        if overlap.reference and overlap.prediction:
            borders = surfaces[0].borders[value], surfaces[1].borders[value]
            labels = self.reference, self.prediction
            bands = self.engine.bands(labels, borders, value, self.settings.boundary_iou_mm, self.place.spacing_mm)
            found = {**self._surface_metrics(value, name, surfaces), "boundary_iou": bands.iou}
            if name in self.settings.tubular:
                from medseg.evaluation.centreline import centreline_metrics  # its libraries take a second to import

                found |= centreline_metrics(self.reference == value, self.prediction == value, self.place.spacing_mm)
        if name in self.settings.instances:
            from medseg.evaluation.lesions import lesion_metrics

            least = self.settings.min_lesion_mm3, self.settings.lesion_iou
            found |= lesion_metrics(self.reference == value, self.prediction == value, self.place.spacing_mm, *least)
        return found

    def _surface_metrics(self, value: int, name: str, surfaces: tuple[_Side, _Side]) -> dict[str, float | None]:
        r, p = (side.surface[value] for side in surfaces)
        mode = self.settings.surface
        if self.settings.fov_faces == "exclude":
            r, p = (without_fov_faces(one, mode, self.place) for one in (r, p))
            if not len(r) or not len(p):  # nothing to measure, or nothing to measure it to
                groups = ("distance", "boundary") if len(r) or len(p) else ()
                return {one.name: one.missed for one in expected(self.settings, name) if one.group in groups}
        there, back = (MODES[mode](self.engine, *pair, self.place) for pair in ((r, p), (p, r)))
        return {**surface_metrics(self.engine, mode, there, back, self.settings.tolerances(name))}


def warm_up(mode: SurfaceMode) -> None:
    """Score a few voxels, so that whatever must be compiled is compiled and kept on disk."""
    grid = Grid((6, 6, 6), np.eye(4))
    for kind in (np.uint8, np.uint16):
        cube = np.zeros(grid.shape, kind)
        cube[1:4, 1:4, 1:4] = 1
        reference, prediction = (LabelMap(array, grid, {}) for array in (cube, np.roll(cube, 2, 0)))
        score_case("", reference, prediction, Settings(surface=mode))
    engine().warm_up()


def diagonal_mm(grid: Grid) -> float:
    """The diagonal of the whole image: what an infinite distance counts as in a penalised mean."""
    return math.hypot(*(n * mm for n, mm in zip(grid.shape, grid.spacing_mm, strict=True)))


def _refuse_other_grid(reference: Grid, prediction: Grid) -> None:
    if reference.shape != prediction.shape:
        raise GeometryError(
            f"the prediction's shape {prediction.shape} is not the reference's {reference.shape}",
            fix=RESAMPLE,
        )
    if not reference.agrees(prediction):
        apart = reference.deviation_mm(prediction)
        raise GeometryError(
            f"the grids of prediction and reference lie {apart:.3g} mm apart",
            fix=RESAMPLE,
        )
