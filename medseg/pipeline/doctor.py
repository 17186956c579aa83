"""What this machine can do, and versions known to be bad."""

from __future__ import annotations

import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch

from medseg.compute import describe
from medseg.errors import InputError
from medseg.files import Record
from medseg.imaging.dicom.codecs import IMAGECODECS, available_codecs
from medseg.pipeline.where import NEEDED
from medseg.resources import available_cores, available_memory_bytes

PACKAGES = (
    *("medseg", "torch", "monai", "numpy", "scipy", "nibabel", "pydicom", "highdicom", "imagecodecs", "SimpleITK"),
    *("pydantic", "safetensors"),
)
LITTLE_DISK_GB, LITTLE_MEMORY_GB = 10.0, 8.0


class Finding(Record):
    """One line of the doctor's: what was looked at, what was found, and how good that is."""

    what: str
    found: str
    state: Literal["ok", "warning", "bad"]


class Health(Record):
    """All findings."""

    findings: tuple[Finding, ...]


def doctor(folder: Path) -> Health:
    """Look at versions, devices, memory, the disk of `folder`, and DICOM codecs."""
    if not folder.is_dir():
        raise InputError("there is no such folder", folder)
    return Health(findings=(*_versions(), *_devices(), *_room(folder), *_codecs(), _clusters()))


def _versions() -> list[Finding]:
    found = [Finding(what="Python", found=platform.python_version(), state="ok")]
    for package in PACKAGES:
        try:
            found.append(Finding(what=package, found=version(package), state="ok"))
        except PackageNotFoundError:
            found.append(Finding(what=package, found="is not installed", state="bad"))
    return found + [Finding(what="known fault", found=text, state="warning") for text in known_bad(torch.__version__)]


def _clusters() -> Finding:
    """Whether `--on slurm` and `--on dask` can be used here; who needs neither lacks nothing."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        return Finding(what="clusters", found="not set up: pip install 'medseg[cluster]' for --on", state="ok")
    slurm = "--on slurm" if shutil.which("sbatch") else "no Slurm here (no sbatch)"
    return Finding(what="clusters", found=f"--on dask:ADDRESS, {slurm}", state="ok")


def known_bad(torch_version: str, cudnn: int | None = None) -> list[str]:
    """Faults of this torch that matter here (pytorch issues 166122, 166643, 163539)."""
    found = []
    if torch_version.startswith("2.9.0"):
        found.append("torch 2.9.0: 3D convolutions under mixed precision are about 4 times slower; use 2.10 or later")
    if cudnn is not None and 90800 <= cudnn < 91500:
        found.append(f"cuDNN {cudnn}: 3D convolutions in bf16 can be wrong for large shapes; use 9.15 or later")
    return found


def _devices() -> list[Finding]:
    cpu = f"{platform.machine()}, {describe(torch.device('cpu'))}, {available_cores()} cores usable"
    found = [Finding(what="CPU", found=cpu, state="ok")]
    if not torch.cuda.is_available():
        why = "torch was built without CUDA" if torch.version.cuda is None else "torch sees no GPU; look at its driver"
        return [*found, Finding(what="GPU", found=f"none: {why}; training runs on the CPU", state="warning")]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        gb = properties.total_memory / 1e9
        text = f"{describe(torch.device('cuda', index))}, {gb:.0f} GB, CUDA {torch.version.cuda}"
        found.append(Finding(what="GPU", found=text, state="ok"))
    bad = known_bad("", torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    return found + [Finding(what="known fault", found=text, state="bad") for text in bad]


def _room(folder: Path) -> list[Finding]:
    memory, disk = available_memory_bytes() / 1e9, shutil.disk_usage(folder).free / 1e9
    return [
        Finding(what="memory", found=f"{memory:.1f} GB free", state="ok" if memory > LITTLE_MEMORY_GB else "warning"),
        Finding(what="disk", found=f"{disk:.1f} GB free here", state="ok" if disk > LITTLE_DISK_GB else "warning"),
    ]


def _codecs() -> list[Finding]:
    found = []
    for name, able in available_codecs().items():
        text = "can be read" if able else f'cannot be read: run pip install "{IMAGECODECS}"'
        found.append(Finding(what=f"DICOM, {name}", found=text, state="ok" if able else "warning"))
    return found
