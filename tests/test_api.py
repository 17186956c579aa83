from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import medseg
from medseg.errors import CasesFailed, GeometryError, InputError, RunError
from medseg.imaging.dicom.seg import read_seg
from medseg.imaging.nifti import read_labels
from medseg.inference.export.model_file import write_model_file
from tests.imaging.build import save_all, some_series, write_nifti
from tests.tiny import blobs, untrained_run

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.usefixtures("single_precision")]


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_model_file(untrained_run(folder), folder / "m.medseg")
    return folder / "m.medseg"


def test_importing_it_imports_nothing_heavy() -> None:
    heavy = "torch", "monai", "numpy", "scipy", "nibabel", "pydicom", "SimpleITK", "highdicom", "pydantic"
    code = f"import sys, medseg; medseg.load; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_three_lines(model_file: Path, tmp_path: Path) -> None:
    write_nifti(tmp_path / "scans" / "a_0000.nii.gz", blobs(0)[0])
    model = medseg.load(model_file, device="cpu")
    prediction = model.predict(tmp_path / "scans")
    (path,) = prediction.save(tmp_path / "out")
    assert path == tmp_path / "out" / "a.nii.gz"
    assert prediction.name == "a"
    assert (model.names, model.channels) == ({1: "blob1", 2: "blob2"}, ("0",))
    np.testing.assert_array_equal(read_labels(path).array, prediction.labels.array)
    assert prediction.volumes_ml.keys() == prediction.confidence.keys() == {"blob1", "blob2"}
    assert prediction.seconds > 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a.nii.gz"}


def test_an_array_is_a_scan(model_file: Path, tmp_path: Path) -> None:
    image = blobs(0)[0]
    write_nifti(tmp_path / "a.nii.gz", image)
    model = medseg.load(model_file, device="cpu")
    affine = np.asarray(nib.load(tmp_path / "a.nii.gz").affine)  # type: ignore[attr-defined]
    expected = model.predict(str(tmp_path / "a.nii.gz")).labels.array
    for array in (image, image[None].astype(np.float64)):
        prediction = model.predict(array, affine)
        np.testing.assert_array_equal(prediction.labels.array, expected)
        np.testing.assert_allclose(prediction.labels.grid.affine, affine)
    (path,) = prediction.save(tmp_path / "out", name="mine")
    assert path.name == "mine.nii.gz"


def test_arrays_that_are_no_scans(model_file: Path) -> None:
    model, image = medseg.load(model_file, device="cpu"), blobs(0)[0]
    with pytest.raises(InputError, match="does not say where its voxels lie; give affine"):
        model.predict(image)  # type: ignore[call-overload]
    with pytest.raises(InputError, match="is no scan"):
        model.predict(image[0], np.eye(4))
    with pytest.raises(GeometryError, match="does not place the voxels"):
        model.predict(image, np.zeros((4, 4)))
    with pytest.raises(InputError, match="no number"):
        model.predict(np.full((4, 4, 4), np.nan), np.eye(4))
    with pytest.raises(InputError, match=r"voxels are 0.001 mm apart"):
        model.predict(image, np.diag([0.001, 0.001, 0.001, 1.0]))
    with pytest.raises(GeometryError, match="has 2 channel"):
        model.predict(np.stack([image, image]), np.eye(4))


def test_a_dicom_series_in_a_zip_is_saved_as_seg(model_file: Path, tmp_path: Path) -> None:
    save_all(some_series(8).datasets(), tmp_path / "series")
    with zipfile.ZipFile(tmp_path / "series.zip", "w") as packed:
        for path in (tmp_path / "series").iterdir():
            packed.write(path, path.name)
    prediction = medseg.load(model_file, device="cpu").predict(tmp_path / "series.zip")
    assert prediction.name.startswith("case-")
    paths = prediction.save(tmp_path / "out", formats=["nifti", "seg"])
    assert [path.name.removeprefix(prediction.name) for path in paths] == [".nii.gz", ".seg.dcm"]
    assert set(np.unique(prediction.labels.array)) - {0}
    assert read_seg(paths[1]) is not None


def test_several_scans_want_predict_all(model_file: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_nifti(tmp_path / f"{name}.nii.gz", blobs(1)[0])
    (tmp_path / "c.nii.gz").write_bytes(b"no scan")
    model = medseg.load(model_file, device="cpu")
    with pytest.raises(InputError, match=r"3 scans are there \(a, b, c\); use predict_all"):
        model.predict(tmp_path)
    found = []
    with pytest.raises(CasesFailed, match=r"1 case\(s\) failed: c"):
        found.extend(prediction.name for prediction in model.predict_all(tmp_path))
    assert found == ["a", "b"]


def test_what_cannot_be_loaded_or_saved(model_file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="quality best is no choice; give fast, standard, max"):
        medseg.load(model_file, quality="best")
    with pytest.raises(InputError, match="is no device"):
        medseg.load(model_file, device="tpu")
    prediction = medseg.load(model_file, device="cpu", quality="fast").predict(blobs(0)[0], np.eye(4))
    for name in ("../a", ".a", "a/b"):
        with pytest.raises(InputError, match="is no name of a file"):
            prediction.save(tmp_path, name=name)
    with pytest.raises(InputError, match="is no format of results"):
        prediction.save(tmp_path, formats=["png"])
    with pytest.raises(InputError, match="NO_SOURCE"):
        prediction.save(tmp_path, formats=["seg"])
    assert list(tmp_path.iterdir()) == []


def test_a_sheared_array_is_read_as_a_sheared_file_is(model_file: Path, tmp_path: Path) -> None:
    image, affine = blobs(0)[0], np.eye(4)
    affine[0, 1] = 0.3
    nib.save(nib.Nifti1Image(image, affine), tmp_path / "a.nii.gz")  # type: ignore[attr-defined]
    model = medseg.load(model_file, device="cpu")
    of_file, of_array = model.predict(tmp_path / "a.nii.gz"), model.predict(image, affine)
    assert any("right angles" in note for note in of_array.warnings)
    np.testing.assert_array_equal(of_array.labels.array, of_file.labels.array)


def test_a_fold_may_be_named_alone(model_file: Path) -> None:
    assert medseg.load(model_file, device="cpu", folds="0").predictor.folds == ("0",)
    with pytest.raises(RunError, match="fold 10 of"):
        medseg.load(model_file, device="cpu", folds="10")
