"""Batches from prepared cases: what is in them is drawn by a seed and the step, so a resumed run draws the same."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medseg.errors import InputError
from medseg.planning.plan import Configuration
from medseg.preprocessing.cache import LoadedCase
from medseg.training.data.augment import Draw, change, draw, evenly, place_of
from medseg.training.data.gather import Boxes, Size, gather, on_device, span_of
from medseg.training.data.previous import changed, one_hot
from medseg.training.data.sources import Placed, cut, room_for, sent

VOXELS_AT_ONCE = {"cpu": 2**17, "cuda": 2**22}  # of patches that are read together


@dataclass(frozen=True, slots=True)
class Pick:
    """One patch to be: the case's index, the patch's centre in voxels, and its augmentation."""

    case: int
    centre: Size
    augmentation: Draw


@dataclass(frozen=True, eq=False)
class Batch:
    """Images (B, C, X, Y[, Z]) float32, channels last, and classes (B, X, Y[, Z]) uint8, or int64 above 255 classes.

    Both lie on the device of training; 2D drops the slice axis. names: of the cases.
    """

    image: Tensor
    classes: Tensor
    names: tuple[str, ...] = ()


def pick_batch(
    cases: Sequence[LoadedCase], configuration: Configuration, rng: np.random.Generator, augment: bool = True
) -> list[Pick]:
    """Draw a batch: cases evenly with replacement, the last `foreground_share` of it centred on a labelled voxel.

    A foreground voxel is drawn evenly over the classes of its case, then over the class' voxels (nnU-Net's rule).
    """
    schedule = configuration.schedule
    forced_from = schedule.batch - round(schedule.batch * schedule.foreground_share)
    numbers, picks = evenly(rng), []
    for index in range(schedule.batch):
        which = int(next(numbers) * len(cases))
        centre = _centre(cases[which], configuration.patch, index >= forced_from, numbers)
        picks.append(Pick(which, centre, draw(rng, configuration) if augment else Draw()))
    return picks


def _centre(case: LoadedCase, patch: Size, forced: bool, numbers: Iterator[float]) -> Size:
    """A voxel of a structure if `forced`; else anywhere, or where not all voxels are labelled, on one that is."""
    structures = [case.foreground[k] for k in sorted(case.foreground) if k > 0]
    if forced and structures:
        return _voxel(structures[int(next(numbers) * len(structures))], case.classes_XYZ.shape, numbers)
    if 0 in case.foreground:
        return _voxel(case.foreground[0], case.classes_XYZ.shape, numbers)
    return _anywhere(case.classes_XYZ.shape, patch, numbers)


def _voxel(voxels: npt.NDArray[np.integer[Any]], shape: Sequence[int], numbers: Iterator[float]) -> Size:
    x, y, z = np.unravel_index(int(voxels[int(next(numbers) * voxels.size)]), shape)
    return int(x), int(y), int(z)


def _anywhere(shape: Sequence[int], patch: Size, numbers: Iterator[float]) -> Size:
    """A centre for which the patch lies within the scan; along an axis shorter than the patch, the scan's middle."""
    x, y, z = (
        p // 2 + int(next(numbers) * (n - p + 1)) if n > p else n // 2 for n, p in zip(shape, patch, strict=True)
    )
    return x, y, z


def make_batch(placed: Placed, picks: Sequence[Pick], configuration: Configuration) -> Batch:
    """The batch of these picks."""
    return _Making(placed, picks, configuration).filled().batch()


