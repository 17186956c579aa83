"""Slurm's own commands: a script submitted, a job looked after. What they cannot do is said in one line."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from medseg.errors import INTERRUPTED, InputError, MedsegError, ResourceError

PATIENCE_S = 60.0  # for an answer of Slurm's controller
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "SUSPENDED")
RUNNING = ("RUNNING", "CONFIGURING", "COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED", "RESIZING")


class LeftRunning(MedsegError):
    """Waiting for jobs was interrupted; they go on."""

    exit_code = INTERRUPTED


@dataclass(frozen=True)
class Standing:
    """How a job, or an element of an array, stands: its state in Slurm's word, why it waits, where it runs."""

    state: str
    reason: str = ""
    node: str = ""

    @property
    def is_over(self) -> bool:
        """Whether it has ended, well or not."""
        return self.state not in WAITING and self.state not in RUNNING


def check_sbatch() -> None:
    """Make sure of it before anything begins.

    Raises:
        InputError: sbatch is not here.
    """
    if shutil.which("sbatch") is None:
        raise InputError("--on slurm: there is no sbatch here", fix="run it on a login node of the cluster")


def submit(path: Path) -> str:
    """Submit a batch script; the job's id.

    Raises:
        InputError: sbatch is not here, or refuses the script.
        ResourceError: Slurm does not answer.
    """
    check_sbatch()
    done = _said("sbatch", "--parsable", str(path))
    number = done.stdout.strip().split(";")[0]
    if done.returncode or not number.isdecimal():
        refused = " ".join((done.stderr or done.stdout).split()).removeprefix("sbatch: error: ")
        raise InputError(f"sbatch refused: {refused}", path, "mend the options in --slurm")
    return number


def standings(jobs: Iterable[str]) -> dict[str, Standing]:
    """How each job stands that Slurm still knows, by its id; an element of an array by `12_3`.

    Slurm forgets a job some minutes after its end.

    Raises:
        ResourceError: Slurm does not answer.
    """
    found: dict[str, Standing] = {}
    for job in jobs:
        done = _said("squeue", "-h", "-r", "-t", "all", "-j", job, "-o", "%i|%T|%r|%N")
        if done.returncode and "Invalid job id" not in done.stderr:
            raise ResourceError(f"squeue: {' '.join(done.stderr.split())}", fix=f"look with squeue -j {job}")
        for line in done.stdout.splitlines():
            number, state, reason, node = (*line.strip().split("|"), "", "", "")[:4]
            found[number] = Standing(state, reason if reason != "None" else "", node)
    return found


def _said(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603 - Slurm's own program
            command, capture_output=True, text=True, errors="replace", timeout=PATIENCE_S, check=False
        )
    except FileNotFoundError:
        raise InputError(f"there is no {command[0]} here", fix="run it on a login node of the cluster") from None
    except subprocess.TimeoutExpired:
        fix = "see with sinfo whether it is there, then run the same command again"
        raise ResourceError(f"{command[0]}: Slurm does not answer within {PATIENCE_S:.0f} s", fix=fix) from None
