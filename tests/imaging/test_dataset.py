from __future__ import annotations

import pickle  # noqa: TID251  it is how values reach worker processes
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.errors import GeometryError, InputError
from medseg.imaging.dataset import (
    Case,
    check_channels,
    check_pair,
    find_dataset,
    is_dataset,
    read_case_image,
    read_case_label,
)
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
    assert pickle.loads(pickle.dumps(dataset)) == dataset  # noqa: S301  it crosses to worker processes


def test_nnunet_with_several_channels(tmp_path: Path) -> None:
    dataset = find_dataset(nnunet(tmp_path, channels=2, channel_names={"0": "T1", "1": "T2"}))
    assert (dataset.layout, dataset.channels, len(dataset.cases)) == ("nnunet", ("T1", "T2"), 3)
    assert [p.name for p in dataset.cases[1].images] == ["case_1_0000.nii.gz", "case_1_0001.nii.gz"]


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
    assert len(find_dataset(tmp_path / "a").cases[0].images) == 2
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
        ("case_2", "imagesTr/case_2_0001.nii.gz is missing"),
    ]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("{", "not valid JSON"),
        ("[]", "no object"),
        ({**NNUNET, "labels": None}, "does not say labels"),
        ({"labels": {"a": 1}, "training": [{"image": "x.nii", "label": "x.nii"}]}, "does not say channel_names"),
        ({**NNUNET, "file_ending": ".nrrd"}, r"\.nrrd; only \.nii"),
        ({**NNUNET, "labels": {"background": 0, "whole": [1, 2]}}, "regions"),
        ({**NNUNET, "labels": {"background": 0, "a": 1, "ignore": 2}}, "ignore label"),
        ({**NNUNET, "labels": {"background": 0, "a": "one"}}, "whole number"),
        ({**NNUNET, "labels": {"background": 0, "a": 1.5}}, "whole number"),
        ({**NNUNET, "labels": {"background": 0, "a": 70000}}, "whole number"),
        ({**NNUNET, "labels": {"a": 1, "b": 1}}, "share a number"),
        ({**NNUNET, "labels": {"0": "background", "1": "a", "2": "a"}}, "share a number or a name"),
        ({**NNUNET, "labels": {"background": 0}}, "no structure"),
        ({**NNUNET, "labels": [1]}, "no names with numbers"),
        ({**NNUNET, "channel_names": {"1": "CT"}}, "numbered 1"),
        ({**NNUNET, "channel_names": 3}, "no list of names"),
        ({**DECATHLON, "training": "all"}, '"training"'),
        ({**DECATHLON, "training": [{"label": "x"}]}, '"training"'),
        ({**DECATHLON, "training": []}, "no labelled case"),
        ({**DECATHLON, "modality": {"0": "T1", "1": "T2"}, "training": [{"image": "a.nii"}]}, "4D file"),
    ],
)
def test_a_broken_description_is_refused(tmp_path: Path, said: Any, expected: str) -> None:
    root = tmp_path if "training" in said else nnunet(tmp_path, n=1)
    write_json(root / "dataset.json", said)
    with pytest.raises(InputError, match=expected):
        find_dataset(root)


def test_no_dataset(tmp_path: Path) -> None:
    assert "no such folder" in refused(tmp_path / "none")
    assert "is a file" in refused(write_json(tmp_path / "a.json", {}))
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
        {"image": "x.mha", "label": "labelsTr/liver_2.nii.gz"},
        {"image": ["imagesTr/liver_2.nii.gz"] * 2, "label": "labelsTr/liver_2.nii.gz"},
    ]
    write_json(root / "dataset.json", {**DECATHLON, "training": listed})
    reasons = [remark.reason for remark in find_dataset(root).left]
    assert reasons[0] == "dataset.json gives it no label"
    assert "no" in reasons[1]
    assert "2 image file(s)" in reasons[2]


def test_unnamed_labels_that_cannot_be_read_or_are_empty(tmp_path: Path) -> None:
    root = folders(tmp_path)
    (root / "labels" / "s0.nii.gz").write_bytes(b"cut")
    dataset = find_dataset(root)
    assert (len(dataset.cases), dataset.labels, len(dataset.left)) == (2, {4: "4", 5: "5"}, 1)
    for path in (root / "labels").iterdir():
        write_nifti(path, some_label(0))
    assert "all its labels are empty" in refused(root)


def test_reading_a_case(tmp_path: Path) -> None:
    dataset = find_dataset(decathlon(tmp_path))
    case = dataset.cases[0]
    image, label = read_case_image(case), read_case_label(case, dataset)
    assert np.array_equal(image.array, some_image(0))
    assert (label.names, label.present) == ({1: "liver", 2: "lesion"}, (1,))
    check_pair(image, label, case)
    write_nifti(tmp_path / "labelsTr" / "liver_0.nii.gz", some_label(9))
    with pytest.raises(InputError, match=r"value\(s\) 9, which the dataset does not name"):
        read_case_label(case, dataset)
    with pytest.raises(InputError, match="no label"):
        read_case_label(Case("x", case.images, None, "x"), dataset)


def test_a_label_must_lie_on_its_image(tmp_path: Path) -> None:
    dataset = find_dataset(decathlon(tmp_path))
    case = dataset.cases[0]
    image = read_case_image(case)

    def label_on(shift_mm: float, shape: tuple[int, int, int] = (6, 5, 4)) -> Any:
        affine = np.eye(4)
        affine[0, 3] = shift_mm
        write_nifti(tmp_path / "labelsTr" / "liver_0.nii.gz", some_label(shape=shape), affine)
        return read_case_label(case, dataset)

    check_pair(image, label_on(1e-4), case)
    with pytest.raises(GeometryError, match=r"liver_0: its label lies up to 0\.5 mm away"):
        check_pair(image, label_on(0.5), case)
    with pytest.raises(GeometryError, match=r"\(6, 5, 9\)"):
        check_pair(image, label_on(0, (6, 5, 9)), case)


def test_channels_must_lie_on_each_other(tmp_path: Path) -> None:
    dataset = find_dataset(nnunet(tmp_path, channels=2, channel_names={"0": "T1", "1": "T2"}))
    case = dataset.cases[0]
    check_channels([read_case_image(case, c) for c in (0, 1)], case.name)
    write_nifti(case.images[1], some_image(), np.diag([1, 1, 2, 1]))
    with pytest.raises(GeometryError, match="channel 1"):
        check_channels([read_case_image(case, c) for c in (0, 1)], case.name)
