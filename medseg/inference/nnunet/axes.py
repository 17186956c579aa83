"""nnU-Net's axes and ours: it sees arrays as (z, y, x) of the file, transposed; we see the file's (x, y, z)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

N = TypeVar("N")


@dataclass(frozen=True)
class Axes:
    """place: for X, Y and Z the axis of nnU-Net's arrays. dims: 2 where its network sees slices along its first."""

    place: tuple[int, int, int]
    dims: int

    @property
    def slice_axis(self) -> int | None:
        """The one of X, Y, Z along which a 2D network's slices follow each other."""
        return self.place.index(0) if self.dims == 2 else None

    @property
    def within(self) -> tuple[int, ...]:
        """For each axis of our network, in its order, that of theirs."""
        return self.place if self.dims == 3 else tuple(k - 1 for k in self.place if k > 0)

    def volume(self, theirs: Sequence[N], along_slices: N) -> tuple[N, N, N]:
        """Numbers along X, Y, Z; 2D configurations give two, and `along_slices` is the third."""
        whole = theirs if self.dims == 3 else [along_slices, *theirs]
        x, y, z = (whole[k] for k in self.place)
        return x, y, z

    def stage(self, theirs: Sequence[N]) -> tuple[N, ...]:
        """Numbers along the axes of the network."""
        return tuple(theirs[k] for k in self.within)

    def mirrored(self, theirs: Sequence[int]) -> tuple[int, ...]:
        """Mirrored axes of the network as axes of X, Y, Z."""
        first = 3 - self.dims
        return tuple(sorted(self.place.index(k + first) for k in theirs))

    def weight(self, theirs: Tensor) -> Tensor:
        """A layer's weights; those of convolutions (outputs, inputs, ...) have the network's axes last."""
        if theirs.ndim == 1:
            return theirs
        return theirs.permute(0, 1, *(2 + k for k in self.within))


def axes_of(transpose_forward: Sequence[int], dims: int) -> Axes:
    """The axes of a model whose plans transpose so. Source: nnU-Net's DefaultPreprocessor."""
    x, y, z = (list(transpose_forward).index(2 - axis) for axis in range(3))
    return Axes((x, y, z), dims)
