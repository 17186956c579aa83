"""The sliding window: a network sees a scan tile by tile; overlapping answers are blended by a Gaussian.

Logits are never held for a whole scan. Tiles go along the axis with most of them, and the planes that no further tile
touches leave as a slab: memory holds one tile's depth of planes, however long the scan is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medseg.compute import autocast, free_gpu_bytes, memory_gave_out, release_memory
from medseg.errors import InputError
from medseg.inference.blending import ROOM_SHARE, Box, Slab, Sums
from medseg.inference.tiles import tiles_a_forward
from medseg.inference.trust.disagreement import Disagreement
from medseg.planning.plan import Configuration

PLAIN_TILES = 1  # answers to tiles of one value (of air there is one) that are kept


def network_input(
    image_CXYZ: npt.NDArray[Any], previous_XYZ: npt.NDArray[Any] | None, in_channels: int
) -> npt.NDArray[np.float32]:
    """The image as the network reads it, float32; in the second stage of a cascade (`previous_XYZ`: the classes that
    the first stage found) with a channel more for each class but the background, 1 where it was found.
    """
    image = np.asarray(image_CXYZ, dtype=np.float32)
    if previous_XYZ is None:
        return image
    whole = np.zeros((in_channels, *image.shape[1:]), np.float32)
    whole[: len(image)] = image
    for k in range(1, in_channels - len(image) + 1):
        whole[len(image) + k - 1] = previous_XYZ == k
    return whole


class SlidingWindow:
    """Networks of one configuration, slid over scan after scan; the mean of their answers counts.

    Where memory gives out it takes fewer tiles at a time, then keeps sums in the computer's memory instead of the
    GPU's, then lets a CPU compute; `told` says so. What fitted once is kept for the next scan.
    scratch: a folder for sums that are larger than memory; without one they are refused. watch: told what each network
    and each mirrored look says of each tile, where there are several.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        configuration: Configuration,
        device: torch.device,
        scratch: Path | None = None,
    ) -> None:
        self.configuration, self.device, self.scratch = configuration, device, scratch
        self.told: list[str] = []
        self.watch: Disagreement | None = None
        self._networks = list(networks)
        self._most = tiles_a_forward(configuration.patch, device.type)
        self._measured = device.type != "cuda"

    def slabs(self, image_CXYZ: npt.NDArray[np.float32]) -> Iterator[Slab]:
        """The blended logits of an image (C, X, Y, Z), slab by slab.

        A scan smaller than the patch is padded by zeros, its mean intensity, and the padding's answers are dropped.

        Raises:
            InputError: the network's answer holds values that are no numbers.
            MemoryError: the sums do not fit into memory, and there is no scratch folder.
        """
        try:
            yield from self._slabs(image_CXYZ)
        finally:
            for network in self._networks:  # what had to go to the CPU comes back for the next scan
                network.to(self.device)

    @torch.inference_mode()
    def _slabs(self, image_CXYZ: npt.NDArray[np.float32]) -> Iterator[Slab]:
        image = torch.from_numpy(np.require(image_CXYZ, requirements=["C", "W"]))
        sums = Sums(image.shape[1:], self.configuration, self._most, self.device, self.scratch)
        self.told += sums.told
        image = image.to(sums.device)
        plain: dict[tuple[float, ...], Tensor] = {}
        for group, end in sums.groups:
            waiting: list[Box] = []
            for box in group:
                tile = sums.tile(image, box)
                value = _one_value(tile)
                if value is None:
                    waiting.append(box)
                elif value in plain or len(plain) < PLAIN_TILES:
                    # a tile of one value (air) has one answer wherever it lies: the network is asked once
                    if value not in plain:
                        plain[value] = self._answers(tile[None])[0]
                    sums.add(box, plain[value])
                else:
                    waiting.append(box)
                if len(waiting) >= self._most:
                    self._add(sums, image, waiting)
                    waiting = []
            self._add(sums, image, waiting)
            yield from sums.finished(end)

    def _add(self, sums: Sums, image: Tensor, boxes: Sequence[Box]) -> None:
        if boxes:
            tiles = torch.stack([sums.tile(image, box) for box in boxes])
            for box, logits in zip(boxes, self._answers(tiles), strict=True):
                sums.add(box, logits)

    def _answers(self, tiles_BCXYZ: Tensor) -> Tensor:
        """Mean logits (B, L, X, Y, Z), with fewer tiles at a time, and at last on the CPU, where memory gives out."""
        parts: list[Tensor] = []
        while len(tiles_BCXYZ):
            try:
                parts.append(self._some_answers(tiles_BCXYZ))
            except RuntimeError as error:
                if not memory_gave_out(error) or not (self._fewer or self._on_gpu):
                    raise
            else:
                tiles_BCXYZ = tiles_BCXYZ[len(parts[-1]) :]
                continue
            self._make_room()  # once the error is let go, and with it what it holds of the pass
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _some_answers(self, tiles: Tensor) -> Tensor:
        """Of as many tiles as go together; the first on a GPU goes alone, and what it took tells how many do."""
        device = next(self._networks[0].parameters(), tiles).device
        n = self._most if self._measured else 1
        before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
        if not self._measured:
            torch.cuda.reset_peak_memory_stats(device)
        here = tiles[:n].to(device)
        found = _forward(self._networks, here, self.configuration, device, self.watch).to(tiles.device)
        if not self._measured:
            taken = max(1, torch.cuda.max_memory_allocated(device) - before)
            self._most = max(1, min(self._most, int(ROOM_SHARE * free_gpu_bytes(device) / taken)))
            self._measured = True
        return found

    @property
    def _fewer(self) -> bool:
        """True if several tiles go together; before they are measured one goes alone."""
        return self._measured and self._most > 1

    @property
    def _on_gpu(self) -> bool:
        return any(p.device.type == "cuda" for network in self._networks for p in network.parameters())

    def _make_room(self) -> None:
        """Fewer tiles at a time; a CPU where one tile is too much for the GPU."""
        release_memory(self.device)
        if self._fewer:
            self._most //= 2
            self.told.append(f"memory gave out: {self._most} tile(s) at a time")
            return
        for network in self._networks:
            network.to("cpu")
        self._measured = True
        release_memory(self.device)
        self.told.append("the GPU's memory gave out at a single tile: computed on the CPU")


