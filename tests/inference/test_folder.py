from __future__ import annotations

import json
import os
import shutil
import stat
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK
from numpy.typing import NDArray

from medseg.errors import InputError, ResourceError, RunError
from medseg.events import Note
from medseg.files import read_record, write_record
from medseg.imaging.dicom.scanner import scan_dicom
from medseg.imaging.dicom.seg import read_seg
from medseg.imaging.grid import Grid
from medseg.imaging.naming import CaseMap
from medseg.imaging.nifti import read_labels
from medseg.imaging.scans import Scan
from medseg.imaging.source import Source
from medseg.imaging.volume import LabelMap
from medseg.inference import results, work
from medseg.inference.asked import Asked
from medseg.inference.case import Segmenter, volumes_ml
from medseg.inference.folder import Inferred, infer_folder
from medseg.inference.model import run_plan
from medseg.inference.records import Predictions
from medseg.inference.trust.records import Trust
from medseg.inference.work import scan_seen
from medseg.planning.plan import Region
from tests.imaging.build import (
    PATIENT,
    ROOT_UID,
    decimal_string,
    save_all,
    some_series,
    tilted,
    write_nifti,
)
from tests.tiny import CPU, blobs, configuration, plan_of, untrained_run


def infer(run: Path, scans: Path, out: Path) -> tuple[Inferred, list[Any]]:
    events = list(infer_folder(run, scans, out, CPU))
    assert isinstance(events[-1], Inferred)
    return events[-1], events


def scans_of(folder: Path, n: int = 2) -> Path:
    for k in range(n):
        write_nifti(folder / f"scan{k}_0000.nii.gz", blobs(k)[0])
    return folder


def strict(path: Path) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_a_folder_of_nifti(tmp_path: Path) -> None:
    run, scans, out = untrained_run(tmp_path), scans_of(tmp_path / "scans"), tmp_path / "out"
    inferred, _ = infer(run, scans, out)
    assert inferred.skipped == 0
    assert {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()} == {
        "scan0.nii.gz",
        "scan1.nii.gz",
        "cases/scan0.done.json",
        "cases/scan1.done.json",
        "cases/.claims.lock",
        "cases/.records.lock",
        "case_map.json",
        "predictions.json",
        "statistics.csv",
    }
    said = strict(out / "predictions.json")
    assert {c["case"] for c in said["cases"]} == {"scan0", "scan1"}
    assert said["failed"] == []
    for case in said["cases"]:
        assert case["input"] == f"{case['case']}_0000.nii.gz"
        labels = read_labels(out / case["outputs"][0]["name"])
        for name, ml in case["volumes_ml"].items():
            value = {"blob1": 1, "blob2": 2}[name]
            assert ml == pytest.approx((labels.array == value).sum() / 1000)
    assert read_record(out / "predictions.json", Predictions) == inferred.predictions


def test_volumes_are_of_the_regions_that_were_trained() -> None:
    array = np.zeros((4, 4, 4), np.uint8)
    array[0], array[1, :2] = 1, 2
    labels = LabelMap(array, Grid(array.shape, np.eye(4)), {1: "rest of whole", 2: "core"})
    plain = plan_of(configuration())
    assert volumes_ml(labels, plain) == {"rest of whole": 0.016, "core": 0.008}
    regions = (Region(name="whole", values=(1, 2), value=1), Region(name="core", values=(2,), value=2))
    assert volumes_ml(labels, plain.model_copy(update={"regions": regions})) == {"whole": 0.024, "core": 0.008}


def test_one_file(tmp_path: Path) -> None:
    run, scans = untrained_run(tmp_path), scans_of(tmp_path / "scans")
    infer(run, scans / "scan1_0000.nii.gz", tmp_path / "out")
    assert (tmp_path / "out" / "scan1.nii.gz").is_file()


