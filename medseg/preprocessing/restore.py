"""From logits on the network's grid back to labels on the scan's own, as planes of logits come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.imaging.volume import LabelMap
from medseg.preprocessing.crop import slices
from medseg.preprocessing.logit_vote import LogitVote
from medseg.preprocessing.orientation import turned
from medseg.preprocessing.prepare import Undo


class Canvas:
    """An empty label map of a scan, in the axes and order of memory of its file, and the part that the network saw."""

    def __init__(self, undo: Undo, values: Sequence[int]) -> None:
        self.undo = undo
        self.table = np.array((0, *values), np.uint8 if max(values, default=0) <= 255 else np.uint16)
        self._stored = np.zeros(undo.shape, self.table.dtype, order="F")

    @property
    def cropped(self) -> npt.NDArray[np.unsignedinteger[Any]]:
        """A view (X, Y, Z) of the crop in the network's axes: what is written there stands in the label map."""
        view: npt.NDArray[np.unsignedinteger[Any]] = turned(self._stored, self.undo.turn)[slices(self.undo.box)]
        return view

    def labels(self, names: Mapping[int, str]) -> LabelMap:
        """The label map."""
        return LabelMap(self._stored, self.undo.grid, dict(names))


class Restoring:
    """The label map of one scan: the likeliest class of each voxel, interpolated linearly.

    values: of the classes above the background. painted: outputs may overlap instead; where one is above 0 its value
    is painted over those before it.
    """

    def __init__(self, undo: Undo, values: Sequence[int], painted: bool = False) -> None:
        self._canvas, self._painted = Canvas(undo, values), painted
        self._vote: LogitVote | None = None

    def take(self, axis: int, start: int, logits_PQRL: npt.NDArray[np.float32]) -> None:
        """The next planes (P, Q, R, L), the first of them number `start` along `axis` of the network's grid."""
        if self._vote is None:
            undo, table = self._canvas.undo, [int(value) for value in self._canvas.table]
            shape, orders = undo.prepared_shape, undo.orders
            self._vote = LogitVote(self._canvas.cropped, shape, axis, table, orders, self._painted)
        self._vote.take(start, logits_PQRL)

    def labels(self, names: Mapping[int, str]) -> LabelMap:
        """The label map, once all planes were taken."""
        return self._canvas.labels(names)
