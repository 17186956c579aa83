"""The same resampling on a GPU, for whoever holds one: arrays come in and go out as numpy.

Beside the image as it came in (labels: a slab of it) the device holds only slabs.
The only file below networks that knows torch: workers that prepare cases must start without it, so no other file of
planning or preprocessing imports this one; it is passed in as a `Resampler`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medseg.preprocessing.axis import Block, Indices, Orders, Pairs, Shape, blocks, cheapest_first, pairs
from medseg.preprocessing.intensity import Scale
from medseg.preprocessing.resample import ON_CPU, Resampler, ends_of
from medseg.preprocessing.vote import slabs

SLAB = 1 << 22  # voxels of a label map worked on at a time: more than on a CPU, since a GPU waits at each slab's end


def on_device(device: torch.device) -> Resampler:
    """Images and labels resampled on `device`, equal to `resample.ON_CPU`: images to rounding, labels exactly."""
    return Resampler(partial(_image, device), partial(_labels, device))


def _image(
    device: torch.device,
    array_XYZ: npt.NDArray[np.float32],
    shape: Shape,
    orders: Orders,
    scale: Scale | None = None,
) -> npt.NDArray[np.float32]:
    if array_XYZ.shape == shape:
        return ON_CPU.image(array_XYZ, shape, orders, scale)
    low, high = map(float, ends_of(array_XYZ, scale))
    middle = float(np.float32(low / 2 + high / 2))
    out = torch.empty(shape)
    bands = [blocks(old, new, order) for old, new, order in zip(array_XYZ.shape, shape, orders, strict=True)]
    first, *others = cheapest_first(array_XYZ.shape, shape)
    matrices = {a: _whole(bands[a], array_XYZ.shape[a]).to(device) for a in others if array_XYZ.shape[a] != shape[a]}
    with torch.inference_mode(), _full_precision(device):
        source = torch.from_numpy(np.require(array_XYZ, np.float32, ["C", "W"])).to(device)
        for block in bands[first]:
            start, stop = block.support.start, block.support.stop
            slab = _on_scale(source.narrow(first, start, stop - start), scale) - middle
            slab = _product(torch.tensor(block.matrix, device=device), slab, first)
            for axis, matrix in matrices.items():
                slab = _product(matrix, slab, axis)
            rows = out.narrow(first, block.rows.start, len(block.matrix))
            rows.copy_((slab + middle).clamp_(low, high))
    return out.numpy()


def _on_scale(slab: Tensor, scale: Scale | None) -> Tensor:
    if scale is None:
        return slab
    if scale.lower is not None and scale.upper is not None:
        slab = slab.clamp(float(scale.lower), float(scale.upper))
    return (slab - float(scale.shift)) / float(scale.divisor)


def _whole(bands: Sequence[Block], old: int) -> Tensor:
    """The band as one matrix (new, old): a GPU multiplies by zeros faster than it starts many small products."""
    matrix = np.zeros((bands[-1].rows.stop, old), np.float32)
    for block in bands:
        matrix[block.rows, block.support] = block.matrix
    return torch.from_numpy(matrix)


def _product(matrix: Tensor, slab: Tensor, axis: int) -> Tensor:
    sums: Tensor = torch.tensordot(matrix, slab, dims=([1], [axis]))
    return sums.movedim(0, axis)


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Products in float32, whatever the network beside them computes in: with TF32 a CT is wrong by 0.3 HU."""
    backends = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def _labels(device: torch.device, classes_XYZ: npt.NDArray[Any], shape: Shape, orders: Orders) -> npt.NDArray[Any]:
    """As `vote.resampled_labels`, whose comments say why."""
    if classes_XYZ.shape == shape:
        return classes_XYZ
    out = np.empty(shape, classes_XYZ.dtype)
    axes = [pairs(old, new, order) for old, new, order in zip(classes_XYZ.shape, shape, orders, strict=True)]
    for start, stop in slabs(classes_XYZ.shape, shape, SLAB):
        first, last = int(axes[0].lower[start]), int(axes[0].upper[stop - 1])
        part = classes_XYZ[first : last + 1].astype(np.int32)  # torch knows little of uint16
        old = torch.from_numpy(part).to(device)
        with torch.inference_mode():
            out[start:stop] = _voted(old, [axes[0].part(start, stop, first), *axes[1:]]).cpu().numpy()
    return out


def _voted(old: Tensor, axes: Sequence[Pairs]) -> Tensor:
    out = _gathered(old, [axis.nearest for axis in axes])
    border = _gathered(_mixed(old, axes), [axis.lower for axis in axes]).nonzero(as_tuple=True)
    if border[0].numel() == 0:
        return out
    corners = list(product(*(_sides(axis, at) for axis, at in zip(axes, border, strict=True))))
    classes = torch.stack([old[x, y, z] for (x, _), (y, _), (z, _) in corners])
    weights = torch.stack([u * v * w for (_, u), (_, v), (_, w) in corners])
    shares = torch.stack([((classes == one) * weights).sum(dim=0) for one in classes])
    best = shares == shares.amax(dim=0)
    lowest = torch.where(best, classes, classes.amax(dim=0)).amin(dim=0)
    nearest = out[border]
    out[border] = torch.where((best & (classes == nearest)).any(dim=0), nearest, lowest)
    return out


def _gathered(tensor: Tensor, indices: Sequence[Indices]) -> Tensor:
    for axis, index in enumerate(indices):
        tensor = tensor.index_select(axis, torch.tensor(index, device=tensor.device))
    return tensor


def _mixed(old: Tensor, axes: Sequence[Pairs]) -> Tensor:
    low = high = old
    for axis, pair in enumerate(axes):
        if pair.between:
            above = torch.tensor(np.arange(1, old.shape[axis] + 1).clip(max=old.shape[axis] - 1), device=old.device)
            low = torch.minimum(low, low.index_select(axis, above))
            high = torch.maximum(high, high.index_select(axis, above))
    return low != high


def _sides(axis: Pairs, at: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Index and weight of the lower voxel along an axis, and of the upper one if there are pairs."""
    sides = list(zip((axis.lower, axis.upper), axis.weight, strict=True))[: 1 + axis.between]
    return [(torch.tensor(i, device=at.device)[at], torch.tensor(w, device=at.device)[at]) for i, w in sides]