def test_finished_cases_are_skipped_changed_ones_are_done_again(tmp_path: Path) -> None:
    run, scans, out = untrained_run(tmp_path), scans_of(tmp_path / "scans"), tmp_path / "out"
    infer(run, scans, out)
    before = {name: (out / name).stat().st_mtime_ns for name in ("scan0.nii.gz", "scan1.nii.gz")}
    again, events = infer(run, scans, out)
    assert again.skipped == 2
    assert any(isinstance(e, Note) and e.text == "2 of 2 already done" for e in events)
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before

    write_nifti(scans / "scan0_0000.nii.gz", blobs(7)[0])
    changed, _ = infer(run, scans, out)
    assert changed.skipped == 1
    assert (out / "scan0.nii.gz").stat().st_mtime_ns > before["scan0.nii.gz"]
    assert (out / "scan1.nii.gz").stat().st_mtime_ns == before["scan1.nii.gz"]

    (out / "scan1.nii.gz").unlink()
    assert infer(run, scans, out)[0].skipped == 1
    (out / "cases" / "scan1.done.json").write_text("{")
    assert infer(run, scans, out)[0].skipped == 1
    assert len(infer(run, scans, out)[0].predictions.cases) == 2


def test_another_model_does_all_again(tmp_path: Path) -> None:
    scans, out = scans_of(tmp_path / "scans"), tmp_path / "out"
    infer(untrained_run(tmp_path / "one"), scans, out)
    assert infer(untrained_run(tmp_path / "two", seed=5), scans, out)[0].skipped == 0


def test_several_folds_are_averaged(tmp_path: Path) -> None:
    run, scans = untrained_run(tmp_path), scans_of(tmp_path / "scans", 1)
    other = untrained_run(tmp_path / "other", seed=4)
    (other / "folds" / "3d" / "0").rename(run / "folds" / "3d" / "1")
    inferred, _ = infer(run, scans, tmp_path / "out")
    assert inferred.predictions.folds == ("0", "1")


