"""What a run took, beside what was expected of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from medseg.inference.preflight import GB, Expected
from medseg.inference.records import Effort, Prediction
from medseg.resources import peak_memory_bytes


def effort_of(
    expected: Expected,
    done: Sequence[Prediction],
    failed: int,
    skipped: int,
    seconds: float,
    device: torch.device,
    here: bool = True,
) -> Effort:
    """The record of a run that ends now, after `seconds`.

    Memory is the most that the process ever held; that of a GPU since torch's count was last set back, which the
    trial before the run and the window's own first tile do. Neither is told where this process did not do the work.
    """
    return Effort(
        device=device.type,
        threads=torch.get_num_threads(),
        scans=len(done) + failed,
        done=skipped,
        failed=failed,
        at_a_time=expected.at_a_time if here else 1,
        expected_minutes=None if expected.seconds is None else round(expected.seconds / 60, 3),
        minutes=round(seconds / 60, 3),
        expected_ram_gb=_in_gb(expected.ram_bytes),
        ram_gb=_in_gb(peak_memory_bytes()) if here else None,
        expected_gpu_gb=_in_gb(expected.gpu_bytes),
        gpu_gb=_in_gb(torch.cuda.max_memory_allocated(device)) if here and device.type == "cuda" else None,
        expected_disk_gb=_in_gb(expected.disk_bytes) or 0.0,
        disk_gb=round(sum(output.bytes for one in done for output in one.outputs) / GB, 6),
        basis=expected.basis,
    )


def told(effort: Effort) -> str:
    """In one line: `took 3.1 min (expected 4.0 min), 2.2 GB of memory (expected 2.5 GB)`."""
    figures = [f"{effort.minutes:.1f} min{_beside(effort.expected_minutes, 'min')}"]
    if effort.ram_gb is not None:
        figures.append(f"{effort.ram_gb:.1f} GB of memory{_beside(effort.expected_ram_gb, 'GB')}")
    if effort.gpu_gb is not None:
        figures.append(f"{effort.gpu_gb:.1f} GB of GPU memory{_beside(effort.expected_gpu_gb, 'GB')}")
    return f"took {', '.join(figures)}"


def _beside(expected: float | None, unit: str) -> str:
    return "" if expected is None else f" (expected {expected:.1f} {unit})"


def _in_gb(n_bytes: float | None) -> float | None:
    return None if n_bytes is None else round(n_bytes / GB, 3)
