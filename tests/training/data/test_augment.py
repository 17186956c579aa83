from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medseg.training.data.augment import Draw, Elastic, bend_of, change, draw, flat_axis, sampling_matrix
from tests.tiny import configuration

ALIKE = (0.7, 0.6, 0.9)
EVERY_CHANGE = [
    Draw(noise_sd=0.1, noise_seed=3),
    Draw(blur_sigma=(ALIKE, ALIKE)),
    Draw(brightness=(1.2, 1.2)),
    Draw(contrast=(0.8, 0.8)),
    Draw(contrast=(1.2, 1.2)),
    Draw(low_resolution=((0.5, 0.5, 0.5),) * 2),
    Draw(gamma_inverted=(1.4, 1.4)),
    Draw(gamma=(0.7, 0.7)),
]


def patch(shape: tuple[int, int, int] = (7, 6, 5), channels: int = 2, seed: int = 0) -> Tensor:
    return torch.randn((channels, *shape), generator=torch.Generator().manual_seed(seed))


def changed(image_CXYZ: Tensor, how: Draw) -> Tensor:
    batch = image_CXYZ.clone()[None]
    change(batch, [how])
    return batch[0]


@pytest.mark.parametrize("how", EVERY_CHANGE, ids=str)
@pytest.mark.parametrize("shape", [(7, 6, 5), (7, 6, 1), (1, 6, 5), (2, 2, 2)])
def test_every_change_keeps_the_shape_stays_finite_and_can_be_made_again(
    how: Draw, shape: tuple[int, int, int]
) -> None:
    image = patch(shape)
    once, again = changed(image, how), changed(image, how)
    assert once.shape == image.shape
    assert once.dtype == torch.float32
    assert torch.isfinite(once).all()
    assert torch.equal(once, again)
    assert not torch.equal(once, image)


@pytest.mark.parametrize("how", EVERY_CHANGE, ids=str)
def test_a_constant_patch_stays_finite(how: Draw) -> None:
    assert torch.isfinite(changed(torch.full((2, 4, 4, 4), 0.5), how)).all()


def test_nothing_drawn_changes_nothing() -> None:
    assert torch.equal(changed(patch(), Draw()), patch())


def test_patches_of_a_batch_are_changed_as_each_alone() -> None:
    batch = torch.stack([patch(seed=k) for k in range(len(EVERY_CHANGE))])
    alone = [changed(image, how) for image, how in zip(batch, EVERY_CHANGE, strict=True)]
    change(batch, EVERY_CHANGE)
    torch.testing.assert_close(batch, torch.stack(alone))


def test_several_changes_come_one_after_the_other() -> None:
    both = Draw(brightness=(1.2, 0.8), gamma=(0.8, 1.3), noise_sd=0.1, noise_seed=5)
    steps = changed(patch(), Draw(noise_sd=0.1, noise_seed=5))
    steps = changed(changed(steps, Draw(brightness=(1.2, 0.8))), Draw(gamma=(0.8, 1.3)))
    torch.testing.assert_close(changed(patch(), both), steps)


def test_only_the_channels_that_are_named_change() -> None:
    image = patch()
    for how in (Draw(blur_sigma=(None, ALIKE)), Draw(low_resolution=(None, (0.6,) * 3)), Draw(contrast=(None, 1.2))):
        out = changed(image, how)
        assert torch.equal(out[0], image[0])
        assert not torch.equal(out[1], image[1])


def test_blur_keeps_a_flat_patch_and_lowers_the_spread() -> None:
    flat = torch.full((2, 5, 5, 5), 2.0)
    torch.testing.assert_close(changed(flat, Draw(blur_sigma=((1, 1, 1),) * 2)), flat)
    assert changed(patch(), Draw(blur_sigma=((1, 1, 1),) * 2)).std() < patch().std()


def test_blur_is_scipys_with_its_border_repeated() -> None:
    from scipy.ndimage import gaussian_filter

    image = patch((14, 13, 12))
    theirs = gaussian_filter(image[0].numpy().astype(float), ALIKE, mode="nearest", truncate=6)
    np.testing.assert_allclose(changed(image, Draw(blur_sigma=(ALIKE, None)))[0].numpy(), theirs, atol=1e-6)


@pytest.mark.parametrize("share", [0.5, 0.55, 0.73, 0.99])
@pytest.mark.parametrize("shape", [(14, 13, 12), (5, 4, 3), (9, 1, 8)])
def test_low_resolution_is_nearest_down_and_linear_up(share: float, shape: tuple[int, int, int]) -> None:
    image = patch(shape, channels=1)
    small = [max(1, round(n * share)) for n in shape]
    coarse = functional.interpolate(image[None], size=small, mode="nearest-exact")
    theirs = functional.interpolate(coarse, size=shape, mode="trilinear", align_corners=False)[0]
    torch.testing.assert_close(changed(image, Draw(low_resolution=((share,) * 3,))), theirs)


