from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medseg.errors import InputError
from medseg.imaging.dataset import Dataset, find_dataset, is_dataset, read_case
from medseg.imaging.source import ReadOptions
from tests.imaging.build import some_image, some_label, write_json, write_nifti

TABLE = "index\tname\tcolor\n0\tBackground\t#000000\n1\tliver\t#ff0000\n2\tlesion\t#00ff00\n9\tspleen\t#0000ff\n"


def image(root: Path, name: str, seed: int = 0, affine: Any = None) -> Path:
    parts = dict(pair.split("-") for pair in name.split("_")[:-1])
    session = f"/ses-{parts['ses']}" if "ses" in parts else ""
    return write_nifti(root / f"sub-{parts['sub']}{session}/anat/{name}.nii.gz", some_image(seed), affine)


def label(root: Path, name: str, pipeline: str = "manual", value: int = 1, table: str = TABLE) -> Path:
    parts = dict(pair.split("-") for pair in name.split("_")[:-1])
    session = f"/ses-{parts['ses']}" if "ses" in parts else ""
    path = root / f"derivatives/{pipeline}/sub-{parts['sub']}{session}/anat/{name}.nii.gz"
    if table:
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / f"{name}.tsv").write_text(table)
    return write_nifti(path, some_label(value))


def bids_root(root: Path) -> Path:
    write_json(root / "dataset_description.json", {"Name": "Some", "BIDSVersion": "1.10.0"})
    return root


def some_bids(root: Path, subjects: int = 2) -> Path:
    bids_root(root)
    for i in range(1, subjects + 1):
        for k, suffix in enumerate(("FLAIR", "T1w", "T2w")):
            image(root, f"sub-{i:02d}_{suffix}", seed=k)
        label(root, f"sub-{i:02d}_dseg")
    return root


def names(dataset: Dataset) -> list[str]:
    return [case.name for case in dataset.cases]


def refused(root: Path) -> str:
    with pytest.raises(InputError) as caught:
        find_dataset(root)
    return str(caught.value)


def test_channels_are_the_suffixes_that_all_have(tmp_path: Path) -> None:
    dataset = find_dataset(some_bids(tmp_path))
    assert (dataset.layout, dataset.channels) == ("bids", ("T1w", "T2w", "FLAIR"))
    assert names(dataset) == [case.patient for case in dataset.cases] == ["sub-01", "sub-02"]
    assert (dataset.labels, dataset.left) == ({1: "liver"}, ())
    readings, found, _ = read_case(dataset.cases[0], dataset)
    np.testing.assert_array_equal(found.array, some_label())
    for reading, seed in zip(readings, (1, 2, 0), strict=True):
        np.testing.assert_array_equal(reading.volume.array, some_image(seed))


def test_sessions_are_cases_of_one_patient(tmp_path: Path) -> None:
    root = bids_root(tmp_path)
    for session in ("a", "b"):
        image(root, f"sub-7_ses-{session}_T1w")
        label(root, f"sub-7_ses-{session}_space-orig_desc-x_dseg", value=1 + (session == "b"))
    dataset = find_dataset(root)
    assert names(dataset) == ["sub-7_ses-a", "sub-7_ses-b"]
    assert {case.patient for case in dataset.cases} == {"sub-7"}
    assert dataset.labels == {1: "liver", 2: "lesion"}


def test_runs_are_told_apart_by_name_or_by_place(tmp_path: Path) -> None:
    root = bids_root(tmp_path)
    image(root, "sub-1_run-1_T1w", seed=1)
    image(root, "sub-1_run-2_T1w", seed=2)
    label(root, "sub-1_run-2_dseg")
    image(root, "sub-2_run-1_T1w", seed=1)
    image(root, "sub-2_run-2_T1w", seed=2, affine=np.diag([1, 1, 3, 1]))
    label(root, "sub-2_dseg")
    dataset = find_dataset(root)
    assert names(dataset) == ["sub-1_run-2", "sub-2"]
    assert [case.images[0].paths[0].name for case in dataset.cases] == [
        "sub-1_run-2_T1w.nii.gz",
        "sub-2_run-1_T1w.nii.gz",
    ]
    image(root, "sub-2_run-3_T1w")
    (left,) = find_dataset(root).left
    assert (left.where, left.broken) == ("sub-2", True)
    assert "several images of it are T1w" in left.reason


