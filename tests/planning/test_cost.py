from __future__ import annotations

import numpy as np
import pytest

from medseg.inference.tiles import tile_starts
from medseg.networks.table import build_network
from medseg.networks.work import weights
from medseg.planning.architecture import fit, network_for
from medseg.planning.cost import cache_bytes, cost, gpu_bytes, inference_s, tiles, training_bytes, within
from medseg.planning.families import FAMILIES
from medseg.planning.plan import Budget
from medseg.preprocessing.settings import Normalisation
from tests.planning.build import alike

# Peak of resident memory of two steps on a CPU (float32, AdamW), in GB, read in a process of its own for each:
# (family, features, patch, batch, classes, dimensions) -> GB
READ = {
    ("unet", 32, 64, 2, 3, 3): 2.07,
    ("unet", 16, 64, 2, 3, 3): 1.06,
    ("unet", 16, 48, 4, 3, 3): 0.80,
    ("unet", 32, 64, 2, 60, 3): 2.49,
    ("unet", 32, 256, 2, 3, 2): 1.15,
    ("unet", 16, 32, 2, 3, 3): 0.22,
    ("unet", 8, 32, 2, 3, 3): 0.17,
    ("resenc-m", 16, 48, 2, 3, 3): 0.61,
    ("resenc-m", 16, 64, 2, 3, 3): 1.47,
    ("attention-unet", 16, 48, 2, 3, 3): 0.79,
    ("unet++", 16, 48, 2, 3, 3): 1.36,
    ("segresnet", 16, 48, 2, 3, 3): 0.52,
    ("unetr", 16, 48, 2, 3, 3): 0.71,
    ("swin-unetr", 16, 48, 2, 3, 3): 3.36,
    ("mednext", 16, 48, 2, 3, 3): 1.42,
    ("deeplab", 16, 48, 2, 3, 3): 0.53,
    ("fcn", 16, 48, 2, 3, 3): 0.30,
    ("attention-unet", 16, 192, 2, 3, 2): 0.40,
    ("unet++", 16, 192, 2, 3, 2): 0.53,
    ("segresnet", 16, 192, 2, 3, 2): 0.28,
    ("unetr", 16, 192, 2, 3, 2): 0.69,
    ("swin-unetr", 16, 192, 2, 3, 2): 0.64,
    ("mednext", 16, 192, 2, 3, 2): 0.69,
    ("deeplab", 16, 192, 2, 3, 2): 0.32,
    ("fcn", 16, 192, 2, 3, 2): 0.26,
}


@pytest.mark.parametrize("of", READ)
def test_ram_is_that_which_was_read(of):
    family, base, side, batch, classes, dims = of
    network, patch = network_for((1.0,) * dims, (side,) * dims, 1, classes, FAMILIES[family], base)
    assert training_bytes(network, patch, batch) / 1e9 == pytest.approx(READ[of], rel=0.17)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dims", [2, 3])
def test_weights_are_those_of_the_network(family, dims):
    network, _ = network_for((1.0,) * dims, (64,) * dims, 2, 3, FAMILIES[family], 8)
    held = sum(p.numel() for p in build_network(network).parameters())
    assert weights(network) == pytest.approx(held, rel=0.02)


@pytest.mark.parametrize("family", ["unet", "resenc-m", "resenc-l", "resenc-xl"])
def test_nnunets_figure_for_its_own_plan_is_about_its_own_memory(family):
    gb = FAMILIES[family].gb
    fitted = fit((0.8, 0.8, 1), (500, 500, 400), 1, 3, 1e12, gb, FAMILIES[family])
    assert 0.7 * gb < gpu_bytes(fitted, FAMILIES[family]) / 1e9 <= 1.02 * gb


def test_tiles_are_those_of_the_sliding_window():
    rng = np.random.default_rng(0)
    for _ in range(300):
        size, patch, step = int(rng.integers(1, 300)), int(rng.integers(1, 200)), float(rng.choice([0.25, 0.5, 0.8]))
        assert tiles(size, patch, step) == len(tile_starts(size, patch, step)), (size, patch, step)


def test_a_scan_takes_a_third_of_a_step_for_each_tile():
    assert inference_s(3.0, 2, (64, 64, 64), (64, 64, 64), 0.5) == pytest.approx(0.5)
    assert inference_s(3.0, 2, (96, 64, 10), (64, 64, 1), 0.5) == pytest.approx(0.5 * 2 * 10)


def test_budgets():
    assert within(Budget(steps=100), 2.0) == (pytest.approx(200 / 3600), 100)
    assert within(Budget(steps=100), None) == (None, 100)
    assert within(Budget(seconds=3600), 2.0) == (1.0, 1620)
    assert within(Budget(seconds=3600), None) == (1.0, None)


def test_the_cache_is_half_precision_where_values_lie_near_the_mean():
    seen = alike(4, shape=(10, 10, 10))
    near = Normalisation(kind="ct", lower=-100, upper=300, mean=100, sd=100)
    far = near.model_copy(update={"sd": 40.0})
    unknown = Normalisation(kind="zscore")
    lists = 4 * 4 * 9
    assert cache_bytes(seen, (1, 1, 1), [near], 3) == 4 * 1000 * (2 + 1) + lists
    assert cache_bytes(seen, (1, 1, 1), [far], 3) == 4 * 1000 * (4 + 1) + lists
    assert cache_bytes(seen, (1, 1, 0.5), [near, unknown], 300) == 4 * 2000 * (2 + 3 + 2) + lists
    assert cache_bytes(seen, (None, None, None), [near], 257) == 4 * 1000 * (2 + 2) + lists


def test_the_record():
    made = cost(Budget(seconds=7200), 0.5, 2e9, 3e9, 4.0, 5e9, True)
    assert (made.hours, made.steps, made.step_s, made.training_gb) == (2.0, 12960, 0.5, 2.0)
    assert (made.preparing_gb, made.inference_s, made.cache_gb, made.measured) == (3.0, 4.0, 5.0, True)
