"""A folder in parts, again, or stopped: whole cases, each done once, and what was expected beside what it took."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.errors import InputError
from medseg.events import Advanced, Note, Stage
from medseg.files import read_record
from medseg.imaging.naming import CaseMap
from medseg.imaging.nifti import read_labels
from medseg.inference import folder, work
from medseg.inference.asked import Asked
from medseg.inference.folder import Inferred, infer_folder
from medseg.inference.records import Unread
from medseg.parts import Part
from tests.imaging.build import save_all, some_series, write_nifti
from tests.tiny import CPU, blobs, untrained_run


def infer(run: Path, scans: Path, out: Path, **asked: Any) -> tuple[Inferred, list[Any]]:
    events = list(infer_folder(run, scans, out, CPU, Asked(**asked)))
    assert isinstance(events[-1], Inferred)
    return events[-1], events


def scans_of(folder: Path, n: int = 2) -> Path:
    for k in range(n):
        write_nifti(folder / f"scan{k}_0000.nii.gz", blobs(k)[0])
    return folder


def labels_in(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.nii.gz"))}


def settled(folder: Path) -> None:
    """As if the files had lain there for a while."""
    for path in folder.rglob("*"):
        os.utime(path, (1e9, 1e9))


def test_two_parts_make_what_one_run_makes(tmp_path: Path) -> None:
    run, scans, out = untrained_run(tmp_path), scans_of(tmp_path / "scans", 8), tmp_path / "out"
    (scans / "broken.nii.gz").write_bytes(b"no scan")
    names = [f"scan{k}" for k in range(8)]
    halves = [infer(run, scans, out, part=Part(number, 2))[0] for number in (0, 1)]
    done = [{c.case for c in half.predictions.cases} for half in halves]
    assert done[0] == {name for name in names if Part(0, 2).holds(name)}
    assert done[1] == set(names)  # it lists what the other did
    assert {f.case for f in halves[1].predictions.failed} == {"broken"}
    assert sum(len(half.failed) for half in halves) == 1  # each part answers for its own
    assert set(halves[1].predictions.machine) == {"0/2", "1/2"}
    assert sum(effort.scans for effort in halves[1].predictions.machine.values()) == 9
    infer(run, scans, tmp_path / "whole")
    assert labels_in(out) == labels_in(tmp_path / "whole")
    again, _ = infer(run, scans, out)
    assert again.skipped == 8
    assert set(again.predictions.machine) == {"0/1"}


def test_parts_that_begin_at_once_give_dicom_the_same_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key that names DICOM scans is made by whoever is first; who is second must not use another."""
    for k in range(4):
        save_all(some_series(6, series=str(k + 3)).datasets(), tmp_path / "scans" / str(k))
    run, out = untrained_run(tmp_path), tmp_path / "out"
    asked = {"series": ("all",)}
    found, once = folder.find_scans, []

    def meanwhile(*given: Any) -> Any:
        if not once:
            once.append(True)
            infer(run, tmp_path / "scans", out, part=Part(0, 2), **asked)
        return found(*given)

    monkeypatch.setattr(folder, "find_scans", meanwhile)
    inferred, _ = infer(run, tmp_path / "scans", out, part=Part(1, 2), **asked)
    cases = read_record(out / "case_map.json", CaseMap).cases
    assert len(cases) == 4
    assert {case.case for case in inferred.predictions.cases} == set(cases)


def test_the_same_part_twice_is_refused_and_another_is_not(tmp_path: Path) -> None:
    run, scans, out = untrained_run(tmp_path), scans_of(tmp_path / "scans", 4), tmp_path / "out"
    running = infer_folder(run, scans, out, CPU, Asked(part=Part(0, 2)))
    next(event for event in running if isinstance(event, Stage))
    with pytest.raises(InputError, match="another medseg works on part 0/2 of it at this moment"):
        infer(run, scans, out, part=Part(0, 2))
    with pytest.raises(InputError, match="this would be all of it"):
        infer(run, scans, out)
    infer(run, scans, out, part=Part(1, 2))
    assert isinstance(list(running)[-1], Inferred)
    assert infer(run, scans, out)[0].skipped == 4


def test_overwrite_does_all_again(tmp_path: Path) -> None:
    run, scans, out = untrained_run(tmp_path), scans_of(tmp_path / "scans"), tmp_path / "out"
    infer(run, scans, out)
    before = labels_in(out)
    again, _ = infer(run, scans, out, overwrite=True)
    assert again.skipped == 0
    assert again.predictions.machine["0/1"].scans == 2
    assert labels_in(out) == before


