from __future__ import annotations

import pickle  # noqa: TID251  it is how values reach worker processes
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.errors import InputError
from medseg.imaging.dataset import Case, case_digest, find_dataset, is_dataset, read_case
from medseg.imaging.grid import Grid
from medseg.imaging.itk import write_itk_volume
from medseg.imaging.volume import LabelMap, Volume
from medseg.imaging.writing.nrrd import write_seg_nrrd
from medseg.imaging.writing.result import Algorithm, Result
from tests.imaging.build import some_image, some_label, write_json, write_nifti

DECATHLON: dict[str, Any] = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver", "2": "lesion"}}
NNUNET: dict[str, Any] = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "liver": 1, "lesion": 2},
    "file_ending": ".nii.gz",
}


def decathlon(root: Path, n: int = 3, **said: Any) -> Path:
    listed = []
    for i in range(n):
        name = f"liver_{i}.nii.gz"
        write_nifti(root / "imagesTr" / name, some_image(i))
        write_nifti(root / "labelsTr" / name, some_label())
        listed.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    write_json(root / "dataset.json", {**DECATHLON, "training": listed, **said})
    return root


def nnunet(root: Path, n: int = 3, channels: int = 1, **said: Any) -> Path:
    for i in range(n):
        for c in range(channels):
            write_nifti(root / "imagesTr" / f"case_{i}_{c:04d}.nii.gz", some_image(i))
        write_nifti(root / "labelsTr" / f"case_{i}.nii.gz", some_label())
    write_json(root / "dataset.json", {**NNUNET, **said})
    return root


def folders(root: Path, n: int = 3, images: str = "images", labels: str = "labels") -> Path:
    for i in range(n):
        write_nifti(root / images / f"s{i}.nii.gz", some_image(i))
        write_nifti(root / labels / f"s{i}.nii.gz", some_label(3 + i))
    return root


def files(case: Case) -> list[str]:
    return [path.name for source in case.images for path in source.paths]


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        find_dataset(path)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_decathlon(tmp_path: Path) -> None:
    root = decathlon(tmp_path / "Task03")
    (root / "imagesTr" / "._liver_0.nii.gz").write_bytes(b"resource fork")
    dataset = find_dataset(root)
    assert (dataset.name, dataset.layout, dataset.channels) == ("Task03", "decathlon", ("CT",))
    assert dataset.labels == {1: "liver", 2: "lesion"}
    assert [case.name for case in dataset.cases] == ["liver_0", "liver_1", "liver_2"]
    assert dataset.cases[0].patient == "liver_0"
    assert dataset.left == ()
    crossed = pickle.loads(pickle.dumps(dataset))  # noqa: S301  it crosses to worker processes
    assert [case.files for case in crossed.cases] == [case.files for case in dataset.cases]


def test_nnunet_with_several_channels(tmp_path: Path) -> None:
    dataset = find_dataset(nnunet(tmp_path, channels=2, channel_names={"0": "T1", "1": "T2"}))
    assert (dataset.layout, dataset.channels, len(dataset.cases)) == ("nnunet", ("T1", "T2"), 3)
    assert files(dataset.cases[1]) == ["case_1_0000.nii.gz", "case_1_0001.nii.gz"]


def test_the_first_nnunet_lists_names_without_channel(tmp_path: Path) -> None:
    listed = [{"image": f"./imagesTr/case_{i}.nii.gz", "label": f"./labelsTr/case_{i}.nii.gz"} for i in range(3)]
    root = nnunet(tmp_path)
    write_json(root / "dataset.json", {**DECATHLON, "training": listed})
    assert find_dataset(root).layout == "nnunet"


def test_folders(tmp_path: Path) -> None:
    dataset = find_dataset(folders(tmp_path))
    assert (dataset.layout, dataset.channels, dataset.labels) == ("folders", ("0",), {3: "3", 4: "4", 5: "5"})
    assert [case.name for case in dataset.cases] == ["s0", "s1", "s2"]
    assert find_dataset(folders(tmp_path / "b", images="imagesTr", labels="labelsTr")).layout == "folders"


