from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medseg.errors import GeometryError, InputError, MedsegError
from medseg.imaging.dataset import Case, find_dataset
from medseg.imaging.grid import Grid
from medseg.imaging.nifti import write_labels, write_volume
from medseg.imaging.volume import LabelMap, Volume
from medseg.planning import fingerprint as module
from medseg.planning.fingerprint import (
    Fingerprint,
    FingerprintJob,
    centres,
    fingerprint_case,
    merged,
    pooled,
)
from tests.planning.build import alike, looked_at, sketch
from tests.preprocessing.build import describe, grid_of, write_case, write_dataset


def jobs(data: Path, out: Path) -> list[FingerprintJob]:
    dataset = find_dataset(data)
    return [FingerprintJob(case, dataset, out) for case in dataset.cases]


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
    (channel,) = seen.channels
    assert channel.voxels == 3
    assert channel.mean == pytest.approx(30)
    assert channel.sd == pytest.approx(np.std([10, 20, 60]))
    assert (channel.quantiles[0], channel.quantiles[100], channel.quantiles[-1]) == (10, 20, 60)
    first, second = seen.structures
    assert (first.value, first.voxels, first.volume_ml) == (1, 2, pytest.approx(2 * 5 / 1000))
    # the crop holds L voxels 2..7; stored 2 is the rightmost of them, so 5 of 6 along R
    assert first.centre == pytest.approx((5.5 / 6, 1 / 6, 1.5 / 4))
    assert second.centre == pytest.approx((0.5 / 6, 5.5 / 6, 0.5 / 4))


def test_an_unchanged_case_is_not_read_again(tmp_path, monkeypatch):
    (job,) = jobs(write_dataset(tmp_path / "data", n=1), tmp_path / "out")
    first = fingerprint_case(job)
    with monkeypatch.context() as blind:
        blind.setattr(module, "read_case", lambda *_: pytest.fail("read again"))
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


def test_the_order_of_merging_does_not_matter():
    one, two, three = (Fingerprint(cases=(looked_at(name),)) for name in "abc")
    left, right = merged(merged(one, two), three), merged(one, merged(three, two))
    assert left == right == merged(three, one, two)
    assert [c.case for c in left.cases] == ["a", "b", "c"]
    assert left.digest == right.digest
    assert merged(left, two) == left
    assert merged(left, Fingerprint(cases=())) == left


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
    cases = tuple(looked_at(str(i), channels=(module._sketch(v),)) for i, v in enumerate(values))
    both, every = pooled(Fingerprint(cases=cases), 0), np.concatenate(values)
    assert both.mean == pytest.approx(every.mean(), abs=0.01)
    assert both.sd == pytest.approx(every.std(), abs=0.01)
    for k in (1, 20, 100, 180, 199):
        assert both.quantiles[k] == pytest.approx(np.quantile(every, k / 200), abs=2.5)  # an eighth of the SD


def test_cases_without_structures_do_not_count_in_the_pool():
    empty = module._sketch(np.array([], np.float32))
    cases = (looked_at("a", channels=(empty,)), looked_at("b", channels=(sketch(0, 10),)))
    assert pooled(Fingerprint(cases=cases), 0).mean == 5
    assert pooled(Fingerprint(cases=cases[:1]), 0).voxels == 0


def test_centres_are_those_of_the_cases_that_hold_the_structure():
    cases = (looked_at("a", centres={1: (0.1, 0.2, 0.3)}), looked_at("b", centres={2: (0.4, 0.5, 0.6)}))
    np.testing.assert_array_equal(centres(Fingerprint(cases=cases), 1), [[0.1, 0.2, 0.3]])
    assert centres(Fingerprint(cases=cases), 7).shape == (0, 3)


def test_it_survives_being_written():
    base = alike(2)
    assert Fingerprint.model_validate_json(base.model_dump_json()) == base
