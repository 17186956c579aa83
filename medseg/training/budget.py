"""A schedule that ends on time: how many steps fit into the seconds that are left, measured while training goes on.

The rate decays over steps, so their number must be known. It is fitted as soon as the first steps are timed, and again
whenever the end would miss the budget; from there on the schedule runs straight to its new end, without a jump.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

WARM_UP_STEPS = 2  # allocation, choice of kernels and compilation are not what a step takes
MEASURED_STEPS = 3
MEASURED_SHARE, MEASURED_MOST_S = 0.01, 30.0  # of the budget, and at most
STALLED = 3.0  # times what steps take: one that takes longer was held up, and tells nothing of those to come
MEMORY_SHARE = 0.05  # of the budget: older steps hardly count in the pace
TOLD_EVERY_S = 1.0  # the first rank tells the others of its schedule
TOLERANCE = 0.01  # of the budget: an end that is foreseen this far off is let be


@dataclass(frozen=True, slots=True)
class Line:
    """The share of a schedule that is used up, along its steps: `share` at `step`, then straight to 1 at `total`."""

    step: int
    share: float
    total: int

    def at(self, step: int) -> float:
        """The share used up after `step` steps, at most 1."""
        if step >= self.total:
            return 1.0
        return self.share + (1 - self.share) * (step - self.step) / (self.total - self.step)


def ends_of_next(now: float, all_end: float, needs: Sequence[float]) -> float:
    """When the first of several folds must end, that are trained in a row and need these seconds; all by `all_end`.

    What one fold takes too long, or leaves, is shared by those after it.
    """
    return now + (all_end - now) * (needs[0] / sum(needs) if sum(needs) > 0 else 0.0)


class Timer:
    """Seconds that a step takes of late: those longer ago than `memory_s` hardly count."""

    def __init__(self, now: float, memory_s: float) -> None:
        self._last, self._memory_s = now, memory_s
        self.seconds = self.steps = 0.0  # fading

    def done(self, now: float, counts: bool = True) -> None:
        """A step is done; it counts unless it is none like the others."""
        took, self._last = now - self._last, now
        if counts and self.step_s is not None:
            took = min(took, STALLED * self.step_s)
        if counts:
            kept = 1 / (1 + took / self._memory_s)
            self.seconds, self.steps = kept * self.seconds + took, kept * self.steps + 1

    def pause(self, now: float) -> None:
        """What was done since the last step was something else."""
        self._last = now

    @property
    def step_s(self) -> float | None:
        """None before a step was timed."""
        return self.seconds / self.steps if self.steps else None


class Pace:
    """Times steps, fits their number to the time that is left, and tells the share of the schedule that is used up.

    ends: when everything must be done, by `clock`. foreseen: the seconds that all but steps will take from a share of
    the schedule on: looks to come, validation, saving. line: the schedule that was fitted before an interruption.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        ends: float,
        foreseen: Callable[[float], float],
        first_step: int = 0,
        first_share: float = 0.0,
        total: int | None = None,
    ) -> None:
        self._clock, self._ends, self._foreseen = clock, ends, foreseen
        self._began = clock()
        self._span = max(ends - self._began, 1e-9)
        self._first, self._first_share = first_step, first_share
        self._timer = Timer(self._began, MEMORY_SHARE * self._span)
        self.line = Line(first_step, first_share, max(total, first_step)) if total is not None else None

    @property
    def total(self) -> int | None:
        """The number of steps that was fitted; None while the first are timed."""
        return self.line.total if self.line else None

    @property
    def step_s(self) -> float | None:
        """Seconds a step takes of late; None before one was timed."""
        return self._timer.step_s

    def share(self, step: int) -> float:
        """The share used up after `step` steps: by time until the number of steps is known; 1 when time is up."""
        left = self._left_s(self.line.at(step) if self.line else self._first_share)
        if left <= -TOLERANCE * self._span:
            return 1.0
        if self.line is not None:
            return self.line.at(step)
        gone = self._clock() - self._began
        return self._first_share + (1 - self._first_share) * min(gone / max(gone + left, 1e-9), 1.0)

    def done(self, step: int) -> Line | None:
        """A step is done: time it, and fit the schedule anew where its end would miss the budget; the new one if so."""
        self._timer.done(self._clock(), step - self._first > WARM_UP_STEPS)
        step_s = self._timer.step_s
        if step_s is None or not self._is_measured(step):
            return None
        share = self.share(step)
        left_s = self._left_s(share)
        if self.line is not None:
            off = left_s - (self.line.total - step) * step_s
            if abs(off) <= max(TOLERANCE * self._span, step_s / 2):
                return None
        self.line = Line(step, share, step + max(round(left_s / max(step_s, 1e-9)), 0))
        return self.line

    def pause(self) -> None:
        """What was done since the last step was something else: a look, a checkpoint."""
        self._timer.pause(self._clock())

    def _is_measured(self, step: int) -> bool:
        enough = min(MEASURED_SHARE * self._span, MEASURED_MOST_S)
        timed = step - self._first - WARM_UP_STEPS
        return timed >= MEASURED_STEPS and (self.line is not None or self._timer.seconds >= enough)

    def _left_s(self, share: float) -> float:
        """Seconds that are left for steps."""
        return self._ends - self._clock() - self._foreseen(share)


class SharedPace:
    """The share of the schedule as the first of several ranks has it: all must use the same rate, and end together.

    pace: the first rank's own. tell: gives the first rank's value on every rank; all call it together. Between two
    times of telling, about a second, the share runs straight on.
    """

    def __init__(self, pace: Pace | None, tell: Callable[[float], float]) -> None:
        self._pace, self._tell = pace, tell
        self._step, self._next = -1, 0
        self._line = Line(0, 0.0, 1)

    def __call__(self, step: int) -> float:
        """The share used up after `step` steps; asked again for the same step, the same."""
        if step >= self._next and step != self._step:
            share = self._tell(self._pace.share(step) if self._pace else 0.0)
            total = round(self._tell(float(self._pace.total or 0) if self._pace else 0.0))
            pause = self._tell(TOLD_EVERY_S / max(self._pace.step_s or TOLD_EVERY_S, 1e-3) if self._pace else 0.0)
            self._line = Line(step, share, total if share < 1 else step)
            self._next = step + max(int(pause), 1) if total > step else step + 1
        self._step = step
        return self._line.share if step == self._line.step else self._line.at(step)
