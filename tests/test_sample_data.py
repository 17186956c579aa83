"""``sample_data/`` is what its generator writes, stays small, and cannot be solved by thresholds and mean position."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from nibabel.orientations import aff2axcodes
from numpy.typing import NDArray
from scipy import ndimage

from tests import phantom

SAMPLE_DATA = Path(__file__).parents[1] / "sample_data"
LARGEST_BYTES = 5_000_000
STRUCTURES = {"liver": phantom.LIVER, "kidney": phantom.KIDNEY, "lesion": phantom.LESION}

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


# --- the files are what the generator writes ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh copy of the sample data."""
    folder = tmp_path_factory.mktemp("sample_data")
    phantom.write_sample_data(folder)
    return folder


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {"README.md"}


def test_same_files(written: Path) -> None:
    assert _files(SAMPLE_DATA) == _files(written)


def test_same_niftis(written: Path) -> None:
    for path in sorted(written.rglob("*.nii.gz")):
        name = path.relative_to(written)
        new, old = nib.load(path), nib.load(SAMPLE_DATA / name)
        np.testing.assert_allclose(old.affine, new.affine, atol=1e-4, err_msg=str(name))
        assert old.get_data_dtype() == new.get_data_dtype() == (np.uint8 if "label" in str(name) else np.int16)
        _assert_same_array(np.asarray(old.dataobj), np.asarray(new.dataobj), str(name))


def _assert_same_array(old: NDArray[np.integer], new: NDArray[np.integer], name: str) -> None:
    """Equal, but for the last bit of another processor's cosine: one voxel in ten thousand may differ."""
    assert old.shape == new.shape, name
    assert np.count_nonzero(old != new) <= old.size // 10_000, name


def test_same_json(written: Path) -> None:
    old, new = (json.loads((folder / "train/dataset.json").read_text("utf-8")) for folder in (SAMPLE_DATA, written))
    assert old == new
    for pair in old["training"]:
        assert (SAMPLE_DATA / "train" / pair["image"]).is_file()
        assert (SAMPLE_DATA / "train" / pair["label"]).is_file()


def test_same_dicom(written: Path) -> None:
    for path in sorted((written / "dicom").rglob("*.dcm")):
        name = path.relative_to(written)
        new, old = pydicom.dcmread(path), pydicom.dcmread(SAMPLE_DATA / name)
        _assert_same_array(old.pixel_array, new.pixel_array, str(name))
        for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "InstanceNumber", "PatientID"):
            assert old[keyword] == new[keyword], (name, keyword)
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            np.testing.assert_allclose(old[keyword].value, new[keyword].value, atol=1e-6)


def test_small() -> None:
    size = sum(path.stat().st_size for path in SAMPLE_DATA.rglob("*") if path.is_file())
    assert size < LARGEST_BYTES


# --- the content is what the README says ----------------------------------------------------------------------------


def test_scored_cases_are_never_trained_on() -> None:
    trained = {path.name for path in (SAMPLE_DATA / "train/imagesTr").iterdir()}
    scored = {path.name for path in (SAMPLE_DATA / "test/images").iterdir()}
    assert not trained & scored
    assert phantom.DICOM_SEED not in {*phantom.TRAINING_SEEDS, *phantom.TEST_SEEDS}
    assert 12 <= len(trained | scored) + 1 <= 16


def test_grids_differ() -> None:
    affines = [nib.load(path).affine for path in sorted(SAMPLE_DATA.rglob("images*/*.nii.gz"))]
    assert {"".join(aff2axcodes(affine)) for affine in affines} == {"LPS", "RAS", "LAS", "PIR"}
    spacings = np.array([np.sort(np.linalg.norm(affine[:3, :3], axis=0)) for affine in affines])
    assert np.all(spacings[:, 2] > 1.3 * spacings[:, 0])
    cosines = np.array([affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0) for affine in affines])
    tilts_deg = np.rad2deg(np.arccos(np.abs(cosines).max(axis=1).min(axis=1).clip(max=1)))
    assert np.count_nonzero(tilts_deg > 3) >= 4
    assert tilts_deg.max() < 16


