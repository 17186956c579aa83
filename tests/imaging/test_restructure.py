from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medseg.errors import CasesFailed, InputError
from medseg.events import Note
from medseg.imaging import restructure
from medseg.imaging import rewriting as module
from medseg.imaging.dataset import find_dataset, read_case
from medseg.imaging.grid import Grid
from medseg.imaging.itk import write_itk_volume
from medseg.imaging.restructure import Restructured
from medseg.imaging.volume import LabelMap, Volume
from medseg.imaging.writing.nrrd import write_seg_nrrd
from medseg.imaging.writing.result import Algorithm, Result
from tests.imaging.build import some_image, some_label, write_json, write_nifti

SAMPLE = Path(__file__).parents[2] / "sample_data" / "train"
TEXTS = {"name": "Some", "licence": "CC0", "reference": "nobody"}
REGIONS = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}


def decathlon_to_nnunet(source: Path, target: Path) -> float:
    return deviation(restructure.decathlon_to_nnunet(source, target))


def nnunet_to_decathlon(source: Path, target: Path) -> float:
    return deviation(restructure.nnunet_to_decathlon(source, target))


def deviation(events: Iterable[Any]) -> float:
    *_, last = events
    assert isinstance(last, Restructured)
    return last.deviation_mm


def oblique() -> Any:
    return np.array([[0.8, 0.1, 0, -3], [-0.1, 0.8, 0, 5], [0, 0, 2.5, 7], [0, 0, 0, 1]])


def decathlon(root: Path, channels: int = 2, **said: Any) -> Path:
    for i in range(2):
        volumes = [some_image(10 * i + k) for k in range(channels)]
        image = np.stack(volumes, axis=-1) if channels > 1 else volumes[0]
        write_nifti(root / "imagesTr" / f"c{i}.nii.gz", image, oblique())
        write_nifti(root / "labelsTr" / f"c{i}.nii.gz", some_label(1 + i), oblique())
    write_nifti(root / "imagesTs" / "t.nii.gz", image, oblique())
    listed = [{"image": f"./imagesTr/c{i}.nii.gz", "label": f"./labelsTr/c{i}.nii.gz"} for i in range(2)]
    modality = {str(k): f"C{k}" for k in range(channels)}
    labels = {"0": "background", "1": "a", "2": "b"}
    told = {**TEXTS, "modality": modality, "labels": labels, "training": listed, "test": ["./imagesTs/t.nii.gz"]}
    write_json(root / "dataset.json", told | said)
    return root


def nnunet(root: Path, channels: int = 2, **said: Any) -> Path:
    for name in ("imagesTr/c0", "imagesTr/c1", "imagesTs/t"):
        for k in range(channels):
            write_nifti(root / f"{name}_{k:04d}.nii.gz", some_image(k), oblique())
    for i in range(2):
        write_nifti(root / "labelsTr" / f"c{i}.nii.gz", some_label(1 + i), oblique())
    channel_names = {str(k): f"C{k}" for k in range(channels)}
    told = {**TEXTS, "channel_names": channel_names, "labels": REGIONS, "regions_class_order": [1, 2]}
    write_json(root / "dataset.json", {**told, "numTraining": 2, "file_ending": ".nii.gz", **said})
    return root


def same_cases(one: Path, other: Path) -> None:
    ours, theirs = find_dataset(one), find_dataset(other)
    assert (ours.channels, ours.labels, ours.regions) == (theirs.channels, theirs.labels, theirs.regions)
    assert (ours.region_order, ours.ignore) == (theirs.region_order, theirs.ignore)
    assert [case.name for case in ours.cases] == [case.name for case in theirs.cases]
    for a, b in zip(ours.cases, theirs.cases, strict=True):
        (left, left_label, _), (right, right_label, _) = read_case(a, ours), read_case(b, theirs)
        for x, y in zip(left, right, strict=True):
            np.testing.assert_array_equal(x.volume.array, y.volume.array)
            assert x.volume.grid.deviation_mm(y.volume.grid) == 0
        np.testing.assert_array_equal(left_label.array, right_label.array)


def described(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "dataset.json").read_text())
    return found