def test_folders_with_names(tmp_path: Path) -> None:
    root = folders(tmp_path)
    write_json(root / "dataset.json", {"labels": {"background": 0, "liver": 3, "spleen": 4, "lesion": 5}})
    assert find_dataset(root).labels == {3: "liver", 4: "spleen", 5: "lesion"}


def test_folders_with_channel_numbers_and_with_case_numbers(tmp_path: Path) -> None:
    for c in (0, 1):
        write_nifti(tmp_path / "a" / "images" / f"x_{c:04d}.nii.gz", some_image())
        write_nifti(tmp_path / "b" / "images" / f"x_{c:04d}.nii.gz", some_image())
        write_nifti(tmp_path / "b" / "labels" / f"x_{c:04d}.nii.gz", some_label())
    write_nifti(tmp_path / "a" / "labels" / "x.nii.gz", some_label())
    assert files(find_dataset(tmp_path / "a").cases[0]) == ["x_0000.nii.gz", "x_0001.nii.gz"]
    assert [case.name for case in find_dataset(tmp_path / "b").cases] == ["x_0000", "x_0001"]


@pytest.mark.parametrize("make", [decathlon, nnunet, folders])
@pytest.mark.parametrize("which", ["images", "labels"])
def test_a_case_with_a_missing_file_is_left_and_the_others_go_on(tmp_path: Path, make: Any, which: str) -> None:
    root = make(tmp_path)
    next(p for p in sorted(root.rglob("*.nii.gz")) if p.parent.name.startswith(which)).unlink()
    dataset = find_dataset(root)
    assert len(dataset.cases) == 2
    assert len(dataset.left) == 1
    assert dataset.left[0].where in ("liver_0", "case_0", "s0")
    for path in root.rglob("*.nii.gz"):
        if path.parent.name.startswith(which):
            path.unlink()
    assert "none of its 3 case(s) can be used" in refused(root)


def test_a_missing_channel_is_named(tmp_path: Path) -> None:
    root = nnunet(tmp_path, channels=2, channel_names={"0": "T1", "1": "T2"})
    (root / "imagesTr" / "case_2_0001.nii.gz").unlink()
    write_nifti(root / "imagesTr" / "plain.nii.gz", some_image())
    left = find_dataset(root).left
    assert [(remark.where, remark.reason) for remark in left] == [
        ("plain.nii.gz", "its name does not end in a channel number such as _0000"),
        ("case_2", "[NOT_FOUND] imagesTr/case_2_0001.nii.gz is missing"),
    ]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("{", "not valid JSON"),
        ("[]", "no object"),
        ({**NNUNET, "labels": None}, "does not say labels"),
        ({"labels": {"a": 1}, "training": [{"image": "x.nii", "label": "x.nii"}]}, "does not say channel_names"),
        ({**NNUNET, "file_ending": ".png"}, r"end in \.png, which are not read"),
        ({**NNUNET, "file_ending": 3}, "end in 3, which are not read"),
        ({**NNUNET, "labels": {"background": 0, "a": "one"}}, "whole number"),
        ({**NNUNET, "labels": {"background": 0, "a": 1.5}}, "whole number"),
        ({**NNUNET, "labels": {"a": 1, "b": 1}}, "share a number"),
        ({**NNUNET, "labels": {"0": "background", "1": "a", "2": "a"}}, "share a number or a name"),
        ({**NNUNET, "labels": {"background": 0}}, "no structure"),
        ({**NNUNET, "labels": [1]}, "no names with numbers"),
        ({**NNUNET, "channel_names": {"1": "CT"}}, "numbered 1"),
        ({**NNUNET, "channel_names": 3}, "no list of names"),
        ({**DECATHLON, "training": "all"}, '"training"'),
        ({**DECATHLON, "training": [{"label": "x"}]}, '"training"'),
        ({**DECATHLON, "training": []}, "no labelled case"),
    ],
)
def test_a_broken_description_is_refused(tmp_path: Path, said: Any, expected: str) -> None:
    root = tmp_path if "training" in said else nnunet(tmp_path, n=1)
    write_json(root / "dataset.json", said)
    with pytest.raises(InputError, match=expected):
        find_dataset(root)


def test_rules_that_select_dicom_are_refused_for_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no DICOM to select from"):
        find_dataset(folders(tmp_path), series=["Modality=CT"])


