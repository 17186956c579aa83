from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from medseg.errors import InputError
from medseg.networks.table import build_network
from medseg.planning import rules
from medseg.planning.fingerprint import Fingerprint, Sketch
from medseg.planning.plan import Structure
from medseg.preprocessing.prepare import resampled_shape
from tests.planning.build import alike, by_spacing, looked_at, placed, sketch

LEFT_RIGHT, FRONT_BACK, HEAD_FOOT = range(3)


# --- spacing ---------------------------------------------------------------------------------------------------------


def test_isotropic_takes_the_finest_axis_of_the_median_case():
    spacing, reason = rules.target_spacing(by_spacing([(0.7, 0.7, 1), (0.8, 0.8, 1), (0.9, 1, 1.2)]), "isotropic")
    assert spacing == (0.8, 0.8, 0.8)
    assert "0.8 mm isotropic" in reason.choice
    assert "coarsened" not in reason.why


def test_isotropic_is_coarsened_where_slices_are_thick():
    spacing, reason = rules.target_spacing(by_spacing([(0.7, 0.7, 5)] * 3), "isotropic")
    assert spacing == pytest.approx([(0.7 * 0.7 * 5 / 4) ** (1 / 3)] * 3, abs=1e-3)
    assert "coarsened" in reason.why


def test_the_median_case_never_grows_beyond_four_times_its_voxels():
    rng = np.random.default_rng(0)
    for _ in range(100):
        x, y, z = (float(s) for s in rng.uniform(0.3, 2, 3) * rng.choice([1, 1, 5], 3))
        print_ = alike(3, spacing=(x, y, z), shape=(200, 200, 200))
        spacing, _ = rules.target_spacing(print_, "isotropic")
        after = rules.median_shape(print_, spacing)
        assert math.prod(after) / 200**3 <= rules.MOST_VOXELS * 1.02
        assert spacing[0] >= min(x, y, z) - 1e-3


def test_very_fine_voxels_have_a_spacing_too():
    spacing, _ = rules.target_spacing(by_spacing([(0.0003, 0.0003, 0.0003)]), "isotropic")
    assert spacing == pytest.approx((0.0003,) * 3, rel=1e-3)


def test_within_slices_thick_slices_do_not_count():
    spacing, reason = rules.target_spacing(by_spacing([(0.7, 0.7, 5)] * 3), "isotropic", (0, 1))
    assert spacing[:2] == (0.7, 0.7)
    assert "slice" in reason.choice


def test_median_without_thick_slices():
    spacing, _ = rules.target_spacing(by_spacing([(1, 1, 2), (1, 2, 2.5), (3, 3, 2.9)]), "median")
    assert spacing == (1, 2, 2.5)


def test_median_with_thick_slices_takes_their_tenth_percentile():
    cases = by_spacing([(0.7, 0.7, z) for z in (2.5, 4, 5, 5, 5, 6, 6, 7, 8, 9)], (512, 512, 60))
    spacing, reason = rules.target_spacing(cases, "median")
    assert spacing == pytest.approx((0.7, 0.7, np.percentile([2.5, 4, 5, 5, 5, 6, 6, 7, 8, 9], 10)))
    assert "10th percentile" in reason.why


def test_the_tenth_percentile_is_at_least_the_other_axes():
    cases = by_spacing([(1, 1, 0.5)] * 2 + [(1, 1, 5)] * 8, (512, 512, 60))
    spacing, _ = rules.target_spacing(cases, "median")
    assert spacing == pytest.approx((1, 1, 1 + 1e-5), abs=1e-9)


def test_thick_slices_need_few_of_them_for_the_branch():
    spacing, reason = rules.target_spacing(by_spacing([(0.7, 0.7, z) for z in (3, 5, 6)], (512, 512, 400)), "median")
    assert spacing == (0.7, 0.7, 5)
    assert "percentile" not in reason.why


def test_millimetres_are_taken_as_asked():
    spacing, reason = rules.target_spacing(alike(), "1.25")
    assert spacing == (1.25, 1.25, 1.25)
    assert reason.why == "as asked"


@pytest.mark.parametrize("asked", ["", "fine", "0", "-1", "nan", "inf", "1e9", "1mm"])
def test_other_spacings_are_refused(asked):
    with pytest.raises(InputError, match="--spacing"):
        rules.target_spacing(alike(), asked)