def test_every_case_has_every_structure_and_the_liver_on_the_right() -> None:
    for path in sorted(SAMPLE_DATA.rglob("*labels*/*.nii.gz")):
        image = nib.as_closest_canonical(nib.load(path))
        labels = np.asarray(image.dataobj)
        assert set(np.unique(labels)) == {0, *STRUCTURES.values()}
        assert np.count_nonzero(labels == phantom.LESION) >= 40
        right, _, _ = ndimage.center_of_mass(labels == phantom.LIVER)
        assert right > (labels.shape[0] - 1) / 2, path.name
        around = ndimage.binary_dilation(labels == phantom.LESION) & (labels != phantom.LESION)
        assert np.mean(labels[around] == phantom.LIVER) > 0.9, path.name


def test_the_same_patient_on_every_grid() -> None:
    image, labels, affine = phantom.make_case(5, stored_as="RAS", tilt_deg=0)
    turned, turned_labels, turned_affine = phantom.make_case(5, stored_as="PIR", tilt_deg=0)
    back = nib.as_closest_canonical(nib.Nifti1Image(turned, turned_affine))
    np.testing.assert_array_equal(np.asarray(back.dataobj), image)
    np.testing.assert_allclose(back.affine, affine, atol=1e-9)
    assert np.bincount(turned_labels.ravel()).tolist() == np.bincount(labels.ravel()).tolist()


