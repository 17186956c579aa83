"""What every entry of the table of families promises."""

from __future__ import annotations

import inspect

import pytest

from medseg.cli.plan import command
from medseg.networks.table import NETWORKS
from medseg.networks.work import swin_heads
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


@pytest.mark.parametrize("name", ["unet", "resenc-m", "resenc-l", "resenc-xl"])
def test_features_and_depth_are_those_of_nnunet(name):
    family = FAMILIES[name]
    network = fit((1, 1, 1), (128, 128, 128), 1, 2, 1e9, family.gb, family).network
    assert network.kind == family.kind
    assert network.features == (32, 64, 128, 256, 320, 320)
    assert network.convs_encoder == ((2,) * 6 if name == "unet" else (1, 3, 4, 6, 6, 6))
    assert network.convs_decoder == ((2,) * 5 if name == "unet" else (1,) * 5)


PUBLISHED = {  # features of the levels, and blocks or layers of each, as their authors or MONAI's defaults have them
    "attention-unet": ((32, 64, 128, 256, 512), (2,) * 5),
    "unet++": ((32, 32, 64, 128, 256), (2,) * 5),
    "segresnet": ((32, 64, 128, 256), (1, 2, 2, 4)),
    "unetr": ((16, 32, 64, 128, 768), (1,) * 5),
    "swin-unetr": ((48, 48, 96, 192, 384, 768), (1, 2, 2, 2, 2, 1)),
    "mednext": ((32, 64, 128, 256, 512), (2,) * 5),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_features_and_depth_are_those_that_were_published(name):
    family = FAMILIES[name]
    network = fit((1, 1, 1), (128, 128, 128), 1, 2, 1e9, family.gb, family).network
    assert (network.features, network.convs_encoder) == PUBLISHED[name]


def test_swin_has_the_heads_that_were_published():
    network = fit((1, 1, 1), (128, 128, 128), 1, 2, 1e9, 8, FAMILIES["swin-unetr"]).network
    assert swin_heads(network) == (3, 6, 12, 24)


def test_every_architecture_can_be_asked_for():
    assert {family.kind for family in FAMILIES.values()} == set(NETWORKS)
    help_text = str(inspect.signature(command).parameters["network"].annotation)
    assert all(name in help_text for name in FAMILIES)


def test_larger_families_hold_larger_patches():
    voxels = []
    for name in ("resenc-m", "resenc-l", "resenc-xl"):
        family = FAMILIES[name]
        fitted = fit((0.8, 0.8, 0.8), (512, 512, 512), 1, 3, 1e12, family.gb, family)
        assert fitted.activations <= fitted.limit
        voxels.append(fitted.activations)
    assert voxels == sorted(voxels)
    assert voxels[-1] > 4 * voxels[0]
