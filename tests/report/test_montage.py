from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from medseg.report.frame import frame_of
from medseg.report.montage import BLUE, ORANGE, Layers, montage
from medseg.report.pictures import window_of
from medseg.report.viewer import in_bytes
from tests.report.scenes import labels, scan


def layers(reference, prediction, noisy=True) -> Layers:
    frame = frame_of([reference.array, prediction.array], reference.grid)
    volume = scan(reference)
    greys = in_bytes(frame.take(volume.array), window_of(volume, frame, reference.array).shown) if noisy else None
    r = frame.take(reference.array)
    return Layers(
        np.zeros(r.shape, np.uint8) if greys is None else greys,
        r,
        frame.take(prediction.array),
        frame.spacing_mm,
        frame.first,
        frame.of,
    )


def pixels(raw: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"))


def test_what_is_missed_is_blue_and_what_is_extra_orange_and_right_is_left():
    raw, size = montage(layers(labels(), labels(shift=4)), (25, 18, 12), 200_000)
    image = pixels(raw)
    assert image.shape[1::-1] == size
    assert (image == BLUE).all(axis=2).sum() > 50
    assert (image == ORANGE).all(axis=2).sum() > 50
    blue, orange = (np.argwhere((image[: size[1] // 2, : size[0] // 4] == c).all(axis=2)) for c in (BLUE, ORANGE))
    assert orange[:, 1].mean() < blue[:, 1].mean()  # the shift is to the patient's right, which stands left


@pytest.mark.parametrize("most", [60_000, 35_000])
def test_it_keeps_to_its_size(most):
    raw, _ = montage(layers(labels(), labels(shift=2)), None, most)
    assert len(raw) <= most


def test_a_single_slice_and_very_thick_ones():
    for shape, mm in (((40, 36, 1), (1.0, 1.0, 5.0)), ((1, 60, 40), (3.0, 1.0, 1.0)), ((30, 30, 3), (0.2, 0.2, 60.0))):
        values = np.zeros(shape, np.uint8)
        values[tuple(slice(n // 3, n // 3 + max(1, n // 3)) for n in shape)] = 1
        raw, size = montage(Layers(values * 9, values, None, mm, (0, 0, 0), shape), None, 100_000)
        assert min(size) >= 24
        assert len(raw) > 100
