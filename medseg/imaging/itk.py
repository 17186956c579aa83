"""NRRD (also .seg.nrrd) and MetaImage files in and out.

Of the formats that ITK reads these two are taken: they say which way is left. The others do not (GIPL, VTK and MRC
files hold no directions), or have a reader of their own here (NIfTI, DICOM).
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError, ResourceError
from medseg.files import written_whole
from medseg.imaging.grid import LPS_TO_RAS, Grid, Stored
from medseg.imaging.itk_header import SUFFIXES, ItkHeader, read_itk_header
from medseg.imaging.source import Reading
from medseg.imaging.structures import asked_for
from medseg.imaging.volume import LabelMap, Volume
from medseg.imaging.voxels import as_labels, checked_grid, chosen, finished, refuse, stored_bytes

_WRITTEN = (".nrrd", ".mha")  # one file each
_ESCAPED = re.compile(r"\\([\\nrt])")  # a backslash and what it stands for
_SEGMENT = re.compile(r"segment(\d+)_(name|labelvalue|layer|id)")


@dataclass(frozen=True, slots=True)
class _Segment:
    """A segment of a .seg.nrrd file: its value in its layer, and its name."""

    layer: int
    value: int
    name: str


def is_itk(path: Path) -> bool:
    """True by the name alone."""
    return path.name.lower().endswith(SUFFIXES)


def itk_stem(path: Path) -> str:
    """The file's name without its suffix, and without `.seg`."""
    suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), "")
    name = path.name[: len(path.name) - len(suffix)]
    return name[:-4] if suffix and name.lower().endswith(".seg") else name


def read_itk_grid(path: Path) -> Grid:
    """Read the grid alone, from the header; all volumes of a 4D file share it.

    Raises:
        InputError: missing, cut or of another format; neither 3D nor 4D.
        GeometryError: the header's directions cannot be used.
    """
    return _open(path, need_place=False)[1]


def n_volumes(path: Path) -> int:
    """How many volumes the file holds: 1 unless it is 4D or holds several values a voxel.

    Raises:
        InputError: as `read_itk_grid`.
    """
    return read_itk_header(path).n_volumes


def read_itk_volume(path: Path, need_place: bool = True) -> Volume:
    """Read a scan as float32 (X, Y, Z); as `read_itk`."""
    return read_itk(path, need_place=need_place).volume


def read_itk(path: Path, component: int | None = None, need_place: bool = True) -> Reading:
    """Read a scan, or one of several volumes (`component`, from 0), as float32 (X, Y, Z) on an orthogonal grid.

    A sheared grid is straightened, and voxels that are not finite are mended, as `nifti.read_nifti` does.

    Raises:
        InputError: missing, cut, damaged or of another format; several volumes and no `component`; not finite.
        GeometryError: the directions cannot be used, or (`need_place`) it does not say which way is left.
    """
    header, grid = _open(path, need_place)
    k = chosen(header.n_volumes, component, path)
    with np.errstate(over="ignore"):
        array = _stored(path, header, [k])[0].astype(np.float32, copy=False)
    notes = () if header.says_where else ("its header does not say which way is left: left and right are a guess",)
    return finished(array, grid, notes, path)


def read_itk_stored(path: Path, component: int | None = None) -> tuple[npt.NDArray[Any], Grid]:
    """The voxels (X, Y, Z) of one volume in the type and on the grid that they are stored in, whatever they are.

    Raises:
        InputError, GeometryError: as `read_itk`, but values are not looked at.
    """
    header, grid = _open(path, need_place=False)
    return _stored(path, header, [chosen(header.n_volumes, component, path)])[0], grid


def read_itk_labels(path: Path, names: dict[int, str] | None = None) -> LabelMap:
    """Read a segmentation as uint8 or uint16, as `read_itk_segments` does."""
    return read_itk_segments(path, names)[0]


@dataclass(frozen=True, eq=False)
class Layered:
    """The segments of a file as one label map, and how many voxels belong to several of them."""

    labels: LabelMap
    overlapping: int

    @property
    def notes(self) -> tuple[str, ...]:
        """What a label map cannot hold."""
        n = self.overlapping
        return (f"{n} voxel(s) belong to several segments: the later one counts",) if n else ()


def read_itk_segments(
    path: Path, names: dict[int, str] | None = None, wanted: Collection[str] | None = None
) -> tuple[LabelMap, tuple[str, ...]]:
    """Read a segmentation, and notes on what a label map cannot hold.

    Without `names` those of the segments of a .seg.nrrd count, and numbers elsewhere. The layers of a .seg.nrrd are
    put on top of each other: where segments overlap, the later counts. If a value stands for several segments, all are
    numbered anew in their order, from 1. Of several layers only segments with one of the names `wanted` are drawn.

    Raises:
        InputError: as `read_itk`, and where values are not whole numbers from 0 to 65535.
        GeometryError: the directions cannot be used.
    """
    found = read_itk_layers(path, wanted)
    labels = found.labels
    return (labels if names is None else LabelMap(labels.array, labels.grid, names)), found.notes


