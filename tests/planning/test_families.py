"""What every entry of the table of families promises."""

from __future__ import annotations

import pytest

from medseg.networks.table import NETWORKS
from medseg.planning.architecture import fit
from medseg.planning.families import FAMILIES

EVERY = pytest.mark.parametrize("name", FAMILIES)


@EVERY
def test_each_is_of_an_architecture_that_exists(name):
    family = FAMILIES[name]
    assert family.name == name
    assert family.kind in NETWORKS
    for mapping in (family.reference, family.reference_batch, family.fewest):
        assert set(mapping) == {2, 3}
    assert family.fewest[3] == 2
    assert 0 < family.dataset_share <= 1


@EVERY
@pytest.mark.parametrize("dims", [2, 3])
def test_memory_is_in_proportion(name, dims):
    family = FAMILIES[name]
    per_patch = family.reference[dims] * family.reference_batch[dims] / family.fewest[dims]
    assert family.limit(dims, family.gb) == pytest.approx(per_patch)
    assert family.limit(dims, 2 * family.gb) == pytest.approx(2 * per_patch)


@EVERY
def test_features_and_depth_are_those_of_nnunet(name):
    family = FAMILIES[name]
    network = fit((1, 1, 1), (128, 128, 128), 1, 2, 1e9, family.gb, family).network
    assert network.kind == family.kind
    assert network.features == (32, 64, 128, 256, 320, 320)
    assert network.convs_encoder == ((2,) * 6 if name == "unet" else (1, 3, 4, 6, 6, 6))
    assert network.convs_decoder == ((2,) * 5 if name == "unet" else (1,) * 5)


def test_larger_families_hold_larger_patches():
    voxels = []
    for name in ("resenc-m", "resenc-l", "resenc-xl"):
        family = FAMILIES[name]
        fitted = fit((0.8, 0.8, 0.8), (512, 512, 512), 1, 3, 1e12, family.gb, family)
        assert fitted.activations <= fitted.limit
        voxels.append(fitted.activations)
    assert voxels == sorted(voxels)
    assert voxels[-1] > 4 * voxels[0]
