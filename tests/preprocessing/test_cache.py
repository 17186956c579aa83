from __future__ import annotations

import os
import signal
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from medseg.errors import InputError, MedsegError, RunError
from medseg.imaging.dataset import Case, find_dataset
from medseg.imaging.grid import Grid
from medseg.imaging.nifti import read_labels, write_labels, write_volume
from medseg.imaging.volume import LabelMap, Volume
from medseg.parallel import Done, Failed, LocalExecutor, over_cases
from medseg.preprocessing import cache
from medseg.preprocessing.cache import (
    CachedCase,
    CacheJob,
    case_path,
    foreground_voxels,
    load_cases,
    load_reference,
    predicted_bytes,
    prepare_case,
    runs_of,
    standing,
    stored_as,
)
from medseg.preprocessing.resample import Resampler
from medseg.preprocessing.settings import Normalisation, PreprocessingSettings
from tests.preprocessing.build import NAMES, describe, write_case, write_dataset

SETTINGS = PreprocessingSettings(spacing_mm=(1.0, 1.0, 1.0), channels=(Normalisation(kind="zscore"),))


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
    assert set(before) == {"case0.safetensors"}
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


@pytest.mark.parametrize("piece", [7, 64, 10_000])
def test_the_lists_do_not_depend_on_the_pieces_that_they_are_looked_up_in(monkeypatch, piece):
    monkeypatch.setattr(cache, "FOREGROUND_VOXELS", 30)
    classes = np.random.default_rng(3).choice(np.array([0, 0, 0, 1, 2, 300], np.uint16), (5, 11, 13))
    whole = foreground_voxels(classes, "ab" * 32)
    monkeypatch.setattr(cache, "_PIECE", piece)
    found = foreground_voxels(classes, "ab" * 32)
    assert list(found) == ["1", "2", "300"]
    for value, where in found.items():
        np.testing.assert_array_equal(where, whole[value])
        assert (classes.ravel()[where] == int(value)).all()
        assert where.size == min(30, np.count_nonzero(classes == int(value)))


def test_every_voxel_of_a_long_list_is_as_likely(monkeypatch):
    monkeypatch.setattr(cache, "FOREGROUND_VOXELS", 10)
    classes = np.ones((4, 5, 2), np.uint8)
    hits = np.zeros(40)
    for k in range(2000):
        hits[foreground_voxels(classes, f"{k:016x}")["1"]] += 1
    assert 400 < hits.min() <= hits.max() < 600


@pytest.mark.parametrize("order", ["F", "C"])
@pytest.mark.parametrize("piece", [5, 10_000])
@pytest.mark.parametrize("kind", ["smooth", "noise", "empty", "one voxel", "full"])
def test_a_label_map_comes_back_from_its_runs(monkeypatch, order, piece, kind):
    monkeypatch.setattr(cache, "_PIECE", piece)
    labels = np.zeros((1, 1, 1) if kind == "one voxel" else (9, 8, 7), np.uint16, order=order)
    if kind == "smooth":
        labels[2:5, 1:7, 3:] = 300
    elif kind == "noise":
        labels[:] = np.random.default_rng(0).integers(0, 9, labels.shape)
    elif kind != "empty":
        labels[:] = 7
    runs = runs_of(labels)
    assert ("reference.starts" in runs) == (kind in ("smooth", "empty", "full"))
    np.testing.assert_array_equal(cache.from_runs(runs, labels.shape), labels)
    assert cache.from_runs(runs, labels.shape).dtype == labels.dtype


def test_voxels_that_nobody_labelled_are_in_no_list_and_all_others_in_one(monkeypatch):
    classes = np.random.default_rng(0).integers(0, 4, (9, 8, 7)).astype(np.uint8)
    found = foreground_voxels(classes, "ab" * 32, ignored=3)
    assert set(found) == {"0", "1", "2"}
    np.testing.assert_array_equal(found["0"], np.flatnonzero(classes != 3))
    assert all((classes.reshape(-1)[found[k]] == int(k)).all() for k in ("1", "2"))
    np.testing.assert_array_equal(found["1"], foreground_voxels(classes, "ab" * 32)["1"])
    monkeypatch.setattr(cache, "FOREGROUND_VOXELS", 50)
    few = foreground_voxels(classes, "ab" * 32, ignored=3)
    assert [few[k].size for k in ("0", "1", "2")] == [50, 50, 50]
    assert set(classes.reshape(-1)[few["0"]]) == {0, 1, 2}
    assert foreground_voxels(np.full((4, 4, 4), 3, np.uint8), "ab" * 32, ignored=3) == {}
    assert set(foreground_voxels(np.zeros((4, 4, 4), np.uint8), "ab" * 32, ignored=3)) == {"0"}


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


