"""Several answers to one scan as one: probabilities are averaged on the scan's own voxels, whatever grid each network
worked on. Source: nnU-Net (Isensee et al. 2021), which averages softmax outputs of configurations so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medseg.imaging.volume import LabelMap
from medseg.inference.restoring import restore_logits
from medseg.planning.plan import Plan
from medseg.preprocessing.prepare import Undo
from medseg.preprocessing.resample import LINEAR, Shape, resampled

Image = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Answer:
    """Logits (L, X, Y, Z) on a configuration's grid of a scan, and how to bring them back to the scan's own."""

    logits_LXYZ: Image
    undo: Undo


def labels_of(answers: Sequence[Answer], plan: Plan) -> LabelMap:
    """The labels, on the scan's own grid, that the answers to it give together; one alone gives its own.

    The classes are gone through one by one, so that memory does not grow with their number; the logits may be mapped
    from disk.
    """
    first = answers[0]
    if len(answers) == 1:
        return restore_logits(first.logits_LXYZ, first.undo, plan)
    shape = first.undo.cropped_shape  # all answers have it: every configuration crops a scan alike
    scores = _sigmoids(answers, shape) if plan.regions else _softmaxes(answers, shape)
    return restore_logits(scores, first.undo, plan)


def _softmaxes(answers: Sequence[Answer], shape: Shape) -> Iterator[Image]:
    """For each class the sum of its probabilities, on the scan's own voxels."""
    sums = [_log_sum(answer, shape) for answer in answers]
    for k in range(len(answers[0].logits_LXYZ)):
        total = np.zeros(shape, np.float32)
        for answer, log_sum in zip(answers, sums, strict=True):
            total += np.exp(resampled(_class(answer, k), shape, LINEAR) - log_sum)
        yield total


def _log_sum(answer: Answer, shape: Shape) -> Image:
    """The logarithm of what softmax divides by."""
    largest = np.full(shape, -np.inf, np.float32)
    total = np.zeros(shape, np.float32)
    for k in range(len(answer.logits_LXYZ)):
        here = resampled(_class(answer, k), shape, LINEAR)
        above = np.maximum(largest, here)
        total *= np.exp(largest - above)
        total += np.exp(here - above)
        largest = above
    log_sum: Image = np.log(total) + largest
    return log_sum


def _sigmoids(answers: Sequence[Answer], shape: Shape) -> Iterator[Image]:
    """For each region its mean probability less one half: above 0 where it is more likely than not, as a logit is."""
    for k in range(len(answers[0].logits_LXYZ)):
        total = np.zeros(shape, np.float32)
        for answer in answers:
            total += 0.5 * np.tanh(0.5 * resampled(_class(answer, k), shape, LINEAR))
        yield total


def _class(answer: Answer, k: int) -> Image:
    return np.ascontiguousarray(answer.logits_LXYZ[k], np.float32)