@pytest.mark.parametrize("how", ["cut", "text", "nan", "4d"])
def test_a_broken_scan_among_good_ones(tmp_path: Path, how: str) -> None:
    run, scans, out = untrained_run(tmp_path), scans_of(tmp_path / "scans"), tmp_path / "out"
    broken = scans / "broken.nii.gz"
    whole = (scans / "scan0_0000.nii.gz").read_bytes()
    if how == "nan":
        write_nifti(broken, np.full((8, 8, 8), np.nan, np.float32))
    elif how == "4d":
        write_nifti(broken, np.zeros((8, 8, 8, 2), np.float32))
    else:
        broken.write_bytes(whole[: len(whole) // 2] if how == "cut" else b"this is text")
    inferred, events = infer(run, scans, out)
    assert {c.case for c in inferred.predictions.cases} == {"scan0", "scan1"}
    (failed,) = inferred.predictions.failed
    assert failed.case == "broken"
    assert str(tmp_path) not in (out / "predictions.json").read_text()
    assert any(isinstance(e, Note) and e.warning and e.text.startswith("broken failed: ") for e in events)
    assert not (out / "broken.nii.gz").exists()

    write_nifti(broken, blobs(5)[0])
    mended, _ = infer(run, scans, out)
    assert mended.skipped == 2
    assert mended.predictions.failed == ()
    assert len(mended.predictions.cases) == 3


def test_labels_of_a_scan_that_has_become_unreadable_do_not_stay(tmp_path: Path) -> None:
    run, scans, out = untrained_run(tmp_path), scans_of(tmp_path / "scans"), tmp_path / "out"
    infer(run, scans, out)
    (scans / "scan0_0000.nii.gz").write_bytes(b"gone")
    inferred, _ = infer(run, scans, out)
    assert [c.case for c in inferred.predictions.cases] == ["scan1"]
    assert not (out / "scan0.nii.gz").exists()


def test_a_damaged_manifest_of_another_case_is_passed_over(tmp_path: Path) -> None:
    run, scans, out = untrained_run(tmp_path), scans_of(tmp_path / "scans", 1), tmp_path / "out"
    infer(run, scans, out)
    (out / "cases" / "older.done.json").write_text('{"version": 0}')
    shutil.copy(out / "cases/scan0.done.json", out / "cases/.part-1-ab-scan0.done.json")  # its writer was killed
    assert len(infer(run, scans, out)[0].predictions.cases) == 1


def test_a_scan_too_large_for_the_memory_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, scans = untrained_run(tmp_path), scans_of(tmp_path / "scans")
    predict = Segmenter.predict

    def hungry(segmenter: Segmenter, ready: Any) -> Any:
        monkeypatch.setattr(Segmenter, "predict", predict)
        raise MemoryError

    monkeypatch.setattr(Segmenter, "predict", hungry)
    inferred, _ = infer(run, scans, tmp_path / "out")
    assert [(f.case, f.reason) for f in inferred.predictions.failed] == [
        ("scan0", "is too large for the memory of this machine")
    ]


def test_scans_of_another_number_of_channels_are_named(tmp_path: Path) -> None:
    run, scans = untrained_run(tmp_path, configuration(channels=2)), scans_of(tmp_path / "scans", 1)
    inferred, _ = infer(run, scans, tmp_path / "out")
    assert "has 1 channel(s) where the plan has 2" in inferred.predictions.failed[0].reason


def test_a_dicom_series(tmp_path: Path) -> None:
    series = some_series(12, series="7")
    save_all(series.datasets(), tmp_path / PATIENT / "CT")
    run, out = untrained_run(tmp_path), tmp_path / "out"
    inferred, _ = infer(run, tmp_path / PATIENT, out)
    (case,) = inferred.predictions.cases
    assert case.case.startswith("case-")
    assert case.input == "DICOM CT series, 12 images"
    labels = read_labels(out / case.outputs[0].name)
    assert labels.grid.shape == (6, 5, 12)
    for at in ((0, 0, 0), (5, 4, 11)):
        np.testing.assert_allclose((labels.grid.affine @ [*at, 1])[:3], series.world_ras(*at), atol=1e-4)
    assert infer(run, tmp_path / PATIENT, out)[0].skipped == 1

    private = out / "case_map.json"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    (mapped,) = read_record(private, CaseMap).cases.values()
    assert len(mapped.paths) == 12
    assert (out / f"{case.case}.seg.dcm").is_file()
    for file in (p for p in out.rglob("*") if p.is_file() and p != private and p.suffix != ".dcm"):
        content = file.read_bytes() if file.suffix != ".gz" else bytes(nib.load(file).header.binaryblock)
        for secret in ("Müller", "Jörg", "12345678", ROOT_UID, str(tmp_path)):
            assert secret.encode() not in content, file
            assert secret not in str(file.relative_to(out))


@pytest.mark.parametrize("where", ["scans", "scans/out", "scans/deep/er"])
def test_labels_are_never_written_among_the_scans(tmp_path: Path, where: str) -> None:
    run, scans = untrained_run(tmp_path), scans_of(tmp_path / "scans", 1)
    before = (scans / "scan0_0000.nii.gz").read_bytes()
    with pytest.raises(InputError, match="lies within the scans; name a folder outside of them"):
        infer(run, scans, tmp_path / where)
    assert [p.name for p in scans.iterdir()] == ["scan0_0000.nii.gz"]
    assert (scans / "scan0_0000.nii.gz").read_bytes() == before
    with pytest.raises(InputError, match="lies within the scans"):
        infer(run, scans / "scan0_0000.nii.gz", scans)


def test_wrong_use(tmp_path: Path) -> None:
    run = untrained_run(tmp_path)
    with pytest.raises(InputError, match="there is no such file or folder"):
        infer(run, tmp_path / "none", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no scan"):
        infer(run, tmp_path / "empty", tmp_path / "out")
    scans = scans_of(tmp_path / "scans", 1)
    with pytest.raises(RunError, match="is not a run of medseg"):
        infer(tmp_path / "empty", scans, tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="name a folder that is not a file"):
        infer(run, scans, tmp_path / "file" / "out")


def test_a_full_disk_stops_and_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, scans, out = untrained_run(tmp_path), scans_of(tmp_path / "scans"), tmp_path / "out"

    def full(image: Any, stream: Any) -> None:
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nib.Nifti1Image, "to_stream", full)
    with pytest.raises(ResourceError, match="no space left on device; free some space"):
        infer(run, scans, out)
    monkeypatch.undo()
    assert not list(out.glob("*.nii.gz"))
    assert not list(out.glob(".part*"))
    assert infer(run, scans, out)[0].skipped == 0


# --- orientation -----------------------------------------------------------------------------------------------------


def reoriented(array: NDArray[Any], affine: NDArray[np.float64], axcodes: str) -> tuple[NDArray[Any], Any]:
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt(tuple(axcodes))
    )
    moved = nib.orientations.apply_orientation(array, turn)
    return moved, affine @ nib.orientations.inv_ornt_aff(turn, array.shape)


def rotated(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same scan of a patient who lies turned by 20 and 12 degrees."""
    a, b = np.deg2rad([20, 12])
    turn = np.eye(4)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    turn[:3, :3] = about_z @ about_x
    return turn @ affine


def in_ras(path: Path) -> NDArray[Any]:
    return np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_same_scan_stored_in_four_ways_gets_the_same_labels_in_the_same_place(tmp_path: Path, dims: int) -> None:
    array, _ = blobs(3, (20, 18, 14))
    affine = np.diag([0.9, 1.1, 1.6, 1.0])
    affine[:3, 3] = [-31, 12, 60]
    scans, out = tmp_path / "scans", tmp_path / "out"
    for axcodes in ("RAS", "LPS", "PSR"):  # PSR: sagittal slices
        write_nifti(scans / f"{axcodes}.nii.gz", *reoriented(array, affine, axcodes))
    write_nifti(scans / "oblique.nii.gz", array, rotated(affine))
    infer(untrained_run(tmp_path, configuration(dims=dims, patch=(16, 16, 16))), scans, out)
    expected = in_ras(out / "RAS.nii.gz")
    assert {1, 2} <= set(np.unique(expected))
    for scan in sorted(scans.iterdir()):
        labels = in_ras(out / scan.name)
        for value in (1, 2):
            ours, theirs = labels == value, expected == value
            assert 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()) >= 0.99
        before, after = nib.load(scan), nib.load(out / scan.name)
        assert before.shape == after.shape
        np.testing.assert_allclose(after.affine, before.affine, atol=1e-5)
        assert int(after.header["sform_code"]) > 0
        one, other = (SimpleITK.ReadImage(str(p)) for p in (scan, out / scan.name))
        assert one.GetSize() == other.GetSize()
        for what in ("GetOrigin", "GetSpacing", "GetDirection"):
            np.testing.assert_allclose(getattr(other, what)(), getattr(one, what)(), atol=1e-4)


def test_remarks_on_scans_that_are_unlike_the_training_ones(tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    write_nifti(scans / "thick.nii.gz", blobs(0)[0], np.diag([1, 1, 6.0, 1]))
    write_nifti(scans / "slice.nii.gz", blobs(0)[0][:, :, 8:9])
    write_nifti(scans / "small.nii.gz", blobs(0)[0][4:10, 4:10, 4:10])
    inferred, _ = infer(untrained_run(tmp_path), scans, tmp_path / "out")
    said = {case.case: " ".join(case.warnings) for case in inferred.predictions.cases}
    assert "up to 6 mm, the model works at 1 mm" in said["thick"]
    assert "is a single slice" in said["slice"]
    assert "field of view of 6 mm" in said["small"]


def test_scans_of_one_name_are_failed_cases(tmp_path: Path) -> None:
    run, scans = untrained_run(tmp_path), scans_of(tmp_path / "scans")
    write_nifti(scans / "more" / "scan1_0000.nii.gz", blobs(3)[0])
    inferred, _ = infer(run, scans, tmp_path / "out")
    assert [c.case for c in inferred.predictions.cases] == ["scan0"]
    assert {f.case for f in inferred.predictions.failed} == {"scan1"}


def test_numbered_scans_are_no_channels_for_a_model_of_one(tmp_path: Path) -> None:
    run, scans = untrained_run(tmp_path), tmp_path / "scans"
    for k in range(3):
        write_nifti(scans / f"liver_{k:04d}.nii.gz", blobs(k)[0])
    inferred, _ = infer(run, scans, tmp_path / "out")
    assert {c.case for c in inferred.predictions.cases} == {"liver_0000", "liver_0001", "liver_0002"}
    assert not inferred.failed


def test_every_format_of_results(tmp_path: Path) -> None:
    save_all(some_series(12, series="7").datasets(), tmp_path / "scans")
    run, out = untrained_run(tmp_path), tmp_path / "out"
    asked = Asked(formats=("nifti", "rtstruct", "nrrd", "sr"))
    *_, inferred = infer_folder(run, tmp_path / "scans", out, CPU, asked)
    assert isinstance(inferred, Inferred)
    (case,) = inferred.predictions.cases
    suffixes = {output.name.removeprefix(case.case) for output in case.outputs}
    assert suffixes == {".nii.gz", ".seg.dcm", ".rtstruct.dcm", ".seg.nrrd", ".sr.dcm"}  # a report speaks of a SEG
    assert case.deviation_mm < 0.01
    nifti, seg = (read_labels(out / f"{case.case}.nii.gz"), read_seg(out / f"{case.case}.seg.dcm"))
    assert seg.array[seg.array > 0].size == nifti.array[nifti.array > 0].size
    again, _ = infer(run, tmp_path / "scans", out)  # other formats are another question
    assert again.skipped == 0
    assert {p.name.removeprefix(case.case) for p in out.glob("case-*")} == {".nii.gz", ".seg.dcm"}


def test_dicom_results_need_dicom_scans(tmp_path: Path) -> None:
    run, scans, out = untrained_run(tmp_path), scans_of(tmp_path / "scans"), tmp_path / "out"
    with pytest.raises(InputError, match="seg can be written for DICOM scans only"):
        list(infer_folder(run, scans, out, CPU, Asked(formats=("seg",))))
    *events, _ = infer_folder(run, scans, tmp_path / "other", CPU, Asked(formats=("nifti", "seg")))
    assert any(isinstance(e, Note) and e.text == "2 scan(s) are no DICOM and get no seg" for e in events)
    with pytest.raises(InputError, match="'pdf' is no format of results"):
        list(infer_folder(run, scans, out, CPU, Asked(formats=("pdf",))))
    assert not out.exists()


def test_a_tilted_scan_gets_labels_on_its_native_slices(tmp_path: Path) -> None:
    built = tilted(12, 17.0, series="7")
    save_all(built.datasets(), tmp_path / "scans")
    run, out = untrained_run(tmp_path), tmp_path / "out"
    inferred, _ = infer(run, tmp_path / "scans", out)
    (case,) = inferred.predictions.cases
    assert any("gantry tilt of 17.0 degrees" in warning for warning in case.warnings)
    straight = read_labels(out / f"{case.case}.nii.gz")
    assert straight.grid.skew < 1e-6
    frames = pydicom.dcmread(out / f"{case.case}.seg.dcm").PerFrameFunctionalGroupsSequence
    positions = {tuple(f.PlanePositionSequence[0].ImagePositionPatient) for f in frames}
    native = {tuple(float(decimal_string(v)) for v in built.position_mm(z)) for z in range(12)}
    assert positions <= native


def test_names_that_are_no_text_are_no_hindrance(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path / "scans")
    save_all(some_series(12, series="7").datasets(), tmp_path / "scans" / "a")
    os.rename(os.path.join(folder, b"a"), os.path.join(folder, b"M\xfcller"))  # noqa: PTH104, PTH118
    run, out = untrained_run(tmp_path), tmp_path / "out"
    inferred, _ = infer(run, tmp_path / "scans", out)
    assert len(inferred.predictions.cases) == 1
    assert "M\\xfcller" in read_record(out / "case_map.json", CaseMap).cases.popitem()[1].names


def test_what_nobody_foresaw_fails_one_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, scans, out = untrained_run(tmp_path), scans_of(tmp_path / "scans"), tmp_path / "out"
    write = results.write_all

    def odd(folder: Path, case: str, *others: Any) -> Any:
        if case == "scan0":
            raise TypeError("Müller")
        return write(folder, case, *others)

    monkeypatch.setattr(results, "write_all", odd)
    inferred, _ = infer(run, scans, out)
    assert [c.case for c in inferred.predictions.cases] == ["scan1"]
    assert inferred.failed["scan0"].startswith("[UNEXPECTED] TypeError in test_folder.py")


def test_another_volume_of_the_same_file_is_another_question(tmp_path: Path) -> None:
    volume = scan_dicom(save_all(some_series(4).datasets(), tmp_path)).volumes[0]
    asked = Asked()
    scans = [
        Scan("a", (Source("dicom", v.paths, dicom=v),), "") for v in (volume, replace(volume, frames=volume.frames[1:]))
    ]
    shared = [Scan("a", (Source("nifti", volume.paths, component=k),), "") for k in (0, 1)]
    keys = [scan_seen(scan, "", asked.told_of(scan), time.time()).key for scan in (*scans, *shared)]
    assert len(set(keys)) == 4


def test_failed_dicom_volumes_can_be_found(tmp_path: Path) -> None:
    save_all(some_series(12, series="7").datasets(), tmp_path / "scans" / "a")
    gap = some_series(12, series="8").datasets()
    del gap[4]
    save_all(gap, tmp_path / "scans" / "b")
    run, out = untrained_run(tmp_path), tmp_path / "out"
    inferred, _ = infer(run, tmp_path / "scans", out)
    ((name, reason),) = inferred.failed.items()
    assert "[GAP]" in reason
    cases = read_record(out / "case_map.json", CaseMap).cases
    assert all("/scans/b/" in path for path in cases[name].paths)


def test_what_is_done_stays_where_a_scan_cannot_be_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, scans, out = untrained_run(tmp_path), scans_of(tmp_path / "scans"), tmp_path / "out"
    infer(run, scans, out)
    before = (out / "scan0.nii.gz").read_bytes()
    os.utime(scans / "scan0_0000.nii.gz", (1e9, 1e9))  # copied: it must be read to be known again

    seen = work.scan_seen

    def away(scan: Scan, *others: Any) -> Any:
        if scan.name == "scan0":
            raise InputError("a file of it cannot be read (input/output error)", "scan0")
        return seen(scan, *others)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(work, "scan_seen", away)
        inferred, _ = infer(run, scans, out)
    assert set(inferred.failed) == {"scan0"}
    assert (out / "scan0.nii.gz").read_bytes() == before
    again, _ = infer(run, scans, out)
    assert again.skipped == 2
    assert again.predictions.failed == ()


def test_a_case_that_fails_while_it_is_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, scans, out = untrained_run(tmp_path), scans_of(tmp_path / "scans", 1), tmp_path / "out"

    def too_many(*_: Any) -> Any:
        raise InputError("has 70000 separate instances")

    monkeypatch.setattr(results, "numbered_instances", too_many)
    asked = Asked(split=True, probabilities=True, instances=(run_plan(run).structures[0].name,))
    events = list(infer_folder(run, scans, out, CPU, asked))
    assert isinstance(events[-1], Inferred)
    assert set(events[-1].failed) == {"scan0"}
    assert not list(out.glob("*.nii.gz"))
    assert not [path for path in out.rglob("*") if path.name.startswith(".part")]


def test_what_the_probabilities_are_of_is_in_the_manifest(tmp_path: Path) -> None:
    run, scans, out = untrained_run(tmp_path), scans_of(tmp_path / "scans", 1), tmp_path / "out"
    done = list(infer_folder(run, scans, out, CPU, Asked(probabilities=True)))[-1]
    (case,) = done.predictions.cases
    image = nib.load(out / "scan0.probabilities.nii.gz")  # type: ignore[attr-defined]
    assert len(case.probabilities_of) == image.shape[3]
    assert case.probabilities_of[0] == "background"


def test_what_is_learned_anew_of_predictions_makes_them_anew(tmp_path: Path) -> None:
    run, scans, out = untrained_run(tmp_path), scans_of(tmp_path / "scans", 1), tmp_path / "out"
    infer(run, scans, out)
    assert infer(run, scans, out)[0].skipped == 1
    fold = next((run / "folds").iterdir())
    nothing = dict.fromkeys(("ece_before", "ece_after", "dice_error"))
    write_record(fold / "trust.json", Trust(cases=0, temperature=1.5, structures=(), **nothing))
    assert infer(run, scans, out)[0].skipped == 0
