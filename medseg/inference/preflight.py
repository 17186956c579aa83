"""Before any work: how many scans are to be done, how long it will take, and whether memory and disk suffice.

What rests on a measurement, a header or a formula is said with each figure. What cannot fit is told with what would.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import gettempdir

import torch

from medseg.compute import memory_gave_out
from medseg.errors import MedsegError, ResourceError, explained
from medseg.imaging.reading import grid_of
from medseg.imaging.scans import Scan
from medseg.inference.asked import Asked
from medseg.inference.case import Segmenter
from medseg.inference.need import Need, forward_bytes, need_of
from medseg.inference.overlap import AT_A_TIME
from medseg.inference.predictor import Predictor, with_stages
from medseg.inference.rehearsal import Timed, timed
from medseg.parallel import MEMORY_SHARE
from medseg.planning.plan import Configuration, Name
from medseg.resources import available_memory_bytes, used_memory_bytes

GB = 1e9
READ_S_A_VOXEL = 120e-9  # to read, prepare and write a voxel, of one core (90 to 200 measured, NIfTI in and out)
CASE_S = 0.02  # the same of a scan of no size
LATER_BYTES = 1e8  # of code that is only loaded, or compiled, while the first case is computed and written
DISK_SPARE = 5e7  # bytes that a disk should have left

Rehearse = Callable[[torch.nn.Module, Configuration, torch.device, int], Timed]


@dataclass(frozen=True, slots=True)
class Expected:
    """What is expected of the scans that are to be done; None where nothing tells.

    needs: by scan, None where its header does not tell. refused: scans that cannot fit, with the reason. ram_bytes: of
    the whole process at its peak. room_bytes: of memory, for scans; at_a_time: how many of the largest it holds. basis:
    what the figures rest on. network_bytes: of memory, for a forward pass on a CPU.
    """

    needs: Mapping[str, Need | None]
    refused: Mapping[str, str]
    seconds: float | None
    ram_bytes: float | None
    gpu_bytes: float | None
    disk_bytes: float
    free_ram_bytes: float
    free_disk_bytes: float
    room_bytes: float
    at_a_time: int
    basis: tuple[str, ...]
    network_bytes: float = 0.0

    def bytes_of(self, scan: str) -> float:
        """Memory that a scan takes at most; all, where nothing tells, so that it is done alone."""
        need = self.needs[scan]
        return need.peak_bytes if need else float("inf")

    @property
    def words(self) -> str:
        """In one line."""
        told = [f"about {_minutes(self.seconds)}" if self.seconds is not None else "time unknown"]
        if self.ram_bytes is not None:
            told.append(f"{_gb(self.ram_bytes)} of memory ({_gb(self.free_ram_bytes)} free)")
        if self.gpu_bytes is not None:
            told.append(f"{_gb(self.gpu_bytes)} of GPU memory")
        told.append(f"{_gb(self.disk_bytes)} of disk ({_gb(self.free_disk_bytes)} free)")
        return f"expected: {', '.join(told)}; {'; '.join(self.basis)}"


def expect(
    scans: Sequence[Scan], segmenter: Segmenter, asked: Asked, out: Path, rehearse: Rehearse = timed
) -> Expected:
    """Look at the headers of `scans`, time one forward pass of each configuration, and see what memory and disk hold.

    Raises:
        ResourceError: the results will not fit on the disk.
    """
    held = used_memory_bytes()
    predictor, device = segmenter.predictor, segmenter.device
    used = {name: segmenter.configuration(name) for name in with_stages(predictor.members, predictor.plan)}
    needs = {scan.name: _need(scan, predictor, used, asked, device.type) for scan in scans}
    disk = sum(need.disk_bytes for need in needs.values() if need)
    scratch = max((need.scratch_bytes for need in needs.values() if need), default=0.0)
    free_disk = _room_on_disk(out, disk, "the results")
    _room_on_disk(Path(gettempdir()), scratch, "what is kept of a scan while it is computed")
    passes = {name: _rehearsed(predictor, name, one, device, needs, rehearse) for name, one in used.items()}
    free = float(available_memory_bytes())
    network = 0.0 if device.type == "cuda" else max(forward_bytes(one, "cpu") for one in used.values())
    refused = {n: said for n, need in needs.items() if need and (said := _refusal(need, free - network))}
    largest = sorted((need.peak_bytes for n, need in needs.items() if need and n not in refused), reverse=True)
    room = max(0.0, MEMORY_SHARE * free - network)
    at_a_time = _at_a_time(largest, room)
    known = [need for name, need in needs.items() if need and name not in refused]
    seconds = sum(_seconds(need, predictor, used, passes) for need in known)
    return Expected(
        needs=needs,
        refused=refused,
        seconds=seconds if len(known) + len(refused) == len(needs) and None not in passes.values() else None,
        ram_bytes=None if held is None else held + LATER_BYTES + network + _overlapping(known, at_a_time),
        gpu_bytes=_on_gpu(known, passes),
        disk_bytes=disk,
        free_ram_bytes=free,
        free_disk_bytes=free_disk,
        room_bytes=room,
        at_a_time=at_a_time,
        basis=tuple(_basis(needs, known, passes, at_a_time)),
        network_bytes=max(forward_bytes(one, "cpu") for one in used.values()),
    )


def _need(scan: Scan, predictor: Predictor, used: Mapping[Name, Configuration], asked: Asked, kind: str) -> Need | None:
    try:
        grid = grid_of(scan.channels[0])
    except (MedsegError, OSError):
        return None  # it is refused by name when it is read
    spooled = predictor.members if len(predictor.members) > 1 or asked.probabilities or asked.uncertainty else ()
    need = need_of(grid, used, predictor.plan.values, asked.formats_of(scan), kind, spooled)
    outputs = used[predictor.members[0]].network.classes
    maps = (outputs if asked.probabilities else 0) + asked.uncertainty  # of 16 bits, before they are packed
    map_bytes = 2.0 * maps * need.voxels
    drawn = need.scratch_bytes + 2 * map_bytes  # those of the case before are being written meanwhile
    return replace(need, disk_bytes=need.disk_bytes + map_bytes, scratch_bytes=drawn)


def _rehearsed(
    predictor: Predictor,
    name: Name,
    configuration: Configuration,
    device: torch.device,
    needs: Mapping[str, Need | None],
    rehearse: Rehearse,
) -> Timed | None:
    """One network's pass; None where memory gives out already: the window will find a way, but how long it takes?"""
    most = max((need.tiles[name] for need in needs.values() if need), default=1)
    try:
        return rehearse(predictor.models[name][0].network, configuration, device, most)
    except RuntimeError as error:
        if not memory_gave_out(error):
            raise
        return None