def test_gamma_keeps_mean_and_spread_and_contrast_the_range() -> None:
    image = patch()
    for how in (Draw(gamma=(1.4, 0.7)), Draw(gamma_inverted=(0.8, 1.2))):
        out = changed(image, how)
        torch.testing.assert_close(out.mean((1, 2, 3)), image.mean((1, 2, 3)), rtol=0, atol=1e-5)
        torch.testing.assert_close(out.std((1, 2, 3)), image.std((1, 2, 3)))
    out = changed(image, Draw(contrast=(1.25, 1.25)))
    assert (out.amin((1, 2, 3)) >= image.amin((1, 2, 3))).all()
    assert (out.amax((1, 2, 3)) <= image.amax((1, 2, 3))).all()


def test_gamma_is_a_power_of_the_range_and_inverted_of_its_opposite() -> None:
    image = patch(channels=1)
    low, span = image.min(), image.max() - image.min()
    power = ((image - low) / span) ** 1.4
    wanted = (power - power.mean()) / power.std() * image.std() + image.mean()
    torch.testing.assert_close(changed(image, Draw(gamma=(1.4,))), wanted)
    torch.testing.assert_close(-changed(-image, Draw(gamma=(1.4,))), changed(image, Draw(gamma_inverted=(1.4,))))


def test_noise_has_the_spread_that_was_drawn() -> None:
    added = changed(torch.zeros((1, 20, 20, 20)), Draw(noise_sd=0.3, noise_seed=1))
    assert float(added.std()) == pytest.approx(0.3, rel=0.05)
    assert not torch.equal(added, changed(torch.zeros((1, 20, 20, 20)), Draw(noise_sd=0.3, noise_seed=2)))


def test_a_draw_depends_on_its_generator_alone() -> None:
    made = configuration(mirror_axes=(0, 1))
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global state must not matter
    once = [draw(np.random.default_rng((7, k)), made) for k in range(50)]
    torch.manual_seed(2)
    assert once == [draw(np.random.default_rng((7, k)), made) for k in range(50)]
    assert len(set(once)) == 50


def test_probabilities_and_ranges_are_nnunets() -> None:
    rng, n = np.random.default_rng(0), 6000
    made = configuration(channels=2, mirror_axes=(1, 2))
    draws = [draw(rng, made) for _ in range(n)]
    for name, p in {
        "rotate_rad": 0.2,
        "scale": 0.2,
        "noise_sd": 0.1,
        "blur_sigma": 0.2,
        "brightness": 0.15,
        "contrast": 0.15,
        "low_resolution": 0.25,
        "gamma_inverted": 0.1,
        "gamma": 0.3,
        "elastic": 0.0,
        "previous": 0.0,
    }.items():
        share = np.mean([getattr(d, name) not in (None, ()) for d in draws])
        assert share == pytest.approx(p, abs=4 * np.sqrt(0.25 / n)), name
    for axis, p in ((0, 0.0), (1, 0.5), (2, 0.5)):
        assert np.mean([axis in d.mirror for d in draws]) == pytest.approx(p, abs=0.03)
    assert np.mean([d.rotate_rad is None and d.scale is None for d in draws]) == pytest.approx(0.64, abs=0.03)
    angles = np.rad2deg([d.rotate_rad for d in draws if d.rotate_rad])
    assert np.abs(angles).max() == pytest.approx(30, abs=0.5)
    scales = np.array([d.scale for d in draws if d.scale])
    assert (scales.min(), scales.max()) == pytest.approx((0.7, 1.4), abs=0.02)
    assert (scales == scales[:, :1]).all()
    for name, low, high in (("brightness", 0.75, 1.25), ("contrast", 0.75, 1.25), ("gamma", 0.7, 1.5)):
        values = np.array([getattr(d, name) for d in draws if getattr(d, name)])
        assert values.shape[1] == 2
        assert not (values[:, 0] == values[:, 1]).any()
        assert (values.min(), values.max()) == pytest.approx((low, high), abs=0.02)
        assert np.mean(values < 1) == pytest.approx(0.5, abs=0.05)
    for name, low, high in (("blur_sigma", 0.5, 1), ("low_resolution", 0.5, 1)):
        rows = [row for d in draws for row in getattr(d, name)]
        assert np.mean([row is None for row in rows]) == pytest.approx(0.5, abs=0.05)
        values = np.array([row for row in rows if row])
        assert (values.min(), values.max()) == pytest.approx((low, high), abs=0.02)
    assert max(d.noise_sd for d in draws if d.noise_sd) == pytest.approx(0.1, abs=0.01)