def test_no_dataset(tmp_path: Path) -> None:
    assert "no such folder" in refused(tmp_path / "none")
    assert "is a file" in refused(write_json(tmp_path / "dataset.json", {}))
    (tmp_path / "dataset.json").unlink()
    assert "Decathlon" in refused(tmp_path)
    assert not is_dataset(tmp_path)
    folders(tmp_path / "Task")
    assert "its folder Task" in refused(tmp_path)
    (tmp_path / "b" / "images").mkdir(parents=True)
    (tmp_path / "b" / "labels").mkdir()
    assert "no labelled case" in refused(tmp_path / "b")
    write_json(tmp_path / "c" / "dataset.json", NNUNET)
    assert "imagesTr" in refused(tmp_path / "c")


def test_names_that_stand_for_two_cases_are_refused(tmp_path: Path) -> None:
    root = decathlon(tmp_path)
    listed = [{"image": "imagesTr/liver_0.nii.gz", "label": "labelsTr/liver_0.nii.gz"}] * 2
    write_json(root / "dataset.json", {**DECATHLON, "training": listed})
    assert "liver_0 stands for two" in refused(root)
    root = nnunet(tmp_path / "n")
    write_nifti(root / "imagesTr" / "case_0_0000.nii", some_image())
    assert "two files of channel 0" in refused(root)
    root = folders(tmp_path / "f")
    write_nifti(root / "labels" / "s0.nii", some_label())
    assert "two label files" in refused(root)


def test_listed_without_label_or_with_another_format_is_left(tmp_path: Path) -> None:
    root = decathlon(tmp_path)
    listed = [
        {"image": "imagesTr/liver_0.nii.gz", "label": "labelsTr/liver_0.nii.gz"},
        {"image": "imagesTr/liver_1.nii.gz"},
        {"image": "x.png", "label": "labelsTr/liver_2.nii.gz"},
        {"image": ["imagesTr/liver_2.nii.gz"] * 2, "label": "labelsTr/liver_2.nii.gz"},
    ]
    write_json(root / "dataset.json", {**DECATHLON, "training": listed})
    reasons = [remark.reason for remark in find_dataset(root).left]
    assert reasons[0] == "dataset.json gives it no label"
    assert reasons[1] == "x.png is no image file"
    assert "2 image file(s)" in reasons[2]


def test_unnamed_labels_that_cannot_be_read_or_are_empty(tmp_path: Path) -> None:
    root = folders(tmp_path)
    (root / "labels" / "s0.nii.gz").write_bytes(b"cut")
    dataset = find_dataset(root)
    assert (len(dataset.cases), dataset.labels, len(dataset.left)) == (2, {4: "4", 5: "5"}, 1)
    for path in (root / "labels").iterdir():
        write_nifti(path, some_label(0))
    assert "all its labels are empty" in refused(root)


def write_4d(path: Path, n: int) -> Path:
    return write_nifti(path, np.stack([some_image(seed) for seed in range(n)], axis=-1))


def test_decathlon_with_all_channels_in_one_4d_file(tmp_path: Path) -> None:
    root = decathlon(tmp_path, modality={"0": "FLAIR", "1": "T1w", "2": "T2w"})
    for i in range(3):
        write_4d(root / "imagesTr" / f"liver_{i}.nii.gz", 3 if i < 2 else 2)
    dataset = find_dataset(root)
    assert [case.name for case in dataset.cases] == ["liver_0", "liver_1"]
    assert [source.component for source in dataset.cases[0].images] == [0, 1, 2]
    assert len(dataset.cases[0].files) == 2
    readings, _, _ = read_case(dataset.cases[0], dataset)
    for seed, reading in enumerate(readings):
        np.testing.assert_array_equal(reading.volume.array, some_image(seed))
    (left,) = dataset.left
    assert (left.where, left.broken) == ("liver_2", True)
    assert "holds 2 volume(s), but the dataset has 3 channels" in left.reason


def test_a_cut_4d_file_is_left(tmp_path: Path) -> None:
    root = decathlon(tmp_path, modality={"0": "T1w", "1": "T2w"})
    for i in range(3):
        write_4d(root / "imagesTr" / f"liver_{i}.nii.gz", 2)
    (root / "imagesTr" / "liver_1.nii.gz").write_bytes(b"cut")
    (left,) = find_dataset(root).left
    assert (left.where, left.broken) == ("liver_1", True)


