"""The headers of NRRD and MetaImage files: how voxels are stored, where they lie, and what stands beside them.

They are read here rather than by SimpleITK, which gives damaged compressed MetaImage files back without an error, and
prints what it finds (both measured); it is the oracle of the tests. Texts of these headers may name a patient: they
are never shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.imaging.grid import LPS_TO_RAS, Affine
from medseg.imaging.voxels import AGAIN, opened, refuse

_NRRD, _META = (".nrrd", ".nhdr"), (".mha", ".mhd")
SUFFIXES = (*_NRRD, *_META)
_HEADER_AT_MOST = 1 << 24
_SPACES = {  # names and short names of the anatomical spaces, without a fourth axis of time -> RAS+
    ("left-posterior-superior", "lps"): (-1.0, -1.0, 1.0),
    ("right-anterior-superior", "ras"): (1.0, 1.0, 1.0),
    ("left-anterior-superior", "las"): (-1.0, 1.0, 1.0),
}
_NRRD_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
_META_TYPES = {
    "met_char": "i1",
    "met_uchar": "u1",
    "met_short": "i2",
    "met_ushort": "u2",
    "met_int": "i4",
    "met_uint": "u4",
    "met_long": "i4",
    "met_ulong": "u4",
    "met_long_long": "i8",
    "met_ulong_long": "u8",
    "met_float": "f4",
    "met_double": "f8",
}


@dataclass(frozen=True, eq=False)
class ItkHeader:
    """How the voxels are stored, and where they lie.

    sizes: of every axis as stored, the fastest first. over: which axis counts volumes or values a voxel, or None.
    data, offset, compressed: the file of the voxels, their first byte in it, and whether that begins a zlib or gzip
    stream. affine: of the other three axes, to RAS+ mm. says_where: false for NRRD that names no anatomical space
    (taken as LPS+, as ITK does); that of MetaImage is fixed. values: a NRRD file's own key/value pairs, names small.
    """

    sizes: tuple[int, ...]
    over: int | None
    dtype: np.dtype[Any]
    data: Path
    offset: int
    compressed: bool
    affine: Affine
    says_where: bool = True
    values: Mapping[str, str] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(X, Y, Z)."""
        x, y, z = (n for axis, n in enumerate(self.sizes) if axis != self.over)
        return x, y, z

    @property
    def n_volumes(self) -> int:
        """How many volumes the file holds."""
        return 1 if self.over is None else self.sizes[self.over]


def read_itk_header(path: Path) -> ItkHeader:
    """Read the header and find the data.

    Raises:
        InputError: missing, cut, of another format, not 3D or 4D, or with data in several files or another folder.
    """
    if not path.name.lower().endswith(SUFFIXES):
        refuse("FORMAT", f"is none of {', '.join(SUFFIXES)}", path)
    with opened(path) as file:
        start = file.read(_HEADER_AT_MOST)
    try:
        return _nrrd(path, start) if path.name.lower().endswith(_NRRD) else _meta(path, start)
    except (ValueError, IndexError):  # numbers that are none, or too few
        refuse("DAMAGED", "its header is damaged", path, AGAIN)


def _nrrd(path: Path, start: bytes) -> ItkHeader:
    if not start.startswith(b"NRRD000"):
        refuse("NOT_NRRD", "is not a NRRD file", path)
    end = re.search(rb"\r?\n\r?\n", start)
    fields, values = _nrrd_fields(start[: end.start() if end else len(start)].decode("utf-8", "replace"))
    elsewhere = fields.get("datafile")
    if end is None and elsewhere is None:
        refuse("TRUNCATED", "is cut short within its header", path, AGAIN)
    encoding = fields.get("encoding", "raw").lower()
    if (
        encoding not in ("raw", "gz", "gzip")
        or fields.get("lineskip", "0") != "0"
        or fields.get("byteskip", "0") != "0"
    ):
        refuse("ENCODING", "its voxels are stored as text or in an unusual way", path, "save it raw or with gzip")
    if fields["type"].lower() not in _NRRD_TYPES:
        refuse("DAMAGED", "its header is damaged, or it holds no numbers", path, AGAIN)
    order = ">" if fields.get("endian", "little").lower() == "big" else "<"
    sizes = _sizes(fields["sizes"])
    named = fields.get("space", "").lower().removesuffix("-time").removesuffix("t")
    signs = next((signs for names, signs in _SPACES.items() if named in names), None)
    over, affine = _nrrd_axes(fields, len(sizes), path)
    return ItkHeader(
        sizes,
        over,
        np.dtype(order + _NRRD_TYPES[fields["type"].lower()]),
        path if elsewhere is None else _beside(path, elsewhere),
        end.end() if end and elsewhere is None else 0,
        encoding != "raw",
        (np.diag([*signs, 1.0]) if signs else LPS_TO_RAS) @ affine,
        signs is not None,
        values,
    )


def _nrrd_fields(text: str) -> tuple[dict[str, str], dict[str, str]]:
    fields, values = {"type": "", "sizes": ""}, {}
    for line in text.splitlines()[1:]:
        name, colon, said = line.partition(":")
        if line.startswith("#") or not colon:
            continue
        if said.startswith("="):
            values[name.lower()] = said[1:]
        else:
            fields[name.replace(" ", "").lower()] = said.strip()  # "data file" may be written "datafile"
    return fields, values


