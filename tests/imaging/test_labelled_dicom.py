from __future__ import annotations

import pickle  # noqa: TID251  it is how values reach worker processes
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.errors import GeometryError, InputError
from medseg.imaging.dataset import Dataset, find_dataset, is_dataset, read_case
from medseg.imaging.labelled_dicom import is_labelled_dicom
from medseg.imaging.naming import dicom_name
from medseg.imaging.source import ReadOptions
from tests.imaging.build import some_image, some_label, write_nifti
from tests.imaging.labelled_build import AFFINE, NAMES, box, forget, in_study_of, label, overlapping, series

KEY = b"a key of the tests"


def found(root: Path, *rules: str, **options: Any) -> Dataset:
    return find_dataset(root, KEY, ReadOptions(**options), rules)


def refused(root: Path, *rules: str) -> str:
    with pytest.raises(InputError) as caught:
        found(root, *rules)
    assert "ller" not in str(caught.value)
    return str(caught.value)


def two(root: Path, kind: Any = "seg") -> Path:
    """Two patients, in folders of their names."""
    for i, name in enumerate(("Müller", "Weiß")):
        volume = series(root / name / "CT", seed=i, patient=name)
        label(root / name / "labels" / f"{name}.dcm", volume, box(1 + i), kind=kind)
    return root


@pytest.mark.parametrize("kind", ["seg", "labelmap", "rtstruct"])
def test_every_label_object_with_its_volume(tmp_path: Path, kind: Any) -> None:
    dataset = found(two(tmp_path, kind))
    assert (dataset.name, dataset.layout, dataset.channels, dataset.left) == ("dicom", "dicom", ("CT",), ())
    assert dataset.labels == {1: "liver", 2: "lesion"}
    assert len(dataset.cases) == 2
    for case in dataset.cases:
        volume = case.images[0].dicom
        assert volume is not None
        assert case.name == dicom_name(KEY, volume.series_uid)
        assert case.patient == dicom_name(KEY, volume.patient_id, "patient")
        assert len(case.files) == 7
        (reading,), labels, _ = read_case(case, dataset)
        assert labels.grid is reading.volume.grid
        structure = "liver" if volume.patient_id == "Müller" else "lesion"
        assert [dataset.labels[value] for value in labels.present] == [structure]
        drawn = box() > 0
        assert np.count_nonzero(drawn != (labels.array > 0)) <= (0 if kind != "rtstruct" else 2)
    told = " ".join([*(case.name + case.patient for case in dataset.cases), *dataset.labels.values()])
    assert "ller" not in told
    crossed = pickle.loads(pickle.dumps(dataset))  # noqa: S301  it crosses to worker processes
    assert crossed.cases[0].files == dataset.cases[0].files


def test_is_labelled_dicom(tmp_path: Path) -> None:
    root = two(tmp_path / "a")
    assert is_dataset(root)
    for path in root.rglob("labels/*"):
        path.unlink()
    assert not is_labelled_dicom(root)
    assert refused(root).startswith("the DICOM given: holds no SEG or RTSTRUCT")
    volume = series(tmp_path / "b")
    label(tmp_path / "c" / "x.dcm", volume, box())
    assert not is_labelled_dicom(tmp_path / "c")


def test_images_and_labels_may_be_the_names_of_folders(tmp_path: Path) -> None:
    volume = series(tmp_path / "images" / "p")
    label(tmp_path / "labels" / "p.dcm", volume, box())
    assert found(tmp_path).layout == "dicom"


def test_one_structure_may_be_spelt_in_several_ways(tmp_path: Path) -> None:
    for i, names in enumerate([{1: "Liver", 2: "Left_Kidney"}, {1: "left kidney", 3: " LIVER "}]):
        volume = series(tmp_path / str(i), seed=i)
        array = box(1) if i else box(2)
        label(tmp_path / f"{i}.dcm", volume, array, names)
    dataset = found(tmp_path)
    assert dataset.labels == {1: "Left_Kidney", 2: "LIVER"}
    for case in dataset.cases:
        assert read_case(case, dataset)[1].present == (1,)


