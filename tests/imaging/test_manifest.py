from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.errors import InputError
from medseg.imaging.dataset import Dataset, find_dataset, is_dataset, read_case
from tests.imaging.build import some_image, some_label, write_json, write_nifti
from tests.imaging.labelled_build import box, label, series

KEY = b"a key of the tests"


def files(root: Path, n: int = 2, channels: int = 1) -> Path:
    for i in range(n):
        for c in range(channels):
            write_nifti(root / "scans" / f"p{i}" / f"c{c}.nii.gz", some_image(10 * i + c))
        write_nifti(root / "drawn" / f"{i}.nii.gz", some_label(1 + i))
    return root


def csv(root: Path, *lines: str) -> Path:
    path = root / "manifest.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return path


def plain(root: Path) -> Path:
    lines = [f"{name},scans/p{i}/c0.nii.gz,drawn/{i}.nii.gz" for i, name in enumerate(("one", "two"))]
    return csv(root, "case,image,label", *lines)


def found(path: Path) -> Dataset:
    return find_dataset(path, KEY)


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        found(path)
    return str(caught.value)


def test_a_manifest_in_the_folder_or_by_itself(tmp_path: Path) -> None:
    path = plain(files(tmp_path / "some"))
    assert is_dataset(path)
    assert is_dataset(path.parent)
    dataset = found(path)
    assert (dataset.layout, dataset.name, dataset.channels) == ("manifest", "some", ("0",))
    assert dataset.labels == {1: "1", 2: "2"}
    assert [(case.name, case.patient) for case in dataset.cases] == [("one", "one"), ("two", "two")]
    assert [case.files for case in found(path.parent).cases] == [case.files for case in dataset.cases]
    (reading,), label, _ = read_case(dataset.cases[1], dataset)
    np.testing.assert_array_equal(reading.volume.array, some_image(10))
    np.testing.assert_array_equal(label.array, some_label(2))
    other = path.rename(path.with_name("my cases.csv"))
    assert found(other).name == "my cases"
    assert not is_dataset(path.parent)


def test_columns_in_any_order_case_and_with_semicolons(tmp_path: Path) -> None:
    files(tmp_path, channels=2)
    csv(
        tmp_path,
        "Label;Case ;age; IMAGE_1;image_0;patient",
        "drawn/0.nii.gz;one;70;scans/p0/c1.nii.gz;scans/p0/c0.nii.gz;Müller",
        "drawn/1.nii.gz;two;71;scans/p1/c1.nii.gz;scans/p1/c0.nii.gz;Müller",
        ";;;;;",
    )
    dataset = found(tmp_path)
    assert [source.paths[0].name for source in dataset.cases[0].images] == ["c0.nii.gz", "c1.nii.gz"]
    one, two = (case.patient for case in dataset.cases)
    assert one == two
    assert one.startswith("patient-")
    assert "ller" not in one
    assert find_dataset(tmp_path, b"another key").cases[0].patient != one


def test_json_may_name_everything(tmp_path: Path) -> None:
    files(tmp_path, channels=2)
    cases = [
        {"case": f"s{i}", "image": [f"scans/p{i}/c{c}.nii.gz" for c in range(2)], "label": f"drawn/{i}.nii.gz"}
        for i in range(2)
    ]
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    write_json(tmp_path / "manifest.json", {"cases": cases, "labels": labels, "channel_names": ["T1", "T2"]})
    dataset = found(tmp_path)
    assert (dataset.channels, dataset.ignore) == (("T1", "T2"), 3)
    assert dataset.labels == {1: "rest of whole", 2: "core"}
    assert dataset.regions == {"whole": (1, 2), "core": (2,)}
    write_json(tmp_path / "manifest.json", cases)
    assert (found(tmp_path).channels, found(tmp_path).labels) == (("0", "1"), {1: "1", 2: "2"})


