"""What is set right in MONAI's networks, and that MONAI waits until one is built."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from medseg.networks.table import build_network
from medseg.networks.unet import InstanceNorm
from tests.networks.build import LAYOUT_KEPT, SETTINGS

ADAPTED = [name for name, settings in SETTINGS.items() if settings.kind not in LAYOUT_KEPT and settings.dims == 2]


def test_monai_is_imported_only_where_one_of_its_networks_is_built():
    code = "import sys; from medseg.networks import table; sys.exit('monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("name", ADAPTED)
def test_no_norm_looks_at_the_batch_or_loses_the_layout(name):
    norms = [m for m in build_network(SETTINGS[name]).modules() if "Norm" in type(m).__name__]
    assert {type(norm) for norm in norms} <= {InstanceNorm, nn.GroupNorm, nn.LayerNorm}
    assert all(n.num_groups < n.num_channels for n in norms if isinstance(n, nn.GroupNorm))


def test_biases_that_a_norm_takes_out_are_gone():
    network = build_network(SETTINGS["attention_unet 2d"])
    biased = [name for name, m in network.named_modules() if isinstance(getattr(m, "bias", None), nn.Parameter)]
    assert [name for name in biased if not isinstance(network.get_submodule(name), InstanceNorm)] == [
        "network.model.2.conv"
    ]
    mednext = build_network(SETTINGS["mednext 2d"])
    assert not [name for name, _ in mednext.named_parameters() if name.endswith("conv1.bias")]


def test_the_swap_of_norms_leaves_the_answer_as_monai_has_it():
    from monai.networks.nets.basic_unetplusplus import BasicUNetPlusPlus

    settings = SETTINGS["unetpp 2d"]
    ours = build_network(settings).eval()
    features = (*settings.features, settings.features[0])
    theirs = BasicUNetPlusPlus(2, 2, 3, features, deep_supervision=True, bias=False).eval()
    theirs.load_state_dict({key.removeprefix("network."): value for key, value in ours.state_dict().items()})
    image = torch.randn(2, 2, 32, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image)[-1], rtol=1e-3, atol=1e-4)
        for found, wanted in zip(ours.train()(image), reversed(theirs(image)), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_attention_unet_takes_strides_of_each_axis():
    settings = SETTINGS["attention_unet 3d"]
    thick = settings.model_copy(update={"strides": ((1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2))})
    with torch.no_grad():
        assert build_network(thick)(torch.zeros(1, 2, 32, 16, 8)).shape == (1, 3, 32, 16, 8)


def test_a_network_for_one_patch_refuses_another():
    network = build_network(SETTINGS["unetr 2d"])
    with pytest.raises(RuntimeError), torch.no_grad():
        network(torch.zeros(1, 2, 48, 16))
