from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from medseg.inference.nnunet.axes import axes_of
from medseg.inference.tiles import line_weights


@pytest.mark.parametrize("forward", list(itertools.permutations(range(3))))
def test_axes_are_those_of_an_array_that_is_transposed_as_nnunet_does(forward: tuple[int, ...]) -> None:
    """Sizes of an array of the file, x fastest, as nnU-Net's (z, y, x) transposed."""
    x, y, z = 5, 7, 11
    theirs = np.zeros((z, y, x)).transpose(forward).shape
    axes = axes_of(forward, 3)
    assert axes.volume(theirs, 0) == axes.stage(theirs) == (x, y, z)
    assert axes.slice_axis is None
    assert axes.weight(torch.zeros(2, 3, *theirs)).shape == (2, 3, x, y, z)
    assert [theirs[k] for k in (0, 2)] == [(x, y, z)[a] for a in (axes.place.index(0), axes.place.index(2))]
    assert axes.mirrored((0, 2)) == tuple(sorted((axes.place.index(0), axes.place.index(2))))
    flat = axes_of(forward, 2)
    assert flat.volume(theirs[1:], theirs[0]) == (x, y, z)
    sizes = [n for axis, n in enumerate((x, y, z)) if axis != flat.slice_axis]
    assert (x, y, z)[flat.slice_axis or 0] == theirs[0]
    assert list(flat.stage(theirs[1:])) == sizes
    assert flat.weight(torch.zeros(2, 3, *theirs[1:])).shape == (2, 3, *sizes)
    assert math.prod((x, y, z)[a] for a in flat.mirrored((0, 1))) == math.prod(theirs[1:])


@pytest.mark.parametrize("n", [1, 2, 5, 8, 20, 40, 112, 128])
def test_weights_of_a_tile_are_nnunets(n: int) -> None:
    """It filters a single voxel, so that the centre of an even number is the upper one of two."""
    single = np.zeros(n)
    single[n // 2] = 1
    theirs = gaussian_filter(single, n / 8, 0, mode="constant", cval=0)
    np.testing.assert_allclose(line_weights(n, "upper"), theirs / theirs.max(), rtol=1e-5)
