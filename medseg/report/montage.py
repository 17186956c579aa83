"""Slices of one case as a small PNG: for print, for browsers without WebGL2, and for cases that get no viewer.

Radiological convention: the patient's right is on the left; of sagittal slices anterior is on the left. Greys and tints
are indices of one palette, so that nothing has to be quantised.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Bytes = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]
Plane = Literal["axial", "coronal", "sagittal"]

GREYS: Final = 40
TILE: Final = 210  # pixels of the longer side
SMALLEST: Final = 90
BLUE, ORANGE, PURPLE = (86, 180, 233), (230, 159, 0), (204, 121, 167)
STRUCTURES: Final = (  # as in viewer.js and page.css
    BLUE,
    ORANGE,
    (0, 158, 115),
    (240, 228, 66),
    PURPLE,
    (213, 94, 0),
    (0, 114, 178),
    (153, 221, 255),
    (170, 170, 0),
    (238, 136, 102),
    (187, 204, 51),
    (170, 68, 153),
)
TINT: Final = 0.5
_LINES = 4 * GREYS  # first index after the greys: reference, prediction, both, structures
_FIRST_STRUCTURE = _LINES + 3
_PLANES: Final[dict[Plane, tuple[int, int, int]]] = {"axial": (2, 0, 1), "coronal": (1, 0, 2), "sagittal": (0, 1, 2)}
_MARKS: Final[dict[Plane, tuple[str, str]]] = {"axial": ("R", "L"), "coronal": ("R", "L"), "sagittal": ("A", "P")}


@dataclass(frozen=True, slots=True)
class Layers:
    """A case with axes near to R, A, S: greys 0 to 255, and values of both maps, all (X, Y, Z); spacing in mm.

    first, of: the number of the first slice along each axis in the whole scan, and how many it has. prediction: None
    where there is one map alone; its structures 1, 2, ... are then told apart by colour. unsure: what is tinted.
    """

    greys: Bytes
    reference: npt.NDArray[np.unsignedinteger]
    prediction: npt.NDArray[np.unsignedinteger] | None
    spacing_mm: tuple[float, float, float]
    first: tuple[int, int, int]
    of: tuple[int, int, int]
    unsure: Bools | None = None


def montage(layers: Layers, focus: tuple[int, int, int] | None, most_bytes: int) -> tuple[bytes, tuple[int, int]]:
    """A PNG of at most about `most_bytes`, and its size in pixels; `focus` is a voxel that shall be seen."""
    size = TILE
    while True:
        raw, pixels = _drawn(layers, focus, size)
        if len(raw) <= most_bytes or size <= SMALLEST:
            return raw, pixels
        size = max(SMALLEST, int(size * 0.98 * (most_bytes / len(raw)) ** 0.5))


def _drawn(layers: Layers, focus: tuple[int, int, int] | None, size: int) -> tuple[bytes, tuple[int, int]]:
    rows = [[_tile(layers, plane, at, size) for plane, at in row] for row in _chosen(layers, focus)]
    gap = 4
    width = max(sum(tile.width for tile in row) + gap * (len(row) - 1) for row in rows)
    heights = [max(tile.height for tile in row) for row in rows]
    sheet = Image.new("P", (width, sum(heights) + gap * (len(rows) - 1)), 0)
    sheet.putpalette(_palette())
    y = 0
    for row, height in zip(rows, heights, strict=True):
        x = 0
        for tile in row:
            sheet.paste(tile, (x, y + (height - tile.height) // 2))
            x += tile.width + gap
        y += height + gap
    file = io.BytesIO()
    sheet.save(file, "PNG", compress_level=9)
    return file.getvalue(), sheet.size


def _chosen(layers: Layers, focus: tuple[int, int, int] | None) -> list[list[tuple[Plane, int]]]:
    """Rows of slices: four axial ones, then coronal and sagittal ones; of a single slice that alone."""
    shape = layers.greys.shape
    if 1 in shape:
        axis = max(n for n in range(3) if shape[n] == 1)
        plane = next(name for name, axes in _PLANES.items() if axes[0] == axis)
        return [[(plane, 0)]]
    wrong = _wrong(layers)
    held = layers.reference > 0 if layers.prediction is None else (layers.reference > 0) | (layers.prediction > 0)
    axial = [("axial", at) for at in _slices(wrong, held, 2, focus, 4)]
    rest = [("coronal", at) for at in _slices(wrong, held, 1, focus, 2)]
    return [axial, [*rest, *(("sagittal", at) for at in _slices(wrong, held, 0, focus, 2))]]  # type: ignore[list-item]


def _wrong(layers: Layers) -> Bools:
    if layers.prediction is None:
        return layers.reference > 0
    differs: Bools = layers.reference != layers.prediction
    return differs


def _slices(wrong: Bools, held: Bools, axis: int, focus: tuple[int, int, int] | None, n: int) -> list[int]:
    """Along an axis, in order: through the focus, through most of what is wrong, and evenly through the structures."""
    others = tuple(k for k in range(3) if k != axis)
    counts = wrong.sum(axis=others)
    where = np.flatnonzero(held.any(axis=others))
    where = where if where.size else np.arange(held.shape[axis])
    first = [] if focus is None else [focus[axis]]
    first += [int(counts.argmax())] if counts.any() else []
    spread = [int(where[round(share * (where.size - 1))]) for share in np.linspace(0.5 / n, 1 - 0.5 / n, n)]
    chosen = list(dict.fromkeys(first))[:n]
    for at in sorted(spread, key=lambda at: -min((abs(at - one) for one in chosen), default=0)):
        if len(chosen) < n and at not in chosen:
            chosen.append(at)
    return sorted(chosen, reverse=True)


def _tile(layers: Layers, plane: Plane, at: int, size: int) -> Image.Image:
    axis, across, up = _PLANES[plane]
    flat = [_flat(array, axis, at) for array in (layers.greys, layers.reference)]
    r = flat[1]
    p = _flat(layers.prediction, axis, at) if layers.prediction is not None else r
    mm = r.shape[1] * layers.spacing_mm[across], r.shape[0] * layers.spacing_mm[up]
    scale = size / max(mm)
    shape = max(24, round(mm[0] * scale)), max(24, round(mm[1] * scale))
    grey = np.asarray(Image.fromarray(np.ascontiguousarray(flat[0])).resize(shape, Image.Resampling.BILINEAR))
    r, p = (_enlarged(one, shape) for one in (r, p))
    index = (grey.astype(np.uint16) * GREYS // 256).astype(np.uint8)
    index[(r != p) & (p == 0)] += GREYS
    index[(r != p) & (r == 0)] += 2 * GREYS
    index[(r != p) & (r > 0) & (p > 0)] += 3 * GREYS
    if layers.unsure is not None:
        index[_enlarged(_flat(layers.unsure.view(np.uint8), axis, at), shape) > 0] += 3 * GREYS
    lines_r, lines_p = _outline(r), _outline(p)
    if layers.prediction is None:
        index[lines_r] = _FIRST_STRUCTURE + (r[lines_r] - 1) % len(STRUCTURES)
    else:
        index[lines_r] = _LINES
        index[lines_p] = _LINES + 1
        index[lines_r & lines_p] = _LINES + 2
    _write(index, plane, f"{plane} {layers.first[axis] + at + 1}/{layers.of[axis]}")
    tile = Image.fromarray(index)
    tile.putpalette(_palette())
    return tile


def _flat(array: npt.NDArray[np.unsignedinteger], axis: int, at: int) -> npt.NDArray[np.unsignedinteger]:
    """A slice as rows and columns of a picture: superior or anterior on top, the patient's right or anterior left."""
    turned: npt.NDArray[np.unsignedinteger] = array[(slice(None),) * axis + (at,)].T[::-1, ::-1]
    return turned


