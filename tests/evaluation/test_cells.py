"""The area table against geometry that one can work out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.evaluation.cells import surfel_sizes

SPACING = (0.8, 1.5, 2.5)


def test_only_mixed_codes_hold_surface():
    for spacing in (SPACING, SPACING[:2]):
        sizes = surfel_sizes(spacing)
        assert sizes[0] == sizes[-1] == 0
        assert (sizes[1:-1] > 0).all()


@pytest.mark.parametrize("spacing", [SPACING, SPACING[:2]])
def test_inside_and_outside_share_their_surface(spacing):
    sizes = surfel_sizes(spacing)
    np.testing.assert_allclose(sizes, sizes[::-1], rtol=1e-12)


def test_a_plane_between_voxels_is_one_face():
    sizes = surfel_sizes(SPACING)
    assert sizes[0b11110000] == pytest.approx(1.5 * 2.5)  # the four corners of low x
    assert sizes[0b11001100] == pytest.approx(0.8 * 2.5)
    assert sizes[0b10101010] == pytest.approx(0.8 * 1.5)


def test_a_lone_corner_is_a_triangle():
    x, y, z = (s / 2 for s in SPACING)
    area = 0.5 * np.sqrt((x * y) ** 2 + (y * z) ** 2 + (x * z) ** 2)
    assert surfel_sizes(SPACING)[1 << np.arange(8)] == pytest.approx(area)


def test_contours():
    sizes = surfel_sizes((2.0, 1.0))
    assert sizes[[1, 2, 4, 8, 7, 11, 13, 14]] == pytest.approx(np.sqrt(5) / 2)
    assert sizes[[0b0011, 0b1100]] == pytest.approx(1.0)
    assert sizes[[0b0101, 0b1010]] == pytest.approx(2.0)
    assert sizes[[0b0110, 0b1001]] == pytest.approx(np.sqrt(5))
