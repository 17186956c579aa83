"""What trust in a prediction rests on, summed up in one pass over a network's logits, slab by slab."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medseg.inference.blending import Slab
from medseg.inference.trust.calibration import ReliabilitySums
from medseg.inference.trust.records import CaseTrust, StructureSums
from medseg.planning.plan import Plan

CERTAIN = 10.0  # logits: background that leads by as much counts as certain
AT_ONCE = {"cpu": 2**19, "cuda": 2**24}  # logits that are worked on together: those of a CPU stay in its cache
FEW_CLASSES = 16
LOOKED_AT = 2**20  # voxels of a case that calibration looks at, or somewhat fewer, evenly spread; of small ones all

Classes = npt.NDArray[np.unsignedinteger[Any]]


class TrustSums:
    """Sums of the slabs of one case, which come in order.

    Where background leads all other classes by `CERTAIN` = 10, softmax is spared: there each of them has a probability
    of at most exp(-10) = 5e-5, which counts as 0. So a structure does not gather small probabilities over all of a
    large scan either. Everything else is exact. Regions have no such bound: they are few.

    temperature: of the calibrated confidence. classes_XYZ: the reference on the network's grid (`LoadedCase`), where
    it is known: then calibration is summed up as well, over all voxels but those of certain background. These are
    chosen by the prediction alone, else calibration would depend on where the reference happens to lie.
    """

    def __init__(self, plan: Plan, temperature: float = 1.0, classes_XYZ: Classes | None = None) -> None:
        self._regions = [tuple(plan.values.index(v) + 1 for v in region.values) for region in plan.regions]
        self._names = [one.name for one in plan.regions or plan.structures]
        self._known = len(plan.values)  # a class beyond is that of voxels that nobody labelled
        self._temperature, self._classes = temperature, classes_XYZ
        self._every = _stride(classes_XYZ.shape) if classes_XYZ is not None else 1
        self._reliability = ReliabilitySums()
        n = len(self._names)
        self._voxels, self._contour = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self._inside, self._everywhere, self._entropy, self._calibrated = np.zeros((4, n))

    @torch.inference_mode()
    def take(self, slab: Slab) -> None:
        """Add a slab."""
        planes, q, r, outputs = slab.logits_PQRL.shape
        step = max(1, AT_ONCE[slab.logits_PQRL.device.type] // (q * r * outputs))
        for first in range(0, planes, step):
            logits = slab.logits_PQRL[first : first + step]
            reference = self._reference(slab, first, len(logits))
            if self._regions:
                self._take_regions(logits, reference, (slab.start + first) * q * r)
            else:
                self._take_classes(logits, reference, (slab.start + first) * q * r)

    def taking(self, slabs: Iterable[Slab]) -> Iterator[Slab]:
        """The same slabs, each added before it goes on."""
        for slab in slabs:
            self.take(slab)
            yield slab

    def finished(self) -> CaseTrust:
        """All that was added, as a record."""
        return CaseTrust(
            temperature=self._temperature,
            structures=tuple(map(self._structure, range(len(self._names)))),
            reliability=None if self._classes is None else self._reliability.finished(),
        )

    def _structure(self, k: int) -> StructureSums:
        voxels, contour = int(self._voxels[k]), int(self._contour[k])
        return StructureSums(
            structure=self._names[k],
            voxels=voxels,
            inside=round(float(self._inside[k]), 3),
            everywhere=round(float(self._everywhere[k]), 3),
            contour=contour,
            entropy=round(float(self._entropy[k]) / contour, 6) if contour else None,
            confidence=round(float(self._calibrated[k]) / voxels, 6) if voxels else None,
        )

    def _reference(self, slab: Slab, first: int, n: int) -> Tensor | None:
        """Reference classes (voxels,) of some planes of a slab, on its device."""
        if self._classes is None:
            return None
        start = slab.start + first
        planes = np.moveaxis(self._classes, slab.axis, 0)[start : start + n]
        return torch.from_numpy(planes.astype(np.int64).reshape(-1)).to(slab.logits_PQRL.device)

    def _take_classes(self, logits_PQRL: Tensor, reference: Tensor | None, before: int) -> None:
        """Planes whose outputs exclude each other; `before`: voxels of the planes before."""
        flat = logits_PQRL.reshape(-1, logits_PQRL.shape[-1])
        at = torch.cat([_doubtful(flat[piece]) + piece.start for piece in _pieces(flat)])
        rows = flat.index_select(0, at)
        won = rows.argmax(-1)
        winner = torch.zeros(len(flat), dtype=torch.int64, device=flat.device)
        winner[at] = won
        contour = _contour(winner.view(logits_PQRL.shape[:-1])).view(-1)[at]
        self._voxels += _numbers(torch.bincount(won, minlength=flat.shape[1])[1:])
        self._contour += _numbers(torch.bincount(won[contour], minlength=flat.shape[1])[1:])
        for piece in _pieces(rows):
            self._look(rows[piece], won[piece], contour[piece])
        if reference is not None:
            counts = (reference[at] <= self._known) & ((before + at) % self._every == 0)
            self._reliability.add_classes(rows[counts], won[counts], reference[at][counts])

    def _look(self, logits_NL: Tensor, won: Tensor, contour: Tensor) -> None:
        """Voxels that are not certain background."""
        n = logits_NL.shape[1]
        p_LN = probabilities(logits_NL, 1.0)
        self._everywhere += _numbers(p_LN.sum(1)[1:])
        self._inside += _numbers(_by_class(won, p_LN.gather(0, won[None])[0], n)[1:])
        calibrated = p_LN if self._temperature == 1 else probabilities(logits_NL, self._temperature)
        self._calibrated += _numbers(_by_class(won, calibrated.gather(0, won[None])[0], n)[1:])
        unsure = entropy(logits_NL[contour], 1.0, regions=False)
        self._entropy += _numbers(_by_class(won[contour], unsure, n)[1:])

    def _take_regions(self, logits_PQRL: Tensor, reference: Tensor | None, before: int) -> None:
        """Planes whose outputs may overlap: each is one structure for itself."""
        place = before + torch.arange(math.prod(logits_PQRL.shape[:-1]), device=logits_PQRL.device)
        for k, values in enumerate(self._regions):
            logits = logits_PQRL[..., k]
            found = logits > 0
            contour = _contour(found)
            probability = logits.sigmoid()
            self._voxels[k] += int(found.sum())
            self._contour[k] += int(contour.sum())
            self._everywhere[k] += float(probability.sum(dtype=torch.float64))
            self._inside[k] += float(probability[found].sum(dtype=torch.float64))
            self._calibrated[k] += float((logits[found] / self._temperature).sigmoid().sum(dtype=torch.float64))
            self._entropy[k] += float(entropy(logits[contour][:, None], 1.0, regions=True).sum(dtype=torch.float64))
            if reference is not None:
                flat = logits.reshape(-1)
                counts = (reference <= self._known) & (place % self._every == 0) & (flat > -CERTAIN)
                right = torch.isin(reference[counts], torch.tensor(values, device=reference.device))
                self._reliability.add_region(flat[counts], right)


def entropy(logits: Tensor, temperature: float, regions: bool) -> Tensor:
    """How unsure the outputs (..., L) of each voxel are, 0 to 1: entropy over its largest value, log L.

    Of regions the largest of the L binary entropies, over log 2.
    """
    scaled = logits / temperature
    if not regions:
        logs = scaled.log_softmax(-1)
        return -(logs.exp() * logs).sum(-1) / math.log(logits.shape[-1])
    lead = scaled.abs().amin(-1)  # the region that is decided least
    unlikely = (-lead).sigmoid()
    sure = torch.nn.functional.softplus(-lead)  # -log of the likelier
    return ((1 - unlikely) * sure + unlikely * (sure + lead)) / math.log(2)


def probabilities(logits_NL: Tensor, temperature: float) -> Tensor:
    """Softmax of logits (N, L) as (L, N): of few classes it is several times as fast when each lies in a row."""
    scaled = logits_NL if temperature == 1 else logits_NL / temperature
    return scaled.softmax(-1).t() if logits_NL.shape[1] > FEW_CLASSES else scaled.t().contiguous().softmax(0)


def _stride(shape: tuple[int, ...]) -> int:
    """Every how many voxels calibration looks at one.

    The number shares no divisor with a side, or these voxels would lie on a few lines.
    """
    size = math.prod(shape)
    every = max(1, size // LOOKED_AT)
    while math.gcd(every, size) > 1:
        every += 1
    return every


def _pieces(flat_NL: Tensor) -> list[slice]:
    step = max(1, AT_ONCE[flat_NL.device.type] // flat_NL.shape[1])
    return [slice(start, min(start + step, len(flat_NL))) for start in range(0, len(flat_NL), step)]


def _doubtful(logits_NL: Tensor) -> Tensor:
    """Numbers of the voxels that are not certain background."""
    return (logits_NL[:, 0] - logits_NL[:, 1:].amax(-1) < CERTAIN).nonzero()[:, 0]


def _contour(labels_PQR: Tensor) -> Tensor:
    """Where a labelled voxel has another label beside it in its own plane, so that slabs may begin anywhere."""
    found = torch.zeros_like(labels_PQR, dtype=torch.bool)
    for axis in (1, 2):
        n = labels_PQR.shape[axis] - 1
        differ = labels_PQR.narrow(axis, 0, n) != labels_PQR.narrow(axis, 1, n)
        found.narrow(axis, 0, n).logical_or_(differ)
        found.narrow(axis, 1, n).logical_or_(differ)
    return found & (labels_PQR > 0)


def _by_class(classes_N: Tensor, values_N: Tensor, n: int) -> Tensor:
    """The sum of the values of each class."""
    return torch.zeros(n, dtype=torch.float64, device=values_N.device).index_add_(0, classes_N, values_N.double())


def _numbers(values: Tensor) -> npt.NDArray[Any]:
    numbers: npt.NDArray[Any] = values.cpu().numpy()
    return numbers