@pytest.mark.parametrize("channels", [1, 2])
def test_decathlon_to_nnunet_and_back(tmp_path: Path, channels: int) -> None:
    source = decathlon(tmp_path / "a", channels)
    assert decathlon_to_nnunet(source, tmp_path / "b") == 0
    same_cases(source, tmp_path / "b")
    assert find_dataset(tmp_path / "b").layout == "nnunet"
    told = described(tmp_path / "b")
    assert told["labels"] == {"background": 0, "a": 1, "b": 2}
    assert (told["numTraining"], told["file_ending"], told["licence"]) == (2, ".nii.gz", "CC0")
    assert "training" not in told
    assert (tmp_path / "b/imagesTs/t_0000.nii.gz").is_file()
    assert nnunet_to_decathlon(tmp_path / "b", tmp_path / "c") == 0
    assert find_dataset(tmp_path / "c").layout == "decathlon"
    same_cases(source, tmp_path / "c")
    told, first = described(tmp_path / "c"), described(source)
    assert {key: told[key] for key in first} == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c"]


def test_regions_and_the_ignore_label_are_kept(tmp_path: Path) -> None:
    source = nnunet(tmp_path / "a")
    nnunet_to_decathlon(source, tmp_path / "b")
    same_cases(source, tmp_path / "b")
    told = described(tmp_path / "b")
    assert told["labels"] == {"0": "background", "1": "rest of whole", "2": "core"}
    assert told["regions"] == {"whole": [1, 2], "core": [2]}
    assert told["tensorImageSize"] == "4D"
    decathlon_to_nnunet(tmp_path / "b", tmp_path / "c")
    same_cases(source, tmp_path / "c")
    assert described(tmp_path / "c") == described(source)


def test_the_sample_set_stays_as_it_is_byte_for_byte(tmp_path: Path) -> None:
    decathlon_to_nnunet(SAMPLE, tmp_path / "b")
    nnunet_to_decathlon(tmp_path / "b", tmp_path / "c")
    for path in SAMPLE.rglob("*.nii.gz"):
        assert (tmp_path / "c" / path.relative_to(SAMPLE)).read_bytes() == path.read_bytes()
    assert described(tmp_path / "c") == described(SAMPLE)


def test_stored_types_and_scaling_are_kept_and_texts_are_not(tmp_path: Path) -> None:
    source = decathlon(tmp_path / "a")
    path = source / "imagesTr" / "c0.nii.gz"
    image = nib.load(path)
    image.header["descrip"] = b"Mueller"
    raw = np.abs(some_image(3)).astype(np.uint8)
    scaled = nib.Nifti1Image(np.stack([raw, raw + 1], axis=-1), None, image.header, dtype=np.uint8)
    scaled.header.set_slope_inter(0.5, -10)
    nib.save(scaled, path)
    decathlon_to_nnunet(source, tmp_path / "b")
    found = nib.load(tmp_path / "b" / "imagesTr" / "c0_0001.nii.gz")
    assert (found.get_data_dtype(), found.dataobj.slope, found.dataobj.inter) == (np.uint8, 0.5, -10)
    np.testing.assert_array_equal(found.dataobj.get_unscaled(), raw + 1)
    assert bytes(found.header["descrip"]).strip(b"\0") == b""
    same_cases(source, tmp_path / "b")
    nnunet_to_decathlon(tmp_path / "b", tmp_path / "c")
    found = nib.load(tmp_path / "c" / "imagesTr" / "c0.nii.gz")
    assert (found.get_data_dtype(), found.dataobj.slope, found.dataobj.inter) == (np.uint8, 0.5, -10)
    same_cases(source, tmp_path / "c")


def test_channels_of_different_types_become_float32(tmp_path: Path) -> None:
    source = nnunet(tmp_path / "a")
    write_nifti(source / "imagesTr" / "c0_0001.nii.gz", some_image(1).astype(np.float32) / 7, oblique())
    assert nnunet_to_decathlon(source, tmp_path / "b") < 1e-4
    same_cases(source, tmp_path / "b")


def test_other_formats_become_nifti(tmp_path: Path) -> None:
    source = nnunet(tmp_path / "a", file_ending=".nrrd")
    for path in source.rglob("*.nii.gz"):
        image = nib.load(path)
        grid = Grid(image.shape, image.affine)
        write_itk_volume(path.with_name(path.name.replace(".nii.gz", ".nrrd")), Volume(np.asarray(image.dataobj), grid))
        path.unlink()
    assert nnunet_to_decathlon(source, tmp_path / "b") < 1e-4
    ours, theirs = find_dataset(source), find_dataset(tmp_path / "b")
    for a, b in zip(ours.cases, theirs.cases, strict=True):
        (left, left_label, _), (right, right_label, _) = read_case(a, ours), read_case(b, theirs)
        np.testing.assert_array_equal(left[1].volume.array, right[1].volume.array)
        np.testing.assert_array_equal(left_label.array, right_label.array)
        assert left[0].volume.grid.deviation_mm(right[0].volume.grid) < 1e-4


