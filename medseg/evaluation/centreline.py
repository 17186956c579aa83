"""How well the course of a tube is found: the share of each side's centreline that lies inside the other (clDice).

Centrelines are found by thinning (scikit-image's: Zhang 1984 for slices, Lee 1994 for volumes), which works on indices,
so both masks are brought to isotropic voxels first. Lee's thinning peels an even number of layers to nothing: straight
tubes of even width vanish (scikit-image#3757), and of a tree it drops single branches. So each component is looked at,
and where its centreline does not reach it is thinned once more in half voxels, in which every width is odd.

The order in which voxels are peeled off is that of their indices. So a flip or another order of axes may move a
centreline by a voxel where a tube has no middle voxel, and shares by a few per cent of a short or ragged tube.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_erosion, find_objects, generate_binary_structure, label
from scipy.spatial import cKDTree

from medseg.evaluation.boxes import Box, Mask, as_mask, box_of, grown

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_REACH, _MORE = 2.0, 2.0  # radii and voxels: how far from a centreline the corners at the end of a thick tube may lie


def centreline_metrics(reference: Mask, prediction: Mask, spacing_mm: Sequence[float]) -> dict[str, float | None]:
    """Centreline Dice, precision and sensitivity (Shit 2021) of two masks (X, Y, Z), or (X, Y), of one shape, by name.

    A volume of a single slice is thinned in 2D. All are None where both masks are empty, and 0 where one is.
    """
    r, p, spacing = _in_plane(as_mask(reference), as_mask(prediction), spacing_mm)
    box = box_of(r, p)
    if box is None:
        return dict.fromkeys(("centreline_dice", "centreline_precision", "centreline_sensitivity"))
    r, p = _isotropic(r[box], spacing), _isotropic(p[box], spacing)
    precision, sensitivity = _share_inside(centreline(p), r), _share_inside(centreline(r), p)
    both = precision + sensitivity
    return {
        "centreline_dice": 2 * precision * sensitivity / both if both else 0.0,
        "centreline_precision": precision,
        "centreline_sensitivity": sensitivity,
    }


def centreline(mask: Mask) -> Mask:
    """The voxels of a mask (X, Y, Z) or (X, Y) of isotropic voxels that thinning leaves; some of each component."""
    numbers, _ = label(mask, generate_binary_structure(mask.ndim, mask.ndim))
    found = np.zeros_like(mask)
    for number, box in enumerate(find_objects(numbers), 1):
        found[box] |= _of_component(numbers[box] == number)
    return found


def _in_plane(r: Mask, p: Mask, spacing_mm: Sequence[float]) -> tuple[Mask, Mask, Sequence[float]]:
    """Both masks without a single-slice axis, of several the coarsest."""
    if r.ndim < 3 or 1 not in r.shape:
        return r, p, spacing_mm
    single = max((axis for axis in range(3) if r.shape[axis] == 1), key=lambda axis: spacing_mm[axis])
    return r.squeeze(single), p.squeeze(single), [mm for axis, mm in enumerate(spacing_mm) if axis != single]


def _isotropic(mask: Mask, spacing_mm: Sequence[float]) -> Mask:
    """A mask on voxels of the smallest spacing about the same centre, by the nearest voxel."""
    finest = min(spacing_mm)
    for axis, (n, mm) in enumerate(zip(mask.shape, spacing_mm, strict=True)):
        count = max(1, round(n * mm / finest))
        if count != n:
            middles = (np.arange(count) + 0.5 - count / 2) * finest / mm + n / 2
            mask = mask.take(np.clip(np.floor(middles).astype(np.int64), 0, n - 1), axis)
    return mask


def _share_inside(line: Mask, mask: Mask) -> float:
    return float(np.count_nonzero(line & mask)) / max(1, int(np.count_nonzero(line)))


def _of_component(component: Mask) -> Mask:
    line = _thinned(component)
    border = cKDTree(np.argwhere(component & ~binary_erosion(component)))
    for box in _missed(line, border):
        more = np.argwhere(_thinned_in_halves(component[box])) + [side.start for side in box]
        away, radius = _to_line(more, line, border)
        line[tuple(more[away > radius].T)] = True
    if not line.any():  # not known to happen: a line of one voxel, the nearest to the component's centre
        voxels = np.argwhere(component)
        middle = voxels[np.square(voxels - voxels.mean(axis=0)).sum(axis=1).argmin()]
        line[tuple(middle)] = True
    return line


def _missed(line: Mask, border: cKDTree) -> list[Box]:
    """Boxes about the parts of a component whose border lies farther from its line than about two radii of its tube,
    and about as much more, so that the tube is whole where the line ends.
    """
    voxels = border.data.astype(np.int64)
    away, radius = _to_line(voxels, line, border)
    reach = _REACH * radius + _MORE
    missed = away > reach
    if not missed.any():
        return []
    there = np.zeros_like(line)
    there[tuple(voxels[missed].T)] = True
    numbers, _ = label(there, generate_binary_structure(line.ndim, line.ndim))
    return [grown(box, reach[missed].max(), [1.0] * line.ndim, line.shape) for box in find_objects(numbers)]


def _to_line(voxels: Ints, line: Mask, border: cKDTree) -> tuple[Floats, Floats]:
    """How far each voxel lies from a line, and the radius of the tube there; without a line infinitely far, and 0."""
    on_line = np.argwhere(line)
    if not len(on_line):
        return np.full(len(voxels), np.inf), np.zeros(len(voxels))
    away, nearest = cKDTree(on_line).query(voxels)
    return np.asarray(away), np.asarray(border.query(on_line)[0])[nearest] + 1


def _thinned(mask: Mask) -> Mask:
    from skimage.morphology import skeletonize  # here, since few structures are tubes and it takes long to import

    return as_mask(skeletonize(mask))


def _thinned_in_halves(mask: Mask) -> Mask:
    """A centreline found in half voxels: a tube of width w is 2w + 1 of them wide, which is odd.

    A half voxel between voxels belongs to the mask if any of these does, so that what touches stays connected. What
    lies between voxels on the line becomes the first of them that lies in the mask.
    """
    halves = mask
    for axis in range(mask.ndim):
        halves = _halved(halves, axis)
    left = np.argwhere(_thinned(halves))
    found = np.zeros_like(mask)
    last = np.array(mask.shape) - 1
    for side in product((0, 1), repeat=mask.ndim):
        voxels = (left - 1) // 2 + np.array(side) * (left % 2 == 0)
        inside = ((voxels >= 0) & (voxels <= last)).all(axis=1)
        inside[inside] = mask[tuple(voxels[inside].T)]
        found[tuple(voxels[inside].T)] = True
        left = left[~inside]
    return found


def _halved(mask: Mask, axis: int) -> npt.NDArray[np.bool_]:
    """2n + 1 half voxels along an axis for n voxels: each voxel in its middle and on both of its faces."""
    along = np.moveaxis(mask, axis, 0)
    halves = np.zeros((2 * len(along) + 1, *along.shape[1:]), np.bool_)
    halves[1::2] = along
    halves[:-1:2] = along
    halves[2::2] |= along
    return np.moveaxis(halves, 0, axis)
