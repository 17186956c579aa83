from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from medseg.networks.table import build_network
from medseg.networks.work import activations, forward_macs
from medseg.planning.architecture import (
    SMALLEST_MAP,
    Fitted,
    Refit,
    cascaded,
    divisors,
    fit,
    low_resolution,
    network_for,
    start_patch,
    topology,
)
from medseg.planning.families import FAMILIES, UNET, Family
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.spacing import exact_median_shape, target_spacing
from tests.planning.build import looked_at, sketch

torch.set_num_threads(1)

# as nnU-Net writes them: (z, y, x); what is stated of its plans in the notes on it (more: tests/oracles)
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
    found = fit(spacing[::-1], shape[::-1], 1, classes, cases * math.prod(shape), 8)  # reversed: R, A, S
    assert (found.patch, found.batch) == (tuple(patch[::-1]), batch)


def test_hippocampus_stages():
    voxels = 260 * 36 * 50 * 35
    network = fit((1, 1, 1), (35, 50, 36), 1, 3, voxels, 8).network
    assert network.features == (32, 64, 128, 256)
    assert network.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    flat = fit((1, 1), (35, 50), 1, 3, voxels, 8)
    assert (flat.patch, flat.batch) == ((40, 56), 366)


def test_prostate_stages():
    network = fit((0.62, 0.62, 3.6), (319, 320, 20), 2, 3, 1e9, 8).network
    assert [s[::-1] for s in network.strides[1:]] == [(1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2)]
    assert [k[::-1] for k in network.kernels] == [(1, 3, 3), (1, 3, 3)] + [(3, 3, 3)] * 5


def test_of_equal_axes_the_last_of_nnunet_is_shortened():
    assert fit((1, 1, 1), (160, 160, 160), 1, 2, 1e9, 6).patch == (112, 128, 128)  # x before y before z
    assert fit((1, 1, 1), (160, 160, 160), 1, 2, 1e9, 5).patch == (112, 112, 128)
    sagittal = fit((4.4, 0.6, 0.6), (16, 512, 512), 1, 3, 1e9, 8, FAMILIES["resenc-m"])
    assert sagittal.patch[1] < sagittal.patch[2]


def test_a_single_axis_is_halved_only_while_it_is_long():
    assert topology((1, 1), (12, 4))[1] == [(1, 1), (2, 1)]
    assert topology((1, 1), (11, 4))[1] == [(1, 1)]
    assert topology((1, 1), (4, 4)) == ([(3, 3)], [(1, 1)])


def test_half_a_voxel_of_the_median_counts():
    assert topology((1, 1), (7.5, 30)) != topology((1, 1), (8, 30))
    assert network_for((1, 1), (14.5, 14.5), 1, 2)[1] == (16, 16)


def values_put_out(network: nn.Module, image: torch.Tensor) -> int:
    counted: list[int] = []
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
            module.register_forward_hook(lambda _, __, out: counted.append(out.numel()))
    with torch.no_grad():
        network.eval()(image)
    return sum(counted)


@pytest.mark.parametrize("name", ["unet", "resenc-m"])
def test_memory_is_the_values_that_convolutions_put_out(name):
    for spacing, patch in (((1, 1, 3), (16, 16, 8)), ((1, 1), (24, 16))):
        network, patch = network_for(spacing, patch, 1, 3, FAMILIES[name], base=4)
        assert activations(network, patch) == values_put_out(build_network(network), torch.zeros(1, 1, *patch))


AS_SPACED = [name for name, family in FAMILIES.items() if not family.widths]
DEEP = [name for name in AS_SPACED if FAMILIES[name].deepest is None]
FIXED = [name for name, family in FAMILIES.items() if family.widths]


