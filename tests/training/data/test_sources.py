from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from medseg.preprocessing.cache import LoadedCase
from medseg.training.data import sources
from medseg.training.data.gather import Size
from medseg.training.data.sources import cut, place, placed_as, room_for
from tests.tiny import CPU, loaded_blobs

TIERS: tuple[Literal["device", "pinned", "mapped"], ...] = ("device", "pinned", "mapped")
PLACES = st.tuples(*[st.integers(-4, 12)] * 3)
SIZES = st.tuples(*[st.integers(1, 11)] * 3)
GPU = torch.device("cuda")
(CASE,) = loaded_blobs(1)


def numbered(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)


def plainly_cut(array: NDArray[np.float32], start: Size, shape: Size) -> NDArray[np.float32]:
    out = np.zeros((array.shape[0], *shape), array.dtype)
    for at in itertools.product(*map(range, shape)):
        where = tuple(s + k for s, k in zip(start, at, strict=True))
        if all(0 <= w < n for w, n in zip(where, array.shape[1:], strict=True)):
            out[(slice(None), *at)] = array[(slice(None), *where)]
    return out


@given(PLACES, SIZES, st.sampled_from(TIERS))
def test_a_cut_is_zero_wherever_it_leaves_the_scan(
    start: Size, shape: Size, tier: Literal["device", "pinned", "mapped"]
) -> None:
    image = numbered((2, 5, 4, 7))
    case = replace(CASE, image_CXYZ=image, classes_XYZ=(image[0] % 200).astype(np.uint8))
    placed = placed_as(tier, [case], CPU)
    boxes = room_for(placed, 2, shape)
    cut(placed, 0, start, boxes, 1)
    assert np.array_equal(boxes.image[1].numpy(), plainly_cut(image, start, shape))
    assert np.array_equal(boxes.classes[1:].numpy(), plainly_cut(case.classes_XYZ[None], start, shape))
    assert not boxes.image[0].any()


@pytest.mark.parametrize("tier", TIERS)
def test_cases_keep_their_own_types(tier: Literal["device", "pinned", "mapped"]) -> None:
    single = loaded_blobs(2)
    half = [replace(case, image_CXYZ=case.image_CXYZ.astype(np.float16)) for case in single]
    many = [replace(case, classes_XYZ=case.classes_XYZ.astype(np.uint16) * 300) for case in single]
    for cases, image, classes in (
        (single, torch.float32, torch.uint8),
        (half, torch.float16, torch.uint8),
        ([half[0], single[1]], torch.float32, torch.uint8),
        (many, torch.float32, torch.int32),
    ):
        placed = placed_as(tier, cases, CPU)
        boxes = room_for(placed, 2, (16, 16, 16))
        assert (boxes.image.dtype, boxes.classes.dtype) == (image, classes)
        for k, case in enumerate(cases):
            cut(placed, k, (0, 0, 0), boxes, k)
            assert np.array_equal(boxes.image[k].numpy(), case.image_CXYZ.astype(boxes.image.numpy().dtype))
            assert np.array_equal(boxes.classes[k].numpy(), case.classes_XYZ)


@pytest.mark.parametrize("tier", TIERS)
def test_arrays_of_the_cache_are_never_written_to(tier: Literal["device", "pinned", "mapped"]) -> None:
    (case,) = loaded_blobs(1)
    before = case.image_CXYZ.copy()
    case.image_CXYZ.flags.writeable = False  # as mapped ones are
    case.classes_XYZ.flags.writeable = False
    placed = placed_as(tier, [case], CPU)
    boxes = room_for(placed, 1, (4, 4, 4))
    cut(placed, 0, (2, 2, 2), boxes, 0)
    boxes.image.add_(1)
    assert np.array_equal(case.image_CXYZ, before)


def test_the_size_of_the_cases_chooses_where_they_lie_and_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = loaded_blobs(3)
    size = sum(case.image_CXYZ.nbytes + case.classes_XYZ.nbytes for case in cases)
    held = place(cases, CPU, free_bytes=size)
    assert (held.tier, held.told) == ("device", "3 training cases (0.00011 GB) are held in memory")
    left = place(cases, CPU, free_bytes=size - 1)
    assert left.tier == "mapped"
    assert left.told.startswith("3 training cases (0.00011 GB) are read from disk patch by patch: there is room for ")
    ram = size / sources.SPARE_SHARE
    monkeypatch.setattr(sources, "available_memory_bytes", lambda: ram)
    assert place(cases, CPU).tier == "device"
    assert place(cases, CPU, ranks=2).tier == "mapped"  # each of two processes would hold them
    on_gpu = place(cases, GPU, free_bytes=size - 1)
    assert (on_gpu.tier, on_gpu.device) == ("pinned", GPU)
    assert "copied to the GPU patch by patch" in on_gpu.told
    assert place(cases, GPU, free_bytes=size - 1, ranks=2).tier == "mapped"
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3 * size, 4 * size))
    assert place(cases, GPU, training_bytes=1.5 * size).told.endswith("there is room for 8.3e-05 GB on the GPU")


def test_a_previous_segmentation_counts_and_is_cut_too(monkeypatch: pytest.MonkeyPatch) -> None:
    (plain,) = loaded_blobs(1)
    case: LoadedCase = replace(plain, previous_XYZ=np.roll(plain.classes_XYZ, 2, axis=0))
    size = plain.image_CXYZ.nbytes + plain.classes_XYZ.nbytes
    assert place([case], CPU, free_bytes=size).tier == "mapped"
    for tier in TIERS:
        placed = placed_as(tier, [case], CPU)
        boxes = room_for(placed, 1, (16, 16, 16))
        cut(placed, 0, (0, 0, 0), boxes, 0)
        assert boxes.previous is not None
        assert np.array_equal(boxes.previous[0].numpy(), case.previous_XYZ)


def test_mapped_files_of_the_cache_serve(tmp_path: Path) -> None:
    (case,) = loaded_blobs(1)
    np.save(tmp_path / "image.npy", case.image_CXYZ.astype(np.float16))
    mapped = replace(case, image_CXYZ=np.load(tmp_path / "image.npy", mmap_mode="r"))
    for tier in TIERS:
        placed = placed_as(tier, [mapped], CPU)
        boxes = room_for(placed, 1, (5, 5, 5))
        cut(placed, 0, (3, 4, 5), boxes, 0)
        assert np.array_equal(boxes.image[0].numpy(), mapped.image_CXYZ[:, 3:8, 4:9, 5:10])