@pytest.mark.parametrize("how", ["deleted", "cut", "emptied", "older", "not such a record"])
def test_a_lost_cut_or_older_file_is_made_again(tmp_path, how):
    job = a_job(tmp_path)
    first = prepare_case(job)
    path = case_path(job.folder, "case0")
    raw = path.read_bytes()
    if how == "deleted":
        path.unlink()
    elif how == "older":
        path.write_bytes(raw.replace(f'version\\":{cache.VERSION}'.encode(), b'version\\":0'))
    elif how == "not such a record":
        path.write_bytes(raw.replace(b'spacing_mm\\"', b'spacing_cm\\"'))
    else:
        path.write_bytes(raw[:-1] if how == "cut" else b"")
    with pytest.raises(RunError, match="case0"):
        load_cases(job.folder, ["case0"], job.settings)
    assert prepare_case(job) == first
    assert path.read_bytes() == raw
    (case,) = load_cases(job.folder, ["case0"], job.settings)
    path.unlink()
    with pytest.raises(RunError, match="case0"):
        load_reference(job.folder, case, NAMES)


@pytest.mark.parametrize("at", ["read_case_images", "read_case_label", "prepare_labels", "write_case_file"])
def test_interrupted_at_any_step_the_case_counts_as_not_prepared(tmp_path, monkeypatch, at):
    prepare_case(a_job(tmp_path))
    job = a_job(tmp_path, SETTINGS.model_copy(update={"spacing_mm": (2.0, 2.0, 2.0)}))

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        home = "imaging.dataset" if at.startswith("read") else "preprocessing.cache"
        killed.setattr(f"medseg.{home}.{at}", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare_case(job)
    assert standing(job.folder, "case0") is None
    assert not list(job.folder.iterdir())
    prepare_case(job)
    (case,) = load_cases(job.folder, ["case0"], job.settings)
    assert case.image_CXYZ.shape == (1, 6, 5, 8)


@pytest.mark.parametrize(("scale", "dtype"), [(4.0, np.float16), (60.0, np.float32), (1e6, np.float32)])
def test_half_precision_where_it_loses_nothing_that_matters(tmp_path, scale, dtype):
    job = a_job(tmp_path)
    values = np.linspace(-1, 1, 12 * 10 * 8, dtype=np.float32).reshape(12, 10, 8) * scale
    write_volume(job.case.images[0].paths[0], Volume(values, Grid((12, 10, 8), np.diag([1.0, 1, 2, 1]))))
    ct = Normalisation(kind="ct", lower=-1e9, upper=1e9, mean=0, sd=1)
    settings = PreprocessingSettings(spacing_mm=(None, None, None), channels=(ct,))
    prepare_case(a_job(tmp_path, settings))
    (case,) = load_cases(job.folder, ["case0"], settings)
    assert case.image_CXYZ.dtype == dtype
    np.testing.assert_allclose(case.image_CXYZ[0], values, rtol=1e-6, atol=1e-3 if dtype == np.float16 else 0)


def normal(n: int = 100_000) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (1, n, 1, 1)).astype(np.float32)


@pytest.mark.parametrize(
    ("beyond", "value", "dtype"),
    [(0, 0, "f2"), (99, 30, "f2"), (99, -3e4, "f2"), (101, 5, "f4"), (101, -5, "f4"), (1, 7e4, "f4")],
)
def test_a_few_outliers_do_not_cost_twice_the_disk_many_do(beyond, value, dtype):
    image = normal().clip(-3.9, 3.9)
    image[0, : 2 * beyond : 2] = value
    assert stored_as(image) == np.dtype(dtype)
    lost = np.abs(image.astype(np.float16).astype(np.float32) - image) if dtype == "f2" else np.zeros(1)
    assert np.mean(lost > 1e-3) <= 1e-3