def test_channel_names_make_volumes_of_a_4d_file_channels(tmp_path: Path) -> None:
    write_4d(tmp_path / "images" / "a.nii.gz", 2)
    write_nifti(tmp_path / "labels" / "a.nii.gz", some_label())
    write_json(tmp_path / "dataset.json", {"channel_names": ["T1", "T2"], "labels": {"background": 0, "a": 1}})
    dataset = find_dataset(tmp_path)
    assert [source.component for source in dataset.cases[0].images] == [0, 1]


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_other_volume_files(tmp_path: Path, ending: str) -> None:
    grid = Grid((6, 5, 4), np.diag([1.0, 2, 3, 1]))
    for name in ("imagesTr/case_0_0000", "labelsTr/case_0"):
        voxels = some_image() if "images" in name else some_label()
        (tmp_path / name).parent.mkdir()
        write_itk_volume(tmp_path / f"{name}{ending}", Volume(voxels, grid))
    write_json(tmp_path / "dataset.json", {**NNUNET, "file_ending": ending})
    dataset = find_dataset(tmp_path)
    assert (dataset.layout, dataset.left) == ("nnunet", ())
    (reading,), labels, _ = read_case(dataset.cases[0], dataset)
    np.testing.assert_array_equal(reading.volume.array, some_image())
    np.testing.assert_array_equal(labels.array, some_label())
    (tmp_path / f"labelsTr/case_0{ending}").unlink()
    assert f"labelsTr/case_0{ending} is missing" in refused(tmp_path)


def test_regions_and_an_ignore_label_are_told(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}
    root = nnunet(tmp_path, labels=labels, regions_class_order=[1, 2, 3])
    write_nifti(root / "labelsTr" / "case_0.nii.gz", some_label(4))
    dataset = find_dataset(root)
    assert dataset.labels == {1: "rest of whole", 2: "rest of core", 3: "enhancing"}
    assert dataset.regions == {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}
    assert (dataset.region_order, dataset.ignore) == ((1, 2, 3), 4)
    _, label, _ = read_case(dataset.cases[0], dataset)
    assert (label.present, label.names[4]) == ((4,), "ignore")


@pytest.mark.parametrize("described", [True, False])
def test_values_that_no_label_map_can_hold_are_renamed(tmp_path: Path, described: bool) -> None:
    root = folders(tmp_path)
    label = np.zeros((6, 5, 4), np.int32)
    label[0], label[1], label[2] = 1, -3, 100_000
    write_nifti(root / "labels" / "s0.nii.gz", label)
    if described:
        labels = {"background": 0, "a": 1, "b": -3, "c": 100_000, "d": 4, "e": 5}
        write_json(root / "dataset.json", {"labels": labels})
    dataset = find_dataset(root)
    assert dataset.stored_values == {2: -3, 3: 100_000}
    assert [dataset.labels[k] for k in (1, 2, 3)] == (["a", "b", "c"] if described else ["1", "-3", "100000"])
    _, found, _ = read_case(dataset.cases[0], dataset)
    assert found.array.dtype == np.uint8
    assert [int(found.array[x, 0, 0]) for x in range(4)] == [1, 2, 3, 0]
    assert read_case(dataset.cases[1], dataset)[1].present == (4,)
    label[3] = 2  # a dataset value, but nothing that the files were said to hold
    write_nifti(root / "labels" / "s0.nii.gz", label)
    if described:
        with pytest.raises(InputError, match=r"value\(s\) 2, which"):
            read_case(dataset.cases[0], dataset)


