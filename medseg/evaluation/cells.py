"""How much surface passes through a cell of 2x2(x2) voxel centres: the area table behind every surface metric.

A cell is a corner that neighbouring voxels share; its code tells which of them lie inside the structure. The surface
in a cell is that of marching cubes (Lorensen and Cline 1987), as in DeepMind's `surface-distance`, but built here:
walk around each face of the cell, cut off every stretch of inside corners by a segment between edge midpoints, follow
the segments from face to face into closed loops, and triangulate the loops.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import product

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Corner = tuple[int, ...]
Inside = frozenset[Corner]
Triangle = tuple[int, int, int]

# Around a face with the outside of the cell on the right; faces of side 0 are walked the other way round, so that
# two faces walk their common edge in opposite directions and segments join head to tail.
_AROUND = ((0, 0), (1, 0), (1, 1), (0, 1))


@lru_cache(maxsize=64)
def surfel_sizes(spacing_mm: tuple[float, ...]) -> Floats:
    """Surface in a cell for every code: mm^2 (256,) for three spacings, mm of contour (16,) for two.

    The first corner in raster order is the highest bit of the code. Codes 0 and all-ones hold no surface.
    """
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    if len(spacing) == 2:
        return _size(_segments(), spacing)
    return _size(_normals(), np.prod(spacing) / spacing)  # a normal scales with the two other axes


def cell_codes(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """For each cell of 2x2(x2) neighbours in an array of 0 and 1 its code in `surfel_sizes`, one less a side."""
    codes = mask
    bits = 1
    for axis in reversed(range(mask.ndim)):  # one axis at a time, each doubles the number of voxels in the code
        low = tuple(slice(None, -1) if n == axis else slice(None) for n in range(mask.ndim))
        high = tuple(slice(1, None) if n == axis else slice(None) for n in range(mask.ndim))
        codes = np.bitwise_or(codes[low] << np.uint8(bits), codes[high])
        bits *= 2
    return codes


def _size(vectors: Floats, scale: Floats) -> Floats:
    sizes: Floats = np.linalg.norm(vectors * scale, axis=-1).sum(axis=-1)
    sizes.flags.writeable = False  # it is shared
    return sizes


@lru_cache(maxsize=2)
def surface_triangles(ndim: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Triangles of the 0.5-isosurface in a cell for every code: corners (256, 12, 3, 3) of up to 12; how many (256,).

    Corners lie between 0, the centre of the first voxel along an axis, and 1, that of the second. A loop of more than
    three corners is a fan around its middle: unlike Lorensen's triangles that stays the same however axes are turned.
    In 2D the axes are the last two, and a segment of the contour is a triangle without area, its middle the third
    corner; codes are the first 16.
    """
    corners, counts = np.zeros((256, 12, 3, 3)), np.zeros(256, np.int64)
    if ndim == 2:
        for code, inside in _codes(2):
            for n, (begin, end) in enumerate(_cuts(_AROUND, inside)):
                corners[code, n, :, 1:] = np.array([begin, end, np.add(begin, end) / 2.0]) / 2.0
                counts[code] = n + 1
        return corners, counts
    for code, inside in _codes(3):
        triangles = [one for loop in _loops(inside) for one in _fan(np.array(loop) / 2.0)]
        corners[code, : len(triangles)] = np.reshape(triangles, (-1, 3, 3))
        counts[code] = len(triangles)
    return corners, counts


def _fan(loop: Floats) -> Iterator[Floats]:
    if len(loop) == 3:
        yield loop
        return
    for a, b in zip(loop, np.roll(loop, -1, axis=0), strict=True):
        yield np.array([loop.mean(axis=0), a, b])


@lru_cache(maxsize=1)
def _segments() -> Floats:
    """Contour segments (16, 2, 2) in a unit square, for every code of its four corners."""
    table = np.zeros((16, 2, 2))
    for code, inside in _codes(2):
        for n, (begin, end) in enumerate(_cuts(_AROUND, inside)):
            table[code, n] = np.subtract(end, begin) / 2.0
    return table


@lru_cache(maxsize=1)
def _normals() -> Floats:
    """Area vectors (256, 4, 3) of at most four triangles in a unit cube, for every code of its eight corners."""
    table = np.zeros((256, 4, 3))
    for code, inside in _codes(3):
        vectors = [vector for loop in _loops(inside) for vector in _area_vectors(_triangles(np.array(loop) / 2.0))]
        table[code, : len(vectors)] = np.reshape(vectors, (-1, 3))
    return table


def _area_vectors(triangles: Floats) -> Floats:
    """Of triangles (..., 3, 3)."""
    a, b, c = (triangles[..., n, :] for n in range(3))
    return np.cross(b - a, c - a) / 2.0


def _codes(ndim: int) -> Iterator[tuple[int, Inside]]:
    """Every code with its inside corners; where more than half are inside, the outside ones give the same surface."""
    corners = list(product((0, 1), repeat=ndim))
    for code in range(2 ** len(corners)):
        inside = frozenset(c for bit, c in enumerate(reversed(corners)) if code >> bit & 1)
        yield code, inside if 2 * len(inside) <= len(corners) else frozenset(corners) - inside


def _faces() -> Iterator[list[Corner]]:
    for axis, side in product(range(3), (0, 1)):
        face = [(side, *uv) for uv in (_AROUND if side else reversed(_AROUND))]
        yield [tuple(corner[(n - axis) % 3] for n in range(3)) for corner in face]


def _cuts(face: Sequence[Corner], inside: Inside) -> Iterator[tuple[Corner, Corner]]:
    """Segments that cut the inside corners off the outside ones, as pairs of edge midpoints in half voxels.

    Two inside corners in opposition are cut off one by one, which is Lorensen's answer to that ambiguity.
    """
    for n in range(4):
        if face[n - 1] not in inside and face[n] in inside:
            last = n
            while face[(last + 1) % 4] in inside:
                last += 1
            yield _middle(face[n - 1], face[n]), _middle(face[last % 4], face[(last + 1) % 4])


def _middle(a: Corner, b: Corner) -> Corner:
    return tuple(x + y for x, y in zip(a, b, strict=True))


def _loops(inside: Inside) -> list[list[Corner]]:
    follow = dict(cut for face in _faces() for cut in _cuts(face, inside))
    loops = []
    while follow:
        point, loop = next(iter(follow)), []
        while point in follow:
            loop.append(point)
            point = follow.pop(point)
        loops.append(loop)
    return loops


def _triangles(loop: Floats) -> Floats:
    """The loop's triangles (N, 3, 3); of all triangulations Lorensen's are those of the largest area."""
    choices = [loop[np.array(triangles)] for triangles in _triangulations(0, len(loop) - 1)]
    return max(choices, key=lambda of: round(float(np.linalg.norm(_area_vectors(of), axis=1).sum()), 9))


def _triangulations(first: int, last: int) -> Iterator[list[Triangle]]:
    if last - first < 2:
        yield []
    for apex in range(first + 1, last):
        for before in _triangulations(first, apex):
            for after in _triangulations(apex, last):
                yield [*before, (first, apex, last), *after]