def test_done_cases_are_known_without_reading_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, scans, out = untrained_run(tmp_path), scans_of(tmp_path / "scans"), tmp_path / "out"
    monkeypatch.setattr("medseg.files.SETTLED_S", -3600.0)
    infer(run, scans, out)
    monkeypatch.setattr(work, "sha256", None)
    monkeypatch.setattr(work, "read_scan", None)
    again, events = infer(run, scans, out)
    assert again.skipped == 2
    assert not any(isinstance(e, Note) and e.text.startswith("expected") for e in events)


def test_done_cases_whose_files_were_touched_are_known_by_their_bytes(tmp_path: Path) -> None:
    run, scans, out = untrained_run(tmp_path), scans_of(tmp_path / "scans"), tmp_path / "out"
    infer(run, scans, out)
    settled(scans)
    assert infer(run, scans, out)[0].skipped == 2


def test_a_failure_is_kept_until_the_case_is_done(tmp_path: Path) -> None:
    run, scans, out = untrained_run(tmp_path), scans_of(tmp_path / "scans", 1), tmp_path / "out"
    broken = scans / "broken.nii.gz"
    broken.write_bytes(b"no scan")
    assert list(infer(run, scans, out)[0].failed) == ["broken"]
    note = out / "cases" / "broken.failed.json"
    assert read_record(note, Unread).reason.startswith("[NOT_NIFTI]")
    write_nifti(broken, blobs(5)[0])
    assert not infer(run, scans, out)[0].failed
    assert not note.exists()
    broken.write_bytes(b"no scan")
    infer(run, scans, out)
    broken.unlink()
    assert infer(run, scans, out)[0].predictions.failed == ()  # of the scans given last


def test_a_scan_that_cannot_fit_is_set_aside_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, scans, out = untrained_run(tmp_path), scans_of(tmp_path / "scans"), tmp_path / "out"
    monkeypatch.setattr("medseg.inference.preflight.available_memory_bytes", lambda: 0)
    monkeypatch.setattr(work, "read_scan", None)
    inferred, _ = infer(run, scans, out)
    assert set(inferred.failed) == {"scan0", "scan1"}
    assert all(reason.startswith("[TOO_LARGE] it needs about") for reason in inferred.failed.values())


def test_expected_and_measured_stand_side_by_side(tmp_path: Path) -> None:
    run, scans, out = untrained_run(tmp_path), scans_of(tmp_path / "scans"), tmp_path / "out"
    inferred, events = infer(run, scans, out)
    (effort,) = inferred.predictions.machine.values()
    assert (effort.scans, effort.done, effort.failed, effort.device) == (2, 0, 0, "cpu")
    assert effort.expected_minutes is not None
    assert effort.minutes >= 0
    assert effort.ram_gb is None or effort.ram_gb > 0.05
    assert effort.disk_gb > 0
    said = [e.text for e in events if isinstance(e, Note)]
    assert any(text.startswith("expected: about ") for text in said)
    assert any(text.startswith("took ") and "(expected " in text for text in said)
    stages = inferred.predictions.cases[0].stages_s
    assert set(stages) == {"read", "prepare", "predict", "write"}
    assert inferred.predictions.cases[0].seconds == pytest.approx(sum(stages.values()), abs=0.01)


def test_only_the_structures_asked_for(tmp_path: Path) -> None:
    run, scans, out = untrained_run(tmp_path), scans_of(tmp_path / "scans", 1), tmp_path / "out"
    infer(run, scans, out)
    both = read_labels(out / "scan0.nii.gz").array
    inferred, _ = infer(run, scans, out, structures=("blob2",))
    assert inferred.skipped == 0
    one = read_labels(out / "scan0.nii.gz").array
    np.testing.assert_array_equal(one, np.where(both == 2, 2, 0))
    assert set(inferred.predictions.cases[0].volumes_ml) == {"blob2"}


def test_a_run_that_is_stopped_lets_go_of_the_folder_and_leaves_whole_cases(tmp_path: Path) -> None:
    run, scans, out = untrained_run(tmp_path), scans_of(tmp_path / "scans", 6), tmp_path / "out"
    running = infer_folder(run, scans, out, CPU)
    next(event for event in running if isinstance(event, Advanced))
    running.close()  # type: ignore[attr-defined]
    done = {path.name.removesuffix(".done.json") for path in (out / "cases").glob("*.done.json")}
    assert {name.removesuffix(".nii.gz") for name in labels_in(out)} == done
    assert done
    rest, _ = infer(run, scans, out)
    assert rest.skipped == len(done)
    assert len(rest.predictions.cases) == 6