def _nrrd_axes(fields: Mapping[str, str], n: int, path: Path) -> tuple[int | None, Affine]:
    """Which axis is none of space, and the affine of the others in the file's own space."""
    directions = _vectors(fields.get("spacedirections", ""))
    kinds = fields.get("kinds", "").lower().split()
    not_space = [i for i, vector in enumerate(directions) if vector is None]
    not_space = not_space or [i for i, kind in enumerate(kinds) if kind not in ("domain", "space", "???", "none")]
    over = _over(n, not_space, path)
    steps = [step for i, step in enumerate(directions) if i != over]
    if not directions:
        spacings = fields["spacings"].split() if "spacings" in fields else ["1"] * n
        sizes = [float(spacings[i]) for i in range(n) if i != over]
        steps = list(np.diag(sizes).tolist())
    origin = _vectors(fields.get("spaceorigin", ""))
    return over, _spatial(steps, origin[0] if origin else None)


def _over(n: int, not_space: list[int], path: Path) -> int | None:
    if n == 3 and not not_space:
        return None
    if n != 4 or len(not_space) > 1:
        refuse("DIMENSIONS", f"holds {n} dimensions, not one 3D scan", path, "split it into 3D files")
    return not_space[0] if not_space else 3


def _vectors(text: str) -> list[list[float] | None]:
    """`(1,0,0) none (0,2,0)`: None for "none"."""
    found = re.findall(r"none|\(([^)]*)\)", text.lower())
    return [[float(number) for number in inner.split(",")] if inner else None for inner in found]


def _spatial(steps: list[list[float] | None], origin: list[float] | None) -> Affine:
    """The affine of three steps, which may have a fourth component (time), as long as it is 0."""
    if len(steps) != 3 or any(step is None or any(step[3:]) for step in steps):
        raise ValueError
    affine: Affine = np.eye(4)
    affine[:3, :3] = np.array([step[:3] for step in steps if step]).T
    affine[:3, 3] = (origin or [0.0] * 3)[:3]
    return affine


def _meta(path: Path, start: bytes) -> ItkHeader:
    fields, at = _meta_fields(start)
    if "ndims" not in fields:
        refuse("NOT_METAIMAGE", "is not a MetaImage file", path)
    if "elementdatafile" not in fields:
        refuse("TRUNCATED", "is cut short within its header", path, AGAIN)
    yes = ("true", "1")
    if fields.get("binarydata", "true").lower() not in yes or fields.get("headersize", "0") != "0":
        refuse("ENCODING", "its voxels are stored as text or in an unusual way", path, "save it compressed")
    kind = _META_TYPES.get(fields.get("elementtype", "").lower())
    if kind is None:
        refuse("DAMAGED", "its header is damaged, or it holds no numbers", path, AGAIN)
    sizes = _sizes(fields.get("dimsize", ""))
    channels = int(fields.get("elementnumberofchannels", "1"))
    n = len(sizes)
    if n != int(fields["ndims"]) or n not in (3, 4) or (n == 4 and channels > 1):
        refuse("DIMENSIONS", f"holds {n} dimensions, not one 3D scan", path, "split it into 3D files")
    local = fields["elementdatafile"].upper() == "LOCAL"
    big = fields.get("binarydatabyteordermsb", fields.get("elementbyteordermsb", "false")).lower() in yes
    return ItkHeader(
        sizes if channels == 1 else (channels, *sizes),
        3 if n == 4 else None if channels == 1 else 0,
        np.dtype((">" if big else "<") + kind),
        path if local else _beside(path, fields["elementdatafile"]),
        at if local else 0,
        fields.get("compresseddata", "false").lower() in yes,
        LPS_TO_RAS @ _meta_affine(fields, n),
    )


def _meta_fields(start: bytes) -> tuple[dict[str, str], int]:
    """The fields up to that of the data, and where the data begins if it follows."""
    fields: dict[str, str] = {}
    at = 0
    while "elementdatafile" not in fields and at < len(start):
        end = start.find(b"\n", at)
        end = len(start) if end < 0 else end
        name, equals, value = start[at:end].decode("utf-8", "replace").partition("=")
        if not equals:
            break
        fields[name.strip().lower()] = value.strip()
        at = end + 1
    return fields, at


def _meta_affine(fields: Mapping[str, str], n: int) -> Affine:
    def numbers(count: int, *names: str) -> npt.NDArray[np.float64] | None:
        said = next((fields[name].split() for name in names if name in fields), None)
        if said is not None and len(said) != count:
            raise ValueError
        return None if said is None else np.array(said, np.float64)

    rotation = numbers(n * n, "transformmatrix", "rotation", "orientation")
    spacing = numbers(n, "elementspacing", "elementsize")
    offset = numbers(n, "offset", "position", "origin")
    axes = np.eye(n) if rotation is None else rotation.reshape(n, n)  # a row is the direction of an axis
    steps = axes if spacing is None else axes * spacing[:, None]
    return _spatial(steps[:3].tolist(), None if offset is None else offset.tolist())


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(int(size) for size in text.split())
    if not sizes or min(sizes) < 1:
        raise ValueError
    return sizes


def _beside(path: Path, name: str) -> Path:
    """The data file of a header, which must lie in the same folder: a header may come from anywhere."""
    if not name or name.upper().startswith("LIST") or "%" in name:
        refuse("SEVERAL_FILES", "its voxels stand in several files", path, "save it as one .nrrd or .mha file")
    if Path(name).name != name or "\\" in name or ":" in name or name in (".", ".."):
        refuse("SEVERAL_FILES", "its voxels stand in another folder", path, "put both files into one folder")
    data = path.parent / name
    if not data.is_file():
        refuse("SEVERAL_FILES", "the file with its voxels is missing", path, "put both files into one folder")
    return data
