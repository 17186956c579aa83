"""Looks at whole validation cases while training goes on, on a schedule; and what they and the validation will take."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from medseg.evaluation.case import diagonal_mm
from medseg.evaluation.cohort import mean_dice, summarise
from medseg.evaluation.records import Scores
from medseg.evaluation.score import StructureScore
from medseg.evaluation.writing import write_scores
from medseg.events import Advanced, Event, Note, Stage
from medseg.files import output_folder
from medseg.planning.plan import Plan
from medseg.preprocessing.cache import LoadedCase
from medseg.training.validate import can_write_labels, predict_prepared, validate_case

LOOKS = 10  # over a training, evenly
LOOK_CASES = 4
LOOKING = 0.04  # all looks together may take this share of a time budget
SCORING = 1.5  # validating a case costs about this many times its prediction
LATE_LOOKS = 2
MARGIN_S = 3.0  # saving the model and ending


class Looks:
    """The validation cases of a fold: looked at now and then, validated on at the end, and timed for what is to come.

    A look is the validation of a few cases that are spread over the sizes of all, so that it takes on average what any
    case takes; their labels are written to `out`, as all are at the end. Where a time budget cannot afford looks, they
    are fewer, or none.
    """

    def __init__(
        self,
        cases: Sequence[LoadedCase],
        plan: Plan,
        cache: Path,
        out: Path,
        device: torch.device,
        clock: Callable[[], float],
    ) -> None:
        self._all, self._plan, self._device, self._clock = cases, plan, device, clock
        self._cache, self._out = cache, out
        self._some = spread(cases, LOOK_CASES)
        self._times = tuple(k / LOOKS for k in range(1, LOOKS))
        self._case_s: deque[float] = deque(maxlen=LATE_LOOKS)
        self._look_s: float | None = None

    def __len__(self) -> int:
        return len(self._all)

    def trial(self, network: nn.Module, seconds: float) -> None:
        """Time predictions, to know what the end will take, and look as often as `seconds` in all afford."""
        tried = spread(self._all, 2)
        if self._device.type == "cuda":  # a first prediction chooses kernels, and tells nothing of others
            predict_prepared(network, tried[0], self._plan, self._device)
        began = self._clock()
        for case in tried:
            predict_prepared(network, case, self._plan, self._device)
        self._case_s.append(SCORING * max((self._clock() - began) / len(tried), 1e-3))
        affordable = int(LOOKING * seconds / self.case_s)
        self._some = spread(self._all, max(min(LOOK_CASES, affordable // (LOOKS - 1)), 1))
        times = min(LOOKS - 1, affordable // max(len(self._some), 1))
        self._times = tuple(k / (times + 1) for k in range(1, times + 1))

    @property
    def case_s(self) -> float:
        """Seconds that validating a case takes, the most that late looks took: ending early does less harm."""
        return max(self._case_s, default=0.0)

    def foreseen(self, share: float) -> float:
        """Seconds that everything but steps will take from this share of the schedule on."""
        look_s = self.case_s * len(self._some) if self._look_s is None else self._look_s
        return MARGIN_S + self.case_s * len(self._all) + look_s * sum(at > share for at in self._times)

    def due(self, before: float, share: float) -> bool:
        """Whether a look is to be taken between two shares of the schedule."""
        return bool(self._some) and any(before < at <= share for at in self._times)

    def look(self, network: nn.Module) -> dict[str, float]:
        """The mean Dice of each structure over a few cases."""
        began = self._clock()
        output_folder(self._out)
        rows: list[StructureScore] = []
        for case in self._some:
            rows += validate_case(network, case, self._plan, self._cache, self._out, self._device)
        if self._look_s is None:
            self._case_s.clear()  # of the estimate
        self._case_s.append(max(self._clock() - began, 1e-3) / len(self._some))
        return mean_dice(rows)

    def looked(self, seconds: float) -> None:
        """A look, with all that belongs to it, took so long."""
        self._look_s = seconds

    def validate(self, network: nn.Module, fold: str) -> Iterator[Event | Scores]:
        """Validate on every case, and write labels and scores; nothing where there are no cases."""
        if not self._all:
            return
        output_folder(self._out)
        yield Stage(f"validate fold {fold}", len(self._all), "whole cases, on each scan's own grid")
        if not can_write_labels():
            yield Note("nibabel is not installed: what is found in validation cases is scored, but not written")
        rows: list[StructureScore] = []
        diagonals: dict[str, float] = {}
        for n, case in enumerate(self._all, 1):
            rows += validate_case(network, case, self._plan, self._cache, self._out, self._device)
            diagonals[case.name] = diagonal_mm(case.undo.grid)
            yield Advanced(n, case.name)
        scores = summarise(rows, diagonals)
        write_scores(self._out, scores)
        yield scores


def spread(cases: Sequence[LoadedCase], n: int) -> tuple[LoadedCase, ...]:
    """At most `n` cases, evenly spread over the sizes of all."""
    by_size = sorted(cases, key=lambda case: case.classes_XYZ.size)
    n = min(n, len(by_size))
    return tuple(by_size[(2 * k + 1) * len(by_size) // (2 * n)] for k in range(n))
