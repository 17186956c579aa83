"""A training under way: what is told, written, looked at and saved between its steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from medseg.events import Advanced, Event, Note
from medseg.training.budget import Line, Pace, Timer
from medseg.training.job import FoldJob
from medseg.training.journal import Journal
from medseg.training.learning.checkpoint import Progress, save_checkpoint
from medseg.training.learning.loop import Learner, StepDone
from medseg.training.looks import Looks

SAVE_EVERY_S = 120.0
WRITE_EVERY_S = 10.0
SHOW_EVERY_S = 0.5
TIMED_S = 10.0  # steps/s are those of about so many seconds
DRAWING = 0.01  # drawing curves may take this share of the time
REFITTED = 0.2  # a change of the fitted number of steps by this share is told
LOSSES = 50  # the loss that is told is the mean of so many


class Course:
    """Sees each step that is done. `last`: where training stands.

    share: of the schedule that is used up after a step. pace: fits the schedule to a time budget, where there is one.
    """

    def __init__(
        self,
        learner: Learner,
        first: Progress,
        share: Callable[[int], float],
        pace: Pace | None,
        looks: Looks,
        journal: Journal,
        job: FoldJob,
    ) -> None:
        self._learner, self._first, self._share, self._pace = learner, first, share, pace
        self._looks, self._journal, self._job = looks, journal, job
        self.last = first
        self._losses: deque[float] = deque(maxlen=LOSSES)
        self._dice: dict[str, float] = {}
        self._told = first.total_steps
        now = job.clock()
        self._saved = self._written = now
        self._shown = now - SHOW_EVERY_S
        self._timer = Timer(now, TIMED_S)
        self._drawn, self._drawing_s = now, 1.0

    def after(self, step: StepDone) -> Iterator[Event]:
        """All that is due after a step.

        Raises:
            KeyboardInterrupt: training was asked to end; the checkpoint is saved.
        """
        fitted = self._pace.done(step.step) if self._pace else None
        now = self._job.clock()
        before, self.last = self.last.share, self._stands(step, now)
        self._timer.done(now)
        if fitted is not None:
            yield from self._changed(step, now, fitted)
        if self._looks.due(before, self.last.share):
            self._look(step, now)
        elif now - self._written >= WRITE_EVERY_S:
            self._write(step, now)
        self._save()
        if self._job.clock() - self._shown >= SHOW_EVERY_S:
            self._shown = self._job.clock()
            yield Advanced(100 * self.last.share, self._live())

    def _stands(self, step: StepDone, now: float) -> Progress:
        if step.loss is not None:
            self._losses.append(step.loss)
        told = {
            "step": step.step,
            "total_steps": self._job.steps if self._pace is None else self._pace.total,
            "share": self._share(step.step),
            "elapsed_s": self._first.elapsed_s + now - self._job.started,
            "loss": sum(self._losses) / len(self._losses) if self._losses else None,
        }
        return self._first.model_copy(update=told)

    def _write(self, step: StepDone, now: float, note: str = "") -> None:
        self._journal.line(self.last, step.learning_rate, self._speed, note=note)
        self._written = now

    def _changed(self, step: StepDone, now: float, fitted: Line) -> Iterator[Note]:
        """It is told where steps, or validation, became faster or slower; not of every digit."""
        if self._told is not None and abs(fitted.total - self._told) <= REFITTED * self._told:
            return
        self._write(step, now, note=f"{fitted.total} steps fit into the budget")
        if self._told is not None:
            yield Note(f"the speed changed: now {fitted.total} steps fit into the budget, not {self._told}")
        self._told = fitted.total

    def _look(self, step: StepDone, began: float) -> None:
        """What it takes is foreseen, and no part of what a step takes."""
        self._dice = self._looks.look(self._learner.evaluated())
        self._journal.line(self.last, step.learning_rate, self._speed, self._dice)
        self._draw()
        now = self._job.clock()
        self._looks.looked(now - began)
        self._written = now
        self._timer.pause(now)
        if self._pace:
            self._pace.pause()

    def _draw(self) -> None:
        now = self._job.clock()
        if DRAWING * (now - self._drawn) >= self._drawing_s:
            self._journal.draw()
            self._drawn = self._job.clock()
            self._drawing_s = self._drawn - now

    @property
    def _speed(self) -> float:
        """Steps a second."""
        return 1 / max(self._timer.step_s or 0.0, 1e-9)

    def _save(self) -> None:
        asked = self._job.asked_to_end()
        if asked or self._job.clock() - self._saved > SAVE_EVERY_S:
            save_checkpoint(self._job.checkpoint, self._learner, self.last)
            self._saved = self._job.clock()
        if asked:
            raise KeyboardInterrupt

    def _live(self) -> str:
        """What is shown while training runs."""
        loss = f", loss {self.last.loss:.3f}" if self.last.loss is not None else ""
        found = "".join(f", {name} {value:.2f}" for name, value in self._dice.items())
        return f"step {self.last.step} of {self.last.total_steps or '?'}{loss}{found}, {self._speed:.3g} steps/s"
