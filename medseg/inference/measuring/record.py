"""What is known of one structure, or one instance of it, in one scan: plain numbers, None where there are none."""

from __future__ import annotations

from typing import Literal

from medseg.files import Record

Face = Literal["left", "right", "posterior", "anterior", "inferior", "superior"]
Index = tuple[int, int, int]
Point = tuple[float, float, float]


class StructureStatistics(Record):
    """One structure of one scan; of an empty one there is nothing but its name, 0 voxels and 0 ml.

    instance: its number, 1 the largest; None of the structure as a whole.
    mean, sd (of these voxels, not an estimate beyond them), p5 to p95: of the intensities, in `unit`; that is None
    where nothing states one.
    first_voxel, last_voxel: the corners of its bounding box, as indices along the axes of the stored scan, both within
    it; size_mm: of the box, between the outer faces of its voxels.
    centroid_mm: the mean place of its voxels, in RAS+ mm.
    longest_axial_diameter_mm: the largest distance between two points of its outline in one of the stored planes that
    are nearest to axial (of a single slice, in that); the outline runs half-way to the centres of voxels outside.
    surface_mm2: of the surface of marching cubes, closed where the scan ends; None of a single slice.
    cut_at: the faces of the scan's field of view that it reaches, so that it may go on beyond them.
    """

    structure: str
    instance: int | None = None
    voxels: int
    volume_ml: float
    unit: str | None = None
    mean: float | None = None
    sd: float | None = None
    p5: float | None = None
    p25: float | None = None
    median: float | None = None
    p75: float | None = None
    p95: float | None = None
    first_voxel: Index | None = None
    last_voxel: Index | None = None
    size_mm: Point | None = None
    centroid_mm: Point | None = None
    longest_axial_diameter_mm: float | None = None
    surface_mm2: float | None = None
    cut_at: tuple[Face, ...] = ()

    @property
    def words(self) -> str:
        """The structure's name, with the number of the instance where it is one."""
        return self.structure if self.instance is None else f"{self.structure} {self.instance}"

    @property
    def remark(self) -> str:
        """For people: that it is cut by the field of view, so that its volume is that of a part; else empty."""
        if not self.cut_at:
            return ""
        return f"{self.words} is cut by the field of view ({', '.join(self.cut_at)}): its volume is that of a part"
