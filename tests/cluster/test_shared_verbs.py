"""evaluate, inspect and convert on the workers of a Dask cluster: the same bytes as here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("distributed", reason="the extra `cluster` is not installed")

from medseg.evaluation.folders import Evaluation
from medseg.imaging.convert import Converted
from medseg.imaging.inspect import Inspected
from medseg.pipeline import steps
from medseg.pipeline.where import On
from tests.cluster.running import Running
from tests.evaluation.test_folders import write
from tests.imaging.test_restructure import decathlon

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(os.name != "posix", reason="starts workers as POSIX does")]


def tree(root: Path, pattern: str = "*") -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob(pattern)) if p.is_file()}


def test_the_same_bytes_there(dask_tls: Running, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda n: os.urandom(n).hex() if n != 16 else "ab" * n)
    source = decathlon(tmp_path / "data")
    for number in range(4):
        write(tmp_path / "labels" / f"{number}.nii.gz")
        write(tmp_path / "out" / f"{number}.nii.gz", number)
    (tmp_path / "out" / "1.nii.gz").write_bytes(b"nothing")
    for name in ("here", "there"):
        to = tmp_path / name
        to.mkdir()
        place = On(f"dask:{dask_tls.address}", tls=dask_tls.tls) if name == "there" else On()
        sides = (tmp_path / "out", tmp_path / "labels", to / "scores")
        assert isinstance([*steps.evaluate(*sides, report=False, on=place)][-1], Evaluation)
        assert isinstance([*steps.inspect(source, out=to / "found.json", on=place)][-1], Inspected)
        assert isinstance([*steps.convert(source, to / "nnunet", "nnunet", on=place)][-1], Converted)
    here, there = tmp_path / "here", tmp_path / "there"
    assert tree(here / "nnunet") == tree(there / "nnunet")
    for name in ("found.json", "found.case_map.json", "scores/scores.csv", "scores/scores.json"):
        assert (here / name).read_bytes() == (there / name).read_bytes()
    assert not list(there.glob("*.cases"))
    assert not list(there.glob(".nnunet*"))
