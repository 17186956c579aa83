"""The plain U-Net's own parts."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from medseg.networks.table import build_network
from medseg.networks.unet import EPSILON, Conv3d, InstanceNorm
from tests import tiny
from tests.networks.build import SETTINGS


@pytest.mark.parametrize("shape", [(1, 3, 4, 5, 6), (3, 2, 5, 1, 2), (2, 4, 7, 3)])
def test_instance_norm_equals_that_of_torch(shape):
    generator = torch.Generator().manual_seed(0)
    ours = InstanceNorm(shape[1]).double()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.copy_(torch.randn(shape[1], generator=generator))
    image = (torch.randn(shape, generator=generator, dtype=torch.float64) * 7 + 3).requires_grad_()
    weight, bias, twin = (t.detach().clone().requires_grad_() for t in (ours.weight, ours.bias, image))
    pull = torch.randn(shape, generator=generator, dtype=torch.float64)
    found = ours(image)
    wanted = functional.instance_norm(twin, weight=weight, bias=bias, eps=EPSILON)
    torch.testing.assert_close(found, wanted)
    (found * pull).sum().backward()
    (wanted * pull).sum().backward()
    for a, b in ((image, twin), (ours.weight, weight), (ours.bias, bias)):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("stride", [1, 2, (1, 2, 1)])
@pytest.mark.parametrize(("batch", "shape"), [(1, (4, 5, 3)), (1, (20, 24, 18)), (2, (6, 6, 6))])
def test_convolutions_in_use_equal_those_of_torch(batch, shape, stride):
    torch.manual_seed(0)
    ours = Conv3d(8, 16, (3, 1, 3), stride, (1, 0, 1))
    image = torch.randn(batch, 8, *shape).contiguous(memory_format=torch.channels_last_3d)
    wanted = functional.conv3d(image.double(), ours.weight.double(), ours.bias.double(), ours.stride, ours.padding)
    with torch.inference_mode():
        torch.testing.assert_close(ours(image).double(), wanted, rtol=1e-4, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            assert ours(image).dtype == torch.bfloat16
    assert ours(image).requires_grad


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dims", [2, 3])
def test_instance_norm_keeps_the_memory_layout(batch, dims):
    layout = torch.channels_last_3d if dims == 3 else torch.channels_last
    image = torch.randn(batch, 4, *(5, 6, 7)[:dims]).contiguous(memory_format=layout)
    assert InstanceNorm(4)(image).is_contiguous(memory_format=layout)


def test_instance_norm_is_the_same_in_training_and_in_use():
    norm, image = InstanceNorm(3), torch.randn(2, 3, 4, 4)
    assert torch.equal(norm.train()(image), norm.eval()(image))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("dims", [2, 3])
def test_an_answer_does_not_depend_on_the_number_of_threads(dims, half):
    """Workers with a core each and one process with all cores write the same labels."""
    ones, twos, threes = (1,) * dims, (2,) * dims, (3,) * dims
    sizes = {"dims": dims, "features": (16, 32, 64), "kernels": (threes,) * 3, "strides": (ones, twos, twos)}
    torch.manual_seed(0)
    network = build_network(tiny.configuration().network.model_copy(update=sizes)).eval()
    layout = torch.channels_last_3d if dims == 3 else torch.channels_last
    image = torch.randn(2, 1, *(32,) * dims).contiguous(memory_format=layout)
    answers, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
                answers.append(network(image))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])
    trained = network(image)
    torch.testing.assert_close(answers[0].float(), trained, rtol=0.1 if half else 1e-4, atol=0.1 if half else 1e-4)


def test_weights_are_as_settings_say():
    network = build_network(SETTINGS["3d anisotropic"])
    shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
    assert shapes["encoder.0.0.weight"] == (4, 2, 1, 3, 3)
    assert shapes["encoder.2.3.weight"] == (16, 16, 3, 3, 3)
    assert shapes["up.1.weight"] == (16, 8, 2, 2, 1)
    assert shapes["decoder.1.0.weight"] == (8, 16, 1, 3, 3)
    assert shapes["heads.0.weight"] == (3, 4, 1, 1, 1)
    assert not any(name.endswith("0.bias") for name in shapes if name.startswith(("encoder", "decoder", "up")))


def test_transposed_convolutions_have_a_bias_where_settings_say_so():
    biased = SETTINGS["3d anisotropic"].model_copy(update={"up_bias": True})
    names = {name for name, _ in build_network(biased).named_parameters()}
    plain = {name for name, _ in build_network(SETTINGS["3d anisotropic"]).named_parameters()}
    assert names - plain == {"up.0.bias", "up.1.bias"}
