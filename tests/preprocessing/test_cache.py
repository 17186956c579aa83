from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medseg.errors import InputError, MedsegError, RunError
from medseg.imaging.dataset import Case, find_dataset
from medseg.imaging.grid import Grid
from medseg.imaging.nifti import read_labels, write_volume
from medseg.imaging.volume import Volume
from medseg.preprocessing import cache
from medseg.preprocessing.cache import (
    CacheJob,
    foreground_voxels,
    load_cases,
    load_reference,
    prepare_case,
    standing,
)
from medseg.preprocessing.settings import Normalisation, PreprocessingSettings
from tests.preprocessing.build import NAMES, write_case, write_dataset

SETTINGS = PreprocessingSettings(spacing_mm=(1.0, 1.0, 1.0), channels=(Normalisation(kind="zscore"),))
ENDS = ("image.npy", "classes.npy", "foreground.npz", "reference.npz", "json")


def a_job(tmp_path: Path, settings: PreprocessingSettings = SETTINGS) -> CacheJob:
    if not (tmp_path / "data").exists():
        write_dataset(tmp_path / "data", n=1, shape=(12, 10, 8))
    dataset = find_dataset(tmp_path / "data")
    return CacheJob(dataset.cases[0], dataset, settings, tmp_path / "cache")


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(folder.iterdir())}


def test_a_case_is_prepared_once(tmp_path):
    record = prepare_case(a_job(tmp_path))
    before = times(tmp_path / "cache")
    assert set(before) == {f"case0.{end}" for end in ENDS}
    assert before["case0.json"] == max(before.values())
    assert prepare_case(a_job(tmp_path)) == record
    assert times(tmp_path / "cache") == before


def test_what_is_kept_is_what_prepare_gives(tmp_path):
    job = a_job(tmp_path)
    prepare_case(job)
    (case,) = load_cases(job.folder, ["case0"], job.settings)
    assert case.image_CXYZ.shape == (1, 12, 10, 16)
    assert case.classes_XYZ.shape == (12, 10, 16)
    assert case.spacing_mm == (1, 1, 1)
    assert isinstance(case.image_CXYZ, np.memmap)
    assert not case.image_CXYZ.flags.writeable
    reference = load_reference(job.folder, case, NAMES)
    given = read_labels(job.case.label.path)
    np.testing.assert_array_equal(reference.array, given.array)
    np.testing.assert_array_equal(reference.grid.affine, given.grid.affine)
    assert dict(reference.names) == NAMES


def test_foreground_lists_the_voxels_of_each_class(tmp_path):
    job = a_job(tmp_path)
    prepare_case(job)
    (case,) = load_cases(job.folder, ["case0"], job.settings)
    assert set(case.foreground) == {1, 2}
    for value, where in case.foreground.items():
        np.testing.assert_array_equal(where, np.flatnonzero(case.classes_XYZ == value))


def test_long_lists_are_drawn_by_a_seed(monkeypatch):
    monkeypatch.setattr(cache, "FOREGROUND_VOXELS", 50)
    classes = np.random.default_rng(0).integers(0, 3, (9, 9, 9)).astype(np.uint8)
    found = foreground_voxels(classes, "ab" * 32)
    for value, where in found.items():
        assert where.size == np.unique(where).size == 50
        assert (classes.ravel()[where] == int(value)).all()
    again, other = foreground_voxels(classes, "ab" * 32), foreground_voxels(classes, "cd" * 32)
    np.testing.assert_array_equal(found["1"], again["1"])
    assert not np.array_equal(found["1"], other["1"])


def test_a_case_without_structures_has_no_foreground(tmp_path):
    write_dataset(tmp_path / "data", n=1, shape=(12, 10, 8))
    write_case(tmp_path / "data", "case0", shape=(12, 10, 8), values=())
    job = a_job(tmp_path)
    prepare_case(job)
    (case,) = load_cases(job.folder, ["case0"], job.settings)
    assert case.foreground == {}