def test_elastic_deformation_is_drawn_only_where_asked_for() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw(rng, configuration(), elastic=0.3).elastic for _ in range(500)]
    assert np.mean([e is not None for e in drawn]) == pytest.approx(0.3, abs=0.07)
    assert len({e.seed for e in drawn if e}) > 100


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("dims", [2, 3])
def test_flat_patches_are_moved_within_their_slices_only(axis: int, dims: int) -> None:
    shape: tuple[int, int, int] = tuple(2 if a == axis else 8 for a in range(3))  # type: ignore[assignment]
    made = configuration(dims=dims, slice_axis=axis, patch=shape)
    assert flat_axis(made) == axis
    rng = np.random.default_rng(0)
    draws = [draw(rng, made, elastic=0.1) for _ in range(500)]
    moved = [d for d in draws if d.rotate_rad is not None or d.scale is not None]
    assert moved
    for d in moved:
        matrix = sampling_matrix(d, (1.0, 2.0, 3.0))
        np.testing.assert_allclose(matrix[axis], np.eye(3)[axis], atol=1e-12)
        np.testing.assert_allclose(matrix[:, axis], np.eye(3)[axis], atol=1e-12)
    assert max(np.abs(d.rotate_rad).max() for d in moved if d.rotate_rad) > np.deg2rad(150)
    assert all(row is None or row[axis] == 1 for d in draws for row in d.low_resolution)
    if dims == 2:
        assert all(row is None or row[axis] == 0 for d in draws for row in d.blur_sigma)
        bends = [bend_of(d.elastic, made.patch) for d in draws if d.elastic]
        assert bends
        assert not any(bend.points[axis].any() for bend in bends)


def test_an_oblong_slice_is_rotated_by_little_and_a_cube_is_not_flat() -> None:
    rng = np.random.default_rng(0)
    made = configuration(dims=2, slice_axis=2, patch=(16, 8, 1))
    angles = [d.rotate_rad for d in (draw(rng, made) for _ in range(300)) if d.rotate_rad]
    assert np.rad2deg(np.abs(angles).max()) == pytest.approx(15, abs=1)
    assert flat_axis(configuration(patch=(8, 8, 8))) is None
    assert flat_axis(configuration(patch=(24, 8, 24))) is None  # three times is not more than three times


def test_the_sampling_matrix() -> None:
    mm = (0.5, 1.0, 2.0)
    np.testing.assert_allclose(sampling_matrix(Draw(), mm), np.eye(3))
    np.testing.assert_allclose(sampling_matrix(Draw(scale=(2.0, 2.0, 1.0)), mm), np.diag([0.5, 0.5, 1]))
    for axis in range(3):
        angles = tuple(0.3 if a == axis else 0.0 for a in range(3))
        in_mm = np.diag(mm) @ sampling_matrix(Draw(rotate_rad=angles), mm) @ np.diag(1 / np.array(mm))  # type: ignore[arg-type]
        np.testing.assert_allclose(in_mm @ in_mm.T, np.eye(3), atol=1e-12)
        assert np.trace(in_mm) == pytest.approx(1 + 2 * np.cos(0.3))
        np.testing.assert_allclose(in_mm[axis], np.eye(3)[axis], atol=1e-12)


def test_a_quarter_turn_of_an_anisotropic_patch_swaps_millimetres_not_voxels() -> None:
    matrix = sampling_matrix(Draw(rotate_rad=(0.0, 0.0, np.pi / 2)), (1.0, 2.0, 1.0))
    np.testing.assert_allclose(np.abs(matrix @ [0, 1, 0]), [2, 0, 0], atol=1e-12)  # 2 mm along A are 2 voxels along R


@pytest.mark.parametrize("seed", range(5))
def test_the_largest_elastic_deformation_folds_nothing(seed: int) -> None:
    shape = (20, 24, 16)
    field = bend_of(Elastic(0.15, 0.4, seed), shape).field().astype(float)
    at = np.indices(shape) + field
    jacobian = np.stack([np.stack(np.gradient(at[r]), axis=-1) for r in range(3)], axis=-2)
    assert np.linalg.det(jacobian).min() > 0
    for axis, n in enumerate(shape):
        assert 0.2 < np.abs(field[axis]).max() <= 0.4 * 0.15 * n + 1e-6
    assert not np.array_equal(field, bend_of(Elastic(0.15, 0.4, seed + 100), shape).field())


def test_every_field_of_a_draw_is_one_that_is_drawn() -> None:
    rng = np.random.default_rng(0)
    made = configuration(mirror_axes=(0, 1, 2))
    cascaded = made.model_copy(update={"network": made.network.model_copy(update={"in_channels": 3})})
    draws = [draw(rng, cascaded, elastic=0.1) for _ in range(300)]
    for name in (f.name for f in dataclasses.fields(Draw)):
        assert any(getattr(d, name) for d in draws), name