def read_itk_layers(path: Path, wanted: Collection[str] | None = None) -> Layered:
    """Read a segmentation; as `read_itk_segments`.

    Raises:
        InputError, GeometryError: as `read_itk_segments`.
    """
    header, grid = _open(path, need_place=False)
    segments = _segments(header)
    if not segments or header.n_volumes == 1:
        array, values = as_labels(_stored(path, header, [chosen(header.n_volumes, None, path)])[0], path)
        found = {v: str(v) for v in values} | {s.value: s.name for s in segments}
        return Layered(LabelMap(array, grid, found), 0)
    array, found, overlapping = _combined(path, header, segments, wanted)
    return Layered(LabelMap(array, grid, found), overlapping)


def segment_names_in(path: Path) -> dict[int, str]:
    """The names that a .seg.nrrd states, by the values that `read_itk_labels` gives them; empty for other files.

    Raises:
        InputError: as `read_itk_grid`.
    """
    segments = _segments(read_itk_header(path))
    return {value: s.name for value, s in zip(_values(segments), segments, strict=True)}


def write_itk_volume(path: Path, volume: Volume) -> None:
    """Write a volume as .nrrd or .mha, compressed, whole or not at all; no free text enters the header.

    Raises:
        InputError: another suffix.
        ResourceError: the disk is full or the folder cannot be written to.
    """
    if not path.name.lower().endswith(_WRITTEN):
        refuse("FORMAT", "cannot be written in this format", path, f"choose a name with {' or '.join(_WRITTEN)}")
    import SimpleITK

    image = SimpleITK.GetImageFromArray(np.asarray(volume.array).T)
    lps = LPS_TO_RAS @ volume.grid.affine
    steps = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetSpacing(steps.tolist())
    image.SetDirection((lps[:3, :3] / steps).ravel().tolist())
    with written_whole(path) as beside:
        try:
            SimpleITK.WriteImage(image, str(beside), True)
        except RuntimeError as error:  # it tells of a full disk and of bad names alike, and with the whole path
            raise ResourceError("cannot be written", path, "free some space or choose another folder") from error


def _open(path: Path, need_place: bool) -> tuple[ItkHeader, Grid]:
    header = read_itk_header(path)
    if need_place and not header.says_where:
        what = "[NO_AFFINE] does not say which way is left (its header has no anatomical `space`)"
        raise GeometryError(what, path, "export it again from its source, with the place in the header")
    return header, checked_grid(header.shape, header.affine, Stored(), path)


def _stored(path: Path, header: ItkHeader, volumes: Sequence[int]) -> list[npt.NDArray[Any]]:
    """The voxels (X, Y, Z) of some of the file's volumes, as they are stored."""
    n = math.prod(header.sizes) * header.dtype.itemsize
    count, start, sizes = n, 0, header.sizes
    if len(volumes) == 1 and header.over == len(sizes) - 1:  # a volume is one piece of the file
        count, sizes = n // sizes[-1], (*sizes[:-1], 1)
        start, volumes = volumes[0] * count, [0]
    stored = stored_bytes(header.data, header.offset, header.compressed, start, count, n, path).view(header.dtype)
    array = stored.reshape(sizes, order="F")
    return [array] if header.over is None else [np.take(array, k, axis=header.over) for k in volumes]


def _segments(header: ItkHeader) -> tuple[_Segment, ...]:
    """In their order; files without layers and values hold one segment a layer, drawn with 1."""
    found: dict[int, dict[str, str]] = {}
    for key, text in header.values.items():
        if match := _SEGMENT.fullmatch(key):
            found.setdefault(int(match[1]), {})[match[2]] = text
    segments = []
    for n, said in sorted(found.items()):
        value, layer = said.get("labelvalue", "1").strip(), said.get("layer", str(n)).strip()
        name = " ".join(re.sub(r"[\x00-\x1f]", " ", _ESCAPED.sub(_unescaped, said.get("name", ""))).split())
        whole = value.isdecimal() and layer.isdecimal() and max(len(value), len(layer)) < 10
        if whole and 0 < int(value) <= 65535:
            segments.append(_Segment(int(layer), int(value), name or value))
    return tuple(segments)


def _unescaped(found: re.Match[str]) -> str:
    return "\\" if found[1] == "\\" else " "  # a name stands in one line


def _values(segments: tuple[_Segment, ...]) -> list[int]:
    """The value of each segment in a label map of all."""
    values = [s.value for s in segments]
    return (
        values
        if len(set(values)) == len(values) or len({s.layer for s in segments}) == 1
        else list(range(1, len(values) + 1))
    )


def _combined(
    path: Path, header: ItkHeader, segments: tuple[_Segment, ...], wanted: Collection[str] | None
) -> tuple[npt.NDArray[np.unsignedinteger[Any]], dict[int, str], int]:
    drawn_here = {v: s for v, s in zip(_values(segments), segments, strict=True) if asked_for(s.name, wanted)}
    used = sorted({s.layer for s in drawn_here.values() if s.layer < header.n_volumes})
    layers = dict(zip(used, _stored(path, header, used), strict=True))
    out = np.zeros(header.shape, np.uint8 if max(drawn_here, default=0) <= 255 else np.uint16, order="F")
    overlapping = 0
    for value, segment in drawn_here.items():
        if segment.layer in layers:
            drawn = layers[segment.layer] == segment.value
            overlapping += int(np.count_nonzero(out[drawn]))
            out[drawn] = value
    return out, {value: s.name for value, s in drawn_here.items()}, overlapping
