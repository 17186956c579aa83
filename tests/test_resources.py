"""What control groups leave of the machine's memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from medseg import resources


def group(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


@pytest.mark.parametrize(("number", "kinds", "top", "v1"), [("0", "", "", False), ("4", "cpu,memory", "memory", True)])
def test_memory_is_what_the_jobs_group_leaves(tmp_path: Path, number: str, kinds: str, top: str, v1: bool) -> None:
    limit, used, inactive = resources._V1 if v1 else resources._V2
    root = tmp_path / "cgroup"
    group(root / top, {limit: "9223372036854771712" if v1 else "max", used: "5000"})
    group(root / top / "job_7", {limit: "1000000", used: "700000", "memory.stat": f"anon 1\n{inactive} 200000\n"})
    group(root / top / "job_7" / "step_0", {limit: "9000000" if v1 else "max", used: "700000"})
    own = tmp_path / "own"
    own.write_text(f"{number}:{kinds}:/job_7/step_0\n")
    assert min(resources._left_by_groups(root, own)) == 500_000
    own.write_text(f"{number}:{kinds}:/gone\n")
    assert min(resources._left_by_groups(root, own), default=10**18) > 10**17


def test_in_a_container_its_own_group_is_the_top(tmp_path: Path) -> None:
    group(tmp_path, {"memory.max": "3000", "memory.current": "1000"})
    assert list(resources._left_by_groups(tmp_path, tmp_path / "none")) == [2000]
