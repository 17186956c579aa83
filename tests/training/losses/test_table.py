from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Barrier, Thread
from typing import Any

import pytest
import torch
from monai.losses import DiceFocalLoss, DiceLoss, FocalLoss, GeneralizedDiceLoss, HausdorffDTLoss, TverskyLoss
from torch import Tensor
from torch.nn import functional

from medseg.planning.plan import Region
from medseg.training.data.patches import batches
from medseg.training.data.sources import place
from medseg.training.learning.loop import build_learner, fit
from medseg.training.losses import class_sums, table
from medseg.training.losses.table import LOSSES, SMOOTH, PlanLoss, build_loss, deep_loss
from medseg.training.validate import predict_prepared
from tests import tiny

SHAPE = (6, 5, 4)
REGIONS = (  # of classes 0 to 3: all but the background, two of them, one
    (False, False, False),
    (True, False, False),
    (True, True, False),
    (True, True, True),
)


def some(dims: int = 3, classes: int = 3, outputs: int = 3, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Logits in double precision, and the truth."""
    generator = torch.Generator().manual_seed(dims)
    shape = SHAPE[:dims]
    logits = torch.randn((batch, outputs, *shape), generator=generator, dtype=torch.float64) * 2
    return logits.requires_grad_(), torch.randint(classes, (batch, *shape), generator=generator)


def loss_of(name: Any, batch_dice: bool = False, outputs: int = 3, **what: Any) -> PlanLoss:
    return PlanLoss(LOSSES[name], outputs, batch_dice, sizes=(1.0, 1.0, 1.0), **what)


def assert_same(ours: Tensor, theirs: Tensor, logits: Tensor) -> None:
    """In value and in gradient."""
    torch.testing.assert_close(ours, theirs)
    (slope,), (expected,) = torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits)
    torch.testing.assert_close(slope, expected)


def one_hot(target: Tensor, classes: int = 3) -> Tensor:
    return functional.one_hot(target, classes).movedim(-1, 1).double()


def truth_of_regions(target: Tensor) -> Tensor:
    return torch.tensor(REGIONS)[target].movedim(-1, 1).double()


MONAI: dict[str, Any] = {"include_background": False, "to_onehot_y": True, "softmax": True}
SMOOTHED: dict[str, Any] = {"smooth_nr": SMOOTH, "smooth_dr": SMOOTH}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("batch_dice", [False, True])
def test_dice_and_cross_entropy_are_those_of_monai_less_one(dims: int, batch_dice: bool) -> None:
    logits, target = some(dims)
    theirs = DiceLoss(batch=batch_dice, **MONAI, **SMOOTHED)(logits, target[:, None]) - 1
    theirs = theirs + functional.cross_entropy(logits, target)
    assert_same(loss_of("dice_ce", batch_dice)(logits, target), theirs, logits)


@pytest.mark.parametrize("batch_dice", [False, True])
def test_dice_and_focal_are_those_of_monai(batch_dice: bool) -> None:
    logits, target = some()
    focal = FocalLoss(to_onehot_y=True, use_softmax=True)  # whose mean is over classes as well, all but the true one 0
    theirs = 3 * focal(logits, target[:, None])
    theirs = theirs + DiceLoss(batch=batch_dice, **MONAI, **SMOOTHED)(logits, target[:, None]) - 1
    assert_same(loss_of("dice_focal", batch_dice)(logits, target), theirs, logits)


@pytest.mark.parametrize("batch_dice", [False, True])
def test_tversky_is_that_of_monai(batch_dice: bool) -> None:
    logits, target = some()
    theirs = TverskyLoss(alpha=0.3, beta=0.7, batch=batch_dice, **MONAI, **SMOOTHED)(logits, target[:, None])
    theirs = theirs + functional.cross_entropy(logits, target)
    assert_same(loss_of("tversky", batch_dice)(logits, target), theirs, logits)


def test_focal_tversky_is_its_power_structure_by_structure() -> None:
    logits, target = some()
    each = TverskyLoss(alpha=0.3, beta=0.7, reduction="none", **MONAI, **SMOOTHED)(logits, target[:, None])
    theirs = (each**0.75).mean() + functional.cross_entropy(logits, target)
    assert_same(loss_of("focal_tversky")(logits, target), theirs, logits)


@pytest.mark.parametrize("batch_dice", [False, True])
def test_iou_is_that_of_monai(batch_dice: bool) -> None:
    logits, target = some()
    smooth = {"smooth_nr": 2 * SMOOTH, "smooth_dr": 2 * SMOOTH}  # it counts both twice
    theirs = DiceLoss(batch=batch_dice, jaccard=True, **MONAI, **smooth)(logits, target[:, None])
    theirs = theirs + functional.cross_entropy(logits, target)
    assert_same(loss_of("iou", batch_dice)(logits, target), theirs, logits)


def test_boundary_is_half_that_of_monai_where_both_borders_are_one() -> None:
    _, target = some()
    logits = (0.4 * torch.randn(2, 3, *SHAPE, dtype=torch.float64) + 9 * one_hot(target)).requires_grad_()
    theirs = HausdorffDTLoss(**MONAI)(logits, target[:, None]) / 2 / 16**2
    assert_same(loss_of("boundary")(logits, target) - loss_of("dice_ce")(logits, target), theirs, logits)


@pytest.mark.parametrize("batch_dice", [False, True])
def test_class_weights_weigh_structures_in_dice_and_voxels_in_cross_entropy(batch_dice: bool) -> None:
    logits, target = some()
    weights = (0.5, 2.0, 6.0)
    mean_one = torch.tensor(weights[1:], dtype=torch.float64) / 4
    theirs = DiceLoss(batch=batch_dice, weight=mean_one, **MONAI, **SMOOTHED)(logits, target[:, None]) - 1
    theirs = theirs + functional.cross_entropy(logits, target, torch.tensor(weights, dtype=torch.float64))
    assert_same(loss_of("dice_ce", batch_dice, weights=weights)(logits, target), theirs, logits)


def test_weights_by_the_inverse_square_of_volume_make_it_like_generalised_dice() -> None:
    """A rare structure counts as much as a large one; the two losses agree which of two answers is the better."""
    target = torch.zeros((1, *SHAPE), dtype=torch.int64)
    target[:, :4], target[:, 5, 0, 0] = 1, 2
    sizes = [int((target == k).sum()) for k in (1, 2)]
    ours = loss_of("dice_ce", weights=(1.0, *(1 / n**2 for n in sizes)))
    theirs = GeneralizedDiceLoss(include_background=False, to_onehot_y=True, softmax=True)
    without_large, without_small = (20 * one_hot(target.masked_fill(target == k, 0)) for k in (1, 2))
    assert theirs(without_large, target[:, None]) < theirs(without_small, target[:, None])
    dice = replace(ours, parts=table.Parts(table.dice))
    assert dice(without_large, target) < dice(without_small, target)


@pytest.mark.parametrize("batch_dice", [False, True])
def test_regions_are_binary_cross_entropy_and_dice_of_sigmoids(batch_dice: bool) -> None:
    logits, target = some(classes=4)
    truth = truth_of_regions(target)
    theirs = DiceLoss(sigmoid=True, batch=batch_dice, **SMOOTHED)(logits, truth) - 1
    theirs = theirs + functional.binary_cross_entropy_with_logits(logits, truth)
    assert_same(loss_of("dice_ce", batch_dice, members=REGIONS)(logits, target), theirs, logits)


def test_focal_of_regions_is_that_of_monai() -> None:
    logits, target = some(classes=4)
    theirs = DiceFocalLoss(sigmoid=True, **SMOOTHED)(logits, truth_of_regions(target)) - 1
    assert_same(loss_of("dice_focal", members=REGIONS)(logits, target), theirs, logits)


def test_weights_of_regions_count_in_both_parts() -> None:
    logits, target = some(classes=4)
    truth, weights = truth_of_regions(target), torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)
    each = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((0, 2, 3, 4))
    dice = DiceLoss(sigmoid=True, reduction="none", **SMOOTHED)(logits, truth).mean(0).flatten() - 1
    theirs = ((each + dice) * weights).sum() / 6
    assert_same(loss_of("dice_ce", weights=(3.0, 1.0, 2.0), members=REGIONS)(logits, target), theirs, logits)


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("name", sorted(LOSSES))
def test_gradients_are_those_of_differences(name: str, batch_dice: bool, regions: bool) -> None:
    """With class weights and an ignore label, in double precision."""
    generator = torch.Generator().manual_seed(7)
    target = torch.randint(5 if regions else 4, (2, 3, 2, 2), generator=generator)
    logits = torch.randn((2, 3, 3, 2, 2), generator=generator, dtype=torch.float64).requires_grad_()
    ignore = 4 if regions else 3
    made = loss_of(
        name, batch_dice, weights=(1.0, 2.0, 0.5), ignore=ignore, members=(*REGIONS, REGIONS[0]) if regions else ()
    )
    assert torch.autograd.gradcheck(lambda x: made(x, target), logits)


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("name", sorted(LOSSES))
def test_what_stands_in_voxels_that_nobody_labelled_changes_nothing(name: str, regions: bool) -> None:
    logits, target = some(classes=4 if regions else 3)
    ignore = 4 if regions else 3
    left = torch.rand(target.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    made = loss_of(name, ignore=ignore, members=(*REGIONS, REGIONS[0]) if regions else ())
    target = target.masked_fill(left, ignore)
    value = made(logits, target)
    (slope,) = torch.autograd.grad(value, logits)
    assert not slope[left.unsqueeze(1).expand_as(slope)].any()
    assert slope[(~left).unsqueeze(1).expand_as(slope)].any()
    other = torch.where(left.unsqueeze(1), torch.full_like(logits, 3.0), logits)
    torch.testing.assert_close(made(other, target), value)


def test_ignored_voxels_are_those_that_cross_entropy_ignores() -> None:
    logits, target = some()
    target[0, :3] = 3
    theirs = functional.cross_entropy(logits, target, ignore_index=3)
    made = replace(loss_of("dice_ce", ignore=3), parts=table.Parts(table.dice, table.cross_entropy))
    dice = replace(made, parts=table.Parts(table.dice))
    assert_same(made(logits, target) - dice(logits, target), theirs, logits)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_batch_that_nobody_labelled_teaches_nothing(name: str) -> None:
    logits, target = some()
    value = loss_of(name, ignore=3)(logits, torch.full_like(target, 3))
    (slope,) = torch.autograd.grad(value, logits)
    assert value.isfinite()
    assert not slope.any()


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("members", [(), REGIONS])
def test_every_loss_falls_when_it_is_followed(name: str, members: Any) -> None:
    logits, target = some(classes=len(members) or 3)
    made = loss_of(name, members=members)
    before = made(logits, target)
    (slope,) = torch.autograd.grad(before, logits)
    assert (made(logits - 0.1 * slope / slope.norm(), target) < before).item()


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_perfect_answer_has_the_least_loss(name: str) -> None:
    _, target = some()
    made = loss_of(name)
    perfect = made(50 * one_hot(target), target)
    assert float(perfect) == pytest.approx(-1 if LOSSES[name].overlap is table.dice else 0, abs=1e-4)
    assert perfect < made(50 * one_hot((target + 1) % 3), target)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_perfect_answer_has_a_finite_gradient(name: str) -> None:
    _, target = some()
    logits = (200 * one_hot(target).float()).requires_grad_()
    (slope,) = torch.autograd.grad(loss_of(name)(logits, target), logits)
    assert slope.isfinite().all()


def test_an_absent_structure_that_is_not_predicted_counts_as_perfect() -> None:
    target = torch.zeros((1, *SHAPE), dtype=torch.int64)
    assert float(loss_of("dice_ce")(60.0 * one_hot(target), target)) == pytest.approx(-1, abs=1e-3)


@pytest.mark.parametrize("members", [(), REGIONS])
@pytest.mark.parametrize("name", sorted(LOSSES))
def test_logits_of_16_bits_are_summed_in_single_precision(name: str, members: Any) -> None:
    logits, target = some(classes=len(members) or 3)
    half = logits.detach().bfloat16().requires_grad_()
    made = loss_of(name, members=members)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = made(half, target)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, made(half.detach().float(), target))
    (slope,) = torch.autograd.grad(value, half)
    (exact,) = torch.autograd.grad(made(single := half.detach().float().requires_grad_(), target), single)
    assert slope.dtype == torch.bfloat16
    torch.testing.assert_close(slope.float(), exact, rtol=0.01, atol=1e-6)


@pytest.mark.parametrize("members", [(), REGIONS])
def test_classes_of_one_byte_are_as_good(members: Any) -> None:
    logits, target = some(classes=len(members) or 3)
    made = loss_of("boundary", members=members)
    torch.testing.assert_close(made(logits, target.to(torch.uint8)), made(logits, target))


@pytest.mark.parametrize("classes", [3, class_sums.CLASSES_IN_A_ROW])
def test_channels_last_are_the_same_and_stay_so(classes: int) -> None:
    logits, target = some(classes=classes, outputs=classes)
    last = logits.detach().to(memory_format=torch.channels_last_3d).requires_grad_()
    made = loss_of("dice_ce", ignore=2, weights=tuple(range(1, classes + 1)), outputs=classes)
    (slope,), (expected,) = (torch.autograd.grad(made(x, target), x) for x in (last, logits))
    torch.testing.assert_close(slope, expected)
    assert slope.is_contiguous(memory_format=torch.channels_last_3d)


def test_partial_sums_add_up_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, target = some()
    expected = loss_of("dice_ce")(logits, target)
    monkeypatch.setitem(class_sums.LANES, "cpu", 7)
    assert_same(loss_of("dice_ce")(logits, target), expected, logits)


def test_the_loss_of_one_resolution_is_the_loss() -> None:
    logits, target = some()
    torch.testing.assert_close(deep_loss(logits, target, True), loss_of("dice_ce", True)(logits, target))
    torch.testing.assert_close(deep_loss([logits], target, True), loss_of("dice_ce", True)(logits, target))


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_coarser_resolutions_see_a_sampled_target_and_count_half(name: str) -> None:
    target = torch.randint(2, (2, 8, 4, 6), generator=torch.Generator().manual_seed(0))
    scales = [torch.randn(2, 2, 8, 4, 6), torch.randn(2, 2, 4, 4, 3), torch.randn(2, 2, 2, 2, 3)]
    targets = [target, target[:, 1::2, :, 1::2], target[:, 2::4, 1::2, 1::2]]
    made = loss_of(name, True, outputs=2)
    coarse = replace(made, parts=replace(made.parts, boundary=False))
    of_each = [made(scales[0], targets[0]), *(coarse(s, t) for s, t in zip(scales[1:], targets[1:], strict=True))]
    expected = sum(w * one for w, one in zip((4 / 7, 2 / 7, 1 / 7), of_each, strict=True))
    torch.testing.assert_close(made(scales, target), expected)


class Together:
    """Ranks that sum a vector up, as threads: a gradient of the sum reaches every rank's part, summed as well."""

    def __init__(self, ranks: int) -> None:
        self._meet, self._shared = Barrier(ranks), [torch.empty(0)] * ranks

    def of(self, rank: int) -> Callable[[Tensor], Tensor]:
        def all_reduced(tensor: Tensor) -> Tensor:
            self._shared[rank] = tensor
            self._meet.wait()
            total = torch.stack(list(self._shared)).sum(0)
            self._meet.wait()
            return total

        class Sum(torch.autograd.Function):
            @staticmethod
            def forward(_: Any, tensor: Tensor) -> Tensor:
                return all_reduced(tensor)

            @staticmethod
            def backward(_: Any, slope: Tensor) -> Tensor:
                return all_reduced(slope)

        return lambda tensor: Sum.apply(tensor)  # type: ignore[no-untyped-call, no-any-return]


def of_ranks(made: PlanLoss, scales: Sequence[Tensor], target: Tensor, cuts: Sequence[int]) -> list[Any]:
    """Each rank's loss and the gradients of its part of the batch."""
    together, found = Together(len(cuts)), [None] * len(cuts)
    parts = zip(*(torch.split(s.detach(), list(cuts)) for s in scales), strict=True)
    targets = torch.split(target, list(cuts))

    def work(rank: int, part: Sequence[Tensor]) -> None:
        mine = [p.clone().requires_grad_() for p in part]
        value = replace(made, sum_over_ranks=together.of(rank))(mine, targets[rank])
        found[rank] = value.detach(), torch.autograd.grad(value, mine)  # type: ignore[call-overload]

    threads = [Thread(target=work, args=(rank, part)) for rank, part in enumerate(parts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


@pytest.mark.parametrize("members", [(), (*REGIONS, REGIONS[0])])
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("name", sorted(LOSSES))
def test_ranks_that_average_their_gradients_are_one_process_with_the_whole_batch(
    name: str, batch_dice: bool, members: Any
) -> None:
    """To 1e-12, with different numbers of patches and of labelled voxels on them."""
    ignore = 4 if members else 3
    logits, target = some(classes=ignore, batch=3)
    target[0, :4] = ignore
    scales = [logits, logits.detach()[:, :, 1::2, :, ::2].contiguous().requires_grad_()]
    made = loss_of(name, batch_dice, ignore=ignore, members=members, weights=(1.0, 3.0, 0.2))
    value = made(scales, target)
    slopes = torch.autograd.grad(value, scales)
    ranks = of_ranks(made, scales, target, (2, 1))
    for theirs, _ in ranks:
        assert abs(float(theirs - value.detach())) < 1e-12
    for scale, slope in enumerate(slopes):
        averaged = torch.cat([gradients[scale] for _, gradients in ranks]) / len(ranks)
        assert float((averaged - slope).abs().max()) < 1e-12 * float(slope.abs().max())


def test_a_plan_says_which_loss() -> None:
    logits, target = some()
    made = tiny.configuration(loss="dice_focal", class_weights=(1.0, 1.0, 5.0), batch_dice=True)
    ours = build_loss(tiny.plan_of(made))(logits, target)
    expected = loss_of("dice_focal", True, weights=(1.0, 1.0, 5.0))
    torch.testing.assert_close(ours, expected(logits, target))


def test_a_plan_says_which_voxels_nobody_labelled() -> None:
    logits, target = some()
    target[0, :2] = 3
    plan = tiny.plan_of(tiny.configuration()).model_copy(update={"ignore": 9})
    torch.testing.assert_close(build_loss(plan)(logits, target), loss_of("dice_ce", ignore=3)(logits, target))


def test_a_plan_says_what_regions_are_made_of() -> None:
    logits, target = some(outputs=2)
    plan = tiny.plan_of(tiny.configuration(classes=3))
    regions = (Region(name="both", values=(1, 2), value=1), Region(name="inner", values=(2,), value=2))
    network = plan.configuration.network.model_copy(update={"classes": 2})
    made = plan.configuration.model_copy(update={"network": network})
    plan = plan.model_copy(update={"regions": regions, "configurations": {"3d": made}})
    members = ((False, False), (True, False), (True, True))
    expected = loss_of("dice_ce", outputs=2, members=members)
    torch.testing.assert_close(build_loss(plan)(logits, target), expected(logits, target))


def test_distances_follow_the_size_of_voxels_and_leave_the_slice_axis_out() -> None:
    flat = tiny.plan_of(tiny.configuration(dims=2, slice_axis=2))
    thick = flat.configuration.preprocessing.model_copy(update={"spacing_mm": (2.0, 0.5, None)})
    made = flat.configuration.model_copy(update={"preprocessing": thick})
    loss = build_loss(flat.model_copy(update={"configurations": {"2d": made}}))
    assert isinstance(loss, PlanLoss)
    assert loss.sizes == (4.0, 1.0)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_every_loss_trains_a_network_from_scratch_a_small_structure_too(name: Any) -> None:
    """Tversky, focal Tversky and IoU alone would not find the small blob in so few steps."""
    cpu, steps = torch.device("cpu"), 60
    cases, made = tiny.loaded_blobs(4), tiny.configuration(patch=(tiny.SIDE,) * 3, loss=name, augment=False)
    plan = tiny.plan_of(made)
    learner = build_learner(plan, cpu)
    drawn = batches(place(cases[:3], cpu), made, (0,), 0)
    for _ in fit(learner, drawn, build_loss(plan), lambda step: step / steps, 0):
        pass
    found = predict_prepared(learner.evaluated(), cases[3], plan, cpu).array
    for k in (1, 2):
        ours, theirs = found == k, cases[3].classes_XYZ == k
        assert 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()) > 0.6, k
