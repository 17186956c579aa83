from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from medseg.errors import InputError
from medseg.inference.export.network import (
    Batch,
    Exportable,
    Mean,
    compared,
    exportable,
    need,
    patches,
    portable,
    refuse_different,
)
from medseg.inference.export.summary import Difference
from medseg.inference.model import Model
from medseg.networks.table import build_network
from medseg.networks.unet import InstanceNorm
from medseg.planning.plan import Region
from tests.networks.build import FEW, PATCHES
from tests.tiny import card_of, configuration, plan_of

OWN = ("unet", "resenc", "deeplab", "fcn")
EVERY = [pytest.param(n, marks=[pytest.mark.slow] * (FEW[n].kind not in OWN)) for n in FEW]


def tiny(dims: int = 3, folds: int = 1, regions: bool = False) -> Exportable:
    plan = plan_of(configuration(dims=dims, classes=2 if regions else 3))
    if regions:
        of = (Region(name="all", values=(1, 2), value=1), Region(name="core", values=(1,), value=2))
        plan = plan.model_copy(update={"regions": of})
    networks = [build_network(plan.configuration.network, seed).eval() for seed in range(folds)]
    return exportable([Model(one, card_of(plan)) for one in networks], [str(k) for k in range(folds)])


def torchs(network: Exportable, change: float = 0.0) -> Difference:
    def runtime(batch: Batch) -> Batch:
        with torch.inference_mode():
            found: Batch = network.portable(torch.from_numpy(batch)).numpy()
        found[:, 1:] += change
        return found

    return compared(network, runtime)


@pytest.mark.parametrize("name", EVERY)
def test_a_portable_network_computes_the_same(name: str) -> None:
    settings = FEW[name]
    own = build_network(settings).eval()
    changed = portable(own, settings.dims).eval()
    assert not any(isinstance(module, InstanceNorm) for module in changed.modules())
    assert changed.state_dict().keys() == own.state_dict().keys()
    image = torch.randn((2, settings.in_channels, *PATCHES[name][0]))
    with torch.inference_mode():
        wanted, found = own(image), changed(image)
    assert (found - wanted).abs().max() <= 1e-3 * wanted.abs().max()


@pytest.mark.parametrize("dims", [2, 3])
def test_rounding_is_no_difference(dims: int) -> None:
    network = tiny(dims)
    assert network.patch == (8,) * dims
    found = torchs(network)
    assert found.small
    assert found.voxels == 3 * 8**dims
    refuse_different(found, "it")


@pytest.mark.parametrize("regions", [False, True])
def test_another_answer_is_a_difference(regions: bool) -> None:
    network = tiny(regions=regions)
    found = torchs(network, 0.5)
    assert found.largest == pytest.approx(0.5, abs=1e-3)
    assert found.differing > 0
    with pytest.raises(InputError, match=r"it differs from torch by at most 0\.5 .*; it is not written"):
        refuse_different(found, "it")


def test_few_voxels_that_are_decided_otherwise_are_rounding() -> None:
    told = {"largest": 1e-5, "logit": 10.0, "voxels": 100_000}
    assert Difference(**told, differing=10).small
    assert not Difference(**told, differing=11).small
    assert not Difference(largest=0.011, logit=10.0, voxels=100, differing=0).small


def test_an_answer_of_another_shape_or_without_numbers_is_refused() -> None:
    network = tiny()
    for answer in (np.zeros((1, 3, 8, 8), np.float32), np.full((1, 3, 8, 8, 8), np.nan, np.float32)):
        with pytest.raises(InputError, match="or what is no number"):
            compared(network, lambda _, answer=answer: answer)  # type: ignore[misc]


def test_several_folds_are_one_network_of_their_mean() -> None:
    network = tiny(folds=3)
    assert isinstance(network.own, Mean)
    assert network.words == "3d, mean of folds 0, 1, 2"
    image = torch.randn((1, 1, 8, 8, 8))
    with torch.inference_mode():
        each = [one(image) for one in network.own.networks]
        assert torch.allclose(network.own(image), torch.stack(each).mean(0), atol=1e-6)
    assert torchs(network).small


def test_patches_are_of_noise_and_like_scans() -> None:
    noise, scans = patches(2, (12, 10), 0)
    assert (noise.shape, scans.shape) == ((1, 2, 12, 10), (2, 2, 12, 10))
    for image in scans.reshape(4, 12, 10):
        assert abs(image.mean()) < 1e-3
        assert image.std() == pytest.approx(1, abs=1e-3)
    again = list(patches(2, (12, 10), 0))
    np.testing.assert_array_equal(again[1], scans)


def test_what_is_missing_is_named_with_what_to_install() -> None:
    need("--onnx", "onnx", "torch")
    with pytest.raises(InputError, match=r"--onnx needs nowhere.*pip install 'medseg\[onnx\]'"):
        need("--onnx", "onnx", "torch", "nowhere")


def test_the_own_network_is_left_as_it_is() -> None:
    network = nn.Sequential(InstanceNorm(2))
    portable(network, 3)
    assert isinstance(network[0], InstanceNorm)