def test_the_median_shape_is_that_after_crop_and_resampling():
    cases = tuple(looked_at(str(n), (1, 1, 2), (99, 99, 99), (n, 20, 10)) for n in (10, 11, 30))
    assert rules.median_shape(Fingerprint(cases=cases), (1, 2, 1)) == (11, 10, 20)
    assert rules.median_shape(Fingerprint(cases=cases), (1, 2, None)) == (11, 10, 10)


def test_slices_lie_along_the_coarsest_axis():
    assert rules.coarsest_axis(by_spacing([(1, 1, 5), (1, 1, 3), (4, 1, 1)])) == HEAD_FOOT
    assert rules.coarsest_axis(by_spacing([(3, 1, 1)] * 3)) == LEFT_RIGHT
    assert rules.coarsest_axis(by_spacing([(1, 2, 1)])) == FRONT_BACK
    assert rules.coarsest_axis(by_spacing([(1, 1, 1)] * 3)) == HEAD_FOOT
    assert rules.coarsest_axis(alike(3, spacing=(1, 1, 1.2), shape=(1, 50, 50))) == LEFT_RIGHT


# --- intensities -----------------------------------------------------------------------------------------------------


def test_ct_by_the_labelled_voxels_of_the_data_set():
    how, reason = rules.normalisation(alike(channels=(sketch(-100, 300),)), 0, "ct")
    assert how.kind == "ct"
    assert (how.lower, how.upper) == pytest.approx((-98, 298))
    assert how.mean == pytest.approx(100)
    assert how.sd == pytest.approx(400 / 12**0.5)
    assert "-98 to 298 HU" in reason.choice
    _, reason = rules.normalisation(alike(channels=(sketch(-0.6, 100),)), 0, "CT")
    assert "clip 0 to" in reason.choice


@pytest.mark.parametrize("name", ["MR", "T1", "US", "0", "PET"])
def test_all_else_scan_by_scan(name):
    how, reason = rules.normalisation(alike(), 0, name)
    assert (how.kind, how.nonzero_only) == ("zscore", False)
    assert reason.why
    assert ("dataset.json" in reason.why) == (name == "0")


def test_by_nonzero_voxels_where_much_is_cropped():
    for cropped, nonzero in (((30, 40, 40), False), ((29, 40, 40), True)):
        how, _ = rules.normalisation(alike(shape=(40, 40, 40), cropped=cropped), 0, "MR")
        assert how.nonzero_only is nonzero


def test_ct_without_labelled_voxels_is_refused():
    empty = Sketch(voxels=0, mean=0, sd=0, quantiles=())
    with pytest.raises(InputError, match="labelled"):
        rules.normalisation(alike(channels=(empty,)), 0, "CT")


# --- network and patch -----------------------------------------------------------------------------------------------

# as nnU-Net writes them: (z, y, x); what is stated of its plans in 1.5 of the notes on it, made anew there
VECTORS: dict[str, tuple[Sequence[float], Sequence[int], int, int, Sequence[int], int]] = {
    # spacing, median shape, cases, classes with background -> patch, batch
    "hippocampus": ((1, 1, 1), (36, 50, 35), 260, 3, (40, 56, 40), 9),
    "liver": ((1, 0.7675, 0.7675), (482, 512, 512), 131, 3, (128, 128, 128), 2),
    "brain tumour": ((1, 1, 1), (138, 169, 138), 484, 4, (128, 128, 128), 2),
    "prostate": ((3.6, 0.62, 0.62), (20, 320, 319), 32, 3, (20, 320, 256), 2),
    "spleen": ((1.6, 0.79, 0.79), (187, 512, 512), 41, 2, (64, 192, 160), 2),
    "heart": ((1.37, 1.25, 1.25), (115, 320, 232), 20, 2, (80, 192, 160), 2),
    "ACDC": ((5, 1.5625, 1.5625), (18, 237, 208), 200, 4, (20, 256, 224), 4),
}


@pytest.mark.parametrize("name", VECTORS)
def test_patch_and_batch_are_those_of_nnunet(name):
    spacing, shape, cases, classes, patch, batch = VECTORS[name]
    network, found = rules.fit_to_memory(spacing[::-1], shape[::-1], 1, classes, 8)  # reversed: R, A, S
    assert found == tuple(patch[::-1])
    assert rules.batch_size(network, found, 8, cases * math.prod(shape)) == batch


