from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from medseg.imaging.grid import Grid
from medseg.imaging.volume import Volume
from medseg.inference.trust.familiar import FEWEST, Familiar, fit_familiar
from medseg.inference.trust.features import Frame, features_of
from medseg.inference.trust.likeness import correlations_left_out, shape_from, side, sides
from medseg.inference.trust.unfamiliar import unfamiliar
from medseg.preprocessing.prepare import Prepared, prepare
from medseg.preprocessing.settings import Normalisation, PreprocessingSettings

Image = NDArray[np.float64]
MR = PreprocessingSettings(spacing_mm=(1.0, 1.0, 1.0), channels=(Normalisation(kind="zscore"),))
CT = Normalisation(kind="ct", lower=-200, upper=300, mean=50, sd=100)
SIDE = 20


def anatomy(seed: int, shape: tuple[int, int, int] = (SIDE, SIDE + 2, SIDE - 2)) -> Image:
    """Bright and dark organs that lie otherwise on each side, smooth, with a little noise; each case differs."""
    rng = np.random.default_rng(seed)
    at = np.stack(np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij"), axis=-1)
    image = np.zeros(shape)
    for place, width, value in (
        ((0.3, 0.35, 0.4), 0.25, 900),
        ((0.75, 0.6, 0.3), 0.16, 500),
        ((0.6, 0.25, 0.8), 0.2, -500),
    ):
        centre = np.array(place) + rng.normal(0, 0.02, 3)
        image += value * np.exp(-(((at - centre) / (width * rng.normal(1, 0.05))) ** 2).sum(-1))
    noise = ndimage.gaussian_filter(rng.normal(0, 1, shape), 1) * 40 + rng.normal(0, rng.uniform(3, 6), shape)
    return (image + noise + 1000) * rng.uniform(0.5, 2)


def seen(image: Image, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Prepared:
    return prepare([Volume(image.astype(np.float32), Grid(image.shape, np.diag([*spacing, 1.0])))], MR)


@cache
def learned() -> Familiar:
    return fit_familiar([seen(anatomy(seed)) for seed in range(40)], MR)


def codes(scan: Prepared) -> set[str]:
    return {one.code for one in unfamiliar(learned(), scan)}


def test_few_scans_like_the_training_scans_are_odd() -> None:
    assert sum(bool(codes(seen(anatomy(seed)))) for seed in range(100, 130)) <= 3


DAMAGES: dict[str, tuple[str, Callable[[Image], Prepared]]] = {
    "noise": ("noise", lambda i: seen(i + np.random.default_rng(0).normal(0, 0.3 * i.std(), i.shape))),
    "wrong spacing": ("spacing", lambda i: seen(i, (1.0, 1.5, 1.0))),
    "inverted": ("anatomy", lambda i: seen(i.max() - i)),
    "gamma": ("intensities", lambda i: seen(((i - i.min()) / np.ptp(i)) ** 3)),
    "left-right": ("anatomy", lambda i: seen(i[::-1])),
    "front-back": ("anatomy", lambda i: seen(i[:, ::-1])),
    "head-foot": ("anatomy", lambda i: seen(i[:, :, ::-1])),
    "shuffled": ("slices", lambda i: seen(i[:, :, np.random.default_rng(0).permutation(i.shape[2])])),
    "cut": ("field of view", lambda i: seen(i[:, :, : i.shape[2] // 2])),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_scans_are_odd_in_the_right_way(damage: str) -> None:
    code, damaged = DAMAGES[damage]
    assert all(code in codes(damaged(anatomy(seed))) for seed in range(200, 205))


def test_words_name_the_damage() -> None:
    def words(scan: Prepared) -> str:
        return "; ".join(one.what for one in unfamiliar(learned(), scan))

    image = anatomy(300)
    assert "its voxels are 1.5 mm front-back, those of the training scans 1 mm" in words(seen(image, (1.0, 1.5, 1.0)))
    assert "it looks head-foot mirrored" in words(seen(image[:, :, ::-1]))
    assert "its contrast looks inverted" in words(seen(image.max() - image))
    assert "times the usual noise" in words(seen(image + np.random.default_rng(0).normal(0, 150, image.shape)))
    assert "its neighbouring slices head-foot are less alike" in words(
        seen(image[:, :, np.random.default_rng(0).permutation(image.shape[2])])
    )


def test_a_larger_scan_is_looked_at_where_it_is_like_the_others() -> None:
    image = anatomy(301)
    room = np.full((SIDE, SIDE + 2, 3 * SIDE), np.median(image))
    room += ndimage.gaussian_filter(np.random.default_rng(0).normal(0, 1, room.shape), 1) * 60
    room[:, :, SIDE + 5 : 2 * SIDE + 3] = image
    found = codes(seen(room))
    assert "field of view" not in found
    assert "anatomy" not in found
    assert "anatomy" in codes(seen(room[:, ::-1]))


def test_a_turned_scan_is_odd() -> None:
    turned = np.eye(4)
    angle = np.radians(30)
    turned[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    image = anatomy(302)
    (found,) = unfamiliar(learned(), prepare([Volume(image.astype(np.float32), Grid(image.shape, turned))], MR))
    assert (
        found.what == "its axes are turned by 30 degrees from the patient's, those of the training scans by at most 0"
    )


def test_how_a_scan_is_stored_does_not_matter() -> None:
    image = anatomy(303).astype(np.float32)
    affine = np.array([[0, 0, -1.0, 0], [-1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1]])
    stored = np.ascontiguousarray(image[::-1, ::-1].transpose(1, 2, 0))
    turned = prepare([Volume(stored, Grid(stored.shape, affine))], MR)
    assert unfamiliar(learned(), turned) == unfamiliar(learned(), seen(image))


def test_of_few_scans_only_the_geometry_is_known() -> None:
    few = fit_familiar([seen(anatomy(seed)) for seed in range(FEWEST - 1)], MR)
    assert few.learned is None
    assert unfamiliar(few, seen(anatomy(50)[::-1])) == ()
    assert [one.code for one in unfamiliar(few, seen(anatomy(50), (2.0, 1.0, 1.0)))] == ["spacing"]


def test_the_record_is_small_and_says_nothing_of_a_case() -> None:
    text = learned().model_dump_json()
    assert len(text) < 50_000
    assert Familiar.model_validate_json(text) == learned()


def test_channels_are_looked_at_together() -> None:
    how = MR.model_copy(update={"channels": (*MR.channels, CT)})

    def two(seed: int, inverted: bool = False) -> Prepared:
        image = anatomy(seed).astype(np.float32)
        other = anatomy(seed + 500)
        grid = Grid(image.shape, np.eye(4))
        hounsfield = (other / other.std() * 100 - 500).astype(np.float32)
        return prepare([Volume(image, grid), Volume(-hounsfield if inverted else hounsfield, grid)], how)

    familiar = fit_familiar([two(seed) for seed in range(15)], how)
    assert familiar.absolute == (False, True)
    assert any("in channel 1" in one.what for one in unfamiliar(familiar, two(60, inverted=True)))


@pytest.mark.parametrize("shape", [(12, 12, 1), (12, 3, 12), (9, 2, 2)])
def test_thin_scans_and_scans_of_one_value_have_features(shape: tuple[int, int, int]) -> None:
    frame = Frame((12.0, 12.0, 12.0), None, (False,), (False,))
    for image in (np.ones(shape), anatomy(0, shape)):
        found = features_of(seen(image), frame)
        assert found.coarse_CXYZ.shape == (1, 10, 10, 10)
        assert np.isfinite(found.intensities).all()
        assert np.isfinite(found.coarse_CXYZ).all()
    thin = [axis for axis, n in enumerate(shape) if n < 4]
    assert np.isnan(found.slices[thin]).all()


def test_noise_is_measured_whatever_lies_under_it() -> None:
    image = anatomy(0, (30, 30, 30)) * 0
    at = np.linspace(0, 3, 30)
    image = image + 100 * np.sin(at)[:, None, None] * np.cos(at)[None, :, None] * np.sin(at + 1)[None, None, :]
    noisy = image + np.random.default_rng(0).normal(0, 7, image.shape)
    found = features_of(seen(noisy), Frame((30.0, 30.0, 30.0), None, (False,), (False,)))
    assert np.exp(found.texture[0]) * noisy.std() == pytest.approx(7, rel=0.05)


def test_sides_left_out_are_those_of_fitting_without() -> None:
    coarse = np.array([ndimage.gaussian_filter(anatomy(k, (10, 10, 10)), 1) for k in range(9)])[:, None]
    coarse -= coarse.mean(axis=(1, 2, 3, 4), keepdims=True)
    coarse /= np.sqrt((coarse**2).sum(axis=(1, 2, 3, 4), keepdims=True))
    for axis in range(3):
        weights, said = sides(coarse, axis)
        assert said.min() > 0.5
        mirrored = np.flip(coarse[0], axis + 1)
        assert side(mirrored, weights, axis) == pytest.approx(-side(coarse[0], weights, axis))
        without, _ = sides(coarse[1:], axis)  # its ridge is a little different: it is a share of the mean norm
        assert said[0] == pytest.approx(side(coarse[0], without, axis), abs=0.03)
    mean = coarse[1:].mean(axis=0)
    assert correlations_left_out(coarse)[0] == pytest.approx(np.corrcoef(coarse[0].ravel(), mean.ravel())[0, 1])


def test_the_distance_is_mahalanobis_per_number() -> None:
    rng = np.random.default_rng(0)
    mixing = np.array([[1.0, 0.8], [0.0, 0.6]])
    numbers = rng.normal(size=(4000, 2)) @ mixing + [3, 5]
    shape = shape_from(numbers, 0.01)
    distances = np.array([shape.distance(row) for row in numbers[:500]])
    assert np.mean(distances**2) == pytest.approx(1, rel=0.2)  # a little less: correlations are shrunk
    along, across = shape.distance(np.array([4.0, 6.0])), shape.distance(np.array([4.0, 4.0]))
    assert across > 1.5 * along
    assert shape.distance(np.array([np.nan, np.nan])) == 0
