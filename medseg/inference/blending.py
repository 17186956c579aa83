"""The sums of a sliding window: tiles are added, and planes that no further tile touches leave as slabs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medseg.compute import free_gpu_bytes
from medseg.inference.mapped import mapped_zeros
from medseg.inference.tiles import covered, grouped, line_weights, slab_axis, tile_starts
from medseg.parallel import MEMORY_SHARE
from medseg.planning.plan import Configuration
from medseg.resources import available_memory_bytes

ROOM_SHARE = 0.5  # of a GPU's free memory may be taken by a scan and its sums

Box = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Slab:
    """Finished logits (P, Q, R, L), float32, of the planes from `start` on along `axis` of the network's grid.

    Q and R are the two other axes in their order, L the outputs. On the device that blends; only good until the next
    slab is asked for, as its memory is used again.
    """

    axis: int
    start: int
    logits_PQRL: Tensor

    @property
    def stop(self) -> int:
        """One more than the last plane."""
        return self.start + len(self.logits_PQRL)


class Sums:
    """Weighted sums of the planes that tiles touch at the moment, as a ring along the slab axis.

    The weight of a voxel is a product of three numbers, one an axis, and so is the sum of the weights of all tiles
    that it lies in, as tiles lie on a lattice: no map of counts is needed.
    """

    def __init__(
        self,
        shape: Sequence[int],
        configuration: Configuration,
        at_once: int,
        device: torch.device,
        scratch: Path | None,
    ) -> None:
        self.told: list[str] = []
        self._shape, self._patch = tuple(shape), configuration.patch
        self.axis = slab_axis(shape, configuration)
        self._order = (self.axis, *(axis for axis in range(3) if axis != self.axis))
        self._before = [max(p - n, 0) // 2 for n, p in zip(shape, self._patch, strict=True)]
        starts = [tile_starts(n, p, configuration.window.step) for n, p in zip(shape, self._patch, strict=True)]
        lines = [line_weights(p, configuration.window.centre) for p in self._patch]
        totals = [covered(*one) for one in zip(shape, lines, starts, self._before, strict=True)]
        self._grouped = grouped(starts, self.axis, at_once)
        depth = max(min(g[-1] + self._patch[self.axis], shape[self.axis]) - g[0] for g in self._grouped)
        self._starts, self._emitted = starts, 0
        p, q, r = self._order
        size = (depth, shape[q], shape[r], configuration.network.classes)
        self.device = self._place(size, math.prod(shape) * configuration.network.in_channels, device)
        self._ring = self._zeros(size, scratch)
        self._weights = torch.from_numpy(np.einsum("p,q,r->pqr", *(lines[axis] for axis in self._order)))
        self._weights = self._weights.to(self.device)[..., None]
        self._over_plane = torch.from_numpy(1 / np.outer(totals[q], totals[r]))[None, :, :, None].to(self.device)
        self._over_line = torch.from_numpy(1 / totals[p])[:, None, None, None].to(self.device)

    @property
    def groups(self) -> Iterator[tuple[Iterable[Box], int]]:
        """Tiles that go together, and the first plane that a later tile touches (or the end)."""
        for here, after in itertools.zip_longest(self._grouped, self._grouped[1:]):
            of_axis = [here if axis == self.axis else self._starts[axis] for axis in range(3)]
            inner = itertools.product(*(of_axis[axis] for axis in self._order))
            back = [self._order.index(axis) for axis in range(3)]
            boxes = ((b[back[0]], b[back[1]], b[back[2]]) for b in inner)
            yield boxes, after[0] if after else self._shape[self.axis]

    def tile(self, image_CXYZ: Tensor, box: Box) -> Tensor:
        """The tile (C, X, Y, Z) at `box`; zeros where it reaches beyond a scan that is smaller than it."""
        inside = image_CXYZ[(slice(None), *(slice(s, s + p) for s, p in zip(box, self._patch, strict=True)))]
        if tuple(inside.shape[1:]) == tuple(self._patch):
            return inside
        whole = image_CXYZ.new_zeros((len(image_CXYZ), *self._patch))
        whole[(slice(None), *self._inside())] = inside
        return whole

    def add(self, box: Box, logits_LXYZ: Tensor) -> None:
        """Add a tile's answer, weighted."""
        inside = self._inside()
        tile = logits_LXYZ.to(self.device)[(slice(None), *inside)].permute(*(axis + 1 for axis in self._order), 0)
        weights = self._weights[tuple(inside[axis] for axis in self._order)]
        p, q, r = self._order
        across = slice(box[q], box[q] + tile.shape[1]), slice(box[r], box[r] + tile.shape[2])
        done, first, depth = 0, box[p], len(self._ring)
        while done < len(tile):
            at = (first + done) % depth
            n = min(len(tile) - done, depth - at)
            self._ring[(slice(at, at + n), *across)].addcmul_(tile[done : done + n], weights[done : done + n])
            done += n

    def finished(self, end: int) -> Iterator[Slab]:
        """The planes before `end` that did not leave yet; the ring is ready for others afterwards."""
        depth = len(self._ring)
        while self._emitted < end:
            at = self._emitted % depth
            n = min(end - self._emitted, depth - at)
            planes = self._ring[at : at + n]
            planes *= self._over_plane
            planes *= self._over_line[self._emitted : self._emitted + n]
            yield Slab(self.axis, self._emitted, planes)
            planes.zero_()
            self._emitted += n

    def _inside(self) -> tuple[slice, slice, slice]:
        """The part of a tile that lies within the scan."""
        x, y, z = (slice(b, b + min(n, p)) for b, n, p in zip(self._before, self._shape, self._patch, strict=True))
        return x, y, z

    def _place(self, size: Sequence[int], voxels: int, device: torch.device) -> torch.device:
        """Where the image and its sums lie: on a GPU that has room for them beside the network's work."""
        if device.type != "cuda" or 4 * (math.prod(size) + voxels) <= ROOM_SHARE * free_gpu_bytes(device):
            return device
        self.told.append("the scan and its sums are kept in the computer's memory: the GPU's has no room for them")
        return torch.device("cpu")

    def _zeros(self, size: tuple[int, ...], scratch: Path | None) -> Tensor:
        needed = 4 * math.prod(size)
        if self.device.type == "cpu" and needed > MEMORY_SHARE * available_memory_bytes():
            told = f"sums of {needed / 1e9:.1f} GB do not fit into memory"
            if scratch is None:
                raise MemoryError(told)
            self.told.append(f"{told}: they lie on disk, which is slow")
            return torch.from_numpy(mapped_zeros(scratch / "sums", np.float32, size))
        return torch.zeros(size, device=self.device)
