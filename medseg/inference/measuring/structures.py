"""Measuring every structure of a label map on the scan that it belongs to, or every instance of one structure.

One pass over the labels finds boxes of every value; all else looks at these alone, in small pieces, so that time goes
with the structures' size and memory holds little beside the scan and its labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError, InputError
from medseg.imaging.grid import Grid, closest_axes
from medseg.imaging.volume import LabelMap, Volume
from medseg.inference.boxes import Box, Islands, Labels, apart, around, islands_of
from medseg.inference.measuring.field_of_view import acquired_box, faces_reached
from medseg.inference.measuring.intensities import mean_sd, quantiles
from medseg.inference.measuring.record import StructureStatistics
from medseg.inference.measuring.shape import longest_axial_mm, surface_mm2
from medseg.inference.measuring.voxels import StructureVoxels
from medseg.preprocessing.axis import memory_order
from medseg.preprocessing.settings import is_ct

SHARES = {"p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95}


def unit_of(channel: str, modality: str, notes: Sequence[str]) -> str | None:
    """The unit of a scan's intensities: HU of CT, g/ml of PET that was read as SUV; None where nothing states one.

    channel: the model's name of it. modality: the DICOM one, empty of a file. notes: what was remarked on reading.
    """
    if any(note.startswith("[UNITS]") for note in notes):
        return None
    if modality == "CT" or (not modality and is_ct(channel)):
        return "HU"
    return "g/ml" if any(note.startswith("body-weight SUV") for note in notes) else None


def measure(
    labels: LabelMap, scan: Volume, named: Mapping[str, tuple[int, ...]] | None = None, unit: str | None = None
) -> tuple[StructureStatistics, ...]:
    """Measure each structure or region in `named` (name -> label values); without it every value that has a name.

    scan: the channel whose intensities are measured, in `unit`.

    Raises:
        GeometryError: labels and scan lie on different grids.
        InputError: intensities of a structure are not finite numbers.
    """
    wanted = named if named is not None else {name: (value,) for value, name in labels.names.items()}
    seen = _Seen.of(labels, scan, unit)
    return tuple(seen.measured(name, None, values) for name, values in wanted.items())


def measure_instances(
    instances: LabelMap, scan: Volume, structure: str, unit: str | None = None
) -> tuple[StructureStatistics, ...]:
    """Measure each instance of a structure, as `instances.numbered_instances` gives them, in their order.

    Raises:
        GeometryError, InputError: as `measure`.
    """
    seen = _Seen.of(instances, scan, unit)
    return tuple(seen.measured(structure, number, (number,)) for number in seen.islands)


@dataclass(frozen=True, eq=False)
class _Seen:
    """A scan and its labels as they lie in memory: `order` gives the stored axis that is A, B and C.

    islands: boxes of every value along A, B, C. field: the acquired part of the scan, along the stored axes.
    """

    labels_ABC: Labels
    image_ABC: npt.NDArray[Any]
    order: tuple[int, ...]
    grid: Grid
    islands: Islands
    field: Box
    unit: str | None

    @classmethod
    def of(cls, labels: LabelMap, scan: Volume, unit: str | None) -> _Seen:
        if not labels.grid.agrees(scan.grid):
            raise GeometryError("scan and labels lie on different grids", fix="measure labels on their own scan")
        order = memory_order(labels.array)
        array = labels.array.transpose(order)
        field = acquired_box(scan.array)
        return cls(array, scan.array.transpose(order), order, labels.grid, islands_of(array), field, unit)

    def measured(self, structure: str, instance: int | None, values: tuple[int, ...]) -> StructureStatistics:
        boxes = apart(box for value in values for box in self.islands.get(value, ()))
        if not boxes:
            return StructureStatistics(structure=structure, instance=instance, voxels=0, volume_ml=0.0, unit=self.unit)
        inside = StructureVoxels(self.labels_ABC, values, boxes)
        voxels, middle_ABC = inside.position()
        mean, sd = mean_sd(inside.values_of(self.image_ABC))
        if not math.isfinite(sd):
            raise InputError("[INTENSITIES] the scan holds values that are not finite numbers", fix="replace them")
        percentiles = quantiles(lambda: inside.values_of(self.image_ABC), tuple(SHARES.values()))
        return StructureStatistics(
            structure=structure,
            instance=instance,
            voxels=voxels,
            volume_ml=_short(voxels * self.grid.voxel_ml),
            unit=self.unit,
            mean=_short(mean),
            sd=_short(sd),
            **{name: _short(value) for name, value in zip(SHARES, percentiles, strict=True)},
            **self._place(around(boxes), middle_ABC),
            **self._shape(inside),
        )

    def _place(self, box_ABC: Box, middle_ABC: npt.NDArray[np.float64]) -> dict[str, Any]:
        """Bounding box and centroid, and where the field of view ends."""
        back = [self.order.index(axis) for axis in range(3)]
        box = tuple(box_ABC[place] for place in back)
        centroid = self.grid.affine[:3, :3] @ middle_ABC[back] + self.grid.affine[:3, 3]
        sizes = zip(box, self.grid.spacing_mm, strict=True)
        return {
            "first_voxel": tuple(side.start for side in box),
            "last_voxel": tuple(side.stop - 1 for side in box),
            "size_mm": tuple(_short((side.stop - side.start) * mm) for side, mm in sizes),
            "centroid_mm": tuple(_short(float(mm)) for mm in centroid),
            "cut_at": faces_reached(box, self.field, self.grid),
        }

    def _shape(self, inside: StructureVoxels) -> dict[str, float]:
        """Longest axial diameter, and the surface unless the scan is a single slice: then that slice is the plane."""
        spacing_mm = [self.grid.spacing_mm[axis] for axis in self.order]
        single = 1 in self.grid.shape
        head_foot = [world for world, _ in closest_axes(self.grid.affine)].index(2)
        across = self.grid.shape.index(1) if single else head_foot
        found = {"longest_axial_diameter_mm": _short(longest_axial_mm(inside, self.order.index(across), spacing_mm))}
        return found if single else found | {"surface_mm2": _short(surface_mm2(inside, spacing_mm))}


def _short(value: float) -> float:
    """Nine digits: all that a float32 holds, and the same on every machine; no negative zero."""
    return float(f"{value:.9g}") + 0.0