def test_hippocampus_stages():
    network, _ = rules.fit_to_memory((1, 1, 1), (35, 50, 36), 1, 3, 8)
    assert network.features == (32, 64, 128, 256)
    assert network.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    flat, patch = rules.fit_to_memory((1, 1), (35, 50), 1, 3, 8)
    assert patch == (40, 56)
    assert rules.batch_size(flat, patch, 8, 260 * 36 * 50 * 35) == 366


def test_liver_stages():
    network, _ = rules.fit_to_memory((0.7675, 0.7675, 1), (512, 512, 482), 1, 3, 8)
    assert network.features == (32, 64, 128, 256, 320, 320)


def test_prostate_stages():
    network, _ = rules.fit_to_memory((0.62, 0.62, 3.6), (319, 320, 20), 2, 3, 8)
    assert [s[::-1] for s in network.strides[1:]] == [(1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2)]
    assert [k[::-1] for k in network.kernels] == [(1, 3, 3), (1, 3, 3)] + [(3, 3, 3)] * 5


def test_a_single_axis_is_halved_only_while_it_is_long():
    assert rules.topology((1, 1), (12, 4))[1] == [(1, 1), (2, 1)]
    assert rules.topology((1, 1), (11, 4))[1] == [(1, 1)]
    assert rules.topology((1, 1), (4, 4)) == ([(3, 3)], [(1, 1)])


def values_put_out(network: nn.Module, image: torch.Tensor) -> int:
    counted: list[int] = []
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
            module.register_forward_hook(lambda _, __, out: counted.append(out.numel()))
    with torch.no_grad():
        network.eval()(image)
    return sum(counted)


def test_memory_is_the_values_that_convolutions_put_out():
    for spacing, patch in (((1, 1, 3), (16, 16, 8)), ((1, 1), (24, 16))):
        network, patch = rules.unet(spacing, patch, 1, 3, base=4)
        assert rules.activations(network, patch) == values_put_out(build_network(network), torch.zeros(1, 1, *patch))


def test_the_rules_hold_for_any_scan():
    rng = np.random.default_rng(0)
    for _ in range(200):
        dims = int(rng.choice([2, 3]))
        spacing = [float(s) for s in rng.uniform(0.3, 2, dims) * rng.choice([1, 1, 4, 10], dims)]
        shape = [int(2**n) for n in rng.uniform(0, 9.3, dims)]
        classes, memory = int(rng.integers(2, 100)), float(rng.choice([1, 8, 24]))
        network, patch = rules.fit_to_memory(spacing, shape, 1, classes, memory)
        by = rules.divisors(network.strides)
        told = (spacing, shape, patch, by)
        assert all(p % d == 0 for p, d in zip(patch, by, strict=True)), told
        assert rules.topology(spacing, patch) == (list(network.kernels), list(network.strides)), told
        start = rules.start_patch(spacing, shape)
        widest = rules.divisors(rules.topology(spacing, start)[1])
        assert all(p <= n for p, n in zip(patch, rules.padded(shape, widest), strict=True)), told
        used = rules.activations(network, patch) / rules.REFERENCE_BATCH[dims] * 2
        if used > rules.REFERENCE_ACTIVATIONS[dims] * memory / rules.REFERENCE_GB:
            assert all(p <= max(d, rules.SMALLEST_MAP) for p, d in zip(patch, by, strict=True)), told
        assert rules.batch_size(network, patch, memory, 50 * math.prod(shape)) >= 2
        assert len(network.features) == len(network.kernels) == len(network.strides)


def test_a_start_patch_has_no_empty_axis():
    assert min(rules.start_patch((0.05, 0.05, 90), (900, 900, 30), 64**3)) >= 1


def test_batches_are_at_least_two_and_at_most_a_share_of_the_data():
    network, patch = rules.fit_to_memory((1, 1, 1), (64, 64, 64), 1, 2, 8)
    assert rules.batch_size(network, patch, 8, 64**3) == 2
    assert rules.batch_size(network, patch, 8, 60 * 64**3) == 3
    assert rules.batch_size(network, patch, 80, 1e12) > 10


# --- mirroring -------------------------------------------------------------------------------------------------------


