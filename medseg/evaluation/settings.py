"""How label maps are compared: the settings of an evaluation, which stand in `scores.json`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from medseg.errors import InputError
from medseg.files import Record
from medseg.imaging.structures import Structures, alike

SurfaceMode = Literal["surfel", "voxel", "mesh"]
"""What counts as the surface of a structure.

surfel: the pieces of DeepMind's surface-distance, one at each corner between voxels inside and outside, weighted by
their size. voxel: the centres of voxels with a face to the outside, each of weight 1, as in MONAI, medpy and panoptica.
mesh: the triangles of the 0.5-isosurface, which lies closest to the continuous truth. Numbers of different modes are
not to be compared.
"""


class Settings(Record):
    """Tolerances in mm; structures are called by their names.

    tolerances_mm: of NSD and of boundary metrics; the first is that of `nsd` and `boundary_f1`, the others have columns
    of their own. tolerances_of: other ones for these structures. tubular: structures that have a centreline.
    instances: structures of several instances (lesions), whose components are counted and matched; components below
    min_lesion_mm3 count on neither side; lesion_iou: the IoU that a hit exceeds. boundary_iou_mm: depth of the band of
    Boundary IoU. fov_faces: whether surface on the border of the image counts, where the field of view may have cut
    both masks alike. both_empty: whether a structure in neither map is left out of means or counts as perfect.
    resample: whether a prediction on another grid is brought onto the reference's, by the nearest voxel.
    """

    surface: SurfaceMode = "surfel"
    tolerances_mm: tuple[float, ...] = (1.0, 2.0, 3.0)
    tolerances_of: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    tubular: tuple[str, ...] = ()
    instances: tuple[str, ...] = ()
    min_lesion_mm3: float = 0.0
    lesion_iou: float = 0.1
    boundary_iou_mm: float = 2.0
    fov_faces: Literal["count", "exclude"] = "count"
    both_empty: Literal["exclude", "perfect"] = "exclude"
    resample: bool = False

    def tolerances(self, structure: str) -> tuple[float, ...]:
        """The tolerances of this structure, the main one first."""
        return self.tolerances_of.get(structure, self.tolerances_mm)


DEFAULT = Settings()


def checked(settings: Settings, known: Structures | None) -> Settings:
    """The same with structures called as `known` calls them; None: each is called by its number.

    Raises:
        InputError: a number that cannot be used, or a structure that is none.
    """
    lengths = {"tolerance": settings.tolerances_mm, "depth of Boundary IoU": (settings.boundary_iou_mm,)}
    lengths |= {f"tolerance of {name}": of for name, of in settings.tolerances_of.items()}
    for what, values in lengths.items():
        for mm in values or (math.nan,):
            if not (math.isfinite(mm) and mm >= 0):
                raise InputError(f"a {what} of {mm:g} mm cannot be used", fix="give a number of at least 0")
    if not (math.isfinite(settings.min_lesion_mm3) and settings.min_lesion_mm3 >= 0):
        raise InputError(f"lesions of {settings.min_lesion_mm3:g} mm3 cannot be asked for", fix="give at least 0")
    if not 0 <= settings.lesion_iou < 1:
        raise InputError(f"an IoU of {settings.lesion_iou:g} cannot be asked for", fix="give 0 up to, but not, 1")
    if known is None:
        return settings
    names = {alike(name): name for name in (*known.labels.values(), *known.regions)}
    return settings.model_copy(
        update={
            "tolerances_of": {_called(name, names): of for name, of in settings.tolerances_of.items()},
            "tubular": tuple(_called(name, names) for name in settings.tubular),
            "instances": tuple(_called(name, names) for name in settings.instances),
        }
    )


def _called(name: str, names: dict[str, str]) -> str:
    if alike(name) not in names:
        known: Iterable[str] = sorted(names.values())
        raise InputError(f"no structure is called {name}", fix=f"choose from {', '.join(known)}")
    return names[alike(name)]
