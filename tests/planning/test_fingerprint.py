from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import GeometryError, InputError, MedsegError
from medseg.imaging.dataset import Case, find_dataset
from medseg.imaging.grid import Grid
from medseg.imaging.nifti import write_labels, write_volume
from medseg.imaging.volume import LabelMap, Volume
from medseg.planning.fingerprint import (
    Fingerprint,
    FingerprintJob,
    Sketch,
    fingerprint_case,
    merged,
    pooled,
)
from medseg.planning.scan_values import look_at_values
from tests.planning.build import alike, looked_at, sketch
from tests.preprocessing.build import describe, grid_of, write_case, write_dataset


def jobs(data: Path, out: Path) -> list[FingerprintJob]:
    dataset = find_dataset(data)
    return [FingerprintJob(case, dataset, out) for case in dataset.cases]


def sketch_of(values: np.ndarray) -> Sketch:
    """Of voxels that are all labelled."""
    image = values.reshape(-1, 1, 1)
    return look_at_values(image, np.ones(image.shape, np.uint8), image.size)[0]


def test_labels_beside_the_crop_are_counted(tmp_path):
    grid = grid_of((0, 1, 2), (1, 1, 1), shape=(10, 6, 4))
    image, label = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.uint8)
    image[2:8] = 100
    label[7:10, 1, 1] = 1
    write_volume(tmp_path / "images" / "a.nii.gz", Volume(image, grid))
    write_labels(tmp_path / "labels" / "a.nii.gz", LabelMap(label, grid, {}))
    describe(tmp_path)
    (job,) = jobs(tmp_path, tmp_path / "out")
    assert fingerprint_case(job).outside == 2


def test_a_case_worked_out_by_hand(tmp_path):
    grid = grid_of((2, 0, 1), (1, -1, 1), shape=(4, 10, 6), spacing=(5, 0.5, 2))  # stored S, L, A
    image, label = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.uint8)
    image[:, 2:8, :] = 100  # L: voxels 2..7 of 10
    label[1, 2, 0:2] = 1
    label[0, 7, 5] = 2
    image[1, 2, 0], image[1, 2, 1], image[0, 7, 5] = 10, 20, 60
    write_volume(tmp_path / "images" / "a.nii.gz", Volume(image, grid))
    write_labels(tmp_path / "labels" / "a.nii.gz", LabelMap(label, grid, {}))
    describe(tmp_path)
    (job,) = jobs(tmp_path, tmp_path / "out")
    seen = fingerprint_case(job)
    assert seen.orientation == "SLA"
    assert seen.spacing_mm == (0.5, 2, 5)  # R, A, S
    assert seen.shape == (10, 6, 4)
    assert seen.cropped == (6, 6, 4)
    assert seen.outside == 0
    (channel,) = seen.channels
    assert channel.voxels == 3
    assert channel.mean == pytest.approx(30)
    assert channel.sd == pytest.approx(np.std([10, 20, 60]))
    assert (channel.quantiles[0], channel.quantiles[100], channel.quantiles[-1]) == (10, 20, 60)
    first, second = seen.structures
    assert (first.value, first.voxels, first.volume_ml) == (1, 2, pytest.approx(2 * 5 / 1000))
    assert first.share == pytest.approx(2 / 240, rel=1e-5)
    assert (first.touches, first.pieces, first.small) == ("P", 1, ())  # stored A 0 and S 1 of 0 to 3
    assert second.touches == "AI"
    (whole,) = seen.whole
    assert (whole.low, whole.high) == (0, 100)
    assert seen.modalities == ("MR",)
    # the crop holds L voxels 2..7; stored 2 is the rightmost of them, so 5 of 6 along R
    assert first.centre == pytest.approx((5.5 / 6, 1 / 6, 1.5 / 4), rel=1e-5)
    assert second.centre == pytest.approx((0.5 / 6, 5.5 / 6, 0.5 / 4), rel=1e-5)