def batches(
    placed: Placed, configuration: Configuration, seed: tuple[int, ...], first_step: int, part: tuple[int, int] = (0, 1)
) -> Iterator[Batch]:
    """Batches from `first_step` on, without end; each is drawn by the seed and its step alone.

    Of every batch rank `part[0]` of `part[1]` gets its share. On a GPU the next batch is made while one is trained on.

    Raises:
        InputError: there are more ranks than patches in a batch.
    """
    (rank, ranks), n = part, configuration.schedule.batch
    if ranks > n:
        raise InputError(f"{ranks} GPUs cannot share batches of {n} patches", fix=f"give --gpus {n} or fewer")
    mine = slice(rank * n // ranks, (rank + 1) * n // ranks)

    def making(step: int) -> _Making:
        rng = np.random.default_rng((*seed, step))
        return _Making(
            placed, pick_batch(placed.cases, configuration, rng, configuration.schedule.augment)[mine], configuration
        )

    if placed.device.type == "cuda":
        side = torch.cuda.Stream(placed.device)  # type: ignore[no-untyped-call]
        return _ahead(making, first_step, side)
    return (making(step).filled().batch() for step in itertools.count(first_step))


@dataclass(frozen=True, eq=False)
class _Group:
    """Patches of a batch that are read together: their rows, where they lie, and the boxes that they are read from."""

    rows: tuple[int, ...]
    starts: tuple[Size, ...]
    shape: Size


class _Making:
    """A batch on its way: drawn, then its boxes are read (by any thread), then it is put together on the device."""

    def __init__(self, placed: Placed, picks: Sequence[Pick], configuration: Configuration) -> None:
        self.placed, self.picks, self.configuration = placed, picks, configuration
        patch = configuration.patch
        self.places = [place_of(p.centre, p.augmentation, placed.cases[p.case].spacing_mm, patch) for p in picks]
        self.groups = list(self._grouped())
        self.boxes = [room_for(placed, len(g.rows), g.shape) for g in self.groups] if self._from_host else []

    @property
    def _from_host(self) -> bool:
        return self.placed.tier != "device"

    def _grouped(self) -> Iterator[_Group]:
        """Crops that are mirrored alike; all others; each in groups that are not too large."""
        patch, cases = self.configuration.patch, self.placed.cases
        kinds: dict[tuple[int, ...] | None, list[int]] = {}
        for row, where in enumerate(self.places):
            kinds.setdefault(where.mirror if where.matrix is None else None, []).append(row)
        n = max(1, VOXELS_AT_ONCE[self.placed.device.type] // math.prod(patch))
        for rows in kinds.values():
            for few in (tuple(rows[k : k + n]) for k in range(0, len(rows), n)):
                spans = [span_of(self.places[row], patch, cases[self.picks[row].case].classes_XYZ.shape) for row in few]
                x, y, z = (max(span.shape[axis] for span in spans) for axis in range(3))
                yield _Group(few, tuple(span.start for span in spans), (x, y, z))

    def _cut(self, group: _Group, boxes: Boxes) -> Boxes:
        for k, (row, start) in enumerate(zip(group.rows, group.starts, strict=True)):
            cut(self.placed, self.picks[row].case, start, boxes, k)
        return boxes

    def filled(self) -> _Making:
        """The same, once its boxes are copied from memory or disk."""
        if self._from_host:
            for group, boxes in zip(self.groups, self.boxes, strict=True):
                self._cut(group, boxes)
        return self

    def batch(self) -> Batch:
        """The batch on the device."""
        made, draws = self.configuration, [pick.augmentation for pick in self.picks]
        patches = self._gathered()
        image, classes = patches.image, patches.classes
        _change(image, draws, made)
        if patches.previous is not None:
            structures = made.network.in_channels - image.shape[1]
            found = [changed(p, how.previous) for p, how in zip(patches.previous, draws, strict=True)]
            image = torch.cat([image, torch.stack([one_hot(f, structures) for f in found])], dim=1)
        if made.slice_axis is not None:
            image, classes = image.squeeze(made.slice_axis + 2), classes.squeeze(made.slice_axis + 1)
        layout = torch.channels_last_3d if image.ndim == 5 else torch.channels_last
        last = torch.empty_like(image, memory_format=layout).copy_(image)  # `contiguous` leaves one channel as it is
        names = tuple(self.placed.cases[pick.case].name for pick in self.picks)
        return Batch(last, classes if classes.dtype == torch.uint8 else classes.long(), names)

    def _gathered(self) -> Boxes:
        """All patches, in the order of the picks."""
        device, patch = self.placed.device, self.configuration.patch
        found = []
        for k, group in enumerate(self.groups):
            if self._from_host:
                boxes = sent(self.boxes[k], device)
            else:
                boxes = self._cut(group, room_for(self.placed, len(group.rows), group.shape))
            found.append(gather(boxes, group.starts, [self.places[row] for row in group.rows], patch))
        order = on_device(np.argsort([row for group in self.groups for row in group.rows]), device)
        previous = [f.previous for f in found if f.previous is not None]
        return Boxes(
            torch.cat([f.image for f in found]).index_select(0, order),
            torch.cat([f.classes for f in found]).index_select(0, order),
            torch.cat(previous).index_select(0, order) if previous else None,
        )


def _change(image_BCXYZ: Tensor, draws: Sequence[Draw], configuration: Configuration) -> None:
    """Change intensities; what lies outside the outline of a channel that was normalised within it stays zero."""
    masked = [c for c, how in enumerate(configuration.preprocessing.channels) if how.nonzero_only]
    outside = {c: image_BCXYZ[:, c] == 0 for c in masked}
    change(image_BCXYZ, draws)
    for c, where in outside.items():
        image_BCXYZ[:, c].masked_fill_(where, 0)


def _ahead(making: Callable[[int], _Making], first_step: int, side: torch.cuda.Stream | None) -> Iterator[Batch]:
    """Each batch is put together on the stream `side` while the one before is trained on, and its boxes are read by a
    thread during the step before that.
    """

    def put_together(made: _Making) -> tuple[Batch, torch.cuda.Event | None]:
        with torch.cuda.stream(side) if side is not None else nullcontext():
            batch = made.batch()
            return batch, side.record_event() if side is not None else None

    def read_of(step: int) -> Future[_Making]:
        return reader.submit(making(step).filled)

    if side is not None:
        side.wait_stream(torch.cuda.current_stream(side.device))  # the cases must have arrived
    with ThreadPoolExecutor(1) as reader:
        ready, coming = put_together(read_of(first_step).result()), read_of(first_step + 1)
        for step in itertools.count(first_step + 2):
            (batch, done), ready, coming = ready, put_together(coming.result()), read_of(step)
            if side is not None and done is not None:
                current = torch.cuda.current_stream(side.device)
                current.wait_event(done)
                for tensor in (batch.image, batch.classes):
                    tensor.record_stream(current)  # its memory was taken on another stream
            yield batch