def _one_value(tile_CXYZ: Tensor) -> tuple[float, ...] | None:
    """The value of each channel of a tile that holds one alone in each; else None."""
    first = tile_CXYZ[:, 0, 0, 0]
    if not torch.equal(tile_CXYZ[:, -1, -1, -1], first):  # nearly every tile ends here
        return None
    low, high = torch.aminmax(tile_CXYZ.flatten(1), dim=1)
    return tuple(low.tolist()) if torch.equal(low, high) else None


def _forward(
    networks: Sequence[nn.Module],
    tiles_BCXYZ: Tensor,
    configuration: Configuration,
    device: torch.device,
    watch: Disagreement | None = None,
) -> Tensor:
    """Mean logits (B, L, X, Y, Z) of the networks, mirrored answers averaged in where the window says so."""
    axes = configuration.window.mirror_axes
    flips = [c for n in range(len(axes) + 1) for c in itertools.combinations(axes, n)]
    total: Tensor | None = None
    ballot = watch.ballot() if watch is not None and len(networks) * len(flips) > 1 else None
    for network, flip in itertools.product(networks, flips):
        dims = [axis + 2 for axis in flip]
        answer = _answer(network, tiles_BCXYZ.flip(dims) if dims else tiles_BCXYZ, configuration.slice_axis, device)
        answer = answer.flip(dims) if dims else answer
        if ballot is not None:
            ballot.vote(answer)
        total = answer if total is None else total.add_(answer)
    if total is None:
        raise ValueError("no network to slide")
    if not bool(torch.isfinite(total.sum())):
        what = "[NOT_FINITE] the network's answer is no number"
        raise InputError(what, fix="check the scan's intensities; if they are sound, train the model again")
    if watch is not None and ballot is not None:
        watch.count(ballot)
    return total.div_(len(networks) * len(flips)) if len(networks) * len(flips) > 1 else total


def _answer(network: nn.Module, tiles: Tensor, slice_axis: int | None, device: torch.device) -> Tensor:
    tiles = tiles if slice_axis is None else tiles.squeeze(slice_axis + 2)
    layout = torch.channels_last_3d if tiles.ndim == 5 else torch.channels_last
    with autocast(device):
        logits: Tensor = network(tiles.contiguous(memory_format=layout))
    logits = logits.float()
    return logits if slice_axis is None else logits.unsqueeze(slice_axis + 2)