def places(n: int, *about: Sequence[float], spread: float = 0.02, seed: int = 0) -> Fingerprint:
    """`n` cases with structure k + 1 near `about[k]` of the way."""
    rng = np.random.default_rng(seed)
    found = [{k + 1: tuple(rng.normal(at, spread)) for k, at in enumerate(about)} for _ in range(n)]
    return placed(found)  # type: ignore[arg-type]


def named(*names: str) -> list[Structure]:
    return [Structure(value=k + 1, name=name) for k, name in enumerate(names)]


@pytest.mark.parametrize(
    "name", ["left kidney", "Kidney_L", "kidney-right", "LH_cortex", "kidney (left)", "KidneyLeft", "lung.r", "right"]
)
def test_names_of_sides_forbid_left_right(name):
    axes, reason = rules.mirror_axes(places(10, (0.5, 0.5, 0.5)), named(name))
    assert axes == (FRONT_BACK, HEAD_FOOT)
    assert "names tell left from right" in reason.why


@pytest.mark.parametrize("name", ["liver", "aorta", "bright spot", "LV", "tumour", "rhabdoid", "vertebrae_L1"])
def test_other_names_do_not(name):
    axes, _ = rules.mirror_axes(places(10, (0.5, 0.5, 0.5)), named(name))
    assert axes == (0, 1, 2)


def test_a_structure_on_one_side_forbids_its_axis():
    axes, reason = rules.mirror_axes(places(20, (0.3, 0.5, 0.5)), named("liver"))
    assert axes == (FRONT_BACK, HEAD_FOOT)
    assert "liver lies at 30" in reason.why
    assert "left-right" in reason.why


def test_a_small_but_certain_offset_forbids_left_right_alone():
    axes, _ = rules.mirror_axes(places(100, (0.42, 0.42, 0.5), spread=0.05), named("liver"))
    assert axes == (FRONT_BACK, HEAD_FOOT)


def test_a_lesion_that_may_lie_anywhere_allows_all():
    rng = np.random.default_rng(1)
    anywhere = placed([{1: tuple(rng.uniform(0.2, 0.8, 3))} for _ in range(40)])  # type: ignore[arg-type,misc]
    assert rules.mirror_axes(anywhere, named("lesion"))[0] == (0, 1, 2)


def test_two_structures_that_keep_their_order_forbid_its_axis():
    rng = np.random.default_rng(2)
    cases = []
    for _ in range(30):  # the pair as a whole lies anywhere, the second always in front of the first
        at = rng.uniform(0.3, 0.7, 3)
        cases.append({1: tuple(at), 2: (at[0], at[1] + 0.1, at[2])})
    axes, reason = rules.mirror_axes(placed(cases), named("posterior", "anterior"))  # type: ignore[arg-type]
    assert axes == (LEFT_RIGHT, HEAD_FOOT)
    assert "keep their order" in reason.why


def test_cases_without_structures_do_not_matter():
    cases = placed([{}, {1: (0.5, 0.5, 0.5)}, {}])
    assert rules.mirror_axes(cases, named("liver", "lesion"))[0] == (0, 1, 2)


# --- splits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 4, 5, 13, 100])
def test_folds_cover_all_and_never_overlap(n):
    names = [f"case{i}" for i in range(n)]
    folds = rules.split_folds(names, 5, 0)
    assert len(folds) == min(5, n)
    validated = [name for _, part in folds for name in part]
    assert sorted(validated) == sorted(names)
    for train, validation in folds:
        assert not set(train) & set(validation)
        assert sorted((*train, *validation)) == sorted(names)
    sizes = [len(part) for _, part in folds]
    assert max(sizes) - min(sizes) <= 1


def test_the_seed_decides_not_the_order_given():
    names = [f"case{i}" for i in range(20)]
    assert rules.split_folds(names, 5, 3) == rules.split_folds(names[::-1], 5, 3)
    assert rules.split_folds(names, 5, 3) != rules.split_folds(names, 5, 4)


def test_one_case_cannot_be_split():
    assert rules.split_folds(["only"], 5, 0) == []
    assert rules.split_folds([], 5, 0) == []


def test_resampled_shapes_agree_with_preprocessing():
    case = looked_at("a", (0.8, 0.8, 3), (100, 90, 30))
    after = resampled_shape(case.cropped, case.spacing_mm, (1, 1, 1))
    assert rules.median_shape(Fingerprint(cases=(case,)), (1, 1, 1)) == after