def test_files_without_compression_get_one_ending(tmp_path: Path) -> None:
    source = decathlon(tmp_path / "a", 1)
    image = nib.load(source / "imagesTr" / "c0.nii.gz")
    nib.save(image, source / "imagesTr" / "c0.nii")
    listed = [{"image": "imagesTr/c0.nii", "label": "labelsTr/c0.nii.gz"}]
    write_json(source / "dataset.json", described(source) | {"training": listed})
    decathlon_to_nnunet(source, tmp_path / "b")
    assert (tmp_path / "b" / "imagesTr" / "c0_0000.nii.gz").is_file()
    same_cases(source, tmp_path / "b")


def test_a_case_that_cannot_be_used_stops_all(tmp_path: Path) -> None:
    source = decathlon(tmp_path / "a")
    (source / "labelsTr" / "c1.nii.gz").unlink()
    with pytest.raises(InputError, match=r"cannot be converted whole \(c1: .*missing"):
        decathlon_to_nnunet(source, tmp_path / "b")
    shutil.rmtree(source / "imagesTs")
    with pytest.raises(InputError):
        decathlon_to_nnunet(source, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def failures(events: Iterable[Any]) -> list[str]:
    told = []
    with pytest.raises(CasesFailed) as failed:
        told += [event.text for event in events if isinstance(event, Note)]
    assert "the others are done" in str(failed.value)
    return [f"{name}: {reason}" for name, reason in failed.value.failed.items()]


def test_of_scans_that_fail_nothing_is_there_and_the_others_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = decathlon(tmp_path / "a")
    path = source / "imagesTr" / "c1.nii.gz"
    path.write_bytes(path.read_bytes()[:-30])
    (failed,) = failures(restructure.decathlon_to_nnunet(source, tmp_path / "b"))
    assert failed.startswith("c1: ")
    assert "cut short" in failed or "damaged" in failed
    assert sorted(p.name for p in tmp_path.iterdir()) == [".b.converting", "a"]
    decathlon(tmp_path / "a")

    def other_voxels(path: Path, like: Path, header: Any, voxels: Any) -> None:
        tried.append(path.name)
        store(path, like, header, voxels + 1)

    tried: list[str] = []
    store = module._store
    monkeypatch.setattr(module, "_store", other_voxels)
    (failed,) = failures(restructure.decathlon_to_nnunet(source, tmp_path / "b"))
    assert "other values" in failed
    assert tried == ["c1_0000.nii.gz"]
    assert len(failures(restructure.decathlon_to_nnunet(source, tmp_path / "c"))) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == [".b.converting", "a"]
    monkeypatch.undo()
    decathlon_to_nnunet(source, tmp_path / "b")
    same_cases(source, tmp_path / "b")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_a_target_that_is_not_empty_or_lies_in_the_source_is_refused(tmp_path: Path) -> None:
    source = decathlon(tmp_path / "a")
    (tmp_path / "b").mkdir()
    decathlon_to_nnunet(source, tmp_path / "b")
    with pytest.raises(InputError, match="is not empty"):
        decathlon_to_nnunet(source, tmp_path / "b")
    with pytest.raises(InputError, match="within what is converted"):
        decathlon_to_nnunet(source, source / "c")
    with pytest.raises(InputError, match="give a Medical Decathlon folder"):
        decathlon_to_nnunet(tmp_path / "b", tmp_path / "c")
    with pytest.raises(InputError, match="give an nnU-Net raw folder"):
        nnunet_to_decathlon(write_json(tmp_path / "d" / "dataset.json", described(source)).parent, tmp_path / "c")


def test_labels_that_name_structures_with_other_values_are_refused(tmp_path: Path) -> None:
    root = nnunet(tmp_path / "a", labels={"background": 0, "a": 1, "b": 2}, regions_class_order=None)
    grid = Grid((6, 5, 4), oblique())
    labels = LabelMap(some_label(1), grid, {1: "b", 2: "a"})
    (root / "labelsTr" / "c1.nii.gz").unlink()
    write_seg_nrrd(root / "labelsTr" / "c1.seg.nrrd", Result(labels, grid, None, Algorithm("tests", "1")))
    with pytest.raises(InputError, match="c1 names its structures with other values"):
        nnunet_to_decathlon(root, tmp_path / "b")
    assert not (tmp_path / "b").exists()