def test_several_objects_may_label_one_volume(tmp_path: Path) -> None:
    volume = series(tmp_path / "CT")
    label(tmp_path / "a.dcm", volume, box(1, at=1), {1: "liver"})
    label(tmp_path / "b.dcm", volume, box(1, at=5), {1: "lesion"})
    dataset = found(tmp_path)
    (case,) = dataset.cases
    assert len(case.files) == 8
    _, labels, _ = read_case(case, dataset)
    assert dataset.labels == {1: "lesion", 2: "liver"}
    np.testing.assert_array_equal(labels.array, box(2, at=1) + box(1, at=5))
    label(tmp_path / "b.dcm", volume, box(1, at=3), {1: "lesion"})
    with pytest.raises(InputError, match="OVERLAP"):
        read_case(case, dataset)
    label(tmp_path / "b.dcm", volume, box(1, at=5), {1: "Liver"})
    assert "2 label objects of it hold liver; keep one" in refused(tmp_path)


def test_a_volume_without_a_label_is_left(tmp_path: Path) -> None:
    volume = series(two(tmp_path) / "other", seed=7)
    write_nifti(tmp_path / "notes.nii.gz", some_image())
    left = {one.where: one for one in found(tmp_path).left}
    assert left[dicom_name(KEY, volume.series_uid)].reason == "has no label"
    assert left["notes"].reason == "is no DICOM"
    assert not any(one.broken for one in left.values())


@pytest.mark.parametrize("kind", ["seg", "rtstruct"])
def test_wrong_references_are_overcome_by_place(tmp_path: Path, kind: Any) -> None:
    volume = series(tmp_path / "CT")
    higher = AFFINE.copy()
    higher[2, 3] += 1000
    series(tmp_path / "far", seed=1, affine=higher, **in_study_of(volume))
    path = label(tmp_path / "a.dcm", volume, box(), kind=kind)
    forget(path, "ReferencedSOPInstanceUID", "SeriesInstanceUID")
    dataset = found(tmp_path)
    (case,) = dataset.cases
    assert case.name == dicom_name(KEY, volume.series_uid)
    assert dataset.labels[1] == "liver"
    assert read_case(case, dataset)[1].present == (1,)


def test_what_fits_several_volumes_is_a_choice(tmp_path: Path) -> None:
    volume = series(tmp_path / "CT")
    other = series(tmp_path / "MR", seed=1, modality="MR", **in_study_of(volume))
    path = label(tmp_path / "a.dcm", volume, box())
    forget(path, "ReferencedSOPInstanceUID", "SeriesInstanceUID")
    assert "[CHOOSE] 2 volumes fit it" in refused(tmp_path)
    dataset = found(tmp_path, "Modality=MR")
    (case,) = dataset.cases
    assert (case.name, dataset.channels) == (dicom_name(KEY, other.series_uid), ("MR",))


