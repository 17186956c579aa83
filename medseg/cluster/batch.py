"""Batch scripts for Slurm: what a job needs and runs in, the text that sbatch is given out.

A job that is asked to end, as Slurm does some time before its time limit, tells medseg to save its checkpoint, and then
goes back into the queue: a time limit costs nothing but waiting.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medseg.cluster.options import SbatchOptions
from medseg.errors import INTERRUPTED, InputError

ELEMENT, JOB = "$SLURM_ARRAY_TASK_ID", "$SLURM_JOB_ID"  # words of a command that Slurm fills in
WARNED_S = 120  # before the time limit; a checkpoint, and the validation of a case, fit into it
MOST_REQUEUES = 100  # of a job that never comes to its end
OURS = ("array", "nodes", "ntasks", "ntasks-per-node", "wait", "wrap", "parsable", "test-only", "help", "version")


@dataclass(frozen=True)
class Needs:
    """What a job takes on each of its nodes; time_s: how long it may run, None where nothing tells."""

    cpus: int
    memory_gb: float
    time_s: float | None
    gpus: int = 0
    nodes: int = 1


@dataclass(frozen=True)
class Batch:
    """A job, or an array of jobs: the words of its command, and where its logs go (folders that exist).

    array: the numbers of its elements. after: the job that must have ended well before it begins. options: the user's
    own, which come before ours.
    """

    name: str
    command: Sequence[str]
    logs: Path
    needs: Needs
    options: SbatchOptions = field(default_factory=SbatchOptions)
    array: tuple[int, ...] = ()
    after: str = ""


def check_options(options: SbatchOptions) -> None:
    """Make sure that the user's options leave to medseg what is its own.

    Raises:
        InputError: they do not.
    """
    for name in OURS:
        if options.has(name):
            fix = "give medseg's own --nodes" if name == "nodes" else "leave it out"
            raise InputError(f"--slurm: --{name} is for medseg to choose", fix=fix)


def script(batch: Batch) -> str:
    """The whole text of a batch script."""
    directives = "\n".join(f"#SBATCH {directive}" for directive in _directives(batch))
    command = " ".join(map(_word, batch.command))
    export = 'export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"\n' if batch.needs.nodes > 1 else ""
    return f"""#!/bin/bash
{directives}
{export}
child= asked=
trap 'asked=yes; kill -TERM "$child"' USR1  # the time limit is near: medseg saves its checkpoint and ends
{command} &
child=$!
wait "$child"; code=$?
while kill -0 "$child" 2>/dev/null; do wait "$child"; code=$?; done  # a signal ends the waiting alone
if [ "$code" -eq 138 ]; then wait "$child"; code=$?; fi  # it had ended by then
if [ "$asked" ] && [ "$code" -ge {INTERRUPTED} ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {MOST_REQUEUES} ]; then
  scontrol requeue "$SLURM_JOB_ID" && sleep 60  # until Slurm ends this script; the job goes on from its checkpoint
fi
exit "$code"
"""


def listed(numbers: Sequence[int]) -> str:
    """`0-4`, `1,3,4`: numbers in order as sbatch takes them for an array."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [[f"{run[0]}-{run[-1]}"] if len(run) > 2 else [str(n) for n in run] for run in runs]
    return ",".join(word for part in parts for word in part)


def clock(seconds: float) -> str:
    """`1-02:30:00`: a time as Slurm writes it, in whole minutes and not less than one."""
    minutes = max(math.ceil(seconds / 60), 1)
    days, rest = divmod(minutes, 24 * 60)
    return f"{f'{days}-' if days else ''}{rest // 60:02d}:{rest % 60:02d}:00"


def _directives(batch: Batch) -> list[str]:
    """The user's own stand first; what they say already is left out of ours."""
    needs, after, nodes = batch.needs, batch.after, batch.needs.nodes
    gpus, time_s = needs.gpus, needs.time_s
    ours: list[tuple[str, str | None, tuple[str, ...]]] = [  # a name, its value unless it is left out, other names
        ("job-name", batch.name, ()),
        ("array", listed(batch.array) if batch.array else None, ()),
        ("dependency", f"afterok:{after}" if after else None, ()),
        ("kill-on-invalid-dep", "yes" if after else None, ()),
        ("nodes", str(nodes) if nodes > 1 else None, ()),
        ("ntasks-per-node", "1" if nodes > 1 else None, ()),
        ("time", clock(time_s) if time_s is not None else None, ()),
        ("cpus-per-task", str(needs.cpus), ("cpus-per-gpu", "exclusive")),
        ("mem", f"{math.ceil(needs.memory_gb)}G", ("mem-per-cpu", "mem-per-gpu")),
        ("gres", f"gpu:{gpus}" if gpus else None, ("gpus", "gpus-per-node", "gpus-per-task")),
        ("requeue", "", ("no-requeue",)),
        ("signal", f"B:USR1@{WARNED_S}", ()),
        ("open-mode", "append", ()),
        ("output", _pattern(batch), ()),
    ]
    given = batch.options.without("dependency") if after else batch.options
    left = tuple((name, value) for name, value, same in ours if value is not None and not given.has(name, *same))
    return [*given.directives, *SbatchOptions(left).directives]


def _pattern(batch: Batch) -> str:
    """The path of a log: sbatch fills in the job's number, and writes a per cent sign for two."""
    folder = str(batch.logs).replace("%", "%%")
    return f"{folder}/{batch.name}-{'%A_%a' if batch.array else '%j'}.log"


def _word(word: str) -> str:
    return f'"{word}"' if word in (ELEMENT, JOB) else shlex.quote(word)
