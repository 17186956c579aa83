"""That the Slurm of the tests runs jobs, loses a node and gets it back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.one_host_slurm import Slurm

pytestmark = pytest.mark.slurm


def test_a_job_runs(slurm: Slurm, tmp_path: Path) -> None:
    slurm.run("sbatch", "--wait", "-o", str(tmp_path / "said"), "--wrap", "echo here")
    assert (tmp_path / "said").read_text() == "here\n"
    slurm.wait_empty()


@pytest.mark.slow
def test_a_node_is_lost_and_comes_back(slurm: Slurm, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    script = f'echo "$SLURMD_NODENAME" >> {begun}; [ "$(wc -l < {begun})" = 2 ] || sleep 600'
    slurm.run("sbatch", "--requeue", "-w", "n2", "--wrap", script)
    slurm.wait_until(begun.is_file, 20, "the job has begun")
    slurm.kill_node("n2")
    slurm.wait_until(lambda: slurm.queue()[0][1] == "PENDING", 60, "the job waits again")
    slurm.revive_node("n2")
    slurm.wait_empty()
    assert begun.read_text() == "n2\nn2\n"
