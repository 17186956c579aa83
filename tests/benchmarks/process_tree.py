"""What a command costs with all the processes that it starts: CPU seconds, wall seconds, and peak memory (Linux).

    python -m tests.benchmarks.process_tree            checks itself on loads that are known
    python -m tests.benchmarks.process_tree --run OUT -- COMMAND ...

CPU seconds are those that the kernel accounts to children that were waited for, theirs included. A small process that
adopts orphans stands between, so that a child that nobody waited for is counted as well. Memory is the sum of the
proportional set sizes (a page that n processes share counts 1/n in each) of all processes of the session, looked at
every tenth of a second: a peak that lasts shorter may be missed.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
EVERY_S = 0.1
ADOPT_ORPHANS = 36  # PR_SET_CHILD_SUBREAPER


@dataclass(frozen=True)
class Cost:
    """Of a process tree: seconds, MiB, and the most processes that were seen together."""

    cpu_s: float
    wall_s: float
    peak_mib: float
    processes: int


class OverMemory(RuntimeError):
    """A command took more memory than it was allowed, and was ended."""


def cost_of(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
    limit_mib: float = math.inf,
) -> Cost:
    """Run a command to its end and tell what it cost, start-up included.

    Raises:
        RuntimeError: it failed; the end of what it said is told.
        OverMemory: its processes took more than `limit_mib` together.
    """
    with tempfile.TemporaryDirectory() as place:
        out, said = Path(place) / "cost.json", log or Path(place) / "said.txt"
        words = [sys.executable, "-m", "tests.benchmarks.process_tree", "--run", str(out), "--", *command]
        with said.open("wb") as file:
            wrapper = subprocess.Popen(
                words,
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
            peak, most = 0.0, 0
            while wrapper.poll() is None:
                sizes = [size for pid in _session(wrapper.pid) if pid != wrapper.pid for size in _pss_mib(pid)]
                peak, most = max(peak, sum(sizes)), max(most, len(sizes))
                if peak > limit_mib:
                    os.killpg(wrapper.pid, signal.SIGKILL)
                    wrapper.wait()
                    raise OverMemory(f"{' '.join(command)} took more than {limit_mib:.0f} MiB")
                time.sleep(EVERY_S)
        if wrapper.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{said.read_text(errors='replace')[-2000:]}")
        told = json.loads(out.read_text())
    return Cost(told["cpu_s"], told["wall_s"], peak, most)


def touch_memory(mib: int) -> None:
    """Use memory once: pages that a virtual machine never used cost much at first, whoever asks for them."""
    code = f"import numpy; numpy.ones({mib} << 20, numpy.uint8)"
    subprocess.run([sys.executable, "-c", code], check=True)


def _session(leader: int) -> Iterator[int]:
    """The processes of a session."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended meanwhile
            if int(fields[3]) == leader:
                yield int(entry.name)


def _pss_mib(pid: int) -> Iterator[float]:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return  # it ended meanwhile, or has no memory left
    yield from (int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:"))


def _run(out: Path, command: Sequence[str]) -> int:
    """In the process between: run, wait for every child and orphan, and write what they used."""
    if ctypes.CDLL(None, use_errno=True).prctl(ADOPT_ORPHANS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot adopt orphans")
    began = time.perf_counter()
    code = subprocess.run(command, check=False).returncode
    wall = time.perf_counter() - began
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    out.write_text(json.dumps({"cpu_s": used.ru_utime + used.ru_stime, "wall_s": wall}))
    return code


@dataclass(frozen=True)
class Load:
    """A program, and the CPU seconds or MiB that it takes beside the interpreters'."""

    code: str
    cpu_s: float | None = None
    mib: float | None = None


BURN = "import time\nwhile time.process_time() < 1: pass"
AND_A_CHILD = BURN + "\nimport subprocess, sys\nsubprocess.run([sys.executable, '-c', {code!r}])"
AN_ORPHAN = "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {code!r}])"
HOLD = "import os, time\npid = os.fork()\nheld = b'x' * (200 << 20)\ntime.sleep(1)\npid and os.wait()"
LOADS = {
    "a process of 1 s": Load(BURN, cpu_s=1),
    "a process of 1 s, its child, and that one's child": Load(
        AND_A_CHILD.format(code=AND_A_CHILD.format(code=BURN)), cpu_s=3
    ),
    "an orphan of 1 s": Load(AN_ORPHAN.format(code=BURN), cpu_s=1),
    "200 MiB in each of two processes": Load(HOLD, mib=400),
}


def check() -> dict[str, Cost]:
    """Measure loads that are known.

    Raises:
        RuntimeError: one is measured wrongly.
    """
    found = {}
    for name, load in LOADS.items():
        cost = found[name] = cost_of([sys.executable, "-I", "-S", "-c", load.code])
        if load.cpu_s is not None and not load.cpu_s <= cost.cpu_s <= 1.1 * load.cpu_s + 0.3:
            raise RuntimeError(f"{name}: {cost}")
        if load.mib is not None and not load.mib <= cost.peak_mib <= 1.1 * load.mib:
            raise RuntimeError(f"{name}: {cost}")
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--run", type=Path, metavar="OUT")
    options.add_argument("command", nargs="*")
    given = options.parse_args()
    if given.run:
        sys.exit(_run(given.run, given.command))
    sys.stdout.write(json.dumps({name: asdict(cost) for name, cost in check().items()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
