"""The front door: from a folder of labelled scans to a plan, splits and prepared cases."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from medseg.errors import InputError, ResourceError, RunError
from medseg.events import Advanced, Note, Stage
from medseg.files import read_record, write_record
from medseg.imaging.naming import read_case_map
from medseg.imaging.source import ReadOptions
from medseg.networks.topology import NetworkSettings
from medseg.parallel import HERE, InPlace
from medseg.planning import dataset as module
from medseg.planning import look as looking
from medseg.planning import preparation
from medseg.planning.cost import Machine, Measured
from medseg.planning.dataset import Planned, plan_dataset
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.plan import Budget, Plan, Request, Splits
from medseg.planning.splits import split
from medseg.preprocessing.cache import load_cases
from medseg.preprocessing.on_device import on_device
from medseg.preprocessing.resample import ON_CPU
from tests.imaging.labelled_build import NAMES, box, label, overlapping, series
from tests.preprocessing.build import describe, write_case, write_dataset


def a_tenth(network: NetworkSettings, patch: tuple[int, ...], batch: int) -> Measured:
    return Measured(0.1, 1e9)


MACHINE = Machine(a_tenth, lambda: 16e9)


def plan(data: Path, run: Path, request: Request | None = None, folds: Path | None = None) -> tuple[Planned, list[str]]:
    """The end of planning, and the texts of its notes."""
    events = list(plan_dataset(data, run, request or Request(), MACHINE, folds))
    *before, planned = events
    assert isinstance(planned, Planned)
    assert all(isinstance(event, Stage | Advanced | Note) for event in before)
    return planned, [event.text for event in before if isinstance(event, Note)]


def times(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_data_set_is_planned_and_prepared(tmp_path):
    planned, _ = plan(write_dataset(tmp_path / "data"), tmp_path / "run")
    assert (planned.prepared, planned.failed) == (6, {})
    made = read_record(tmp_path / "run" / "plan.json", Plan)
    assert made == planned.plan
    assert made.cases == 6
    assert made.values == (1, 2)
    assert made.names == {1: "liver", 2: "lesion"}
    assert set(made.configurations) == {"2d", "3d"}
    names = [f"case{i}" for i in range(6)]
    parts = read_record(tmp_path / "run" / "splits.json", Splits)
    assert len(parts.folds) == 5
    assert sorted(n for fold in parts.folds for n in fold.validation) == names
    seen = read_record(tmp_path / "run" / "fingerprint.json", Fingerprint)
    assert [c.case for c in seen.cases] == names
    assert seen.digest == made.fingerprint
    cases = load_cases(tmp_path / "run" / "cache" / made.chosen, names, made.configuration.preprocessing)
    assert all(set(case.foreground) == {1, 2} for case in cases)
    assert all(case.spacing_mm == pytest.approx(made.configuration.preprocessing.spacing_mm, rel=0.1) for case in cases)


def test_progress_reaches_the_number_of_cases(tmp_path):
    events = list(plan_dataset(write_dataset(tmp_path / "data", n=3), tmp_path / "run", Request(), MACHINE))
    stages = [e for e in events if isinstance(e, Stage)]
    assert [(s.name, s.total) for s in stages] == [("look", 3), ("prepare", 3)]
    assert all(s.expect for s in stages)
    assert [e.done for e in events if isinstance(e, Advanced)] == [1, 2, 3, 1, 2, 3]


def test_the_plan_is_read_strictly(tmp_path):
    plan(write_dataset(tmp_path / "data", n=2), tmp_path / "run")
    text = (tmp_path / "run" / "plan.json").read_text()
    assert Plan.model_validate_json(text).model_dump_json(indent=1) + "\n" == text
    with pytest.raises(ValidationError):
        Plan.model_validate_json(json.dumps({**json.loads(text), "more": 1}))
    configurations = json.loads(text)["configurations"]
    assert all(reason["why"] for c in configurations.values() for reason in c["reasons"])


def test_the_same_command_again_does_nothing_new(tmp_path, monkeypatch):
    data, run = write_dataset(tmp_path / "data", n=3), tmp_path / "run"
    plan(data, run)
    before, text = times(run / "cache"), (run / "plan.json").read_bytes()
    parts = (run / "splits.json").read_bytes()
    monkeypatch.setattr(module, "decide", lambda *_: pytest.fail("decided again"))
    planned, _ = plan(data, run)
    assert planned.prepared == 3
    assert times(run / "cache") == before
    assert (run / "plan.json").read_bytes() == text
    assert (run / "splits.json").read_bytes() == parts


@pytest.mark.parametrize(
    "request_",
    [
        Request(spacing="2"),
        Request(dims="2d"),
        Request(memory_gb=2),
        Request(budget=Budget(steps=10)),
        Request(seed=1),
        Request(device="cuda"),
    ],
)
def test_another_option_makes_another_plan(tmp_path, request_):
    data, run = write_dataset(tmp_path / "data", n=3), tmp_path / "run"
    first, _ = plan(data, run)
    second, _ = plan(data, run, request_)
    assert second.plan.request == request_
    assert second.plan != first.plan
    assert read_record(run / "plan.json", Plan) == second.plan
    load_cases(run / "cache" / second.plan.chosen, ["case0", "case1", "case2"], second.plan.configuration.preprocessing)


@pytest.mark.parametrize("what", ["a case more", "a case changed", "a name", "a modality"])
def test_other_data_makes_another_plan(tmp_path, what):
    data, run = write_dataset(tmp_path / "data", n=3), tmp_path / "run"
    first, _ = plan(data, run)
    if what == "a case more":
        write_case(data, "case3", seed=3)
    elif what == "a case changed":
        write_case(data, "case1", seed=9)
    elif what == "a name":
        describe(data, {1: "liver", 2: "tumour"})
    else:
        describe(data, channels=("CT",))
    second, _ = plan(data, run)
    assert second.plan != first.plan
    assert second.plan.channels == (("CT",) if what == "a modality" else ("MR",))


def test_a_2d_plan_prepares_slices_as_stored(tmp_path):
    planned, _ = plan(write_dataset(tmp_path / "data", n=2), tmp_path / "run", Request(dims="2d"))
    configuration = planned.plan.configuration
    assert (planned.plan.chosen, configuration.slice_axis) == ("2d", 2)
    assert configuration.preprocessing.spacing_mm == (1, 1, None)
    assert configuration.patch[2] == 1
    (case, _) = load_cases(tmp_path / "run" / "cache" / "2d", ["case0", "case1"], configuration.preprocessing)
    assert case.image_CXYZ.shape == (1, 24, 20, 16)
    assert case.spacing_mm == (1, 1, 2)


def cut(data: Path) -> None:
    path = data / "images" / "bad.nii.gz"
    path.write_bytes(path.read_bytes()[:400])


def cut_label(data: Path) -> None:
    path = data / "labels" / "bad.nii.gz"
    path.write_bytes(path.read_bytes()[:40])


def flat(data: Path) -> None:
    write_case(data, "bad", shape=(24, 20, 1))


def other_shape(data: Path) -> None:
    write_case(data, "bad", label_shape=(24, 20, 15))


def unknown_value(data: Path) -> None:
    write_case(data, "bad", values=(1, 9))


WRONG: dict[Callable[[Path], None], str] = {
    cut: "bad.nii.gz",
    cut_label: "bad.nii.gz",
    flat: "single slice",
    other_shape: "shape",
    unknown_value: "value(s) 9",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_bad_case_is_set_aside_by_name_and_the_others_go_on(tmp_path, wrong):
    data = write_dataset(tmp_path / "data", n=4)
    write_case(data, "bad")
    wrong(data)
    planned, notes = plan(data, tmp_path / "run")
    assert set(planned.failed) == {"bad"}
    assert WRONG[wrong] in planned.failed["bad"]
    assert any("set aside" in note and "bad" in note for note in notes)
    assert planned.prepared == 4
    parts = read_record(tmp_path / "run" / "splits.json", Splits)
    assert all("bad" not in (*fold.train, *fold.validation) for fold in parts.folds)
    load_cases(
        tmp_path / "run" / "cache" / "3d", [f"case{i}" for i in range(4)], planned.plan.configuration.preprocessing
    )
    assert not (tmp_path / "run" / "cache" / "3d" / "bad.safetensors").exists()


def test_a_mended_case_comes_in(tmp_path):
    data = write_dataset(tmp_path / "data", n=3)
    write_case(data, "bad")
    cut(data)
    assert plan(data, tmp_path / "run")[0].prepared == 3
    write_case(data, "bad")
    planned, _ = plan(data, tmp_path / "run")
    assert (planned.prepared, planned.failed) == (4, {})


def test_several_channels(tmp_path):
    planned, _ = plan(write_dataset(tmp_path / "data", n=2, channels=("CT", "PET")), tmp_path / "run")
    kinds = [how.kind for how in planned.plan.configuration.preprocessing.channels]
    assert kinds == ["ct", "zscore"]
    assert planned.plan.configuration.network.in_channels == 2
    (case, _) = load_cases(
        tmp_path / "run" / "cache" / "3d", ["case0", "case1"], planned.plan.configuration.preprocessing
    )
    assert case.image_CXYZ.shape[0] == 2


def test_where_most_are_bad_planning_stops_before_writing_a_plan(tmp_path):
    data = write_dataset(tmp_path / "data", n=3)
    for i in range(3):
        path = data / "images" / f"case{i}.nii.gz"
        path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(InputError, match="3 of 3 cases"):
        plan(data, tmp_path / "run")
    assert not (tmp_path / "run" / "plan.json").exists()


def test_empty_label_maps_are_refused_if_all_are_told_if_one_is(tmp_path):
    data = write_dataset(tmp_path / "data", n=3)
    write_case(data, "case0", values=())
    planned, notes = plan(data, tmp_path / "run")
    assert planned.prepared == 3
    assert any("look at: case0" in note for note in notes)
    for i in range(3):
        write_case(data, f"case{i}", values=())
    with pytest.raises(InputError, match="empty"):
        plan(data, tmp_path / "other")


def test_a_case_that_cannot_be_prepared_is_not_in_the_splits(tmp_path, monkeypatch):
    data, prepare = write_dataset(tmp_path / "data", n=5), preparation.prepare_case

    def failing(job):
        if job.case.name == "case2":
            raise InputError("was cut short meanwhile", "case2")
        return prepare(job)

    with monkeypatch.context() as bad:
        bad.setattr(preparation, "prepare_case", failing)
        planned, notes = plan(data, tmp_path / "run")
    assert set(planned.failed) == {"case2"}
    assert planned.prepared == 4
    assert any("set aside: case2" in note for note in notes)
    parts = read_record(tmp_path / "run" / "splits.json", Splits)
    names = {n for fold in parts.folds for n in (*fold.train, *fold.validation)}
    assert names == {"case0", "case1", "case3", "case4"}
    text = (tmp_path / "run" / "plan.json").read_bytes()
    planned, _ = plan(data, tmp_path / "run")
    assert (planned.prepared, planned.failed) == (5, {})
    assert (tmp_path / "run" / "plan.json").read_bytes() == text
    parts = read_record(tmp_path / "run" / "splits.json", Splits)
    assert "case2" in {n for fold in parts.folds for n in fold.validation}


def test_where_nothing_can_be_prepared_planning_stops(tmp_path, monkeypatch):
    def full(job):
        raise ResourceError("no space left on device", job.folder)

    monkeypatch.setattr(preparation, "prepare_case", full)
    with pytest.raises(ResourceError, match="no space left"):
        plan(write_dataset(tmp_path / "data", n=3), tmp_path / "run")


def test_a_killed_worker_is_told_with_its_case(tmp_path, monkeypatch):
    look = looking.fingerprint_case

    def dying(job):
        if job.case.name == "case1":
            raise MemoryError
        return look(job)

    monkeypatch.setattr(looking, "fingerprint_case", dying)
    planned, notes = plan(write_dataset(tmp_path / "data", n=3), tmp_path / "run")
    assert set(planned.failed) == {"case1"}
    assert any("set aside" in note and "case1" in note for note in notes)


def test_folds_of_another_number_stay(tmp_path):
    data, run = write_dataset(tmp_path / "data", n=4), tmp_path / "run"
    plan(data, run)
    seen = read_record(run / "fingerprint.json", Fingerprint)
    write_record(run / "splits.json", split(seen, 0, folds=2))  # as medseg train --folds 2 does
    plan(data, run)
    assert len(read_record(run / "splits.json", Splits).folds) == 2
    write_case(data, "case9", seed=9)
    plan(data, run)
    assert len(read_record(run / "splits.json", Splits).folds) == 5


def test_a_trained_run_takes_no_other_plan(tmp_path):
    data, run = write_dataset(tmp_path / "data", n=3), tmp_path / "run"
    plan(data, run)
    (run / "folds" / "3d" / "0").mkdir(parents=True)
    (run / "folds" / "3d" / "0" / "model.safetensors").touch()
    plan(data, run)
    text = (run / "plan.json").read_bytes()
    with pytest.raises(RunError, match="another plan"):
        plan(data, run, Request(dims="2d"))
    assert (run / "plan.json").read_bytes() == text


def test_a_folder_without_data_is_refused(tmp_path):
    with pytest.raises(InputError):
        plan(tmp_path / "none", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("after", [1, 4, 8])
def test_killed_at_any_moment_the_same_command_goes_on(tmp_path, after):
    data, run = write_dataset(tmp_path / "data", n=3), tmp_path / "run"
    events = plan_dataset(data, run, Request(), MACHINE)
    for _ in range(after):
        next(events)
    events.close()
    before = times(run) if (run / "plan.json").exists() else {}
    planned, _ = plan(data, run)
    assert (planned.prepared, planned.failed) == (3, {})
    now = times(run)
    assert all(now[name] == then for name, then in before.items() if name.startswith("cache"))
    whole, _ = plan(data, tmp_path / "at once")
    assert whole.plan == planned.plan


def test_a_damaged_label_counts_as_a_failed_case_an_image_without_one_does_not(tmp_path):
    data = write_dataset(tmp_path / "data", n=5)
    (data / "dataset.json").unlink(missing_ok=True)  # values are then found by reading every label
    label = data / "labels" / "case3.nii.gz"
    label.write_bytes(label.read_bytes()[:100])
    (data / "labels" / "case4.nii.gz").unlink()
    planned, notes = plan(data, tmp_path / "run")
    assert set(planned.failed) == {"case3"}
    assert planned.prepared == 3
    assert any("case4" in note and "no label" in note for note in notes)


def test_a_spacing_that_is_none_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="no spacing"):
        plan(write_dataset(tmp_path / "data", n=2), tmp_path / "run", Request(spacing="thick"))
    assert not (tmp_path / "run").exists()


def test_cases_of_an_interrupted_plan_are_not_mixed_with_those_of_the_one_before(tmp_path, monkeypatch):
    data, run = write_dataset(tmp_path / "data", n=3), tmp_path / "run"
    plan(data, run)
    prepare, prepared = preparation.prepare_case, []

    def stop_after_one(job):
        if prepared:
            raise ResourceError("no space left on device", "cache")
        prepared.append(prepare(job))
        return prepared[0]

    monkeypatch.setattr(preparation, "prepare_case", stop_after_one)
    with pytest.raises(ResourceError):
        plan(data, run, Request(spacing="2"))
    now = read_record(run / "plan.json", Plan)
    with pytest.raises(RunError, match="not prepared"):
        load_cases(run / "cache" / "3d", ["case0", "case1", "case2"], now.configuration.preprocessing)


def said_of(data, **more):
    said = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps(said | more))


def test_regions_are_planned_where_their_order_is_given(tmp_path):
    data = write_dataset(tmp_path / "data", n=3)
    labels = {"background": 0, "whole": [1, 2], "lesion": 2}
    said_of(data, labels=labels)
    planned, notes = plan(data, tmp_path / "run")
    assert planned.plan.names == {1: "rest of whole", 2: "lesion"}
    assert planned.plan.regions == ()
    assert planned.plan.configuration.network.classes == 3
    assert any("regions (whole, lesion) are not trained as such, since no regions_class_order" in n for n in notes)
    said_of(data, regions_class_order=[1, 2])
    planned, notes = plan(data, tmp_path / "run")  # of the same cases, but not the same plan
    assert [region.name for region in planned.plan.regions] == ["whole", "lesion"]
    assert planned.plan.configuration.network.classes == 2
    assert not any("not trained" in note for note in notes)
    (told,) = [reason for reason in planned.plan.reasons if reason.topic == "data"]
    assert "2 regions (whole, lesion) out" in told.choice
    assert plan(data, tmp_path / "run")[0].plan == planned.plan


def test_a_structure_in_no_region_is_told_of(tmp_path):
    data = write_dataset(tmp_path / "data", n=3)
    labels = {"background": 0, "1": 1, "2": 2}
    said_of(data, labels=labels, regions={"outer": [1, 2], "2": [2]}, regions_class_order=[1, 2])
    assert not any("no region holds" in note for note in plan(data, tmp_path / "all")[1])
    said_of(data, labels=labels | {"3": 3}, regions={"outer": [2, 3], "3": [3]}, regions_class_order=[2, 3])
    assert any("no region holds them: 1" in note for note in plan(data, tmp_path / "part")[1])
    said_of(data, labels=labels, regions={"outer": [1, 2], "2": [2]}, regions_class_order=[1, 1])
    with pytest.raises(InputError, match="regions_class_order paints 2"):
        plan(data, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_voxels_that_nobody_labelled_have_a_class_of_their_own(tmp_path):
    data, run = write_dataset(tmp_path / "data", n=3), tmp_path / "run"
    said_of(data, labels={"background": 0, "blob": 1, "ignore": 2})
    planned, _ = plan(data, run)
    assert (planned.plan.ignore, planned.plan.names) == (2, {1: "blob"})
    assert planned.plan.configuration.network.classes == 2
    (told,) = [reason for reason in planned.plan.reasons if reason.topic == "data"]
    assert "value 2, which nobody labelled" in told.why
    (case,) = load_cases(run / "cache" / "3d", ["case0"], planned.plan.configuration.preprocessing)
    assert set(np.unique(case.classes_XYZ)) == {0, 1, 2}
    assert set(case.foreground) == {0, 1}
    assert set(case.classes_XYZ.reshape(-1)[case.foreground[0]]) == {0, 1}
    said_of(data, labels={"background": 0, "blob": 1, "other": 2})
    prepared, _ = plan(data, run)
    assert prepared.plan.ignore is None
    (case,) = load_cases(run / "cache" / "3d", ["case0"], prepared.plan.configuration.preprocessing)
    assert set(case.foreground) == {1, 2}  # prepared anew


def test_a_loss_and_weights_are_kept_in_every_configuration_and_told(tmp_path):
    data = write_dataset(tmp_path / "data", n=3)
    planned, _ = plan(data, tmp_path / "run", Request(loss="tversky", class_weights="lesion=4"))
    for made in planned.plan.configurations.values():
        assert (made.schedule.loss, made.schedule.class_weights) == ("tversky", (1, 1, 4))
        (told,) = [reason for reason in made.reasons if reason.topic == "loss"]
        assert told.choice == "Tversky of each patch + cross-entropy; weights background 1, liver 1, lesion 4"
        assert told.numbers["weight of lesion"] == 4
        assert "a missed voxel costs more" in told.why


def test_cases_of_a_patient_are_never_in_both_parts(tmp_path):
    data = write_dataset(tmp_path / "data", n=6)
    lines = [f"c{i},images/case{i}.nii.gz,labels/case{i}.nii.gz,Mueller {i // 2}" for i in range(6)]
    (data / "manifest.csv").write_text("\n".join(["case,image,label,patient", *lines]))
    run = tmp_path / "run"
    planned, _ = plan(data, run)
    assert planned.prepared == 6
    parts = read_record(run / "splits.json", Splits)
    assert len(parts.folds) == 3
    for fold in parts.folds:
        assert {name[1:] for name in fold.validation} in ({"0", "1"}, {"2", "3"}, {"4", "5"})
        assert len(fold.train) == 4
    for path in run.rglob("*.json"):
        assert "Mueller" not in path.read_text()
    before = times(run / "cache")
    plan(data, run)
    assert times(run / "cache") == before


def dicom(root: Path) -> Path:
    for i in range(3):
        volume = series(root / f"Mueller {i}" / "images", seed=i, patient=f"Mueller {i}")
        label(root / f"Mueller {i}" / "labels.dcm", volume, box())
    return root


def test_labelled_dicom_is_planned_and_its_names_are_kept_in_private(tmp_path):
    data, run = dicom(tmp_path / "data"), tmp_path / "run"
    planned, notes = plan(data, run)
    assert (planned.prepared, planned.failed, planned.plan.channels) == (3, {}, ("CT",))
    assert planned.plan.dataset == "dicom"
    kept = read_case_map(run)
    assert stat.S_IMODE((run / "case_map.json").stat().st_mode) == 0o600
    assert len(kept.cases) == 3
    assert all(name.startswith("case-") and len(case.paths) == 7 for name, case in kept.cases.items())
    for path in run.rglob("*.json"):
        if path.name != "case_map.json":
            assert "Mueller" not in path.read_text()
    assert not any("Mueller" in str(path.relative_to(run)) for path in run.rglob("*"))
    assert not any("Mueller" in note for note in notes)
    before = times(run)
    again, _ = plan(data, run)
    assert (again.plan, read_case_map(run)) == (planned.plan, kept)
    assert {name: t for name, t in times(run).items() if "cache" in name} == {
        name: t for name, t in before.items() if "cache" in name
    }


def test_rules_and_options_are_kept_in_the_plan(tmp_path):
    request = Request(series=("Modality=CT",), options=ReadOptions(allow_gaps=True))
    data = dicom(tmp_path / "data")
    planned, _ = plan(data, tmp_path / "run", request)
    assert planned.prepared == 3
    assert read_record(tmp_path / "run" / "plan.json", Plan).request == request
    with pytest.raises(InputError, match="rule"):
        plan(data, tmp_path / "other", Request(series=("nonsense",)))
    assert not (tmp_path / "other").exists()


def test_structures_that_share_voxels_are_warned_of(tmp_path):
    data = tmp_path / "data"
    for i in range(3):
        volume = series(data / f"{i}", seed=i)
        overlapping(data / f"{i}.dcm", volume, {1: box(at=2), 2: box(at=1)}, NAMES, "rtstruct")
    events = list(plan_dataset(data, tmp_path / "run", Request(), MACHINE))
    warned = [event.text for event in events if isinstance(event, Note) and event.warning]
    assert sum("[OVERLAP] liver loses 56% of its voxels to lesion" in text for text in warned) == 3


def test_structures_may_be_chosen(tmp_path):
    """An outline of the body that swallows all others is refused by its name, and left out on demand."""
    data, names = tmp_path / "data", {1: "liver", 2: "Left_Kidney", 3: "BODY"}
    body = np.ones((12, 10, 6), np.uint8)
    for i in range(3):
        volume = series(data / f"{i}", seed=i)
        overlapping(data / f"{i}.dcm", volume, {1: box(at=1), 2: box(at=5), 3: body}, names)
    with pytest.raises(InputError, match=r"3 of 3 cases .*belong to others as well, most to BODY.*--labels"):
        plan(data, tmp_path / "run")
    planned, notes = plan(data, tmp_path / "run", Request(labels=("Liver", "left kidney")))
    assert (planned.prepared, planned.plan.names) == (3, {1: "liver", 2: "Left_Kidney"})
    assert "left out, since --labels does not name them: BODY" in notes
    assert planned.plan.request.labels == ("Liver", "left kidney")


def test_values_that_were_renumbered_are_told(tmp_path):
    data = write_dataset(tmp_path / "data", n=2)
    labels = {"background": 0, "liver": 1, "lesion": 2, "far": 70_000}
    described = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps({**described, "labels": labels}))
    _, notes = plan(data, tmp_path / "run")
    assert "values that no label map can hold have others here: 70000 (far) is 3" in notes


# --- folds that the user gives ---------------------------------------------------------------------------------------


def folds_file(path: Path, *validation: str, n: int = 4) -> Path:
    """A fold for each name that is validated; the others are trained on."""
    names = [f"case{k}" for k in range(n)]
    path.write_text(json.dumps([{"train": [n for n in names if n != one], "val": [one]} for one in validation]))
    return path


def test_splits_final_beside_the_data_is_honoured_and_said(tmp_path):
    data, run = write_dataset(tmp_path / "data", n=4), tmp_path / "run"
    folds_file(data / "splits_final.json", "case2", "case0")
    planned, notes = plan(data, run)
    assert "folds: the 2 of splits_final.json" in notes
    assert any("validated in none of the given folds: case1, case3" in note for note in notes)
    assert planned.splits == read_record(run / "splits.json", Splits)
    assert [f.validation for f in planned.splits.folds] == [("case2",), ("case0",)]
    assert planned.splits.given
    assert planned.plan.request.splits != ""
    again, _ = plan(data, run)
    assert (again.plan, again.splits) == (planned.plan, planned.splits)
    (data / "splits_final.json").unlink()
    own, _ = plan(data, run)
    assert (len(own.splits.folds), own.splits.given, own.plan.request.splits) == (4, False, "")


def test_folds_may_be_named_and_win_over_those_beside_the_data(tmp_path):
    data = write_dataset(tmp_path / "data", n=4)
    folds_file(data / "splits_final.json", "case0")
    named = folds_file(tmp_path / "mine.json", "case1", "case2", "case3")
    planned, notes = plan(data, tmp_path / "run", folds=named)
    assert "folds: the 3 of mine.json" in notes
    assert len(planned.splits.folds) == 3


def test_folds_of_other_cases_are_refused_before_anything_is_written(tmp_path):
    data = write_dataset(tmp_path / "data", n=3)
    with pytest.raises(InputError, match=r"names 1 case\(s\) that the data set does not have: case3; take them out"):
        plan(data, tmp_path / "run", folds=folds_file(tmp_path / "mine.json", "case0"))
    with pytest.raises(InputError, match="there is no such file"):
        plan(data, tmp_path / "run", folds=tmp_path / "none.json")
    assert not (tmp_path / "run").exists()


def test_given_folds_lose_only_the_cases_that_are_set_aside(tmp_path):
    data = write_dataset(tmp_path / "data", n=4)
    cut_case = data / "images" / "case1.nii.gz"
    cut_case.write_bytes(cut_case.read_bytes()[:400])
    planned, _ = plan(data, tmp_path / "run", folds=folds_file(tmp_path / "mine.json", "case2"))
    (fold,) = planned.splits.folds
    assert (fold.train, fold.validation) == (("case0", "case3"), ("case2",))


# --- only what changed -----------------------------------------------------------------------------------------------


def prepared_cases(data: Path, run: Path, request: Request | None = None) -> list[str]:
    """Names of the cases that a plan prepared, in order of their progress."""
    names: list[str] | None = None
    for event in plan_dataset(data, run, request or Request(), MACHINE):
        if isinstance(event, Stage):
            names = [] if event.name == "prepare" else None
        elif isinstance(event, Advanced) and names is not None:
            names.append(event.what)
    return sorted(names or [])


def test_only_what_changed_is_prepared_again(tmp_path):
    data, run = write_dataset(tmp_path / "data", n=4), tmp_path / "run"
    assert prepared_cases(data, run) == ["case0", "case1", "case2", "case3"]
    assert prepared_cases(data, run) == []
    write_case(data, "case1", seed=9)
    write_case(data, "case4", seed=4)
    assert prepared_cases(data, run) == ["case1", "case4"]
    (run / "cache" / "3d" / "case2.safetensors").unlink()
    assert prepared_cases(data, run) == ["case2"]
    assert prepared_cases(data, run, Request(budget=Budget(seconds=60))) == []  # the scans are prepared as before
    assert len(prepared_cases(data, run, Request(spacing="2"))) == 5


def test_time_disk_and_memory_are_said_before_the_work(tmp_path):
    events = list(plan_dataset(write_dataset(tmp_path / "data", n=3), tmp_path / "run", Request(), MACHINE))
    look, prepare = (e.expect for e in events if isinstance(e, Stage))
    assert re.fullmatch(r"reading 3 cases, [\d.]+ MB, about 1 s on one core", look)
    assert re.fullmatch(r"for 3d: about 1 s on one core, [\d.]+ [MG]B of RAM a case, [\d.]+ [MG]B on disk", prepare)


@pytest.mark.parametrize("channel", ["CT", "MR"])
def test_the_disk_that_is_predicted_is_about_that_which_is_used(tmp_path, channel):
    data = write_dataset(tmp_path / "data", n=3, shape=(48, 40, 32), channels=(channel,))
    planned, _ = plan(data, tmp_path / "run")
    used = sum(p.stat().st_size for p in (tmp_path / "run" / "cache" / "3d").iterdir())
    assert planned.plan.configuration.cost.cache_gb * 1e9 == pytest.approx(used, rel=0.1 if channel == "CT" else 0.35)


def test_a_plan_of_another_medseg_is_made_anew(tmp_path):
    data, run = write_dataset(tmp_path / "data", n=3), tmp_path / "run"
    first, _ = plan(data, run)
    said = json.loads((run / "plan.json").read_text())
    (run / "plan.json").write_text(json.dumps({**said, "version": 1}))
    (run / "splits.json").write_text('{"old": 1}')
    second, notes = plan(data, run)
    assert any(note.startswith("the plan that is there is made anew: ") and "version 1" in note for note in notes)
    assert (second.plan, second.splits) == (first.plan, first.splits)
    (run / "plan.json").write_text("{")
    (run / "folds" / "3d" / "0").mkdir(parents=True)
    (run / "folds" / "3d" / "0" / "model.safetensors").touch()
    with pytest.raises(RunError, match="another plan"):
        plan(data, run)


def test_a_device_that_resamples_prepares_the_same_cases(tmp_path):
    """As on a GPU, in threads of this process; torch's CPU stands in for it."""
    data = write_dataset(tmp_path / "data", n=5)
    plan(data, tmp_path / "run")
    device = on_device(torch.device("cpu"))
    *_, planned = plan_dataset(data, tmp_path / "other", Request(), MACHINE, resampler=device)
    assert isinstance(planned, Planned)
    names, settings = [f"case{k}" for k in range(5)], planned.plan.configuration.preprocessing
    ours = load_cases(tmp_path / "run" / "cache" / "3d", names, settings)
    theirs = load_cases(tmp_path / "other" / "cache" / "3d", names, settings)
    for one, other in zip(ours, theirs, strict=True):
        assert np.array_equal(one.classes_XYZ, other.classes_XYZ)
        assert np.allclose(one.image_CXYZ, other.image_CXYZ, atol=2e-3)
    assert prepared_cases(data, tmp_path / "other") == []


def test_a_device_works_in_threads_of_this_process_a_processor_does_not():
    here, at_once, *_ = preparation._workers(20, 1000.0, 1e6, on_device(torch.device("cpu")), HERE)
    assert isinstance(here, ThreadPoolExecutor)
    assert at_once == preparation.GPU_READERS
    few, at_once, *_ = preparation._workers(20, 1000.0, 1e15, on_device(torch.device("cpu")), HERE)
    assert at_once == 1
    elsewhere, *_ = preparation._workers(2, 0.1, 1e6, ON_CPU, HERE)
    assert isinstance(elsewhere, InPlace)
    for executor in (here, few, elsewhere):
        executor.shutdown()
