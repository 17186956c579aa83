from __future__ import annotations

import sys
from pathlib import Path

import pytest

from medseg.cluster import slurm
from medseg.cluster.slurm import Standing, check_sbatch, standings, submit
from medseg.errors import InputError, ResourceError


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where Slurm's commands are looked for, and nowhere else."""
    if sys.platform == "win32":
        pytest.skip("there is no Slurm on Windows, nor are its stand-ins programs there")
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def says(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_the_id_of_a_submitted_job(program: Path) -> None:
    says(program / "sbatch", '[ "$1" = --parsable ] && echo "12;cluster"')
    check_sbatch()
    assert submit(program / "script") == "12"


def test_what_sbatch_refuses(program: Path) -> None:
    with pytest.raises(InputError, match="--on slurm: there is no sbatch here; run it on a login node"):
        check_sbatch()
    says(program / "sbatch", "echo 'sbatch: error: no such partition' >&2; exit 1")
    with pytest.raises(InputError, match="sbatch refused: no such partition; mend the options in --slurm"):
        submit(program / "script")


def test_how_jobs_stand(program: Path) -> None:
    says(
        program / "squeue", "echo '7_0|RUNNING|None|n1'; echo '7_1|PENDING|Resources|'; echo '7_2|TIMEOUT|TimeLimit|n2'"
    )
    found = standings(["7"])
    assert found == {
        "7_0": Standing("RUNNING", "", "n1"),
        "7_1": Standing("PENDING", "Resources", ""),
        "7_2": Standing("TIMEOUT", "TimeLimit", "n2"),
    }
    assert [one.is_over for one in found.values()] == [False, False, True]


def test_what_slurm_has_forgotten_or_does_not_tell(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says(program / "squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert standings(["7", "8"]) == {}
    says(program / "squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(ResourceError, match="squeue: slurm_load_jobs error: Unable to contact"):
        standings(["7"])
    monkeypatch.setattr(slurm, "PATIENCE_S", 0.05)
    says(program / "squeue", "exec /bin/sleep 5")
    with pytest.raises(ResourceError, match="squeue: Slurm does not answer within"):
        standings(["7"])
    (program / "squeue").unlink()
    with pytest.raises(InputError, match="there is no squeue here"):
        standings(["7"])