def _seconds(
    need: Need, predictor: Predictor, used: Mapping[Name, Configuration], passes: Mapping[Name, Timed | None]
) -> float:
    """Of one scan: every tile by every network and mirrored, and the work on its voxels."""
    total = CASE_S + READ_S_A_VOXEL * need.voxels
    for name, one in passes.items():
        answers = len(predictor.models[name]) * 2 ** len(used[name].window.mirror_axes)
        total += need.tiles[name] * answers * (one.seconds if one else 0.0)
    return total


def _refusal(need: Need, free_bytes: float) -> str:
    """Why a scan cannot fit and what would, or an empty text."""
    if need.least_bytes <= free_bytes:
        return ""
    fits = int(need.slices * max(free_bytes, 0.0) / need.least_bytes)
    part = f"about {fits} of its {need.slices} slices head to foot would fit, or " if fits else ""
    return (
        f"[TOO_LARGE] it needs about {_gb(need.least_bytes)} of memory, and {_gb(max(free_bytes, 0.0))} are free; "
        f"{part}use a machine with more memory, or end other programs"
    )


def _at_a_time(largest: Sequence[float], room_bytes: float) -> int:
    """How many of the largest scans are in memory together."""
    fitting = [n for n in range(1, AT_A_TIME + 1) if sum(largest[:n]) <= room_bytes]
    return max(1, min(max(fitting, default=1), len(largest)))


def _overlapping(needs: Sequence[Need], at_a_time: int) -> float:
    """Memory of the largest scan in each of the stages that overlap."""
    if not needs:
        return 0.0
    compute = max(need.compute_bytes + need.sums_bytes for need in needs)
    load, write = max(need.load_bytes for need in needs), max(need.write_bytes for need in needs)
    if at_a_time == 1:
        return max(load, compute, write)
    return load + compute + write if at_a_time == AT_A_TIME else max(load, write) + compute


def _on_gpu(needs: Sequence[Need], passes: Mapping[Name, Timed | None]) -> float | None:
    """The pass as it was measured, and a scan as the network reads it with its sums, where these lie there."""
    held = [one.gpu_bytes for one in passes.values() if one is not None and one.gpu_bytes is not None]
    of_scan = max((need.image_bytes + need.sums_bytes for need in needs), default=0.0)
    return max(held) + of_scan if held else None


def _basis(
    needs: Mapping[str, Need | None], known: Sequence[Need], passes: Mapping[Name, Timed | None], at_a_time: int
) -> list[str]:
    told = []
    tiles = {name: sum(need.tiles[name] for need in known) for name in passes}
    for name, one in passes.items():
        told.append(
            f"{name}: {tiles[name]} tiles, {1000 * one.seconds:.0f} ms each as timed here"
            if one
            else f"{name}: memory gave out at the trial"
        )
    told.append("memory and disk by formula from the headers, nothing cropped")
    if unknown := sum(need is None for need in needs.values()):
        told.append(f"without {unknown} scan(s) whose headers do not tell")
    if at_a_time == 1 and len(needs) > 1:
        told.append("memory holds one scan at a time: reading and writing do not overlap with computing")
    return told


def _room_on_disk(folder: Path, needed_bytes: float, what: str) -> float:
    """What is free there.

    Raises:
        ResourceError: it is less than is needed.
    """
    with explained(folder):
        free = float(shutil.disk_usage(folder).free)
    if needed_bytes and needed_bytes + DISK_SPARE > free:
        said = f"{what} will take about {_gb(needed_bytes)}, and its disk has {_gb(free)} left"
        raise ResourceError(said, folder, "free some space there, or use a folder on another disk")
    return free


def _gb(n_bytes: float) -> str:
    return f"{n_bytes / GB:.1f} GB" if n_bytes >= GB else f"{max(1.0, n_bytes / 1e6):.0f} MB"


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