@pytest.mark.parametrize("what", ["image", "label", "settings", "labels"])
def test_a_change_is_prepared_again(tmp_path, what):
    job = a_job(tmp_path)
    first = prepare_case(job)
    if what == "settings":
        job = a_job(tmp_path, SETTINGS.model_copy(update={"spacing_mm": (2.0, 1.0, 1.0)}))
    elif what == "image":
        write_case(tmp_path / "data", "case0", seed=9, shape=(12, 10, 8))
    elif what == "label":
        write_case(tmp_path / "data", "case0", shape=(12, 10, 8), values=(2, 1))
    else:
        said = (tmp_path / "data" / "dataset.json").read_text()
        (tmp_path / "data" / "dataset.json").write_text(said.replace('"lesion": 2', '"lesion": 2, "cyst": 3'))
    job = a_job(tmp_path, job.settings)
    second = prepare_case(job)
    assert second.key != first.key
    assert standing(job.folder, "case0") == second


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("how", ["deleted", "cut"])
def test_a_lost_or_cut_file_is_made_again(tmp_path, end, how):
    job = a_job(tmp_path)
    first = prepare_case(job)
    path = job.folder / f"case0.{end}"
    if how == "deleted":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RunError, match="case0"):
        load_cases(job.folder, ["case0"], job.settings)
    assert prepare_case(job) == first
    load_cases(job.folder, ["case0"], job.settings)


@pytest.mark.parametrize("what", ["image", "classes", "foreground", "reference"])
def test_killed_between_files_the_case_counts_as_not_prepared(tmp_path, monkeypatch, what):
    prepare_case(a_job(tmp_path))
    job = a_job(tmp_path, SETTINGS.model_copy(update={"spacing_mm": (2.0, 2.0, 2.0)}))
    with monkeypatch.context() as killed:
        name = "_save" if what in ("image", "classes") else "_save_several"
        save = getattr(cache, name)

        def until(job, this, array):
            if this == what:
                raise KeyboardInterrupt
            return save(job, this, array)

        killed.setattr(cache, name, until)
        with pytest.raises(KeyboardInterrupt):
            prepare_case(job)
    assert standing(job.folder, "case0") is None
    assert not (job.folder / "case0.json").exists()
    assert not list(job.folder.glob(".part-*"))
    prepare_case(job)
    (case,) = load_cases(job.folder, ["case0"], job.settings)
    assert case.image_CXYZ.shape == (1, 6, 5, 8)


@pytest.mark.parametrize(("scale", "dtype"), [(1.0, np.float16), (60.0, np.float32), (1e6, np.float32)])
def test_half_precision_where_it_loses_nothing_that_matters(tmp_path, scale, dtype):
    job = a_job(tmp_path)
    values = np.linspace(-1, 1, 12 * 10 * 8, dtype=np.float32).reshape(12, 10, 8) * scale
    write_volume(job.case.images[0].paths[0], Volume(values, Grid((12, 10, 8), np.diag([1.0, 1, 2, 1]))))
    ct = Normalisation(kind="ct", lower=-1e9, upper=1e9, mean=0, sd=1)
    settings = PreprocessingSettings(spacing_mm=(None, None, None), channels=(ct,))
    prepare_case(a_job(tmp_path, settings))
    (case,) = load_cases(job.folder, ["case0"], settings)
    assert case.image_CXYZ.dtype == dtype
    np.testing.assert_allclose(case.image_CXYZ[0], values, rtol=1e-6, atol=cache.FLOAT16_LOSS)


def test_a_case_that_was_never_prepared_is_named(tmp_path):
    with pytest.raises(RunError, match=r"case9 is not prepared.*medseg plan"):
        load_cases(tmp_path, ["case9"], PreprocessingSettings(spacing_mm=(1, 1, 1), channels=()))


def test_a_case_without_label_or_with_a_lost_file_is_an_error_of_the_case(tmp_path):
    job = a_job(tmp_path)
    with pytest.raises(InputError, match="label"):
        prepare_case(CacheJob(Case("case0", job.case.images, None, "case0"), job.dataset, SETTINGS, job.folder))
    job.case.images[0].paths[0].unlink()
    with pytest.raises(MedsegError, match="case0"):
        prepare_case(job)
    assert not (job.folder / "case0.json").exists()


def test_classes_follow_label_values_not_the_order_in_which_labels_are_told(tmp_path):
    job = a_job(tmp_path)
    prepare_case(job)
    (first,) = load_cases(job.folder, ["case0"], job.settings)
    classes = np.array(first.classes_XYZ)
    dataset = job.dataset.__class__(**{**vars(job.dataset), "labels": {2: "lesion", 1: "liver"}})
    prepare_case(CacheJob(job.case, dataset, SETTINGS, job.folder))
    (second,) = load_cases(job.folder, ["case0"], job.settings)
    np.testing.assert_array_equal(second.classes_XYZ, classes)
