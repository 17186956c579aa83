"""Fixtures for results: the validator of DICOM objects."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def dciodvfy() -> Path:
    """dicom3tools' checker of objects against their definitions."""
    found = shutil.which("dciodvfy") or ROOT / ".ci" / "tools" / "usr" / "bin" / "dciodvfy"
    if not Path(found).is_file():
        pytest.skip("no dciodvfy (Debian package dicom3tools)")
    return Path(found)


@pytest.fixture
def faults(dciodvfy: Path) -> Callable[[Path], list[str]]:
    """The lines of dciodvfy about an object that begin with Error."""

    def check(path: Path) -> list[str]:
        done = subprocess.run([str(dciodvfy), str(path)], capture_output=True, text=True, timeout=60, check=False)
        return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]

    return check
