from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.preprocessing.crop import nonzero_box, slices


def test_the_box_holds_every_nonzero_voxel_of_any_channel():
    image = np.zeros((2, 6, 7, 8))
    image[0, 2, 3, 4] = -1
    image[1, 4, 3, 1] = 0.5
    assert nonzero_box(image) == ((2, 5), (3, 4), (1, 5))


def test_an_empty_scan_is_kept_whole():
    assert nonzero_box(np.zeros((1, 3, 1, 2))) == ((0, 3), (0, 1), (0, 2))


@settings(deadline=None, max_examples=40, database=None)
@given(seed=st.integers(0, 1000), share=st.floats(0.001, 0.3))
def test_nothing_is_lost_and_each_side_touches(seed, share):
    rng = np.random.default_rng(seed)
    image = (rng.random((2, *rng.integers(1, 9, 3))) < share) * rng.normal(size=1)
    box = nonzero_box(image)
    inside = image[(slice(None), *slices(box))]
    assert np.count_nonzero(inside) == np.count_nonzero(image)
    if image.any():
        assert nonzero_box(inside) == tuple((0, n) for n in inside.shape[1:])
