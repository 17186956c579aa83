from __future__ import annotations

import errno
import os
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest

from medseg.errors import GeometryError, InputError
from medseg.imaging.grid import Grid
from medseg.imaging.itk import write_itk_volume
from medseg.imaging.reading import READERS
from medseg.imaging.scans import Found, Scan, Wanted, find_scans, read_scan
from medseg.imaging.source import ReadOptions
from medseg.imaging.volume import Volume
from tests.imaging.build import PATIENT, ROOT_UID, save_all, some_image, some_series, write_nifti

KEY = b"secret"


def names(found: Found) -> list[tuple[str, str]]:
    return [(scan.name, scan.source) for scan in found.scans]


def test_a_nifti_file(tmp_path: Path) -> None:
    found = find_scans(write_nifti(tmp_path / "liver_0000.nii.gz", some_image()), KEY)
    (scan,) = found.scans
    assert (scan.name, scan.channels[0].format, scan.source) == ("liver", "nifti", "liver_0000.nii.gz")
    assert np.array_equal(read_scan(scan)[0].volume.array, some_image())


def test_a_folder_of_nifti_with_channels(tmp_path: Path) -> None:
    for name in ("b_0001", "b_0000", "a", ".hidden"):
        write_nifti(tmp_path / f"{name}.nii.gz", some_image())
    (tmp_path / "README.txt").write_text("text")
    found = find_scans(tmp_path, KEY)
    assert [(scan.name, len(scan.paths)) for scan in found.scans] == [("a", 1), ("b", 2)]
    assert [(remark.where, remark.reason) for remark in found.left] == [
        ("README.txt", "is neither an image file nor DICOM")
    ]
    assert len(read_scan(found.scans[1])) == 2


def test_channels_on_different_grids_are_refused(tmp_path: Path) -> None:
    write_nifti(tmp_path / "b_0000.nii.gz", some_image())
    write_nifti(tmp_path / "b_0001.nii.gz", some_image(shape=(6, 5, 5)))
    with pytest.raises(GeometryError, match=r"b: \[OTHER_SHAPE\] its channel 1"):
        read_scan(find_scans(tmp_path, KEY).scans[0])


def test_folders_of_dicom_series_and_nifti(tmp_path: Path) -> None:
    one, two = some_series(series="1"), some_series(3, series="2")
    save_all(one.datasets(), tmp_path / PATIENT / "CT")
    save_all(two.datasets(), tmp_path / PATIENT / "MR" / "deep")
    write_nifti(tmp_path / "nifti" / "a.nii.gz", some_image())
    found = find_scans(tmp_path, KEY)
    assert sorted(scan.channels[0].format for scan in found.scans) == ["dicom", "dicom", "nifti"]
    by_source = {scan.source: scan for scan in found.scans}
    scan = by_source["DICOM CT series, 4 images"]
    assert np.array_equal(read_scan(scan)[0].volume.array[:, :, 1], one.values(1))
    assert names(find_scans(tmp_path, KEY)) == names(found)


def test_names_of_series_are_keyed_hashes(tmp_path: Path) -> None:
    save_all(some_series().datasets(), tmp_path)
    (first,), (other,) = find_scans(tmp_path, KEY).scans, find_scans(tmp_path, b"another").scans
    assert first.name != other.name
    assert first.name.startswith("case-")
    assert len(first.name) == 13
    assert ROOT_UID not in repr((first.name, first.source))


def test_no_patient_is_named(tmp_path: Path) -> None:
    datasets = some_series(5).datasets()
    datasets[4].SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    save_all(datasets, tmp_path / PATIENT)
    (tmp_path / PATIENT / f"{PATIENT}.pdf").write_bytes(b"%PDF")
    found = find_scans(tmp_path, KEY)
    shown = repr(names(found)) + repr(found.left)
    assert len(found.left) == 2
    datasets[0].PixelData = datasets[0].PixelData[:-2]
    save_all(datasets, tmp_path / PATIENT)
    with pytest.raises(InputError) as caught:
        read_scan(found.scans[0])
    shown += str(caught.value)
    for ds in datasets:
        del ds.PixelSpacing
    save_all(datasets, tmp_path / PATIENT)
    with pytest.raises(InputError) as caught:
        find_scans(tmp_path / PATIENT, KEY)
    shown += str(caught.value)
    assert not [part for part in (*PATIENT.split("^"), "12345678", str(tmp_path)) if part in shown]


