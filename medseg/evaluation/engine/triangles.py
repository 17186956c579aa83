"""Exact distances between surfaces of triangles, compiled.

The surface is the 0.5-isosurface that marching cubes draws in each cell between voxel centres (`cells`). Distances are
taken from the centre of each triangle, which stands for its area, to the nearest point of any triangle of the other
surface. Cells are visited outwards until none can hold a nearer one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from medseg.compiled import compiled
from medseg.evaluation.engine.values import FLAT


@compiled()
def centres(
    flat: Any, codes: Any, shape: Any, corners: Any, counts: Any, places: Any, areas: Any, spacing: Any
) -> None:
    """Centre (M, 3) of every triangle, in voxels of the lattice, and its area in mm^2 (length, of a segment)."""
    nj, nk = shape[1], shape[2]
    m = 0
    for n in range(flat.size):
        row, k = flat[n] // nk, flat[n] % nk
        for t in range(counts[codes[n]]):
            triangle = corners[codes[n], t]
            for axis in range(3):
                places[m, axis] = (triangle[0, axis] + triangle[1, axis] + triangle[2, axis]) / 3
            places[m, 0] += row // nj
            places[m, 1] += row % nj
            places[m, 2] += k
            areas[m] = _size(triangle, spacing)
            m += 1


@compiled()
def _size(triangle: Any, spacing: Any) -> Any:
    u = (triangle[1] - triangle[0]) * spacing
    v = (triangle[2] - triangle[0]) * spacing
    x = u[1] * v[2] - u[2] * v[1]
    y = u[2] * v[0] - u[0] * v[2]
    z = u[0] * v[1] - u[1] * v[0]
    square, length = x * x + y * y + z * z, u[0] * u[0] + u[1] * u[1] + u[2] * u[2]
    if square > FLAT * length * (v[0] * v[0] + v[1] * v[1] + v[2] * v[2]):
        return np.sqrt(square) / 2
    return np.sqrt(length)


@compiled()
def squared(
    places: Any,
    low: Any,
    size: Any,
    start: Any,
    last: Any,
    codes: Any,
    corners: Any,
    counts: Any,
    spacing: Any,
    best: Any,
) -> None:
    """Squared distance in mm^2 from every place (M, 3), in voxels, to the triangles of the cells in the rows of a box.

    start, last: as `nearest.rows_of` makes them; codes (N,): of the cells in the same order.
    """
    for m in range(places.shape[0]):
        x, y, z = places[m, 0] - low[0], places[m, 1] - low[1], places[m, 2]
        nearest = np.inf
        first_i = min(max(int(np.floor(x)), 0), size[0] - 1)
        first_j = min(max(int(np.floor(y)), 0), size[1] - 1)
        for way_i in range(2):
            p = first_i - way_i
            while 0 <= p < size[0]:
                plane = _gap(x, p) * spacing[0]
                plane *= plane
                if plane >= nearest:
                    break
                for way_j in range(2):
                    q = first_j - way_j
                    while 0 <= q < size[1]:
                        row = _gap(y, q) * spacing[1]
                        row = plane + row * row
                        if row >= nearest:
                            break
                        begin, end = start[p * size[1] + q], start[p * size[1] + q + 1]
                        if begin < end:
                            at = (x - p, y - q, z)
                            nearest = _in_row(at, row, last, begin, end, codes, corners, counts, spacing, nearest)
                        q += 1 - 2 * way_j
                p += 1 - 2 * way_i
        best[m] = nearest


@compiled()
def _gap(x: float, cell: int) -> Any:
    """From x to the nearest of [cell, cell + 1]."""
    return max(0.0, cell - x, x - cell - 1)


@compiled()
def _in_row(
    at: Any,
    row: float,
    last: Any,
    begin: int,
    end: int,
    codes: Any,
    corners: Any,
    counts: Any,
    spacing: Any,
    nearest: float,
) -> Any:
    """The least of `nearest` and the distances to the triangles of a row, cells outwards from the nearest one."""
    low, high = begin, end
    while low < high:
        middle = (low + high) >> 1
        if last[middle] < at[2]:
            low = middle + 1
        else:
            high = middle
    for way in range(2):
        n = low - way
        while begin <= n < end:
            along = _gap(at[2], last[n]) * spacing[2]
            if row + along * along >= nearest:
                break
            for t in range(counts[codes[n]]):
                nearest = min(nearest, _to_triangle(at[0], at[1], at[2] - last[n], corners[codes[n], t], spacing))
            n += 1 - 2 * way
    return nearest


@compiled()
def _to_triangle(x: float, y: float, z: float, triangle: Any, spacing: Any) -> Any:
    """Squared distance from a point to a triangle, or to a segment where it has no area."""
    ax, ay, az = (triangle[0, 0] - x) * spacing[0], (triangle[0, 1] - y) * spacing[1], (triangle[0, 2] - z) * spacing[2]
    bx, by, bz = (triangle[1, 0] - x) * spacing[0], (triangle[1, 1] - y) * spacing[1], (triangle[1, 2] - z) * spacing[2]
    cx, cy, cz = (triangle[2, 0] - x) * spacing[0], (triangle[2, 1] - y) * spacing[1], (triangle[2, 2] - z) * spacing[2]
    ux, uy, uz, vx, vy, vz = bx - ax, by - ay, bz - az, cx - ax, cy - ay, cz - az
    nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
    square = nx * nx + ny * ny + nz * nz
    if square > FLAT * (ux * ux + uy * uy + uz * uz) * (vx * vx + vy * vy + vz * vz):
        # shares of b and c in the foot of the perpendicular
        b = ((-ay * vz + az * vy) * nx + (-az * vx + ax * vz) * ny + (-ax * vy + ay * vx) * nz) / square
        c = ((-uy * az + uz * ay) * nx + (-uz * ax + ux * az) * ny + (-ux * ay + uy * ax) * nz) / square
        if b >= 0 and c >= 0 and b + c <= 1:
            height = ax * nx + ay * ny + az * nz
            return height * height / square
    return min(
        _to_segment(ax, ay, az, bx, by, bz), _to_segment(bx, by, bz, cx, cy, cz), _to_segment(cx, cy, cz, ax, ay, az)
    )


@compiled()
def _to_segment(ax: float, ay: float, az: float, bx: float, by: float, bz: float) -> Any:
    """Squared distance from the origin."""
    ux, uy, uz = bx - ax, by - ay, bz - az
    square = ux * ux + uy * uy + uz * uz
    at = 0.0
    if square > 0.0:
        at = min(1.0, max(0.0, -(ax * ux + ay * uy + az * uz) / square))
    x, y, z = ax + at * ux, ay + at * uy, az + at * uz
    return x * x + y * y + z * z
