"""One plan for all parts, whoever makes it, and the same cache as without parts."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from medseg.errors import InputError
from medseg.events import Note
from medseg.files import read_record
from medseg.imaging.dataset import find_dataset
from medseg.parts import Part, claimed
from medseg.planning import shares
from medseg.planning.dataset import Planned, plan_dataset
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.plan import Request, Splits
from medseg.planning.shares import WITHIN, NotYet
from tests.tiny import FAST, write_dataset


def plan(data: Path, run: Path, part: Part) -> tuple[Planned, list[str]]:
    *events, planned = plan_dataset(data, run, Request(), FAST, part=part)
    assert isinstance(planned, Planned)
    return planned, [event.text for event in events if isinstance(event, Note)]


def beside(data: Path, run: Path, parts: int) -> list[tuple[Planned, list[str]]]:
    """All parts at the same time."""
    found: dict[int, tuple[Planned, list[str]]] = {}

    def one(k: int) -> None:
        found[k] = plan(data, run, Part(k, parts))

    threads = [threading.Thread(target=one, args=(k,)) for k in range(parts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return [found[k] for k in range(parts)]


def cached(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run / "cache").glob("*/*.safetensors"))}


def test_parts_make_one_plan_and_the_cache_of_the_whole(tmp_path: Path) -> None:
    data, run = write_dataset(tmp_path / "data", 7), tmp_path / "run"
    found = beside(data, run, 3)
    whole, _ = plan(data, tmp_path / "whole", Part())
    assert sum(planned.prepared for planned, _ in found) == whole.prepared == 7
    assert all(planned.plan == found[0][0].plan for planned, _ in found)
    assert found[0][0].plan.configurations == whole.plan.configurations
    assert sum(any("plan written" in note for note in notes) for _, notes in found) == 1
    assert cached(run) == cached(tmp_path / "whole")
    for name, kind in (("fingerprint.json", Fingerprint), ("splits.json", Splits)):
        assert read_record(run / name, kind) == read_record(tmp_path / "whole" / name, kind)


def test_a_part_alone_looks_and_leaves_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "PATIENCE_S", 0.0)
    data, run = write_dataset(tmp_path / "data", 6), tmp_path / "run"
    with pytest.raises(NotYet, match="part 0/2 is looked at, and nobody works on 1/2; start the other parts") as said:
        plan(data, run, Part(0, 2))
    assert said.value.exit_code == 1
    assert not (run / "plan.json").exists()
    second, _ = plan(data, run, Part(1, 2))  # finds all looked at, and plans
    first, notes = plan(data, run, Part(0, 2))
    assert "the plan was made by another part: " + str(run / "plan.json") in notes
    assert first.prepared + second.prepared == 6
    assert plan(data, run, Part())[0].prepared == 6


def test_another_part_that_works_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "PATIENCE_S", 0.0)
    monkeypatch.setattr(shares, "LOOK_EVERY_S", 0.01)
    run, data = tmp_path / "run", find_dataset(write_dataset(tmp_path / "data", 4), b"")
    run.mkdir()
    shares.tell(run, Part(0, 2), data, (), {})
    waits = shares.others_looked(run, Part(0, 2), data)
    assert "waiting for 1 other(s)" in next(waits).text  # type: ignore[union-attr]
    with claimed(run, Part(1, 2), WITHIN):
        other = threading.Timer(0.2, lambda: shares.tell(run, Part(1, 2), data, (), {}))
        other.start()
        assert list(waits) == []


def test_a_case_that_fails_is_told_by_its_own_part(tmp_path: Path) -> None:
    data, run = write_dataset(tmp_path / "data", 8), tmp_path / "run"
    path = data / "labels" / "case3.nii.gz"
    path.write_bytes(path.read_bytes()[:100])
    found = beside(data, run, 2)
    assert [set(planned.failed) for planned, _ in found] == [
        {"case3"} if Part(k, 2).holds("case3") else set() for k in range(2)
    ]
    assert sum(planned.prepared for planned, _ in found) == 7


def test_changed_data_is_planned_anew_by_the_part_that_sees_it(tmp_path: Path) -> None:
    data, run = write_dataset(tmp_path / "data", 6), tmp_path / "run"
    before = beside(data, run, 2)[0][0].fingerprint
    (data / "images" / "case0.nii.gz").write_bytes((data / "images" / "case1.nii.gz").read_bytes())
    after = beside(data, run, 2)
    assert after[0][0].fingerprint != before
    assert after[0][0].plan == after[1][0].plan


def test_two_commands_on_one_part_are_refused(tmp_path: Path) -> None:
    data, run = write_dataset(tmp_path / "data", 3), tmp_path / "run"
    run.mkdir()
    with claimed(run, Part(), WITHIN), pytest.raises(InputError, match="another medseg works on it at this moment"):
        plan(data, run, Part())