def test_scans_of_the_same_name_are_all_left(tmp_path: Path) -> None:
    for folder, name in (("a", "x"), ("b", "x"), ("b", "y")):
        write_nifti(tmp_path / folder / f"{name}.nii.gz", some_image())
    found = find_scans(tmp_path, KEY)
    assert [scan.name for scan in found.scans] == ["y"]
    assert [(remark.where, remark.reason[:24]) for remark in found.left] == [("x", "2 scans have this name; ")] * 2


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        find_scans(tmp_path / "none", KEY)
    with pytest.raises(InputError, match="holds no scan that can be used; give a NIfTI"):
        find_scans(tmp_path, KEY)
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(InputError, match=r"notes\.txt: is neither"):
        find_scans(tmp_path, KEY)
    with pytest.raises(InputError, match="neither an image file nor DICOM"):
        find_scans(tmp_path / "notes.txt", KEY)
    (path, *_) = save_all(some_series().datasets(), tmp_path / "series")
    with pytest.raises(InputError, match="folder of its series"):
        find_scans(path, KEY)


def test_files_that_changed_since_they_were_found(tmp_path: Path) -> None:
    save_all(some_series().datasets(), tmp_path)
    (scan,) = find_scans(tmp_path, KEY).scans
    for path in scan.paths:
        path.unlink()
    with pytest.raises(InputError, match=f"{scan.name}: "):
        read_scan(scan)


@pytest.mark.parametrize("form", READERS)
def test_every_reader_gives_float32_volumes_on_one_grid(tmp_path: Path, form: str) -> None:
    save_all(some_series().datasets(), tmp_path / "dicom")
    write_nifti(tmp_path / "nifti" / "a.nii.gz", some_image())
    (tmp_path / "itk").mkdir()
    write_itk_volume(tmp_path / "itk" / "a.nrrd", Volume(some_image(), Grid((6, 5, 4), np.eye(4))))
    scan: Scan = find_scans(tmp_path / form, KEY).scans[0]
    for reading in read_scan(scan):
        assert reading.volume.array.dtype == np.float32
        assert not reading.volume.array.flags.writeable
        assert reading.own.agrees(reading.volume.grid)


def test_a_4d_file_holds_the_channels_of_a_model_of_several(tmp_path: Path) -> None:
    both = np.stack([some_image(0), some_image(1)], axis=-1)
    path = write_nifti(tmp_path / "a.nii.gz", both)
    (scan,) = find_scans(path, KEY, Wanted(("T1", "T2"))).scans
    assert [source.component for source in scan.channels] == [0, 1]
    assert all(np.array_equal(r.volume.array, both[..., k]) for k, r in enumerate(read_scan(scan)))


def test_a_zip_file_of_dicom_and_one_in_a_folder(tmp_path: Path) -> None:
    paths = save_all(some_series().datasets(), tmp_path / "series")
    (tmp_path / "scans").mkdir()
    archive = tmp_path / "scans" / "export.zip"
    with ZipFile(archive, "w") as file:
        for path in paths:
            file.write(path, f"deep/{path.name}")
    for given in (archive, archive.parent):
        scratch = tmp_path / f"scratch{given.name}"
        scratch.mkdir()
        found = find_scans(given, KEY, scratch=scratch)
        assert names(found) == names(find_scans(tmp_path / "series", KEY))
        assert np.array_equal(read_scan(found.scans[0])[0].volume.array[:, :, 1], some_series().values(1))


def test_a_hostile_zip_file_is_left_and_named(tmp_path: Path) -> None:
    write_nifti(tmp_path / "scans" / "a.nii.gz", some_image())
    with ZipFile(tmp_path / "scans" / "bad.zip", "w") as file:
        file.writestr("../../escaped", b"x")
    (tmp_path / "scratch").mkdir()
    found = find_scans(tmp_path / "scans", KEY, scratch=tmp_path / "scratch")
    assert [scan.name for scan in found.scans] == ["a"]
    (left,) = found.left
    assert left.broken
    assert "[ARCHIVE]" in left.reason
    assert not list(tmp_path.rglob("escaped"))


def test_gaps_are_filled_only_where_that_is_allowed(tmp_path: Path) -> None:
    datasets = some_series(7).datasets()
    del datasets[3]
    save_all(datasets, tmp_path)
    with pytest.raises(InputError, match=r"\[GAP\] slices are missing"):
        find_scans(tmp_path, KEY)
    options = ReadOptions(allow_gaps=True)
    (scan,) = find_scans(tmp_path, KEY, Wanted(("CT",), options=options)).scans
    (reading,) = read_scan(scan, options)
    assert reading.volume.grid.shape == (6, 5, 7)
    assert any("interpolated" in note for note in reading.notes)


def test_what_cannot_be_opened_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_nifti(tmp_path / "a.nii.gz", some_image())
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "closed").mkdir()
    scan = os.scandir

    def guarded(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, "no")
        return scan(path)

    monkeypatch.setattr(os, "scandir", guarded)
    found = find_scans(tmp_path, KEY)
    assert [scan.name for scan in found.scans] == ["a"]
    assert [remark.reason for remark in found.left] == [
        "is a broken link or no ordinary file",
        "cannot be opened (permission denied)",
    ]