def test_a_dataset_json_beside_a_table_names_labels_and_channels(tmp_path: Path) -> None:
    plain(files(tmp_path))
    write_json(tmp_path / "dataset.json", {"channel_names": ["CT"], "labels": {"background": 0, "a": 1, "b": 2}})
    assert (found(tmp_path).channels, found(tmp_path).labels) == (("CT",), {1: "a", 2: "b"})


def test_paths_may_be_absolute_and_one_file_may_hold_all_channels(tmp_path: Path) -> None:
    write_nifti(tmp_path / "elsewhere" / "x.nii.gz", np.stack([some_image(0), some_image(1)], axis=-1))
    write_nifti(tmp_path / "elsewhere" / "y.nii.gz", some_label())
    case = {"case": "one", "image": str(tmp_path / "elsewhere/x.nii.gz"), "label": "../elsewhere/y.nii.gz"}
    path = write_json(tmp_path / "here" / "manifest.json", {"cases": [case], "channel_names": {"0": "a", "1": "b"}})
    dataset = found(path)
    readings, _, _ = read_case(dataset.cases[0], dataset)
    np.testing.assert_array_equal(readings[1].volume.array, some_image(1))


@pytest.mark.parametrize(
    ("line", "expected", "broken"),
    [
        ("x,scans/p0/none.nii.gz,drawn/0.nii.gz", "[NOT_FOUND] an image of it is missing", True),
        ("x,scans/p0/c0.nii.gz,drawn/none.nii.gz", "[NOT_FOUND] its label is missing", True),
        ("x,scans/p0/c0.nii.gz,", "has no label", False),
        ("x,scans/p0/c0.nii.gz,notes.txt", "neither a volume file nor DICOM SEG or RTSTRUCT", True),
        ("x,notes.txt,drawn/0.nii.gz", "neither a volume file nor DICOM", True),
        ("x,empty,drawn/0.nii.gz", "holds no volume", True),
    ],
)
def test_a_case_that_cannot_be_used_is_left(tmp_path: Path, line: str, expected: str, broken: bool) -> None:
    path = plain(files(tmp_path))
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "empty").mkdir()
    path.write_text(path.read_text(encoding="utf-8-sig") + line + "\n")
    dataset = found(tmp_path)
    assert len(dataset.cases) == 2
    (left,) = dataset.left
    assert (left.where, left.broken) == ("x", broken)
    assert expected in left.reason


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["case,picture,label", "a,b,c"], "gives the case a no image"),
        (["image,label", "b,c"], "a case has no name"),
        (["case,image,label", "a,b,c", "a,d,e"], "lists the case a twice"),
        (["case,image,label", "../a,b,c"], "which no file can be called"),
        (["case,image,label", ".a,b,c"], "which no file can be called"),
        (["case,image_0,image_2,label", "a,b,c,d"], "gives the case a no image"),
        (["case,image,label"], "holds no labelled case"),
    ],
)
def test_a_broken_table_is_refused(tmp_path: Path, lines: list[str], expected: str) -> None:
    assert expected in refused(csv(tmp_path, *lines))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("{", "no list of cases"),
        ({"labels": {"a": 1}}, "no list of cases"),
        ([1], "no object with case"),
        ([{"case": 1, "image": "a", "label": "b"}], "no object with case"),
        ([{"case": "a", "image": [1], "label": "b"}], "gives the case a no image"),
        ({"cases": [], "labels": {"a": 1, "b": 1}}, "share a number"),
        ({"cases": [], "channel_names": {"1": "CT"}}, "numbered 1"),
    ],
)
def test_broken_json_is_refused(tmp_path: Path, said: Any, expected: str) -> None:
    assert expected in refused(write_json(tmp_path / "manifest.json", said))


def test_two_manifests_are_refused(tmp_path: Path) -> None:
    plain(files(tmp_path))
    write_json(tmp_path / "manifest.json", [])
    assert "name the one that counts" in refused(tmp_path)


def test_a_label_that_cannot_be_read_is_left_where_nothing_names_values(tmp_path: Path) -> None:
    plain(files(tmp_path))
    (tmp_path / "drawn" / "0.nii.gz").write_bytes(b"cut")
    dataset = found(tmp_path)
    assert [case.name for case in dataset.cases] == ["two"]
    assert [(left.where, left.broken) for left in dataset.left] == [("one", True)]