def test_what_fits_no_volume_is_left(tmp_path: Path) -> None:
    volume = series(two(tmp_path) / "other", seed=5)
    path = label(tmp_path / "a.dcm", volume, box())
    forget(path, "ReferencedSOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
    left = [one for one in found(tmp_path).left if one.broken]
    assert [(one.where, one.reason) for one in left] == [("SEG 3", "no volume fits it")]


def test_a_label_names_one_phase_of_a_series(tmp_path: Path) -> None:
    """The images that a SEG names decide which volume of a series it labels."""
    first = series(tmp_path / "one", AcquisitionNumber=1)
    values = {"SeriesInstanceUID": first.series_uid, **in_study_of(first)}
    series(tmp_path / "two", seed=1, AcquisitionNumber=2, **values)
    label(tmp_path / "a.dcm", first, box())
    dataset = found(tmp_path)
    (case,) = dataset.cases
    volume = case.images[0].dicom
    assert volume is not None
    assert volume.of == 2
    assert case.name == dicom_name(KEY, f"{volume.series_uid}/{volume.number}")
    assert {frame.uid for frame in volume.frames} == {frame.uid for frame in first.frames}


def test_a_refused_volume_is_a_failed_case(tmp_path: Path) -> None:
    two(tmp_path)
    volume = series(tmp_path / "third", seed=3, shape=(12, 10, 9))
    label(tmp_path / "third.dcm", volume, box(shape=(12, 10, 9)))
    volume.paths[5].unlink()
    dataset = found(tmp_path)
    (left,) = dataset.left
    assert (len(dataset.cases), left.where, left.broken) == (2, dicom_name(KEY, volume.series_uid), True)
    assert left.reason.startswith("[GAP]")
    dataset = found(tmp_path, allow_gaps=True)
    assert len(dataset.cases) == 3
    case = next(case for case in dataset.cases if case.name == left.where)
    (reading,), labels, _ = read_case(case, dataset)
    assert reading.volume.grid.shape == labels.grid.shape == (12, 10, 9)


def test_a_damaged_label_object_is_left(tmp_path: Path) -> None:
    root = two(tmp_path)
    path = next((root / "Müller" / "labels").iterdir())
    path.write_bytes(path.read_bytes()[:700])
    dataset = found(root)
    assert len(dataset.cases) == 1
    assert [(one.where, one.broken) for one in dataset.left if one.where.startswith("SEG")] == [("SEG 1", True)]


def with_two_channels(root: Path, **second: Any) -> None:
    for i in range(2):
        ct = series(root / f"{i}" / "ct", seed=i, patient=f"P{i}")
        values = {**in_study_of(ct), **second}
        affine = values.pop("affine", AFFINE)
        series(root / f"{i}" / "mr", seed=9 + i, modality="MR", patient=f"P{i}", affine=affine, **values)
        label(root / f"{i}" / "seg.dcm", ct, box())


RULES = ("Modality=CT", "Modality=MR")


def test_rules_pick_the_channels_of_each_study(tmp_path: Path) -> None:
    with_two_channels(tmp_path)
    dataset = found(tmp_path, *RULES)
    assert (dataset.channels, len(dataset.cases), dataset.left) == (("CT", "MR"), 2, ())
    for case in dataset.cases:
        readings, labels, _ = read_case(case, dataset)
        assert [source.dicom.modality for source in case.images if source.dicom] == ["CT", "MR"]
        assert readings[1].volume.grid is readings[0].volume.grid or readings[1].notes == ()
        np.testing.assert_array_equal(labels.array > 0, box() > 0)
    assert found(tmp_path, *reversed(RULES)).channels == ("MR", "CT")
    assert "no condition of a selection rule" in refused(tmp_path, "Modality=CT", "MR")


def test_a_channel_on_another_grid_is_brought_onto_the_first(tmp_path: Path) -> None:
    finer = AFFINE.copy()
    finer[:3, :3] *= 1.25
    with_two_channels(tmp_path, affine=finer)
    dataset = found(tmp_path, *RULES)
    readings, _, _ = read_case(dataset.cases[0], dataset)
    assert readings[1].volume.grid.agrees(readings[0].volume.grid)
    assert any("interpolated linearly onto the grid of channel 0" in note for note in readings[1].notes)


def test_channels_of_different_spaces_are_refused(tmp_path: Path) -> None:
    with_two_channels(tmp_path, FrameOfReferenceUID="1.2.3")
    dataset = found(tmp_path, *RULES)
    with pytest.raises(GeometryError, match="FRAME_OF_REFERENCE"):
        read_case(dataset.cases[0], dataset)


def test_a_label_drawn_on_another_volume_of_the_space_is_brought_onto_the_first_channel(tmp_path: Path) -> None:
    ct = series(tmp_path / "ct")
    coarser = AFFINE.copy()
    coarser[:3, :2] *= 2
    mr = series(tmp_path / "mr", seed=1, modality="MR", affine=coarser, shape=(6, 5, 6), **in_study_of(ct))
    label(tmp_path / "seg.dcm", mr, some_label(1, (6, 5, 6)))
    dataset = found(tmp_path, *RULES)
    _, labels, _ = read_case(dataset.cases[0], dataset)
    assert labels.grid.shape == (12, 10, 6)
    assert np.count_nonzero(labels.array) == pytest.approx(4 * np.count_nonzero(some_label(1, (6, 5, 6))), rel=0.3)


def test_every_volume_of_its_own(tmp_path: Path) -> None:
    dataset = found(two(tmp_path), "all")
    assert (len(dataset.cases), NAMES[2] in dataset.labels.values()) == (2, True)


BODY = np.ones((12, 10, 6), np.uint8)


@pytest.mark.parametrize("kind", ["seg", "rtstruct"])
def test_structures_that_share_voxels(tmp_path: Path, kind: Any) -> None:
    """The later one counts: what the others lose is told, and that they are lost altogether refused."""
    for i, at in enumerate((1, 2)):
        volume = series(tmp_path / f"{i}", seed=i)
        arrays = {1: box(at=2), 2: box(at=at)}
        overlapping(tmp_path / f"{i}.dcm", volume, arrays, NAMES, kind)
    dataset = found(tmp_path)
    partly, wholly = sorted(dataset.cases, key=lambda case: str(case.files[-1]))
    notes = read_case(partly, dataset)[2]
    assert "[OVERLAP] liver loses 56% of its voxels to lesion" in notes
    with pytest.raises(InputError) as caught:
        read_case(wholly, dataset)
    assert str(caught.value) == (
        f"{wholly.name}: [OVERLAP] all voxels of its structure liver belong to others as well, most to lesion, which "
        "count; leave lesion out: name the structures that are wanted with --labels"
    )


@pytest.mark.parametrize("kind", ["seg", "rtstruct"])
def test_some_structures(tmp_path: Path, kind: Any) -> None:
    volume = series(tmp_path / "0")
    names = {1: "liver", 2: "lesion", 3: "BODY"}
    overlapping(tmp_path / "0.dcm", volume, {1: box(at=1), 2: box(at=5), 3: BODY}, names, kind)
    label(tmp_path / "1.dcm", series(tmp_path / "1", seed=1), box(), {1: "spleen"})
    with pytest.raises(InputError, match="OVERLAP"):
        read_case(next(case for case in found(tmp_path).cases if "0.dcm" in str(case.files)), found(tmp_path))
    dataset = find_dataset(tmp_path, KEY, labels=["Liver", "LESION"])
    assert set(dataset.labels.values()) == {"liver", "lesion"}
    assert set(dataset.not_wanted) == {"BODY", "spleen"}
    (case,), (left,) = dataset.cases, dataset.left
    assert (left.reason, left.broken) == ("its label names none of the structures that are wanted", False)
    _, labels, notes = read_case(case, dataset)
    assert (labels.present, notes) == (tuple(dataset.labels), ())
    assert np.count_nonzero(labels.array) == np.count_nonzero(box(at=1)) + np.count_nonzero(box(at=5))


def test_two_objects_may_both_hold_what_is_not_wanted(tmp_path: Path) -> None:
    volume = series(tmp_path / "CT")
    label(tmp_path / "a.dcm", volume, box(1, at=1) + 2 * box(1, at=5), {1: "liver", 2: "BODY"})
    label(tmp_path / "b.dcm", volume, box(1, at=5), {1: "BODY"})
    assert "hold body; keep one" in refused(tmp_path)
    dataset = find_dataset(tmp_path, KEY, labels=["liver"])
    (case,) = dataset.cases
    np.testing.assert_array_equal(read_case(case, dataset)[1].array > 0, box(1, at=1) > 0)
