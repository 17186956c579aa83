"""Where prepared cases lie while a network is trained: on its device if they fit, else in memory, else on disk.

`device`: all cases in the device's memory; patches are read there and nothing is copied.
`pinned`: in this machine's memory; the boxes that a batch needs go to the GPU through page-locked memory.
`mapped`: as the cache's files; the boxes that a batch needs are read from disk, and then go the same way.
On a CPU its own memory is the device's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medseg.preprocessing.cache import LoadedCase
from medseg.resources import available_memory_bytes
from medseg.training.data.gather import Boxes, Size

Tier = Literal["device", "pinned", "mapped"]
Array = npt.NDArray[Any]

SPARE_SHARE = 0.5  # of what is free: the rest is for training itself, for others, and for what was not foreseen
GB = 1e9
_CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Lying:
    """One case: image (C, X, Y, Z), classes and previous (X, Y, Z); tensors if on the device, else arrays."""

    image: Tensor | Array
    classes: Tensor | Array
    previous: Tensor | Array | None


@dataclass(frozen=True, eq=False)
class Placed:
    """Cases where training reads them from; `told` says to the user where that is, and why.

    half: images are float16, as all of them are stored.
    """

    tier: Tier
    told: str
    cases: tuple[LoadedCase, ...]
    device: torch.device
    half: bool
    lying: tuple[Lying, ...]


def place(
    cases: Sequence[LoadedCase],
    device: torch.device,
    free_bytes: float | None = None,
    ranks: int = 1,
    training_bytes: float = 0.0,
) -> Placed:
    """Put the cases on `device` if they take at most `free_bytes` there, else in memory if they fit, else leave them on
    disk. Unless told, half of what is free may be taken, on a GPU half of what a step of training leaves of it, which
    needs `training_bytes`. `ranks` processes of this machine share its memory.
    """
    on_cpu = device.type == "cpu"
    ram = SPARE_SHARE * available_memory_bytes() / ranks
    spare = free_bytes if free_bytes is not None else ram if on_cpu else _spare_on_gpu(device, training_bytes)
    needed = float(sum(_bytes(case) for case in cases))
    size = f"{len(cases)} training cases ({needed / GB:.2g} GB)"
    if needed <= spare:
        return placed_as("device", cases, device, f"{size} are held in memory{'' if on_cpu else ' of the GPU'}")
    room = f"there is room for {spare / GB:.2g} GB{'' if on_cpu else ' on the GPU'}"
    if not on_cpu and needed <= ram:
        told = f"{size} are held in memory and copied to the GPU patch by patch: {room}"
        return placed_as("pinned", cases, device, told)
    return placed_as("mapped", cases, device, f"{size} are read from disk patch by patch: {room}")


def _spare_on_gpu(device: torch.device, training_bytes: float) -> float:
    free, _ = torch.cuda.mem_get_info(device)
    return SPARE_SHARE * max(free - training_bytes, 0.0)


def placed_as(tier: Tier, cases: Sequence[LoadedCase], device: torch.device, told: str = "") -> Placed:
    """The cases in this tier, whether they fit or not."""
    mapped = tuple(Lying(case.image_CXYZ, case.classes_XYZ, case.previous_XYZ) for case in cases)
    half = all(case.image_CXYZ.dtype == np.float16 for case in cases)
    placed = Placed(tier, told, tuple(cases), device, half, mapped)
    if tier == "mapped":
        return placed
    return replace(placed, lying=tuple(_held(case, device if tier == "device" else None) for case in mapped))


def _held(case: Lying, device: torch.device | None) -> Lying:
    """The case on the device, or as arrays in memory."""

    def held(array: Tensor | Array) -> Tensor | Array:
        copy = np.array(array, dtype=np.int32 if array.dtype == np.uint16 else None)
        return copy if device is None else torch.from_numpy(copy).to(device)

    return Lying(held(case.image), held(case.classes), None if case.previous is None else held(case.previous))


def _bytes(case: LoadedCase) -> int:
    previous = 0 if case.previous_XYZ is None else case.previous_XYZ.nbytes
    return case.image_CXYZ.nbytes + case.classes_XYZ.nbytes + previous


def room_for(placed: Placed, n: int, shape: Size) -> Boxes:
    """Room for `n` boxes of a shape, all zero: on the device if cases lie there, else in memory, locked for a GPU."""
    there = placed.tier == "device"
    locked = not there and placed.device.type == "cuda"
    case = placed.cases[0]

    def room(kind: torch.dtype, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=kind, device=placed.device if there else _CPU, pin_memory=locked)

    small = torch.uint8 if case.classes_XYZ.dtype == np.uint8 else torch.int32
    image = room(torch.float16 if placed.half else torch.float32, n, len(case.image_CXYZ), *shape)
    previous = None if case.previous_XYZ is None else room(small, n, *shape)
    return Boxes(image, room(small, n, *shape), previous)


def cut(placed: Placed, case: int, start: Size, boxes: Boxes, row: int) -> None:
    """Copy the box of a case that begins at `start` into a row of `boxes`, which is zero; what lies beyond stays zero.

    Nothing of CUDA is called unless the cases lie on the device, so that another thread may do it.
    """
    lying = placed.lying[case]
    _copy(boxes.image[row], lying.image, start)
    _copy(boxes.classes[row], lying.classes, start)
    if boxes.previous is not None and lying.previous is not None:
        _copy(boxes.previous[row], lying.previous, start)


def _copy(to: Tensor, source: Tensor | Array, start: Size) -> None:
    inside = [(max(s, 0), min(s + n, m)) for s, n, m in zip(start, to.shape[-3:], source.shape[-3:], strict=True)]
    if any(a >= b for a, b in inside):
        return
    x, y, z = (slice(a, b) for a, b in inside)
    i, j, k = (slice(a - s, b - s) for (a, b), s in zip(inside, start, strict=True))
    if isinstance(source, Tensor):
        to[..., i, j, k] = source[..., x, y, z]
    else:
        np.copyto(to.numpy()[..., i, j, k], source[..., x, y, z])


def sent(boxes: Boxes, device: torch.device) -> Boxes:
    """The boxes on the device, without waiting for them."""
    image, classes = (t.to(device, non_blocking=True) for t in (boxes.image, boxes.classes))
    return Boxes(image, classes, None if boxes.previous is None else boxes.previous.to(device, non_blocking=True))
