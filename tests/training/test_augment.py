from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from medseg.training.augment import Draw, changed, draw, sampling_matrix

EVERY_CHANGE = [
    Draw(noise_sd=0.1, noise_seed=3),
    Draw(blur_sigma=(0.7, 0.6, 0.9)),
    Draw(brightness=1.2),
    Draw(contrast=0.8),
    Draw(contrast=1.2),
    Draw(low_resolution=0.5),
    Draw(gamma_inverted=1.4),
    Draw(gamma=0.7),
]


def patch(shape: tuple[int, int, int] = (7, 6, 5), channels: int = 2) -> Tensor:
    return torch.randn((channels, *shape), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("how", EVERY_CHANGE, ids=str)
@pytest.mark.parametrize("shape", [(7, 6, 5), (7, 6, 1), (1, 6, 5), (2, 2, 2)])
def test_every_change_keeps_the_shape_stays_finite_and_can_be_made_again(
    how: Draw, shape: tuple[int, int, int]
) -> None:
    image = patch(shape)
    before = image.clone()
    once, again = changed(image, how), changed(image, how)
    assert once.shape == image.shape
    assert once.dtype == torch.float32
    assert torch.isfinite(once).all()
    assert torch.equal(once, again)
    assert torch.equal(image, before)
    assert not torch.equal(once, image)


@pytest.mark.parametrize("how", EVERY_CHANGE, ids=str)
def test_a_constant_patch_stays_finite(how: Draw) -> None:
    assert torch.isfinite(changed(torch.full((1, 4, 4, 4), 0.5), how)).all()


def test_nothing_drawn_changes_nothing() -> None:
    image = patch()
    assert torch.equal(changed(image, Draw()), image)
    assert changed(image, Draw()) is not image


def test_blur_keeps_the_mean_of_a_flat_patch_and_lowers_the_spread() -> None:
    torch.testing.assert_close(
        changed(torch.full((1, 5, 5, 5), 2.0), Draw(blur_sigma=(1, 1, 1))), torch.full((1, 5, 5, 5), 2.0)
    )
    assert changed(patch(), Draw(blur_sigma=(1, 1, 1))).std() < patch().std()


def test_blur_is_along_the_axis_that_it_says() -> None:
    image = torch.zeros((1, 9, 9, 9))
    image[0, 4, 4, 4] = 1
    for axis in range(3):
        sigma = tuple(0.8 if a == axis else 0.0 for a in range(3))
        where = changed(image, Draw(blur_sigma=sigma)).nonzero()  # type: ignore[arg-type]
        assert [len(where[:, a + 1].unique()) > 1 for a in range(3)] == [a == axis for a in range(3)]


def test_gamma_keeps_mean_and_spread_and_contrast_the_range() -> None:
    image = patch()
    for how in (Draw(gamma=1.4), Draw(gamma_inverted=0.8)):
        out = changed(image, how)
        torch.testing.assert_close(out.mean((1, 2, 3)), image.mean((1, 2, 3)), rtol=0, atol=1e-5)
        torch.testing.assert_close(out.std((1, 2, 3)), image.std((1, 2, 3)))
    out = changed(image, Draw(contrast=1.25))
    assert (out.amin((1, 2, 3)) >= image.amin((1, 2, 3))).all()
    assert (out.amax((1, 2, 3)) <= image.amax((1, 2, 3))).all()


def test_channels_are_changed_apart() -> None:
    image = patch()
    for how in (Draw(contrast=1.2), Draw(gamma=0.8), Draw(blur_sigma=(1, 1, 1)), Draw(low_resolution=0.6)):
        torch.testing.assert_close(changed(image, how)[1:], changed(image[1:], how))


def test_a_draw_depends_on_its_generator_alone() -> None:
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global state must not matter
    once = [draw(np.random.default_rng((7, k)), None, (0, 1)) for k in range(50)]
    torch.manual_seed(2)
    assert once == [draw(np.random.default_rng((7, k)), None, (0, 1)) for k in range(50)]
    assert len(set(once)) == 50


def test_every_kind_is_drawn_and_within_its_range() -> None:
    rng = np.random.default_rng(0)
    draws = [draw(rng, None, (1, 2)) for _ in range(2000)]
    for name in (f.name for f in dataclasses.fields(Draw)):
        assert any(getattr(d, name) for d in draws), name
    assert {axis for d in draws for axis in d.mirror} == {1, 2}
    assert max(abs(a) for d in draws for a in d.rotate_rad or ()) <= np.deg2rad(30)
    assert all(0.7 <= d.scale <= 1.4 for d in draws if d.scale is not None)
    assert all(0.5 <= s <= 1 for d in draws for s in d.blur_sigma or ())


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_is_rotated_and_blurred_within_its_plane_only(axis: int) -> None:
    rng = np.random.default_rng(0)
    draws = [draw(rng, axis, ()) for _ in range(500)]
    turned = [d for d in draws if d.rotate_rad is not None]
    assert turned
    for d in turned:
        matrix = sampling_matrix(Draw(rotate_rad=d.rotate_rad), (1.0, 1.0, 1.0))
        np.testing.assert_allclose(matrix[axis], np.eye(3)[axis], atol=1e-12)
        np.testing.assert_allclose(matrix[:, axis], np.eye(3)[axis], atol=1e-12)
    assert all(d.blur_sigma[axis] == 0 for d in draws if d.blur_sigma is not None)


def test_the_sampling_matrix() -> None:
    mm = (0.5, 1.0, 2.0)
    np.testing.assert_allclose(sampling_matrix(Draw(), mm), np.eye(3))
    np.testing.assert_allclose(sampling_matrix(Draw(scale=2.0), mm), np.eye(3) / 2)
    for axis in range(3):
        angles = tuple(0.3 if a == axis else 0.0 for a in range(3))
        in_mm = np.diag(mm) @ sampling_matrix(Draw(rotate_rad=angles), mm) @ np.diag(1 / np.array(mm))  # type: ignore[arg-type]
        np.testing.assert_allclose(in_mm @ in_mm.T, np.eye(3), atol=1e-12)
        assert np.trace(in_mm) == pytest.approx(1 + 2 * np.cos(0.3))
        np.testing.assert_allclose(in_mm[axis], np.eye(3)[axis], atol=1e-12)


def test_a_quarter_turn_of_an_anisotropic_patch_swaps_millimetres_not_voxels() -> None:
    matrix = sampling_matrix(Draw(rotate_rad=(0.0, 0.0, np.pi / 2)), (1.0, 2.0, 1.0))
    np.testing.assert_allclose(np.abs(matrix @ [0, 1, 0]), [2, 0, 0], atol=1e-12)  # 2 mm along A are 2 voxels along R