def test_label_files_that_name_their_structures(tmp_path: Path) -> None:
    grid = Grid((6, 5, 4), np.eye(4))
    for i, names in enumerate(({1: "Liver", 2: "cyst"}, {5: "liver"})):
        write_nifti(tmp_path / "images" / f"s{i}.nii.gz", some_image(i))
        labels = LabelMap(some_label(1 if i == 0 else 5), grid, names)
        (tmp_path / "labels").mkdir(exist_ok=True)
        write_seg_nrrd(tmp_path / "labels" / f"s{i}.seg.nrrd", Result(labels, grid, None, Algorithm("tests", "1")))
    dataset = find_dataset(tmp_path)
    assert (dataset.labels, dataset.left) == ({1: "Liver", 2: "cyst"}, ())
    for case in dataset.cases:
        _, found, _ = read_case(case, dataset)
        np.testing.assert_array_equal(found.array, some_label(1))
    write_nifti(tmp_path / "images" / "s2.nii.gz", some_image())
    write_nifti(tmp_path / "labels" / "s2.nii.gz", some_label())
    assert "some labels name their structures, others hold values alone" in refused(tmp_path)
    write_json(tmp_path / "dataset.json", {"labels": {"background": 0, "cyst": 1, "LIVER": 5}})
    dataset = find_dataset(tmp_path)
    assert [read_case(case, dataset)[1].present for case in dataset.cases] == [(5,), (5,), (1,)]
    write_json(tmp_path / "dataset.json", {"labels": {"background": 0, "spleen": 1, "liver": 5}})
    dataset = find_dataset(tmp_path)
    assert [case.name for case in dataset.cases] == ["s1", "s2"]
    (left,) = dataset.left
    said = "[UNKNOWN_VALUE] its label names cyst, which the dataset does not"
    assert (left.where, left.broken, left.reason) == ("s0", True, said)


@pytest.mark.parametrize("layout", ["folders", "nnunet", "decathlon"])
@pytest.mark.parametrize("made_up", [False, True])
def test_names_in_label_files_count_in_every_layout(tmp_path: Path, layout: str, made_up: bool) -> None:
    """Two readers numbered the same structures differently; names that a program made up say nothing."""
    grid = Grid((6, 5, 4), np.eye(4))
    raw = layout != "folders"
    images, labels = tmp_path / ("imagesTr" if raw else "images"), tmp_path / ("labelsTr" if raw else "labels")
    labels.mkdir()
    for i, names in enumerate(({1: "big", 2: "small"}, {1: "small", 2: "big"})):
        write_nifti(images / f"s{i}{'_0000' if layout == 'nnunet' else ''}.nii.gz", some_image(i))
        said = {value: f"Segment_{value}" for value in names} if made_up else names
        drawn = LabelMap(some_label(1), grid, said)
        write_seg_nrrd(labels / f"s{i}.seg.nrrd", Result(drawn, grid, None, Algorithm("tests", "1")))
    listed = [{"image": f"imagesTr/s{i}.nii.gz", "label": f"labelsTr/s{i}.seg.nrrd"} for i in range(2)]
    described = {"labels": {"background": 0, "big": 1, "small": 2}, "channel_names": {"0": "CT"}}
    training = {"training": listed} if layout == "decathlon" else {}
    write_json(tmp_path / "dataset.json", described | training)
    dataset = find_dataset(tmp_path)
    assert dataset.layout == layout
    present = [read_case(case, dataset)[1].present for case in dataset.cases]
    assert present == ([(1,), (1,)] if made_up else [(1,), (2,)])


def test_some_structures_of_files(tmp_path: Path) -> None:
    label = some_label(1)
    label[4, 4, 3] = 2
    for i in range(2):
        write_nifti(tmp_path / "images" / f"s{i}.nii.gz", some_image(i))
        write_nifti(tmp_path / "labels" / f"s{i}.nii.gz", label)
    described = {"labels": {"background": 0, "Left_Kidney": 1, "liver": 2, "lesion": -3}}
    write_json(tmp_path / "dataset.json", described)
    whole = find_dataset(tmp_path)
    assert whole.not_wanted == ()
    dataset = find_dataset(tmp_path, labels=["left kidney", "LESION"])
    assert dataset.labels == {1: "Left_Kidney", 3: "lesion"}
    assert (dataset.not_wanted, dataset.stored_values) == (("liver",), {3: -3})
    assert [read_case(case, dataset)[1].present for case in dataset.cases] == [(1,), (1,)]
    assert case_digest(dataset.cases[0], dataset) != case_digest(whole.cases[0], whole)
    with pytest.raises(InputError, match="has no structure spleen; choose with --labels among Left_Kidney, liver"):
        find_dataset(tmp_path, labels=["spleen"])
