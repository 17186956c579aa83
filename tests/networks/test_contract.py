"""What every entry of the table of networks promises, in 2D and 3D, with isotropic and anisotropic stages."""

from __future__ import annotations

import pytest
import torch

from medseg.networks.table import build_network
from tests.networks.build import PATCHES, SETTINGS

torch.set_num_threads(1)
EVERY = pytest.mark.parametrize("name", SETTINGS)


def image_for(name: str, patch: tuple[int, ...], batch: int = 2, seed: int = 0) -> torch.Tensor:
    settings = SETTINGS[name]
    image = torch.randn((batch, settings.in_channels, *patch), generator=torch.Generator().manual_seed(seed))
    return image.contiguous(memory_format=torch.channels_last_3d if settings.dims == 3 else torch.channels_last)


@EVERY
def test_logits_have_the_shape_of_the_patch(name):
    settings = SETTINGS[name]
    network = build_network(settings).eval()
    for patch in PATCHES[name]:
        with torch.no_grad():
            logits = network(image_for(name, patch))
        assert logits.shape == (2, settings.classes, *patch)
        assert logits.isfinite().all()


@EVERY
def test_in_training_each_supervised_stage_answers_at_its_own_scale(name):
    settings = SETTINGS[name]
    network = build_network(settings).train()
    patch = PATCHES[name][0]
    logits = network(image_for(name, patch))
    assert isinstance(logits, list)
    here = patch
    for found, stride in zip(logits, settings.strides, strict=False):
        here = tuple(n // s for n, s in zip(here, stride, strict=True))
        assert found.shape == (2, settings.classes, *here)
    assert len(logits) == max(1, len(settings.features) - 2)


@EVERY
@pytest.mark.parametrize("deep", [True, False])
def test_the_gradient_reaches_every_weight(name, deep):
    network = build_network(SETTINGS[name].model_copy(update={"deep_supervision": deep})).train()
    with torch.no_grad():
        for parameter in network.parameters():  # norms that start at 0 hold back the first step's gradient
            if not parameter.any():
                parameter.fill_(0.1)
    logits = network(image_for(name, PATCHES[name][0]))
    each = logits if isinstance(logits, list) else [logits]
    assert isinstance(logits, list) == deep
    sum((one * torch.randn_like(one)).sum() for one in each).backward()
    for weight, parameter in network.named_parameters():
        assert parameter.grad is not None, weight
        assert parameter.grad.abs().sum() > 0, weight
        assert parameter.grad.isfinite().all(), weight


@EVERY
def test_the_same_scan_gets_the_same_answer(name):
    network = build_network(SETTINGS[name]).eval()
    image = image_for(name, PATCHES[name][-1])
    with torch.no_grad():
        together, again = network(image), network(image)
        alone = torch.cat([network(one) for one in image.split(1)])
    assert torch.equal(together, again)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)  # no scan depends on its neighbours in a batch


@EVERY
def test_training_and_use_agree_on_full_resolution(name):
    network = build_network(SETTINGS[name])
    image = image_for(name, PATCHES[name][0])
    with torch.no_grad():
        torch.testing.assert_close(network.train()(image)[0], network.eval()(image))


@EVERY
def test_the_seed_gives_the_weights_and_leaves_other_draws_alone(name):
    before = torch.get_rng_state()
    one, same, other = (build_network(SETTINGS[name], seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@EVERY
def test_settings_survive_being_written(name):
    settings = SETTINGS[name]
    assert type(settings).model_validate_json(settings.model_dump_json()) == settings


@EVERY
def test_memory_layout_is_kept(name):
    network = build_network(SETTINGS[name]).eval()
    layout = torch.channels_last_3d if SETTINGS[name].dims == 3 else torch.channels_last
    kept = {}
    for where, module in network.named_modules():
        single = getattr(module, "kernel_size", (0,)) == (1, 1, 1)  # torch loses the layout there on a CPU
        if where and not list(module.children()) and not single and not where.endswith(".skip.2"):
            module.register_forward_hook(
                lambda _, __, out, at=where: kept.update({at: out.is_contiguous(memory_format=layout)})
            )
    with torch.no_grad():
        network(image_for(name, PATCHES[name][0]))
    assert kept
    assert all(kept.values()), kept
    assert all(p.is_contiguous(memory_format=layout) for p in network.parameters() if p.ndim > 2)
