"""Resampling by torch gives what resampling by numpy gives; here on torch's CPU, which every machine has."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.preprocessing import on_device as module
from medseg.preprocessing.on_device import on_device
from medseg.preprocessing.resample import ON_CPU

HERE = on_device(torch.device("cpu"))
SHAPES = st.tuples(*[st.one_of(st.integers(1, 8), st.integers(30, 40))] * 3)
FAST = settings(deadline=None, max_examples=25, database=None)


@FAST
@given(
    SHAPES, SHAPES, st.tuples(*[st.sampled_from([0, 1, 3])] * 3), st.sampled_from([0, -1000, 1e5]), st.integers(0, 99)
)
def test_images(old, new, orders, offset, seed):
    image = (offset + np.random.default_rng(seed).normal(0, 10, old)).astype(np.float32)
    ours, theirs = HERE.image(image, new, orders), ON_CPU.image(image, new, orders)
    assert ours.dtype == np.float32
    assert ours.shape == new
    rounding = np.spacing(np.abs(image).max())
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * float(np.ptp(image)) + rounding)


@FAST
@given(SHAPES, SHAPES, st.tuples(*[st.sampled_from([0, 1])] * 3), st.integers(1, 6), st.integers(0, 99))
def test_labels_are_equal_to_the_voxel_ties_included(old, new, orders, classes, seed):
    values = np.array([0, 3, 255, 300, 4000, 65535], np.uint16)[:classes]
    labels = values[np.random.default_rng(seed).integers(0, classes, old)]
    labels = labels.astype(np.uint8) if classes <= 3 else labels
    ours = HERE.labels(labels, new, orders)
    assert ours.dtype == labels.dtype
    np.testing.assert_array_equal(ours, ON_CPU.labels(labels, new, orders))


def test_the_same_shape_is_the_same_array():
    image = np.zeros((3, 4, 5), np.float32)
    assert HERE.image(image, (3, 4, 5), (3, 3, 3)) is image
    assert HERE.labels(image, (3, 4, 5), (1, 1, 1)) is image


def test_slabs_and_layout_do_not_matter(monkeypatch):
    monkeypatch.setattr(module, "SLAB", 200)
    labels = np.random.default_rng(0).integers(0, 4, (9, 10, 11)).astype(np.uint8).transpose(2, 0, 1)[::-1]
    image = labels.astype(np.float32)
    np.testing.assert_array_equal(
        HERE.labels(labels, (5, 16, 12), (1, 1, 1)), ON_CPU.labels(labels, (5, 16, 12), (1, 1, 1))
    )
    ours, theirs = (one.image(image, (5, 16, 12), (3, 3, 1)) for one in (HERE, ON_CPU))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=3e-6)


def test_arrays_mapped_from_disk_may_be_read_only():
    labels = np.random.default_rng(0).integers(0, 4, (9, 10, 11)).astype(np.uint8)
    image = labels.astype(np.float32)
    for array in (labels, image):
        array.flags.writeable = False
    assert HERE.image(image, (5, 6, 7), (3, 3, 3)).shape == HERE.labels(labels, (5, 6, 7), (1, 1, 1)).shape == (5, 6, 7)


@pytest.mark.parametrize("before", ["none", "tf32"])
def test_lower_precision_of_the_network_is_not_used_and_put_back(before):
    image = np.random.default_rng(0).normal(size=(20, 21, 22)).astype(np.float32)
    matmul = torch.backends.cuda.matmul
    kept = matmul.fp32_precision
    seen = []

    def product(*args, **kwargs):
        seen.append((matmul.fp32_precision, torch.is_autocast_enabled("cpu")))
        return torch_product(*args, **kwargs)

    torch_product, torch.tensordot = torch.tensordot, product
    try:
        matmul.fp32_precision = before
        with torch.autocast("cpu", torch.bfloat16):
            ours = HERE.image(image, (30, 30, 30), (3, 3, 3))
        assert matmul.fp32_precision == before
    finally:
        torch.tensordot = torch_product
        matmul.fp32_precision = kept
    assert set(seen) == {("ieee", False)}
    np.testing.assert_allclose(ours, ON_CPU.image(image, (30, 30, 30), (3, 3, 3)), rtol=0, atol=5e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same():
    gpu = on_device(torch.device("cuda"))
    rng = np.random.default_rng(0)
    image = rng.normal(1000, 300, (64, 65, 30)).astype(np.float32)
    ours, theirs = (one.image(image, (50, 51, 70), (3, 3, 3)) for one in (gpu, ON_CPU))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * float(np.ptp(image)) + 2e-4)
    labels = rng.integers(0, 300, (40, 30, 20)).astype(np.uint16)
    np.testing.assert_array_equal(
        gpu.labels(labels, (31, 45, 33), (1, 1, 1)), ON_CPU.labels(labels, (31, 45, 33), (1, 1, 1))
    )
