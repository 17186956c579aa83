"""Locks between processes: one holder at a time, whoever dies lets go."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from medseg.errors import ResourceError
from medseg.locks import lock, try_lock

HOLDER = """
import sys
from pathlib import Path
from medseg.locks import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with try_lock(path) as mine:
        assert mine
        with try_lock(path) as other:
            assert not other
        with pytest.raises(ResourceError, match="another process has held this lock"), lock(path, patience_s=0.05):
            pass
        with try_lock(tmp_path / "b.lock") as another:
            assert another
    with lock(path, patience_s=0.05):
        pass


def test_a_killed_process_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with try_lock(path) as mine:
            assert not mine
        process.kill()
        process.wait(timeout=60)
    with try_lock(path) as mine:
        assert mine


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ResourceError), lock(tmp_path / "none" / "a.lock"):
        pass