def test_a_scan_with_heavy_tails_is_kept_in_single_precision():
    heavy = np.random.default_rng(0).standard_t(2.5, (1, 50_000, 1, 1)).astype(np.float32)
    heavy = (heavy - heavy.mean()) / heavy.std()
    assert np.mean(np.abs(heavy.astype(np.float16) - heavy) > 1e-3) > 1e-3
    assert stored_as(heavy) == np.float32


def test_a_case_that_was_never_prepared_is_named(tmp_path):
    with pytest.raises(RunError, match=r"case9 is not prepared.*medseg plan"):
        load_cases(tmp_path, ["case9"], PreprocessingSettings(spacing_mm=(1, 1, 1), channels=()))


@pytest.mark.parametrize(("folder", "asked"), [("2d", "2d"), ("3d", "3d"), ("3d_lowres", "lowres")])
def test_a_configuration_for_which_nothing_is_prepared_is_named(tmp_path, folder, asked):
    with pytest.raises(RunError, match=f"no case is prepared for {asked}; plan again with --also {asked}, all other"):
        load_cases(tmp_path / folder, ["case9"], SETTINGS)
    prepare_case(replace(a_job(tmp_path), folder=tmp_path / folder))
    with pytest.raises(RunError, match="case9 is not prepared; run medseg plan again with the same options"):
        load_cases(tmp_path / folder, ["case9"], SETTINGS)


def test_a_case_without_label_or_with_a_lost_file_is_an_error_of_the_case(tmp_path):
    job = a_job(tmp_path)
    with pytest.raises(InputError, match="label"):
        prepare_case(CacheJob(Case("case0", job.case.images, None, "case0"), job.dataset, SETTINGS, job.folder))
    job.case.images[0].paths[0].unlink()
    with pytest.raises(MedsegError, match="case0"):
        prepare_case(job)
    assert standing(job.folder, "case0") is None


def test_classes_follow_label_values_not_the_order_in_which_labels_are_told(tmp_path):
    job = a_job(tmp_path)
    prepare_case(job)
    (first,) = load_cases(job.folder, ["case0"], job.settings)
    classes = np.array(first.classes_XYZ)
    dataset = job.dataset.__class__(**{**vars(job.dataset), "labels": {2: "lesion", 1: "liver"}})
    prepare_case(CacheJob(job.case, dataset, SETTINGS, job.folder))
    (second,) = load_cases(job.folder, ["case0"], job.settings)
    np.testing.assert_array_equal(second.classes_XYZ, classes)


def test_a_known_digest_of_the_content_spares_reading_the_files(tmp_path, monkeypatch):
    job = replace(a_job(tmp_path), content="told")
    first = prepare_case(job)

    def never(*_):
        raise AssertionError("read")

    for name in ("case_digest", "read_case_images", "read_case_label"):
        monkeypatch.setattr(f"medseg.imaging.dataset.{name}", never)
    assert prepare_case(job) == first
    assert cache.cache_key(replace(job, content="told otherwise")) != first.key
    with pytest.raises(AssertionError, match="read"):
        prepare_case(replace(job, content="told otherwise"))


def test_more_than_255_classes_are_kept_with_two_bytes(tmp_path):
    write_dataset(tmp_path / "data", n=1, shape=(12, 10, 8))
    values = range(1, 301)
    label = np.zeros((12, 10, 8), np.uint16)
    label.ravel()[: 3 * 300] = np.repeat(values, 3)
    write_labels(tmp_path / "data/labels/case0.nii.gz", LabelMap(label, Grid(label.shape, np.diag([1.0, 1, 2, 1])), {}))
    describe(tmp_path / "data", {v: f"s{v}" for v in values})
    job = a_job(tmp_path, SETTINGS.model_copy(update={"spacing_mm": (None, None, None)}))
    prepare_case(job)
    (case,) = load_cases(job.folder, ["case0"], job.settings)
    assert case.classes_XYZ.dtype == np.uint16
    np.testing.assert_array_equal(case.classes_XYZ, label)
    assert list(case.foreground) == list(values)
    assert all((case.classes_XYZ.ravel()[where] == k).all() for k, where in case.foreground.items())