@pytest.mark.parametrize("name", AS_SPACED)
@pytest.mark.parametrize("base", [8, 16, 32])
def test_width_is_a_choice(name, base):
    network, patch = network_for((1, 1, 1), start_patch((1, 1, 1), (60, 70, 80), 32**3), 1, 3, FAMILIES[name], base)
    assert patch == (32, 32, 32)
    assert network.features == (base, 2 * base, 4 * base, 8 * base)
    narrower = network_for((1, 1, 1), patch, 1, 3, FAMILIES[name], base // 2)[0]
    assert 3 < forward_macs(network, patch) / forward_macs(narrower, patch) < 4


@pytest.mark.parametrize("name", FIXED)
def test_networks_of_fixed_depth_halve_thick_slices_too(name):
    family = FAMILIES[name]
    levels, by = len(family.widths), 2 ** (len(family.widths) - 1)
    for spacing, wanted in (((1, 1, 1), (50, 40, 33)), ((0.6, 0.6, 4), (100, 90, 20)), ((1, 1), (300, 200))):
        dims = len(spacing)
        network, patch = network_for(spacing, wanted, 2, 3, family, 16)
        assert patch == tuple(math.ceil(n / by) * by for n in wanted)
        assert network.strides == ((1,) * dims, *((2,) * dims,) * (levels - 1))
        assert set(network.kernels) == {(3,) * dims}
        assert network.features == tuple(16 * w for w in family.widths)
        assert network.patch == (patch if name == "unetr" else ())
        wider = network_for(spacing, wanted, 2, 3, family, 32)[0]
        assert 2.2 < forward_macs(wider, patch) / forward_macs(network, patch) < 4


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("memory_gb", [1e-9, 2, 8])
def test_no_norm_is_left_with_a_single_voxel(name, memory_gb):
    family = FAMILIES[name]
    by = 2 ** (len(family.widths) - 1)
    for shape in ((9, 12, 10), (200, 160, 180), (40, 9)):
        found = fit((1,) * len(shape), shape, 1, 2, 1e9, memory_gb, family)
        assert all(n % by == 0 for n in found.patch)
        assert sum(found.patch) > by * len(shape)
        assert found.activations <= found.limit or sum(found.patch) == by * (len(shape) + 1)
    assert network_for((1, 1, 1), (3, 5, 4), 1, 2, family)[1] == (by, 2 * by, by)  # the longest of what was asked


def test_deeplab_stops_at_an_eighth():
    network, patch = network_for((0.7, 0.7, 5), (256, 224, 20), 1, 3, FAMILIES["deeplab"])
    assert network.strides == network_for((0.7, 0.7, 5), (256, 224, 20), 1, 3)[0].strides[:4]
    assert patch == (256, 224, 20)
    assert network.features == (32, 64, 128, 256)


def test_a_start_patch_has_no_empty_axis():
    assert min(start_patch((0.05, 0.05, 90), (900, 900, 30), 64**3)) >= 1


def test_batches_are_at_least_two_and_at_most_a_share_of_the_data():
    def batch(voxels: float, memory: float, family: Family = UNET) -> int:
        return fit((1, 1, 1), (64, 64, 64), 1, 2, voxels, memory, family).batch

    assert batch(64**3, 8) == 2
    assert batch(60 * 64**3, 8) == 3
    assert batch(1e12, 80) > 10
    assert batch(60 * 64**3, 80, FAMILIES["resenc-m"]) == 60


def test_what_cannot_be_held_is_told():
    least = fit((1, 1, 1), (9, 9, 9), 1, 2, 1e6, 1e-9)
    assert least.patch == (1, 1, 1)
    assert least.activations > least.limit
    assert least.batch == 2


# --- any data set ----------------------------------------------------------------------------------------------------


def refit_of(cases: int, classes: int, memory: float, family: Family) -> Refit:
    def refit(spacing: Sequence[float], shape: Sequence[float], voxels: float) -> Fitted:
        return fit(spacing, shape, 1, classes, cases * voxels, memory, family)

    return refit


def random_fingerprints(n: int, seed: int) -> Iterator[tuple[Fingerprint, np.random.Generator]]:
    """Data sets of 1 to 12 scans, isotropic or thick along one axis, from a handful of voxels to the largest CT."""
    rng, values = np.random.default_rng(seed), (sketch(),)
    for _ in range(n):
        spacing = rng.uniform(0.3, 2) * (1 + rng.choice([0, 0.6]) * rng.random(3))
        spacing[rng.integers(3)] *= rng.choice([1, 1, 2.5, 8])
        shape, cases = 2 ** rng.uniform(2, 9, 3), []
        for k in range(rng.integers(1, 13)):
            x, y, z = (max(1, round(float(v))) for v in shape * rng.uniform(0.7, 1.4, 3))
            r, a, s = (float(v) for v in spacing * rng.choice([0.8, 1, 1, 1.3]))
            cases.append(looked_at(str(k), (r, a, s), (x, y, z), channels=values))
        yield Fingerprint(cases=tuple(cases)), rng


def check(fitted: Fitted, spacing: Sequence[float], shape: Sequence[float]) -> None:
    """What must hold of every plan."""
    network, patch = fitted.network, fitted.patch
    by = divisors(network.strides)
    assert fitted.activations <= fitted.limit or patch == (1,) * len(patch)
    assert all(p % d == 0 for p, d in zip(patch, by, strict=True))
    # no axis could lose a divisor and still hold the median scan, and none is halved below the smallest map
    assert all(p - d < n for p, d, n in zip(patch, by, shape, strict=True))
    assert all(d == 1 or p // d >= SMALLEST_MAP for p, d in zip(patch, by, strict=True))
    if all(n % 1 == 0 for n in shape):  # half a voxel of the median is padded, but not halved
        assert topology(spacing, patch) == (list(network.kernels), list(network.strides))
    for earlier, later in zip(network.kernels, network.kernels[1:], strict=False):
        assert all(e <= k for e, k in zip(earlier, later, strict=True))
    assert set(sum(network.strides[1:], ())) <= {1, 2}
    assert len(network.features) == len(network.kernels) == len(network.convs_encoder) == len(network.convs_decoder) + 1
    assert fitted.activations == activations(network, patch)
    assert fitted.batch >= 2


def test_plans_of_any_data_set_hold_what_they_promise():
    coarser = 0
    for seen, rng in random_fingerprints(1000, seed=4):
        asked = str(rng.choice(["isotropic", "median"]))
        family, memory = FAMILIES[str(rng.choice(DEEP))], float(rng.choice([2, 8, 40]))
        spacing, _ = target_spacing(seen, asked)
        shape = exact_median_shape(seen, spacing)
        refit = refit_of(len(seen.cases), int(rng.integers(2, 60)), memory, family)
        full = refit(spacing, shape, math.prod(shape))
        check(full, spacing, shape)
        check(refit(spacing[:2], shape[:2], math.prod(shape)), spacing[:2], shape[:2])
        if rng.random() < 0.5:  # the many steps to a low resolution take most of the time
            continue
        low = low_resolution(spacing, shape, full, refit)
        if math.prod(full.patch) / math.prod(shape) >= 0.25:
            assert low is None
        if low is None:
            continue
        coarser += 1
        check(low.fitted, low.spacing, [n + 0.5 for n in low.shape])  # the shape that was fitted to is rounded
        assert all(after >= before for after, before in zip(low.spacing, spacing, strict=True))
        assert asked == "median" or len(set(low.spacing)) == 1
        assert max(low.spacing) / min(low.spacing) <= max(2 * 1.03, 1.0001 * max(spacing) / min(spacing))
        assert math.prod(low.fitted.patch) / math.prod(low.shape) > 0.2
        assert math.prod(low.shape) < 0.6 * math.prod(shape)
    assert coarser > 20


# --- low resolution and cascade --------------------------------------------------------------------------------------


def lowered(spacing: Sequence[float], shape: Sequence[int], memory: float = 8) -> tuple[float, ...] | None:
    refit = refit_of(20, 3, memory, UNET)
    low = low_resolution(spacing, shape, refit(tuple(spacing), tuple(shape), math.prod(shape)), refit)
    return None if low is None else low.spacing


def test_a_scan_that_a_patch_nearly_holds_needs_no_low_resolution():
    assert lowered((1, 1, 1), (160, 160, 160)) is None


def test_a_low_resolution_that_saves_little_is_not_made():
    assert lowered((1, 1, 1), (220, 220, 200)) is None


def test_isotropic_stays_isotropic():
    spacing = lowered((0.8, 0.8, 0.8), (512, 512, 400))
    assert spacing is not None
    assert spacing[0] == spacing[1] == spacing[2] > 1.6


def test_fine_axes_are_coarsened_first():
    spacing = lowered((0.6, 0.6, 5), (700, 700, 80))
    assert spacing is not None
    assert spacing[2] == 5
    assert spacing[0] == spacing[1] == pytest.approx(0.6 * 1.03 ** round(math.log(spacing[0] / 0.6, 1.03)))


def test_the_cascade_reads_a_channel_more_for_each_foreground_class():
    full = fit((1, 1, 1), (64, 64, 64), 2, 5, 1e9, 8)
    both = cascaded(full, full.network.classes - 1)
    assert both.network.in_channels == 2 + 4
    assert replace(both, network=full.network) == full