def test_an_image_on_another_grid_or_of_some_only_is_no_channel(tmp_path: Path) -> None:
    root = some_bids(tmp_path)
    image(root, "sub-02_T2w", affine=np.diag([2, 2, 2, 1]))
    (root / "sub-01/anat/sub-01_FLAIR.nii.gz").unlink()
    dataset = find_dataset(root)
    assert dataset.channels == ("T1w",)
    assert sorted(left.where for left in dataset.left) == ["FLAIR", "T2w"]
    assert not any(left.broken for left in dataset.left)
    for path in root.glob("sub-*/anat/*_T1w.nii.gz"):
        path.unlink()
    assert "no image type is common" in refused(root)


def test_images_that_differ_in_contrast_are_channels_of_their_own(tmp_path: Path) -> None:
    root = some_bids(tmp_path, 1)
    image(root, "sub-01_ce-gd_T1w", seed=5)
    assert find_dataset(root).channels == ("T1w", "T2w", "FLAIR", "ce-gd_T1w")


def test_volumes_over_time_are_no_channel(tmp_path: Path) -> None:
    root = some_bids(tmp_path, 1)
    write_nifti(root / "sub-01/anat/sub-01_MEGRE.nii.gz", np.stack([some_image(), some_image(1)], axis=-1))
    assert find_dataset(root).channels == ("T1w", "T2w", "FLAIR")


def test_labels_in_another_space_and_images_without_a_label_are_left(tmp_path: Path) -> None:
    root = some_bids(tmp_path)
    label(root, "sub-01_space-MNI152_dseg")
    (root / "derivatives/manual/sub-02/anat/sub-02_dseg.nii.gz").unlink()
    dataset = find_dataset(root)
    assert names(dataset) == ["sub-01"]
    assert [(left.where, left.broken) for left in dataset.left] == [("sub-01_space-MNI152_dseg.nii.gz", False)]


def test_a_label_without_its_images_or_cut_is_a_failed_case(tmp_path: Path) -> None:
    root = some_bids(tmp_path, 3)
    (root / "derivatives/manual/sub-02/anat/sub-02_dseg.nii.gz").write_bytes(b"cut")
    label(root, "sub-09_dseg")
    dataset = find_dataset(root)
    assert names(dataset) == ["sub-01", "sub-03"]
    assert {left.where: left.broken for left in dataset.left} == {"sub-02": True, "sub-09": True}


def test_several_kinds_of_labels_are_a_choice(tmp_path: Path) -> None:
    root = some_bids(tmp_path)
    label(root, "sub-01_dseg", pipeline="automatic")
    assert "labels of 2 kinds: automatic, manual" in refused(root)
    for path in (root / "derivatives/automatic").rglob("*_dseg.*"):
        path.unlink()
    label(root, "sub-01_desc-tissue_dseg")
    assert "manual desc-tissue" in refused(root)


def test_a_table_counts_for_all_below_it(tmp_path: Path) -> None:
    root = some_bids(tmp_path)
    for path in root.rglob("*_dseg.tsv"):
        path.unlink()
    assert find_dataset(root).labels == {1: "1"}
    (root / "derivatives/manual/desc-x_dseg.tsv").write_text(TABLE.replace("liver", "of another kind"))
    assert find_dataset(root).labels == {1: "1"}
    (root / "derivatives/manual/dseg.tsv").write_text(TABLE)
    assert find_dataset(root).labels == {1: "liver"}


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (TABLE.replace("liver", "tumour"), "call the value 1 both liver and tumour"),
        ("name\n1\n", "no table of index and name"),
        ("index\tname\none\tliver\n", "no table of index and name"),
    ],
)
def test_tables_that_contradict_or_are_broken_are_refused(tmp_path: Path, table: str, expected: str) -> None:
    root = some_bids(tmp_path)
    label(root, "sub-02_dseg", table=table)
    assert expected in refused(root)


def test_bids_without_labels_is_no_dataset(tmp_path: Path) -> None:
    root = some_bids(tmp_path)
    assert is_dataset(root)
    for path in root.rglob("*_dseg.nii.gz"):
        path.unlink()
    assert not is_dataset(root)
    assert "holds no dataset" in refused(root)


def test_the_affine_that_is_preferred(tmp_path: Path) -> None:
    root = some_bids(tmp_path, 1)
    for path in root.rglob("*.nii.gz"):
        image = nib.load(path)
        image.set_qform(np.eye(4) + np.eye(4, k=3) * 5, 1)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), path)
    assert "[AFFINE_CONFLICT]" in refused(root)
    dataset = find_dataset(root, options=ReadOptions(prefer="sform"))
    (readings, labels, _) = read_case(dataset.cases[0], dataset)
    assert np.array_equal(labels.grid.affine, np.eye(4))
    assert np.array_equal(readings[0].volume.grid.affine, np.eye(4))