def test_any_safetensors_reader_opens_the_file(tmp_path):
    job = a_job(tmp_path)
    record = prepare_case(job)
    (case,) = load_cases(job.folder, ["case0"], job.settings)
    found = load_file(case_path(job.folder, "case0"))
    np.testing.assert_array_equal(found["image"], case.image_CXYZ)
    np.testing.assert_array_equal(found["classes"], case.classes_XYZ)
    np.testing.assert_array_equal(found["foreground.2"], case.foreground[2])
    with safe_open(case_path(job.folder, "case0"), "numpy") as file:
        assert CachedCase.model_validate_json(file.metadata()["medseg"]) == record


@pytest.mark.skipif(os.name != "posix", reason="elsewhere mapped files are not counted")
def test_more_cases_than_files_that_may_be_open(tmp_path):
    """A data set of more cases than the usual limit (1024) can be trained on."""
    prepare_case(a_job(tmp_path))
    names = [f"case{k}" for k in range(1, 200)]
    for name in names:
        case_path(tmp_path / "cache", name).hardlink_to(case_path(tmp_path / "cache", "case0"))
    code = f"""
import resource
from pathlib import Path
from medseg.preprocessing.cache import load_cases
from medseg.preprocessing.resample import Resampler
from medseg.preprocessing.settings import PreprocessingSettings
resource.setrlimit(resource.RLIMIT_NOFILE, (150, HARD))
settings = PreprocessingSettings.model_validate_json({SETTINGS.model_dump_json()!r})
cases = load_cases(Path({str(tmp_path / "cache")!r}), {names!r}, settings)
print(len(cases), sum(case.image_CXYZ.nbytes > 0 for case in cases))
"""

    def run(hard: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code.replace("HARD", str(hard))], capture_output=True, text=True)

    assert run(1000).stdout.split() == ["199", "199"]
    assert "199 files must be open together, and the system allows 160 in all" in run(160).stderr


@pytest.mark.parametrize(
    ("shape", "spacing", "channels", "masked"),
    [
        ((128, 128, 96), (1.0, 1.0, 2.0), 1, False),  # as stored
        ((128, 128, 96), (2.0, 2.0, 4.0), 1, False),  # an eighth of the voxels
        ((128, 128, 96), (2.0, 2.0, 4.0), 1, True),
        ((96, 96, 40), (1.0, 1.0, 0.5), 1, False),  # four times the voxels
        ((96, 96, 64), (1.5, 1.5, 1.5), 3, False),
    ],
)
def test_the_memory_that_a_case_takes_is_known_before(tmp_path, shape, spacing, channels, masked):
    """Never more than predicted, and not less than half of it."""
    names = [f"MR {k}" for k in range(channels)]
    write_dataset(tmp_path / "data", n=1, channels=names, shape=shape)
    dataset = find_dataset(tmp_path / "data")
    settings = PreprocessingSettings(
        spacing_mm=spacing, channels=(Normalisation(kind="zscore", nonzero_only=masked),) * channels
    )
    job = CacheJob(dataset.cases[0], dataset, settings, tmp_path / "cache")
    prepare_case(a_job(tmp_path / "small"))  # what is imported or kept for good is not meant
    tracemalloc.start()
    record = prepare_case(job)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.5 < peak / predicted_bytes(shape, record.undo.prepared_shape, channels, masked) < 1


def dies(*_: object) -> np.ndarray:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still there")


@pytest.mark.skipif(os.name != "posix", reason="kills processes as POSIX does")
def test_a_worker_that_dies_is_told_with_its_case_and_the_others_are_done(tmp_path):
    dataset = find_dataset(write_dataset(tmp_path / "data", n=4, shape=(12, 10, 8)))
    jobs = [CacheJob(case, dataset, SETTINGS, tmp_path / "cache") for case in dataset.cases]
    jobs[1] = replace(jobs[1], resampler=Resampler(dies, dies))
    label = jobs[2].case.label.path
    label.write_bytes(label.read_bytes()[:-5])
    results = list(over_cases(prepare_case, jobs, LocalExecutor([{}, {}]), 4))
    failed = {r.case.case.name: r.reason for r in results if isinstance(r, Failed)}
    assert set(failed) == {"case1", "case2"}
    assert "killed 3 times, probably for lack of memory" in failed["case1"]
    assert "[TRUNCATED] is cut short" in failed["case2"]
    assert sorted(r.record.case for r in results if isinstance(r, Done)) == ["case0", "case3"]
    assert [path.name for path in sorted((tmp_path / "cache").iterdir())] == ["case0.safetensors", "case3.safetensors"]