def _enlarged(values: npt.NDArray[np.unsignedinteger], shape: tuple[int, int]) -> npt.NDArray[np.unsignedinteger]:
    """By the nearest voxel, to (width, height) pixels."""
    rows = ((np.arange(shape[1]) + 0.5) * values.shape[0] / shape[1]).astype(int)
    columns = ((np.arange(shape[0]) + 0.5) * values.shape[1] / shape[0]).astype(int)
    larger: npt.NDArray[np.unsignedinteger] = values[rows][:, columns]
    return larger


def _outline(values: npt.NDArray[np.unsignedinteger]) -> Bools:
    """Pixels of a structure beside another value."""
    edge = np.zeros(values.shape, bool)
    for axis in (0, 1):
        differs = np.diff(values.astype(np.int32), axis=axis) != 0
        low = (slice(None, -1), slice(None)) if axis == 0 else (slice(None), slice(None, -1))
        high = (slice(1, None), slice(None)) if axis == 0 else (slice(None), slice(1, None))
        edge[low] |= differs
        edge[high] |= differs
    return edge & (values > 0)


def _write(index: Bytes, plane: Plane, text: str) -> None:
    """Sides, and which slice it is, in white on black."""
    left, right = _MARKS[plane]
    height, width = index.shape
    for words, down, across in ((left, 0.5, 0.0), (right, 0.5, 1.0), (text, 1.0, 0.0)):
        stamp = _stamp(words)
        h, w = (min(n, most) for n, most in zip(stamp.shape, index.shape, strict=True))
        y, x = round(down * (height - h)), round(across * (width - w))
        index[y : y + h, x : x + w] = stamp[:h, :w]


@cache
def _stamp(words: str) -> Bytes:
    """Words as greys of the palette."""
    font = ImageFont.load_default(size=13)
    left, _, right, _ = font.getbbox(words)
    paper = Image.new("L", (int(right - left) + 6, 17), 0)
    ImageDraw.Draw(paper).text((3 - left, 1), words, fill=255, font=font)
    greys: Bytes = (np.asarray(paper).astype(np.uint16) * (GREYS - 1) // 255).astype(np.uint8)
    return greys


def _palette() -> list[int]:
    greys = [round(255 * n / (GREYS - 1)) for n in range(GREYS)]
    colours = [(grey, grey, grey) for grey in greys]
    for tint in (BLUE, ORANGE, PURPLE):
        colours += [_mixed(grey, tint) for grey in greys]
    colours += [BLUE, ORANGE, (255, 255, 255), *STRUCTURES]
    return [part for colour in colours for part in colour]


def _mixed(grey: int, tint: Sequence[int]) -> tuple[int, int, int]:
    r, g, b = (round((1 - TINT) * grey + TINT * part) for part in tint)
    return r, g, b