def test_an_unchanged_case_is_not_read_again(tmp_path, monkeypatch):
    (job,) = jobs(write_dataset(tmp_path / "data", n=1), tmp_path / "out")
    first = fingerprint_case(job)
    with monkeypatch.context() as blind:
        blind.setattr("medseg.imaging.dataset.read_case", lambda *_: pytest.fail("read again"))
        assert fingerprint_case(job) == first
    write_case(tmp_path / "data", "case0", seed=5)
    assert fingerprint_case(job).key != first.key


def test_a_broken_or_older_record_is_made_again(tmp_path):
    (job,) = jobs(write_dataset(tmp_path / "data", n=1), tmp_path / "out")
    first = fingerprint_case(job)
    for text in ("{", first.model_copy(update={"version": 0}).model_dump_json()):
        (tmp_path / "out" / "case0.json").write_text(text)
        assert fingerprint_case(job) == first


def test_a_label_that_is_no_longer_named_is_noticed(tmp_path):
    (job,) = jobs(write_dataset(tmp_path / "data", n=1), tmp_path / "out")
    fingerprint_case(job)
    describe(tmp_path / "data", {1: "liver"})
    (job,) = jobs(tmp_path / "data", tmp_path / "out")
    with pytest.raises(InputError, match="2"):
        fingerprint_case(job)


def test_channels_of_different_shapes_are_an_error_of_the_case(tmp_path):
    write_dataset(tmp_path / "data", n=1, channels=("T1", "T2"))
    other = Volume(np.ones((3, 3, 3), np.float32), Grid((3, 3, 3), np.eye(4)))
    write_volume(tmp_path / "data" / "images" / "case0_0001.nii.gz", other)
    (job,) = jobs(tmp_path / "data", tmp_path / "out")
    with pytest.raises(GeometryError, match=r"case0.*channel 1"):
        fingerprint_case(job)


def test_a_lost_file_or_label_is_an_error_of_the_case(tmp_path):
    (job,) = jobs(write_dataset(tmp_path / "data", n=1), tmp_path / "out")
    without = Case("case0", job.case.images, None, "case0")
    with pytest.raises(InputError, match="label"):
        fingerprint_case(FingerprintJob(without, job.dataset, job.folder))
    job.case.images[0].paths[0].unlink()
    with pytest.raises(MedsegError, match="case0"):
        fingerprint_case(job)


def test_several_channels_have_a_sketch_each(tmp_path):
    (job,) = jobs(write_dataset(tmp_path / "data", n=1, channels=("T1", "T2", "FLAIR")), tmp_path / "out")
    means = [channel.mean for channel in fingerprint_case(job).channels]
    assert means == sorted(means)
    assert np.diff(means) == pytest.approx([10, 10], abs=3)


NAMES = st.lists(st.sampled_from("abcdef"), max_size=6)


@settings(max_examples=100, deadline=None)
@given(first=NAMES, second=NAMES, third=NAMES, order=st.permutations(range(3)))
def test_merging_is_associative_and_commutative(first, second, third, order):
    parts = [Fingerprint(cases=tuple(looked_at(name) for name in names)) for names in (first, second, third)]
    one, two, three = parts
    every = merged(one, two, three)
    assert merged(merged(one, two), three) == merged(one, merged(two, three)) == every
    assert merged(*(parts[k] for k in order)) == every
    assert merged(every, one) == merged(every, Fingerprint(cases=())) == every
    assert [c.case for c in every.cases] == sorted({*first, *second, *third})
    assert merged(*(parts[k] for k in order)).digest == every.digest


def test_two_different_cases_of_one_name_are_not_merged():
    one, two = looked_at("a"), looked_at("a", shape=(9, 9, 9))
    for parts in ((one, two), (two, one)):
        with pytest.raises(InputError, match="two different cases"):
            merged(*(Fingerprint(cases=(case,)) for case in parts))


def test_the_digest_tells_any_change():
    base = alike(3)
    fewer = Fingerprint(cases=base.cases[:2])
    changed = Fingerprint(cases=(base.cases[0].model_copy(update={"key": "x"}), *base.cases[1:]))
    assert len({base.digest, fewer.digest, changed.digest}) == 3


