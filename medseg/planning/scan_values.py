"""One channel of a scan in few numbers: intensities of labelled voxels and of all, and what it is known by again."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.files import Record
from medseg.planning.label_runs import slabs

Floats = npt.NDArray[np.float32]

QUANTILES = 201  # 0, 0.5, ..., 100 %: holds the 0.5 and 99.5 % points that CT clipping needs
PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
MOST_SORTED = 4_000_000  # labelled voxels that quantiles are read from: of more, evenly spread ones
SAMPLES = 48  # along each axis, about: the voxels that percentiles of a whole scan are read from
THUMBNAIL = 8  # voxels along each axis


class Sketch(Record):
    """Intensities of a channel's labelled voxels: how many, mean, sd, and quantiles from 0 to 100 % in steps of 0.5."""

    voxels: int
    mean: float
    sd: float
    quantiles: tuple[float, ...]


class Whole(Record):
    """All voxels of a channel: lowest, highest, and `PERCENTILES`; a digest, and a thumbnail.

    The digest is that of the voxels along R, A and S: the same however they were stored. The thumbnail holds the ranks
    (base64 of 8 x 8 x 8 bytes) of voxels that are spread evenly, alike on both sides of the middle: by it a scan is
    known again that was rescaled, resampled or mirrored.
    """

    low: float
    high: float
    percentiles: tuple[float, ...]
    digest: str
    thumbnail: str


def look_at_values(
    image_XYZ: npt.NDArray[Any], label_XYZ: npt.NDArray[Any], labelled: int, without: int | None = None
) -> tuple[Sketch, Whole]:
    """The voxels whose label is neither 0 nor `without`, of which there are `labelled`, and all; axes are R, A, S."""
    every = max(1, -(-labelled // MOST_SORTED))
    kept: list[Floats] = [np.empty(0, np.float32)]
    seen, total, squares = 0, 0.0, 0.0
    low, high, digest = np.inf, -np.inf, zlib.crc32(np.array(image_XYZ.shape, "<i8").tobytes())
    for (_, values), (_, labels) in zip(slabs(image_XYZ), slabs(label_XYZ), strict=True):
        digest = zlib.crc32(values.data, digest)
        low, high = min(low, float(values.min())), max(high, float(values.max()))
        counts = labels > 0 if without is None else (labels > 0) & (labels != without)
        of_labels = values[counts]
        exact = of_labels.astype(np.float64)
        total, squares = total + float(exact.sum()), squares + float(exact @ exact)
        kept.append(of_labels[-seen % every :: every].copy())
        seen += of_labels.size
        if every > 1 and of_labels.size:  # the ends are those of all
            kept.append(np.array([of_labels.min(), of_labels.max()]))
    thumbnail = image_XYZ[np.ix_(*(_spread(n) for n in image_XYZ.shape))]
    whole = Whole(
        low=short(low),
        high=short(high),
        percentiles=tuple(short(v) for v in _quantiles(np.sort(_sample(image_XYZ)), np.array(PERCENTILES) / 100)),
        digest=f"{digest:08x}{zlib.crc32(thumbnail.tobytes()):08x}",
        thumbnail=base64.b64encode(_ranks(thumbnail)).decode(),
    )
    return _sketch(np.concatenate(kept), seen, total, squares), whole


def thumbnail_of(whole: Whole) -> npt.NDArray[np.float64]:
    """The thumbnail (R, A, S), from 0 to 1."""
    ranks = np.frombuffer(base64.b64decode(whole.thumbnail), np.uint8)
    return ranks.reshape(THUMBNAIL, THUMBNAIL, THUMBNAIL) / 255


def short(value: float) -> float:
    """The number in six digits: what a float32 holds for certain."""
    return float(f"{value:.6g}")


def _sketch(kept: Floats, voxels: int, total: float, squares: float) -> Sketch:
    if not voxels:
        return Sketch(voxels=0, mean=0.0, sd=0.0, quantiles=())
    mean = total / voxels
    quantiles = _quantiles(np.sort(kept), np.linspace(0, 1, QUANTILES))
    sd = max(squares / voxels - mean**2, 0.0) ** 0.5
    return Sketch(voxels=voxels, mean=mean, sd=sd, quantiles=tuple(short(q) for q in quantiles))


def _quantiles(ordered: Floats, levels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Quantiles of sorted values, linear between them."""
    at = levels * (ordered.size - 1)
    below = np.floor(at).astype(np.int64)
    low, high = ordered[below].astype(np.float64), ordered[np.minimum(below + 1, ordered.size - 1)]
    return low + (high - low) * (at - below)


def _sample(image_XYZ: npt.NDArray[Any]) -> Floats:
    """Evenly spread voxels (n,)."""
    steps = (slice(None, None, max(1, n // SAMPLES)) for n in image_XYZ.shape)
    return np.ravel(image_XYZ[tuple(steps)])


def _spread(n: int) -> list[int]:
    """Places among `n` voxels, alike from both ends."""
    half = [int((k + 0.5) * n / THUMBNAIL) for k in range(THUMBNAIL // 2)]
    return half + [n - 1 - place for place in reversed(half)]


def _ranks(values: npt.NDArray[Any]) -> bytes:
    """Ranks from 0 to 255; equal values share the mean of theirs."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts + 1) / 2
    scaled = np.rint(mean_rank * 255 / max(values.size - 1, 1))
    return scaled.astype(np.uint8)[which].tobytes()
