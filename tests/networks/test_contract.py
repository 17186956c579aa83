"""What every entry of the table of networks promises, in 2D and 3D, with isotropic and anisotropic stages."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from medseg.networks.table import build_network
from medseg.networks.topology import SUPERVISED
from tests.networks.build import FEW, LAYOUT_KEPT, PATCHES, SETTINGS

torch.set_num_threads(1)
SLOW = pytest.mark.slow
HEAVY = "swin_unetr 3d"  # seconds a step, even in its smallest size
EVERY = pytest.mark.parametrize("name", [pytest.param(n, marks=[SLOW] * (n == HEAVY)) for n in SETTINGS])


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
def test_in_training_supervised_levels_answer_too(name):
    settings = SETTINGS[name]
    network = build_network(settings).train()
    patch = PATCHES[name][0]
    logits = network(image_for(name, patch))
    assert isinstance(logits, list) == settings.deep_supervision == (settings.kind in SUPERVISED)
    shapes = [one.shape for one in (logits if isinstance(logits, list) else [logits])]
    wanted, here = [], patch
    for stride in settings.strides[: len(shapes)]:
        here = tuple(n // s for n, s in zip(here, stride, strict=True)) if settings.kind != "unetpp" else patch
        wanted.append((2, settings.classes, *here))
    assert shapes == wanted
    lowest = {"unet": 2, "resenc": 2, "unetpp": 1, "mednext": 0}  # levels without an answer
    assert len(shapes) == max(1, len(settings.features) - lowest.get(settings.kind, len(settings.features)))


@pytest.mark.parametrize(("name", "deep"), [(n, d) for n, s in SETTINGS.items() for d in {s.deep_supervision, False}])
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
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3)  # rounding: no scan knows its neighbours


@EVERY
def test_training_and_use_agree_on_full_resolution(name):
    network = build_network(SETTINGS[name])
    image = image_for(name, PATCHES[name][0])
    with torch.no_grad():
        logits = network.train()(image)
        torch.testing.assert_close(logits[0] if isinstance(logits, list) else logits, network.eval()(image))


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


@pytest.mark.parametrize("name", [name for name, settings in SETTINGS.items() if settings.kind in LAYOUT_KEPT])
def test_memory_layout_is_kept(name):
    network = build_network(SETTINGS[name]).eval()
    layout = torch.channels_last_3d if SETTINGS[name].dims == 3 else torch.channels_last
    kept = {}
    for where, module in network.named_modules():
        single = getattr(module, "kernel_size", (0,)) == (1, 1, 1)  # torch loses the layout there on a CPU
        after = where.endswith(".skip.2") or where.startswith(("pyramid.", "fine."))
        if where and not list(module.children()) and not single and not after:
            module.register_forward_hook(
                lambda _, __, out, at=where: kept.update({at: out.is_contiguous(memory_format=layout)})
            )
    with torch.no_grad():
        network(image_for(name, PATCHES[name][0]))
    assert kept
    assert all(kept.values()), kept
    assert all(p.is_contiguous(memory_format=layout) for p in network.parameters() if p.ndim > 2)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[SLOW] * (n not in ("2d", "fcn 2d"))) for n in FEW])
def test_the_network_can_be_exported(name):
    network = build_network(FEW[name]).eval()
    image = image_for(name, PATCHES[name][0])
    exported = torch.export.export(network, (image,)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(image), network(image), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[SLOW] * n.endswith("3d")) for n in FEW])
def test_a_few_steps_learn_what_is_bright(name):
    network = build_network(FEW[name]).train()
    image = image_for(name, PATCHES[name][0])
    target = (image[:, 0] > 0.5).long()
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3)
    losses = []
    for _ in range(6):
        logits = network(image)
        loss = functional.cross_entropy(logits[0] if isinstance(logits, list) else logits, target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0], losses
