"""What a training writes down while it runs: a line of JSON now and then, curves of them, and TensorBoard's files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.errors import InputError, explained
from medseg.files import write_text
from medseg.training.learning.checkpoint import Progress

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FILE = "events.jsonl"

Draw = Callable[[Path], None]


class Journal:
    """Writes into a fold's folder; lines of steps after `first_step`, of a run that was killed later, are dropped.

    draw: makes the curves of a folder. tensorboard: whether its files are written too, into tensorboard/.
    """

    def __init__(self, folder: Path, first_step: int, draw: Draw | None = None, tensorboard: bool = False) -> None:
        self._folder, self._draw = folder, draw
        self._path = folder / FILE
        _keep_until(self._path, first_step)
        self._board = _board(folder / "tensorboard", first_step) if tensorboard else None

    def line(
        self,
        progress: Progress,
        rate: float | None,
        steps_per_s: float | None,
        dice: Mapping[str, float] | None = None,
        note: str = "",
    ) -> None:
        """Add a line: where training stands, its learning rate and speed; Dice of each structure after a look."""
        said = progress.model_dump(include={"step", "total_steps", "share", "elapsed_s", "loss"})
        said |= {"rate": rate, "steps_per_s": steps_per_s, "dice": dict(dice) if dice is not None else None}
        with explained(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(said | ({"note": note} if note else {})) + "\n")
        if self._board is not None:
            for name, value in {"loss": progress.loss, "learning rate": rate, "steps per second": steps_per_s}.items():
                if value is not None:
                    self._board.add_scalar(name, value, progress.step)
            for name, value in (dice or {}).items():
                self._board.add_scalar(f"Dice/{name}", value, progress.step)

    def draw(self) -> None:
        """Draw the curves anew."""
        if self._draw is not None:
            self._draw(self._folder)

    def close(self) -> None:
        """Let TensorBoard's last values reach the disk."""
        if self._board is not None:
            self._board.close()


def check_tensorboard() -> None:
    """Make sure of it before anything begins.

    Raises:
        InputError: the package is not installed.
    """
    if find_spec("tensorboard") is None:
        raise InputError("--tensorboard needs the package tensorboard", fix='run pip install "medseg[tensorboard]"')


def _board(folder: Path, first_step: int) -> SummaryWriter:
    check_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=first_step)


def _keep_until(path: Path, step: int) -> None:
    """Drop what was written after `step`, and a line that was cut."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError, TypeError, KeyError):  # it was cut when the process was killed
            if json.loads(line)["step"] <= step:
                kept.append(f"{line}\n")
    if step > 0:
        write_text(path, "".join(kept))
    else:
        path.unlink()
