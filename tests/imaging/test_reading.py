from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from medseg.errors import GeometryError, InputError
from medseg.imaging.dicom.scanner import scan_dicom
from medseg.imaging.grid import Grid
from medseg.imaging.itk import write_itk_volume
from medseg.imaging.nifti import write_volume
from medseg.imaging.reading import READERS, read_channels, read_source, shape_of
from medseg.imaging.source import Format, ReadOptions, Source
from medseg.imaging.volume import Volume
from tests.imaging.build import save_all, some_image, some_series, write_nifti
from tests.imaging.labelled_build import AFFINE, SHAPE, series

OPTIONS = ReadOptions()


def source_of(kind: Format, root: Path, affine: np.ndarray = AFFINE, seed: int = 0) -> Source:
    if kind == "dicom":
        volume = series(root / "dicom", seed, affine=affine)
        return Source("dicom", volume.paths, dicom=volume)
    voxels = np.random.default_rng(seed).integers(-900, 900, SHAPE).astype(np.int16)
    path = root / ("a.nii.gz" if kind == "nifti" else "a.nrrd")
    (write_volume if kind == "nifti" else write_itk_volume)(path, Volume(voxels, Grid(SHAPE, affine)))
    return Source(kind, (path,))


@pytest.mark.parametrize("kind", READERS)
def test_every_format_gives_the_same_voxels_in_the_same_place(kind: Format, tmp_path: Path) -> None:
    source = source_of(kind, tmp_path)
    reading = read_source(source, "a", OPTIONS)
    grid, array = reading.volume.grid, reading.volume.array
    assert array.dtype == np.float32
    assert shape_of(source) == grid.shape == reading.own.shape
    assert Grid(SHAPE, AFFINE).deviation_mm(grid) < 0.01
    np.testing.assert_array_equal(array, np.random.default_rng(0).integers(-900, 900, SHAPE))


@pytest.mark.parametrize("kind", READERS)
def test_every_format_refuses_what_is_gone_without_naming_it(kind: Format, tmp_path: Path) -> None:
    source = source_of(kind, tmp_path)
    for path in source.paths:
        path.unlink()
    with pytest.raises(InputError) as caught:
        read_source(source, "case-1", OPTIONS)
    assert kind != "dicom" or str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("name", ["a.nii.gz", "several values a voxel.nrrd", "several volumes.nrrd"])
def test_volumes_of_a_4d_file(name: str, tmp_path: Path) -> None:
    stacked = np.stack([some_image(0), some_image(1)], axis=-1)
    path = tmp_path / name
    kind: Format = "itk" if name.endswith(".nrrd") else "nifti"
    if kind == "itk":
        vector = "voxel" in name
        turned = stacked.transpose((2, 1, 0, 3) if vector else (3, 2, 1, 0))
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.ascontiguousarray(turned), isVector=vector), str(path))
    else:
        write_nifti(path, stacked)
    channels = read_channels([Source(kind, (path,), component=k) for k in (0, 1)], "a", ReadOptions(need_place=False))
    for k, reading in enumerate(channels):
        np.testing.assert_array_equal(reading.volume.array, some_image(k))


def test_files_must_lie_on_each_other_and_on_dicom(tmp_path: Path) -> None:
    moved = AFFINE.copy()
    moved[0, 3] += 0.5
    first = source_of("dicom", tmp_path)
    assert len(read_channels([first, source_of("nifti", tmp_path)], "a", OPTIONS)) == 2
    with pytest.raises(GeometryError, match=r"a: \[OTHER_GRID\] its channel 1 lies up to 0\.5 mm away from its image"):
        read_channels([first, source_of("nifti", tmp_path, moved)], "a", OPTIONS)


def pet_and_ct(root: Path, away_mm: float) -> list[Source]:
    """A CT, and a PET of the same patient in coarser voxels, some mm away."""
    ct = some_series(8, series="1", step_mm=2.5).datasets()
    pet = some_series(5, series="2", step_mm=4.0, between_rows_mm=1.6, between_columns_mm=1.4).datasets()
    for ds in pet:
        ds.Modality, ds.ImagePositionPatient = (
            "PT",
            [*ds.ImagePositionPatient[:2], ds.ImagePositionPatient[2] + away_mm],
        )
    volumes = [scan_dicom(save_all(datasets, root / name)).volumes[0] for name, datasets in (("ct", ct), ("pet", pet))]
    return [Source("dicom", volume.paths, dicom=volume) for volume in volumes]


def test_dicom_channels_of_one_frame_of_reference_are_brought_onto_the_first(tmp_path: Path) -> None:
    ct, pet = read_channels(pet_and_ct(tmp_path, 4.0), "a", OPTIONS)
    assert pet.volume.grid.agrees(ct.volume.grid)
    assert "of which it covers" in pet.notes[-1]
    given = read_source(pet_and_ct(tmp_path, 4.0)[1], "a", OPTIONS).volume
    corner = given.grid.affine[:3, 3]
    at = np.linalg.inv(ct.volume.grid.affine) @ [*corner, 1]
    x, y, z = np.rint(at[:3]).astype(int)
    assert np.abs(at[:3] - (x, y, z)).max() < 0.5
    assert pet.volume.array.min() == given.array.min()  # what it does not cover


def test_channels_that_do_not_meet_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match=r"\[NO_OVERLAP\]"):
        read_channels(pet_and_ct(tmp_path, 900.0), "a", OPTIONS)