def dicom(root: Path) -> Path:
    for i in range(2):
        volume = series(root / f"series {i}", seed=i, patient=f"Mueller {i}")
        label(root / f"{i}.dcm", volume, box(1 + i), kind="rtstruct" if i else "seg")
    return csv(root, "case,image,label", "one,series 0,0.dcm", "two,series 1,1.dcm")


def test_series_and_label_objects(tmp_path: Path) -> None:
    dicom(tmp_path)
    dataset = found(tmp_path)
    assert (dataset.layout, dataset.labels, dataset.left) == ("manifest", {1: "liver", 2: "lesion"}, ())
    assert [case.name for case in dataset.cases] == ["one", "two"]
    assert all(case.patient.startswith("patient-") for case in dataset.cases)
    for case, structure in zip(dataset.cases, ("liver", "lesion"), strict=True):
        (reading,), labels, _ = read_case(case, dataset)
        assert [labels.names[value] for value in labels.present] == [structure]
        assert labels.grid is reading.volume.grid
        assert len(case.files) == 7


def test_names_bring_files_and_label_objects_together(tmp_path: Path) -> None:
    path = dicom(tmp_path)
    files(tmp_path, 1)
    path.write_text(path.read_text(encoding="utf-8-sig") + "three,scans/p0/c0.nii.gz,drawn/0.nii.gz\n")
    assert "some labels name their structures" in refused(tmp_path)
    write_json(tmp_path / "dataset.json", {"labels": {"background": 0, "Lesion": 7, "LIVER": 1}})
    dataset = found(tmp_path)
    assert dataset.labels == {1: "LIVER", 7: "Lesion"}
    assert [read_case(case, dataset)[1].present for case in dataset.cases] == [(1,), (7,), (1,)]
    write_json(tmp_path / "dataset.json", {"labels": {"background": 0, "liver": 1}})
    dataset = found(tmp_path)
    assert [case.name for case in dataset.cases] == ["three"]
    assert {left.where: left.reason for left in dataset.left} == dict.fromkeys(
        ("one", "two"), "[UNKNOWN_VALUE] its label names lesion, which the dataset does not"
    )


def test_a_folder_of_several_volumes_is_a_choice(tmp_path: Path) -> None:
    dicom(tmp_path)
    series(tmp_path / "series 0" / "more", seed=9)
    dataset = found(tmp_path)
    (left,) = dataset.left
    assert (left.where, left.broken, len(dataset.cases)) == ("one", True, 1)
    assert left.reason.startswith("[CHOOSE] an image of it holds 2 DICOM volumes: DICOM CT series 1, 6 images; ")
    assert left.reason.endswith("name the folder of one, or pick one with --series RULE")


def test_a_rule_picks_among_the_volumes_of_a_folder(tmp_path: Path) -> None:
    dicom(tmp_path)
    series(tmp_path / "series 0" / "more", seed=9, modality="MR")
    dataset = find_dataset(tmp_path, KEY, series=["Modality=CT"])
    assert (len(dataset.cases), dataset.left) == (2, ())
    assert [case.images[0].dicom.modality for case in dataset.cases if case.images[0].dicom] == ["CT", "CT"]
    dataset = find_dataset(tmp_path, KEY, series=["Modality=MR"])
    reasons = {left.where: left.reason for left in dataset.left}
    assert [case.name for case in dataset.cases] == ["one"]
    assert "holds 1 DICOM volumes, of which 0 fit the rule" in reasons["two"]
    with pytest.raises(InputError, match="given 2 time"):
        find_dataset(tmp_path, KEY, series=["Modality=CT", "Modality=MR"])


def test_a_rule_for_files_is_of_no_use(tmp_path: Path) -> None:
    plain(files(tmp_path))
    with pytest.raises(InputError, match="lists no DICOM to select from"):
        find_dataset(tmp_path, KEY, series=["Modality=CT"])