def test_the_dicom_grid_is_that_of_its_reference() -> None:
    slices = [pydicom.dcmread(path) for path in (SAMPLE_DATA / "dicom" / phantom.DICOM_NAME).iterdir()]
    row, column = np.array(slices[0].ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(row, column)
    slices.sort(key=lambda data: float(normal @ np.array(data.ImagePositionPatient, float)))
    reference = nib.load(SAMPLE_DATA / "dicom_labels" / f"{phantom.DICOM_NAME}.nii.gz")
    assert reference.shape == (slices[0].Columns, slices[0].Rows, len(slices))
    first, last = (np.array(data.ImagePositionPatient, float) for data in (slices[0], slices[-1]))
    between_rows_mm, between_columns_mm = map(float, slices[0].PixelSpacing)
    lps = np.eye(4)
    lps[:3, :3] = np.stack([row * between_columns_mm, column * between_rows_mm, (last - first) / (len(slices) - 1)], 1)
    lps[:3, 3] = first
    np.testing.assert_allclose(reference.affine, np.diag([-1, -1, 1, 1]) @ lps, atol=1e-4)
    image, labels, _ = phantom.make_case(phantom.DICOM_SEED, stored_as="LPS", tilt_deg=phantom.DICOM_TILT_DEG)
    stored = np.stack([data.pixel_array.T for data in slices], axis=2)
    hu = stored * float(slices[0].RescaleSlope) + float(slices[0].RescaleIntercept)
    assert np.count_nonzero(hu != image) <= image.size // 10_000
    assert np.count_nonzero(np.asarray(reference.dataobj) != labels) <= labels.size // 10_000


# --- a threshold and the mean position do not solve it --------------------------------------------------------------


@dataclass(frozen=True)
class Scan:
    """One case in RAS order, with each voxel's position in the box around the body, 0 to 1 along each axis."""

    hu: Floats
    smooth_hu: Floats
    labels: NDArray[np.uint8]
    position: Floats  # (3, X, Y, Z)


@dataclass(frozen=True)
class Rule:
    """Structure here: intensity in a range and prior probability of the position above a threshold."""

    smooth: bool
    percentiles: tuple[float, float]
    prior_above: float
    largest_only: bool


PRIOR_SHAPE = (48, 40, 24)
RULES = tuple(
    Rule(*choice)
    for choice in product((False, True), ((5, 95), (1, 99)), (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7), (False, True))
)


def _scan(image_path: Path, label_path: Path) -> Scan:
    image, label = (nib.as_closest_canonical(nib.load(path)) for path in (image_path, label_path))
    hu = np.asarray(image.dataobj).astype(float)
    box = ndimage.find_objects((hu > -500).astype(int))[0]
    ramps = [(np.arange(n) - part.start) / (part.stop - 1 - part.start) for n, part in zip(hu.shape, box, strict=True)]
    position = np.stack(np.meshgrid(*ramps, indexing="ij"))
    return Scan(hu, ndimage.uniform_filter(hu, 3), np.asarray(label.dataobj), position)


def _scans(images: Path, labels: Path) -> Iterator[Scan]:
    for path in sorted(images.glob("*.nii.gz")):
        yield _scan(path, labels / path.name)


def _prior(scans: list[Scan], label: int) -> Floats:
    """How often the structure lies at each place of the body box."""
    total = np.zeros(PRIOR_SHAPE)
    grid = np.stack(np.meshgrid(*(np.linspace(0, 1, n) for n in PRIOR_SHAPE), indexing="ij"))
    for scan in scans:
        start, step = scan.position[:, 0, 0, 0], scan.position[:, 1, 1, 1] - scan.position[:, 0, 0, 0]
        index = (grid - start[:, None, None, None]) / step[:, None, None, None]
        total += ndimage.map_coordinates((scan.labels == label).astype(float), index, order=1)
    return total / len(scans)


def _prior_on(scan: Scan, prior: Floats) -> Floats:
    index = scan.position * (np.array(PRIOR_SHAPE) - 1)[:, None, None, None]
    return ndimage.map_coordinates(prior, index, order=1)


def _range_hu(rule: Rule, train: list[Scan], label: int) -> tuple[float, float]:
    values = [(scan.smooth_hu if rule.smooth else scan.hu)[scan.labels == label] for scan in train]
    low, high = np.percentile(np.concatenate(values), rule.percentiles)
    return float(low), float(high)


def _predict(rule: Rule, scan: Scan, prior: Floats, range_hu: tuple[float, float]) -> Mask:
    hu = scan.smooth_hu if rule.smooth else scan.hu
    mask = (hu >= range_hu[0]) & (hu <= range_hu[1]) & (prior > rule.prior_above)
    parts, count = ndimage.label(mask)
    if not rule.largest_only or count < 2:
        return mask
    return parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])


def _dice(mask: Mask, reference: Mask) -> float:
    return 2 * np.count_nonzero(mask & reference) / max(np.count_nonzero(mask) + np.count_nonzero(reference), 1)


def _baseline_dice(train: list[Scan], test: list[Scan], label: int) -> float:
    """Mean Dice on the test cases of the rule that does best on the training cases."""
    prior = _prior(train, label)
    priors = {id(scan): _prior_on(scan, prior) for scan in (*train, *test)}

    def score(rule: Rule, scans: list[Scan]) -> float:
        range_hu = _range_hu(rule, train, label)
        return float(
            np.mean([_dice(_predict(rule, scan, priors[id(scan)], range_hu), scan.labels == label) for scan in scans])
        )

    return score(max(RULES, key=lambda rule: score(rule, train)), test)


def test_thresholds_and_mean_position_stay_below_the_floors() -> None:
    train = list(_scans(SAMPLE_DATA / "train/imagesTr", SAMPLE_DATA / "train/labelsTr"))
    test = list(_scans(SAMPLE_DATA / "test/images", SAMPLE_DATA / "test/labels"))
    dice = {name: round(_baseline_dice(train, test, label), 3) for name, label in STRUCTURES.items()}
    mean = float(np.mean(list(dice.values())))
    assert mean < 0.6, f"mean Dice {mean:.3f} of the baseline: {dice}"
