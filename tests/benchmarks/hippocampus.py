"""Dice on the hippocampus set by budget: 160 cases to train on, 40 to validate on, a training for each budget.

    python -m tests.benchmarks.hippocampus [--minutes 5 10 20 30] [--clock wall|cpu] [--threads N] [--real-data DIR]
                                           [--work DIR] [--out FILE]

Each budget is planned and trained by itself, as `medseg plan DATA -o RUN --budget B` and `medseg train RUN` do it, on a
CPU. With `--clock wall` the minutes are those of the wall, which an idle machine needs; with `--clock cpu` a minute is
60 processor seconds of every one of two cores, whatever else the machine does: then B minutes are 120 B CPU seconds, on
which nnunet_hippocampus.py can be put beside it. Planning is not part of the budget.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from medseg.compute import choose_device
from medseg.events import Note
from medseg.files import read_record
from medseg.pipeline import steps
from medseg.planning.plan import Plan, budget_from
from medseg.training.run import Trained, train

CORES = 2  # whose processor time a minute of the CPU clock is


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def told(events: Iterator[Any]) -> Any:
    """The summary that a verb ends in; what it remarks on is shown."""
    event = None
    for event in events:
        if isinstance(event, Note):
            say(f"  {event.text}")
    return event


def clock_named(name: str) -> Callable[[], float]:
    return time.monotonic if name == "wall" else lambda: time.process_time() / CORES


def trained(data: Path, run: Path, minutes: float, clock: Callable[[], float], threads: int) -> dict[str, Any]:
    """Plan and train for a budget; what came of it."""
    budget = f"{minutes:g}min"
    told(steps.plan(data, run, budget=budget, device="cpu"))
    device = choose_device("cpu")
    torch.set_num_threads(threads)
    wall, cpu, began = time.monotonic(), time.process_time(), clock()
    done: Trained = told(train(run, ["0"], budget_from(budget), device, clock, began))
    spent = {"clock_s": clock() - began, "wall_s": time.monotonic() - wall, "cpu_s": time.process_time() - cpu}
    plan, fold = read_record(run / "plan.json", Plan), done.folds[0]
    if fold.scores is None:
        raise SystemExit("there was no case to validate on")
    means = {
        metric: {s.structure: s.metrics[metric].mean for s in fold.scores.structures} for metric in ("dice", "hd95_mm")
    }
    dice = [value for value in means["dice"].values() if value is not None]
    return {
        "minutes": minutes,
        "patch": plan.configuration.patch,
        "features": plan.configuration.network.features,
        "steps": fold.steps,
        "mean_dice": round(sum(dice) / len(dice), 4),
        **{name: {s: v and round(v, 4) for s, v in values.items()} for name, values in means.items()},
        **{name: round(value, 1) for name, value in spent.items()},
        "load_at_end": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Dice on the hippocampus set by budget.")
    parser.add_argument("--minutes", type=float, nargs="+", default=[5, 10, 20, 30])
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--real-data", type=Path, default=Path(__file__).parents[2] / "../shared/data")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    work = asked.work or Path(tempfile.mkdtemp(prefix="hippocampus-"))
    found: dict[str, Any] = {
        "command": f"python -m tests.benchmarks.hippocampus {' '.join(sys.argv[1:])}",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "clock": asked.clock,
        "threads": asked.threads,
        "runs": [],
    }
    for minutes in asked.minutes:
        data, run = asked.real_data / "hippocampus", work / f"{minutes:g}min"
        row = trained(data, run, minutes, clock_named(asked.clock), asked.threads)
        found["runs"].append(row)
        say(json.dumps(row))
        if asked.out:
            asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
