from __future__ import annotations

import pytest
import torch
from monai.losses import DiceLoss
from torch import Tensor
from torch.nn import functional

from medseg.training.losses import LOSSES, SMOOTH, deep_loss, dice_ce


def some(dims: int, classes: int = 3, batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(dims)
    shape = (6, 5, 4)[:dims]
    logits = torch.randn((batch, classes, *shape), generator=generator, dtype=torch.float32) * 2
    return logits.requires_grad_(), torch.randint(classes, (batch, *shape), generator=generator)


def plainly(logits: Tensor, target: Tensor, batch_dice: bool) -> Tensor:
    """Dice + CE through a one-hot map, as the formula is written down."""
    classes = logits.shape[1]
    p = logits.softmax(1)
    truth = functional.one_hot(target, classes).movedim(-1, 1).to(p.dtype)
    axes = ([0] if batch_dice else []) + list(range(2, logits.ndim))
    shared, size = (p * truth).sum(axes), (p + truth).sum(axes)
    dice = (2 * shared + SMOOTH) / (size + SMOOTH)
    return functional.cross_entropy(logits, target) - dice[..., 1:].mean()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("batch_dice", [False, True])
def test_value_and_gradient_are_those_of_the_one_hot_formula(dims: int, batch_dice: bool) -> None:
    logits, target = some(dims)
    (ours,) = torch.autograd.grad(dice_ce(logits, target, batch_dice), logits)
    (theirs,) = torch.autograd.grad(plainly(logits, target, batch_dice), logits)
    torch.testing.assert_close(dice_ce(logits, target, batch_dice), plainly(logits, target, batch_dice))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("batch_dice", [False, True])
def test_it_is_monai_dice_and_cross_entropy_less_one(batch_dice: bool) -> None:
    logits, target = some(3)
    dice = DiceLoss(
        include_background=False, to_onehot_y=True, softmax=True, batch=batch_dice, smooth_nr=SMOOTH, smooth_dr=SMOOTH
    )
    expected = dice(logits, target[:, None]) - 1 + functional.cross_entropy(logits, target)
    (ours,) = torch.autograd.grad(dice_ce(logits, target, batch_dice), logits)
    (theirs,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(dice_ce(logits, target, batch_dice), expected)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("batch_dice", [False, True])
def test_a_perfect_prediction_is_near_minus_one(batch_dice: bool) -> None:
    _, target = some(3)
    logits = 50.0 * functional.one_hot(target, 3).movedim(-1, 1).float()
    assert float(dice_ce(logits, target, batch_dice)) == pytest.approx(-1, abs=1e-4)


def test_an_absent_structure_that_is_not_predicted_counts_as_perfect() -> None:
    target = torch.zeros((1, 4, 4, 4), dtype=torch.int64)
    logits = 60.0 * functional.one_hot(target, 3).movedim(-1, 1).float()
    assert float(dice_ce(logits, target, batch_dice=False)) == pytest.approx(-1, abs=1e-3)


def test_half_precision_logits_are_summed_in_single() -> None:
    logits, target = some(3)
    assert dice_ce(logits.bfloat16(), target, batch_dice=True).dtype == torch.float32


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_every_loss_falls_when_it_is_followed(name: str) -> None:
    logits, target = some(3)
    before = LOSSES[name](logits, target, False)
    (slope,) = torch.autograd.grad(before, logits)
    assert (LOSSES[name](logits - 0.1 * slope / slope.norm(), target, False) < before).item()


def test_deep_loss_of_one_resolution_is_the_loss() -> None:
    logits, target = some(3)
    torch.testing.assert_close(deep_loss(logits, target, batch_dice=True), dice_ce(logits, target, True))
    torch.testing.assert_close(deep_loss([logits], target, batch_dice=True), dice_ce(logits, target, True))


def test_deep_loss_samples_the_target_and_halves_the_weight() -> None:
    target = torch.randint(2, (2, 8, 4, 6), generator=torch.Generator().manual_seed(0))
    scales = [torch.randn(2, 2, 8, 4, 6), torch.randn(2, 2, 4, 4, 3), torch.randn(2, 2, 2, 2, 3)]
    targets = [target, target[:, 1::2, :, 1::2], target[:, 2::4, 1::2, 1::2]]
    expected = sum(w * dice_ce(s, t, True) for w, s, t in zip((4 / 7, 2 / 7, 1 / 7), scales, targets, strict=True))
    torch.testing.assert_close(deep_loss(scales, target, batch_dice=True), expected)
