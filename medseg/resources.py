"""What this process may use of its machine: cores and memory."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

if sys.platform != "win32":
    import resource

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of glibc's malloc.h


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory_bytes() -> int:
    """Memory that this process may still take: what the machine has free, or what its control groups leave: those of a
    container, or of a job of a cluster.
    """
    return max(min([_machine_free_bytes(), *_left_by_groups(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))]), 0)


def used_memory_bytes() -> int | None:
    """Memory that this process holds at the moment; None where the system does not tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.is_file() else None


def peak_memory_bytes() -> int | None:
    """The most memory that this process ever held; None where the system does not tell."""
    if sys.platform == "win32":
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _left_by_groups(root: Path, own: Path) -> Iterator[int]:
    """What each group that this process is in, and each around it, leaves of its limit; nothing where none has one."""
    named = [line.split(":", 2) for line in own.read_text().splitlines()] if own.is_file() else []
    groups = [(root, path, _V2) for number, _, path in named if number == "0"]
    groups += [(root / "memory", path, _V1) for _, kinds, path in named if "memory" in kinds.split(",")]
    for top, path, files in groups or [(root, "/", _V2)]:
        here = top / path.strip("/")
        for folder in (here, *here.parents):
            limit, used = (_number(folder / name) for name in files[:2])
            if limit is not None and used is not None:
                yield limit - used + _reclaimable_bytes(folder, files[2])
            if folder == top:
                break


_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _number(path: Path) -> int | None:
    with suppress(OSError):
        text = path.read_text().strip()
        return int(text) if text.isdigit() else None
    return None


def _reclaimable_bytes(group: Path, name: str) -> int:
    """Cached file contents that count as used by a control group but give way when memory is asked for."""
    stat = group / "memory.stat"
    lines = stat.read_text().splitlines() if stat.is_file() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def _machine_free_bytes() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return 8 << 30  # neither Linux nor POSIX tells; a workstation has at least this


def told_to_malloc(options: dict[int, int]) -> bool:
    """Set options of glibc's malloc (`mallopt`). True if all were taken; other C libraries are left as they are."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(ctypes.util.find_library("c")), "mallopt", None)
    return mallopt is not None and all(bool(mallopt(option, value)) for option, value in options.items())