def test_pooling_gives_each_case_the_same_weight():
    small, large = sketch(0, 10, voxels=10), sketch(100, 110, voxels=100_000)
    cases = (looked_at("a", channels=(small,)), looked_at("b", channels=(large,)))
    both = pooled(Fingerprint(cases=cases), 0)
    assert both.voxels == 100_010
    assert both.mean == pytest.approx(55)
    values = np.concatenate([small.quantiles, large.quantiles])
    assert both.sd == pytest.approx(values.std(), rel=0.01)
    assert (both.quantiles[0], both.quantiles[-1]) == (0, 110)
    assert both.quantiles[50] == pytest.approx(5, abs=0.2)
    assert both.quantiles[150] == pytest.approx(105, abs=0.2)
    assert list(both.quantiles) == sorted(both.quantiles)


def test_pooled_quantiles_are_near_those_of_all_voxels():
    rng = np.random.default_rng(0)
    values = [rng.normal(mean, 20, 20_000).astype(np.float32) for mean in (30, 50, 60)]
    cases = tuple(looked_at(str(i), channels=(sketch_of(v),)) for i, v in enumerate(values))
    both, every = pooled(Fingerprint(cases=cases), 0), np.concatenate(values)
    assert both.mean == pytest.approx(every.mean(), abs=0.01)
    assert both.sd == pytest.approx(every.std(), abs=0.01)
    for k in (1, 20, 100, 180, 199):
        assert both.quantiles[k] == pytest.approx(np.quantile(every, k / 200), abs=2.5)  # an eighth of the SD


def test_cases_without_structures_do_not_count_in_the_pool():
    empty = Sketch(voxels=0, mean=0, sd=0, quantiles=())
    cases = (looked_at("a", channels=(empty,)), looked_at("b", channels=(sketch(0, 10),)))
    assert pooled(Fingerprint(cases=cases), 0).mean == 5
    assert pooled(Fingerprint(cases=cases[:1]), 0).voxels == 0


def test_it_survives_being_written():
    base = alike(2)
    assert Fingerprint.model_validate_json(base.model_dump_json()) == base


def test_voxels_that_nobody_labelled_are_background(tmp_path):
    data = write_dataset(tmp_path / "data", n=1)
    (job,) = jobs(data, tmp_path / "out")
    plain = fingerprint_case(job)
    described = (data / "dataset.json").read_text().replace('"lesion": 2', '"ignore": 2')
    (data / "dataset.json").write_text(described)
    (job,) = jobs(data, tmp_path / "other")
    without = fingerprint_case(job)
    assert [s.value for s in plain.structures] == [1, 2]
    assert without.structures == plain.structures[:1]
    assert without.channels[0].voxels == plain.structures[0].voxels


def test_the_crop_is_that_of_preparation(tmp_path):
    """CT is cropped to the body, since its air is not zero."""
    image, label = np.full((40, 30, 20), -1000, np.float32), np.zeros((40, 30, 20), np.uint8)
    image[10:30, 5:25] = 40
    label[12:20, 10:20, 5:15] = 1
    grid = Grid(image.shape, np.eye(4))
    write_volume(tmp_path / "images" / "a.nii.gz", Volume(image, grid))
    write_labels(tmp_path / "labels" / "a.nii.gz", LabelMap(label, grid, {}))
    for channel, cropped in (("MR", (40, 30, 20)), ("CT", (24, 24, 20))):
        describe(tmp_path, {1: "liver"}, channels=(channel,))
        (job,) = jobs(tmp_path, tmp_path / channel)
        assert fingerprint_case(job).cropped == cropped


def test_a_record_is_small(tmp_path):
    (job,) = jobs(write_dataset(tmp_path / "data", n=1), tmp_path / "out")
    assert len(Fingerprint(cases=(fingerprint_case(job),)).model_dump_json(indent=1)) < 5_300
