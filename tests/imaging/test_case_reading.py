from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from medseg.errors import GeometryError, InputError
from medseg.imaging.case import Case, LabelFile
from medseg.imaging.dataset import Dataset, case_digest, find_dataset, read_case, read_case_images, read_case_label
from medseg.imaging.source import ReadOptions
from tests.imaging.build import some_image, some_label, write_json, write_nifti

NAMES = {"background": 0, "liver": 1, "lesion": 2}


def dataset_of(root: Path, channels: int = 1, **said: Any) -> Dataset:
    for c in range(channels):
        write_nifti(root / "images" / (f"a_{c:04d}.nii.gz" if channels > 1 else "a.nii.gz"), some_image(c))
    write_nifti(root / "labels" / "a.nii.gz", some_label())
    names = {"channel_names": [f"c{k}" for k in range(channels)]}
    write_json(root / "dataset.json", {"labels": NAMES, **names, **said})
    return find_dataset(root)


def label_of(dataset: Dataset) -> Path:
    assert dataset.cases[0].label is not None
    return dataset.cases[0].label.path


def test_a_case_is_read_whole(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path)
    case = dataset.cases[0]
    (image,), label, _ = read_case(case, dataset)
    np.testing.assert_array_equal(image.volume.array, some_image())
    np.testing.assert_array_equal(label.array, some_label())
    assert (label.names, label.present) == ({1: "liver", 2: "lesion"}, (1,))
    write_nifti(label_of(dataset), some_label(9))
    with pytest.raises(
        InputError, match=r"a: \[UNKNOWN_VALUE\] its label holds value\(s\) 9, which the dataset does not name"
    ):
        read_case(case, dataset)
    with pytest.raises(InputError, match="a: has no label"):
        read_case(replace(case, label=None), dataset)


@pytest.mark.parametrize(
    ("shift_mm", "shape", "said"),
    [
        (1e-4, (6, 5, 4), ""),
        (0.5, (6, 5, 4), r"a: .* its labels lie up to 0\.5 mm away"),
        (0, (6, 5, 9), r"\(6, 5, 9\)"),
    ],
)
def test_a_label_must_lie_on_its_image(tmp_path: Path, shift_mm: float, shape: Any, said: str) -> None:
    dataset = dataset_of(tmp_path)
    affine = np.eye(4)
    affine[0, 3] = shift_mm
    write_nifti(label_of(dataset), some_label(shape=shape), affine)
    if not said:
        (image,), label, _ = read_case(dataset.cases[0], dataset)
        assert label.grid is image.volume.grid
        return
    with pytest.raises(GeometryError, match=said):
        read_case(dataset.cases[0], dataset)


def test_channels_must_lie_on_each_other(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, channels=2)
    assert len(read_case_images(dataset.cases[0], dataset)) == 2
    write_nifti(dataset.cases[0].images[1].paths[0], some_image(), np.diag([1, 1, 2, 1]))
    with pytest.raises(GeometryError, match=r"a: \[OTHER_GRID\] its channel 1"):
        read_case_images(dataset.cases[0], dataset)


def sheared(degrees: float = 20) -> Any:
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[1, 2] = 2 * np.tan(np.radians(degrees))
    return affine


def save_sheared(path: Path, array: Any, affine: Any) -> None:
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, code=1)
    image.header["qform_code"] = 0
    nib.save(image, path)


def test_a_sheared_image_is_straightened_and_its_label_with_it(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path)
    image = np.zeros((8, 12, 6), np.int16)
    image[2:6, 3:8, 1:5] = 500
    label = (image > 0).astype(np.uint8)
    save_sheared(dataset.cases[0].images[0].paths[0], image, sheared())
    save_sheared(label_of(dataset), label, sheared())
    (reading,), found, _ = read_case(dataset.cases[0], dataset)
    assert found.grid is reading.volume.grid
    assert reading.own.shape == (8, 12, 6)
    assert reading.volume.grid.shape[1] > 12
    assert ((reading.volume.array > 250) == (found.array > 0)).mean() > 0.99
    assert found.array.sum() == pytest.approx(label.sum(), rel=0.02)
    save_sheared(label_of(dataset), label, sheared(25))
    with pytest.raises(GeometryError, match="its labels have the shape"):
        read_case(dataset.cases[0], dataset)


def test_a_file_that_does_not_say_where_it_lies_is_taken_with_its_label(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path)
    for path, array in ((dataset.cases[0].images[0].paths[0], some_image()), (label_of(dataset), some_label())):
        image = nib.Nifti1Image(array, None)
        image.header["sform_code"] = image.header["qform_code"] = 0
        nib.save(image, path)
    (reading,), label, _ = read_case(dataset.cases[0], dataset)
    np.testing.assert_array_equal(label.array, some_label())
    assert any("does not say where" in note for note in reading.notes)


@pytest.mark.parametrize("which", ["image", "label"])
def test_an_option_decides_between_two_affines(tmp_path: Path, which: str) -> None:
    dataset = dataset_of(tmp_path)
    for path in dataset.cases[0].files:
        image = nib.load(path)
        image.set_qform(np.diag([1, 1, 3, 1]), code=1)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), path)
    with pytest.raises(GeometryError, match="sform and qform"):
        read_case(dataset.cases[0], dataset)
    asked = find_dataset(tmp_path, options=ReadOptions(prefer="qform"))
    (reading,), label, _ = read_case(asked.cases[0], asked)
    assert (reading.volume.grid.spacing_mm, label.grid.spacing_mm) == ((1, 1, 3), (1, 1, 3))


def test_renames_count_for_every_value(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path)
    case = dataset.cases[0]
    swapped = replace(case, label=LabelFile(label_of(dataset), renames={1: 2, 2: 1}))
    (image,), label, _ = read_case(swapped, dataset)
    np.testing.assert_array_equal(label.array, some_label(2))
    partly = replace(case, label=LabelFile(label_of(dataset), renames={2: 1}))
    with pytest.raises(InputError, match=r"value\(s\) 1"):
        read_case_label(partly, dataset, image.volume.grid)


def test_the_digest_tells_all_that_reading_depends_on(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path)
    case = dataset.cases[0]
    digests = {case_digest(case, dataset)}
    assert case_digest(find_dataset(tmp_path).cases[0], find_dataset(tmp_path)) in digests
    others: list[tuple[Case, Dataset]] = [
        (replace(case, label=LabelFile(label_of(dataset), renames={1: 2, 2: 1})), dataset),
        (replace(case, images=(replace(case.images[0], component=1),)), dataset),
        (case, replace(dataset, options=ReadOptions(prefer="sform"))),
        (case, replace(dataset, labels={1: "liver"})),
        (case, replace(dataset, ignore=3)),
    ]
    digests |= {case_digest(*other) for other in others}
    write_nifti(label_of(dataset), some_label(2))
    digests.add(case_digest(case, dataset))
    write_nifti(case.images[0].paths[0], some_image(7))
    digests.add(case_digest(case, dataset))
    assert len(digests) == 8


def test_the_digest_tells_the_voxels_beside_a_header(tmp_path: Path) -> None:
    for folder, array in (("images", some_image()), ("labels", some_label())):
        (tmp_path / folder).mkdir()
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(tmp_path / folder / "a.mhd"))
    dataset = find_dataset(tmp_path)
    before = case_digest(dataset.cases[0], dataset)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(some_image(1)), str(tmp_path / "images" / "a.mhd"))
    assert case_digest(dataset.cases[0], dataset) != before
