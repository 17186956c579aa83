"""Every fault that the check of a data set looks for, planted in a copy of the sample data: found by case and code."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medseg.events import Note, Stage
from medseg.files import read_record
from medseg.imaging.dataset import find_dataset, read_case
from medseg.imaging.finding import Finding
from medseg.imaging.grid import Grid, closest_axes
from medseg.imaging.inspect import Inspected
from medseg.imaging.nifti import read_labels, read_volume, write_labels, write_volume
from medseg.imaging.volume import LabelMap, Volume
from medseg.parallel import Done, local_executor, over_cases
from medseg.pipeline import steps
from medseg.planning.checks.check import check_cases, failure
from medseg.planning.cost import Machine, Measured
from medseg.planning.dataset import plan_dataset
from medseg.planning.fingerprint import Fingerprint, FingerprintJob, fingerprint_case, fingerprint_of
from medseg.planning.plan import Request
from tests.conftest import ROOT

CLEAN = ROOT / "sample_data" / "train"
BAD, OTHER = "phantom_05", "phantom_03"
LIVER, KIDNEY, LESION = 1, 2, 3
Fault = Callable[[Path], None]


def by_inspect(data: Path, _: Path) -> list[Finding]:
    """What `medseg inspect` finds."""
    inspected = list(steps.inspect(data))[-1]
    assert isinstance(inspected, Inspected)
    assert inspected.inspection.checked
    return list(inspected.inspection.findings)


def by_plan(data: Path, cache: Path) -> list[Finding]:
    """What the look of `medseg plan` finds; what is looked at already is not read again."""
    dataset = find_dataset(data)
    jobs = [FingerprintJob(case, dataset, cache) for case in dataset.cases]
    results = list(over_cases(fingerprint_case, jobs, *local_executor(len(jobs), 0, 0)))
    looked = sorted((r.record for r in results if isinstance(r, Done)), key=lambda record: record.case)
    failed = [failure(r.case.case.name, r.reason) for r in results if not isinstance(r, Done)]
    failed += [failure(left.where, left.reason) for left in dataset.left if left.broken]
    return [*failed, *check_cases(looked, dataset.labels)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A copy of the sample data."""
    return Path(shutil.copytree(CLEAN, tmp_path / "data"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fingerprints")


# --- the faults ------------------------------------------------------------------------------------------------------


def image_of(data: Path, name: str = BAD) -> Path:
    return data / "imagesTr" / f"{name}.nii.gz"


def label_of(data: Path, name: str = BAD) -> Path:
    return data / "labelsTr" / f"{name}.nii.gz"


def new_image(data: Path, change: Callable[[NDArray[Any]], NDArray[Any]], affine: NDArray[Any] | None = None) -> None:
    volume = read_volume(image_of(data))
    array = change(np.array(volume.array)).astype(np.float32)
    write_volume(image_of(data), Volume(array, Grid(array.shape, volume.grid.affine if affine is None else affine)))


def new_label(data: Path, change: Callable[[NDArray[Any]], NDArray[Any]], affine: NDArray[Any] | None = None) -> None:
    labels = read_labels(label_of(data))
    array = change(np.array(labels.array)).astype(np.uint8)
    grid = Grid(array.shape, labels.grid.affine if affine is None else affine)
    write_labels(label_of(data), LabelMap(array, grid, {}))


def same(array: NDArray[Any]) -> NDArray[Any]:
    return array


def mirrored(data: Path) -> Callable[[NDArray[Any]], NDArray[Any]]:
    axes = closest_axes(read_volume(image_of(data)).grid.affine)
    return lambda array: np.flip(array, [world for world, _ in axes].index(0))


def truncated_image(data: Path) -> None:
    image_of(data).write_bytes(image_of(data).read_bytes()[:20_000])


def truncated_label(data: Path) -> None:
    label_of(data).write_bytes(label_of(data).read_bytes()[:-20])


def damaged_image(data: Path) -> None:
    stored = bytearray(gzip.decompress(image_of(data).read_bytes()))
    packed = bytearray(gzip.compress(bytes(stored)))
    packed[-6] ^= 1  # the checksum
    image_of(data).write_bytes(packed)


def other_shape(data: Path) -> None:
    new_label(data, lambda label: label[:, :, :-1])


def other_place(data: Path) -> None:
    affine = read_labels(label_of(data)).grid.affine.copy()
    affine[:3, 3] += 10
    new_label(data, same, affine)


def unknown_value(data: Path) -> None:
    new_label(data, lambda label: np.where(label == LESION, 9, label))


def lost_image(data: Path) -> None:
    image_of(data).unlink()


def same_scan(data: Path) -> None:
    shutil.copy(image_of(data, OTHER), image_of(data))
    shutil.copy(label_of(data, OTHER), label_of(data))


def same_scan_labelled_anew(data: Path) -> None:
    same_scan(data)

    def one_voxel_less(label: NDArray[Any]) -> NDArray[Any]:
        label[tuple(np.argwhere(label == LESION)[0])] = LIVER
        return label

    new_label(data, one_voxel_less)


def same_scan_stored_otherwise(data: Path) -> None:
    """As float, with axes in another order."""
    volume, labels = read_volume(image_of(data, OTHER)), read_labels(label_of(data, OTHER))
    affine = volume.grid.affine[:, [2, 0, 1, 3]]
    grid = Grid(volume.array.transpose(2, 0, 1).shape, affine)
    write_volume(image_of(data), Volume(volume.array.transpose(2, 0, 1).astype(np.float32), grid))
    write_labels(label_of(data), LabelMap(labels.array.transpose(2, 0, 1), grid, {}))


def same_scan_mirrored(data: Path) -> None:
    """As augmentation leaves it: the label as well, so that left and right are swapped besides."""
    same_scan(data)
    turn = mirrored(data)
    new_image(data, turn)
    new_label(data, turn)


def label_of_another_scan(data: Path) -> None:
    same_scan(data)
    rng = np.random.default_rng(0)
    new_image(data, lambda image: rng.normal(40, 300, image.shape).clip(-1024, 1500))


def same_patient(data: Path) -> None:
    lines = ["case,image,label,patient"]
    for path in sorted((data / "imagesTr").iterdir()):
        name = path.name.removesuffix(".nii.gz")
        patient = "Mueller" if name in (BAD, OTHER) else ""
        lines.append(f"{name},imagesTr/{path.name},labelsTr/{path.name},{patient}")
    (data / "manifest.csv").write_text("\n".join(lines))


def empty_label(data: Path) -> None:
    new_label(data, np.zeros_like)


def stray(value: int, at: tuple[int, int, int] = (1, 1, 1)) -> Fault:
    def plant(data: Path) -> None:
        def put(label: NDArray[Any]) -> NDArray[Any]:
            label[at] = value
            return label

        new_label(data, put)

    return plant


def swapped_sides(data: Path) -> None:
    turn = mirrored(data)
    new_image(data, turn)
    new_label(data, turn)


def swapped_label(data: Path) -> None:
    new_label(data, mirrored(data))


def no_intercept(data: Path) -> None:
    new_image(data, lambda image: image + 1024)


def intercept_twice(data: Path) -> None:
    new_image(data, lambda image: image - 1024)


def no_slope(data: Path) -> None:
    new_image(data, lambda image: image * 4)


def for_looking_at(data: Path) -> None:
    new_image(data, lambda image: np.rint(np.clip((image + 160) / 400, 0, 1) * 255))


def lost_spacing(data: Path) -> None:
    affine = read_volume(image_of(data)).grid.affine.copy()
    affine[:3, :3] /= np.linalg.norm(affine[:3, :3], axis=0)
    new_image(data, same, affine)
    new_label(data, same, affine)


def small_scan(data: Path) -> None:
    new_image(data, lambda image: image[:, :, 6:15])
    new_label(data, lambda label: label[:, :, 6:15])


def small_structure(data: Path) -> None:
    def cut(label: NDArray[Any]) -> NDArray[Any]:
        middle = np.argwhere(label == LIVER).mean(axis=0)
        away = np.linalg.norm(np.indices(label.shape).T - middle, axis=-1).T
        return np.where((label == LIVER) & (away > 4), 0, label)

    new_label(data, cut)


# --- finding them ----------------------------------------------------------------------------------------------------

FAULTS: dict[Fault, tuple[str, str, str]] = {  # code, how bad, what its words tell
    truncated_image: ("truncated", "unusable", "cut short"),
    truncated_label: ("truncated", "unusable", "cut short"),
    damaged_image: ("truncated", "unusable", "damaged"),
    other_shape: ("shape", "unusable", "57, 43, 21"),
    other_place: ("affine", "unusable", "17.3 mm"),
    unknown_value: ("value", "unusable", "value(s) 9"),
    lost_image: ("missing", "unusable", "phantom_05.nii.gz"),
    same_scan: ("duplicate", "suspect", f"same voxels as {OTHER}, with the same label"),
    same_scan_labelled_anew: ("duplicate", "suspect", f"same voxels as {OTHER}, with another label"),
    same_scan_stored_otherwise: ("duplicate", "suspect", f"same voxels as {OTHER}, with the same label"),
    label_of_another_scan: ("duplicate", "suspect", f"same label as {OTHER}, but another scan"),
    empty_label: ("empty", "suspect", "empty"),
    stray(LIVER): ("stray", "suspect", "liver has 1 voxel(s)"),
    stray(KIDNEY): ("stray", "suspect", "kidney has 1 voxel(s)"),
    stray(LESION): ("stray", "suspect", "lesion has 1 voxel(s)"),
    swapped_sides: ("side", "suspect", "kidney on the left"),
    swapped_label: ("side", "suspect", "kidney on the left"),
    no_intercept: ("hu", "suspect", "intercept of -1024 was left out"),
    intercept_twice: ("hu", "suspect", "intercept of -1024 was applied twice"),
    no_slope: ("hu", "suspect", "slope was left out"),
    for_looking_at: ("hu", "suspect", "from 0 to 255"),
    lost_spacing: ("spacing", "suspect", "1 x 1 x 1 mm"),
    small_scan: ("size", "suspect", "head-foot"),
    small_structure: ("size", "suspect", "liver has"),
}


def names() -> Iterator[str]:
    for n, fault in enumerate(FAULTS):
        yield fault.__name__ if fault.__name__ != "plant" else f"stray{n}"


@pytest.mark.parametrize("look", [by_inspect, by_plan])
@pytest.mark.parametrize("fault", FAULTS, ids=names())
def test_a_planted_fault_is_found_by_name_and_nothing_else(
    data: Path, cache: Path, fault: Fault, look: Callable[[Path, Path], list[Finding]]
) -> None:
    fault(data)
    (finding,) = look(data, cache)
    code, how_bad, words = FAULTS[fault]
    assert (finding.case, finding.code, finding.how_bad) == (BAD, code, how_bad)
    assert words in finding.what
    assert finding.todo


@pytest.mark.parametrize("look", [by_inspect, by_plan])
def test_a_patient_with_several_cases_is_noted(
    data: Path, cache: Path, look: Callable[[Path, Path], list[Finding]]
) -> None:
    same_patient(data)
    (finding,) = look(data, cache)
    assert (finding.case, finding.code, finding.how_bad) == (OTHER, "patient", "note")
    assert BAD in finding.what
    assert "Mueller" not in finding.model_dump_json()


@pytest.mark.parametrize("look", [by_inspect, by_plan])
def test_a_scan_that_is_there_mirrored_is_both(
    data: Path, cache: Path, look: Callable[[Path, Path], list[Finding]]
) -> None:
    same_scan_mirrored(data)
    found = {finding.code: finding for finding in look(data, cache)}
    assert set(found) == {"duplicate", "side"}
    assert found["duplicate"].what == f"looks like {OTHER} mirrored"
    assert {finding.case for finding in found.values()} == {BAD}


@pytest.mark.parametrize("look", [by_inspect, by_plan])
def test_a_clean_copy_has_no_findings(data: Path, cache: Path, look: Callable[[Path, Path], list[Finding]]) -> None:
    assert look(data, cache) == []


def test_the_same_scan_under_two_patients_is_suspect_under_one_noted(data: Path) -> None:
    same_scan(data)
    assert [f.how_bad for f in by_inspect(data, data)] == ["suspect"]
    same_patient(data)
    assert [(f.code, f.how_bad) for f in by_inspect(data, data)] == [("patient", "note"), ("duplicate", "note")]


def test_several_faults_are_all_found_and_the_others_stay_clean(data: Path, cache: Path) -> None:
    truncated_image(data)
    shutil.copy(image_of(data, "phantom_01"), image_of(data, "phantom_02"))
    shutil.copy(label_of(data, "phantom_01"), label_of(data, "phantom_02"))
    found = [(f.case, f.code) for f in by_inspect(data, cache)]
    assert found == [(BAD, "truncated"), ("phantom_02", "duplicate")]
    assert found == [(f.case, f.code) for f in by_plan(data, cache)]


def test_planning_tells_of_every_finding_and_sets_aside_what_cannot_be_used(data: Path, tmp_path: Path) -> None:
    truncated_image(data)
    shutil.copy(image_of(data, "phantom_01"), image_of(data, "phantom_02"))
    shutil.copy(label_of(data, "phantom_01"), label_of(data, "phantom_02"))
    told = []
    for event in plan_dataset(data, tmp_path / "run", Request(), Machine(lambda *_: Measured(0.1, 1e9), lambda: 16e9)):
        if isinstance(event, Note):
            told.append(event.text)
        if isinstance(event, Stage) and event.name == "prepare":
            break  # the check comes before any long work
    assert any(text.startswith("set aside") and BAD in text for text in told)
    assert any(text.startswith("look at: phantom_02: holds the same voxels as phantom_01") for text in told)
    seen = read_record(tmp_path / "run" / "fingerprint.json", Fingerprint)
    assert len(seen.cases) == 11
    assert BAD not in {case.case for case in seen.cases}


@pytest.mark.slow
def test_two_hundred_real_scans_give_no_false_alarm_and_a_mirrored_one_is_found(
    real_data: Path, tmp_path: Path
) -> None:
    dataset = find_dataset(real_data / "hippocampus")
    looked = [fingerprint_case(FingerprintJob(case, dataset, tmp_path)) for case in dataset.cases]
    assert check_cases(looked, dataset.labels) == []
    readings, labels, notes = read_case(dataset.cases[7], dataset)
    grid = readings[0].volume.grid
    turned = replace(readings[0], volume=Volume(readings[0].volume.array[::-1], grid))
    looked[7] = fingerprint_of(dataset.cases[7], dataset, (turned,), labels, notes)
    (finding,) = check_cases(looked, dataset.labels)
    assert (finding.case, finding.code) == (dataset.cases[7].name, "side")
    assert "the scan looks mirrored" in finding.what
