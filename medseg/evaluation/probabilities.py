"""The probabilities that `medseg infer --probabilities` wrote of a case, one structure at a time.

They stand in one file, `<case>.probabilities.nii.gz`, of 16-bit numbers with the outputs of the network along its
fourth axis; `predictions.json` says what these are called. The file is gone through once, in its own order, and of its
volumes only the one that is wanted is in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError, InputError
from medseg.evaluation.pairing import json_object
from medseg.imaging.grid import Grid
from medseg.imaging.label_files import common_voxels
from medseg.imaging.nifti import read_volumes
from medseg.imaging.nifti_header import read_header
from medseg.imaging.regrid import index_map
from medseg.imaging.structures import alike

_ABOVE = 1e-4  # by how much rounding may carry a share above 1
_AGAIN = "predict the case again"

Shares = npt.NDArray[np.float32]


def rest_on(predictions: Path, case: str) -> tuple[tuple[Path, ...], str]:
    """The file that `structure_probabilities` reads of a case, if there is one, and what it goes by beside it."""
    path = _path(predictions, case)
    if not path.is_file():
        return (), ""
    try:
        said = json_object(predictions / "predictions.json")
    except InputError:
        return (path,), ""
    return (path,), repr([_outputs(said, case), said.get("labels"), said.get("regions")])


def structure_probabilities(
    predictions: Path, case: str, structures: Collection[str], grid: Grid
) -> Iterator[tuple[str, Shares]]:
    """Each of these structures that the file of the case tells of, with its probability (X, Y, Z), 0 to 1, on `grid`.

    They come in the order of the file; none, where no probabilities were asked for. `grid` is the reference's: its
    voxels must be the scan's, in whatever direction they are stored.

    Raises:
        InputError: the file is damaged, or is not what `predictions.json` says.
        GeometryError: its voxels are not those of `grid`.
    """
    said = json_object(predictions / "predictions.json")
    outputs = _outputs(said, case)
    path = _path(predictions, case)
    if not outputs or not path.is_file():
        return
    header = read_header(path, need_place=False)
    if header.n_volumes != len(outputs):
        what = f"holds {header.n_volumes} maps, and predictions.json says {len(outputs)}"
        raise InputError(what, path, _AGAIN)
    if common_voxels(grid, header.grid, may_be_cropped=False) is None:
        raise GeometryError("its voxels are not those of the reference", path, "give the references of these scans")
    known = _positions(said, outputs)
    wanted = {known[alike(name)]: name for name in structures if alike(name) in known}
    for position, shares in read_volumes(path, header, wanted):
        yield wanted[position], _turned(_checked(shares, path), header.grid, grid)


def _path(predictions: Path, case: str) -> Path:
    return predictions / f"{case}.probabilities.nii.gz"


def _outputs(said: Mapping[str, Any], case: str) -> tuple[str, ...]:
    """What stands along the fourth axis of the file of this case; empty if nothing says it."""
    cases = said.get("cases")
    for entry in cases if isinstance(cases, list) else []:
        if isinstance(entry, dict) and entry.get("case") == case:
            return tuple(map(str, entry.get("probabilities_of") or ()))
    return ()


def _positions(said: Mapping[str, Any], outputs: tuple[str, ...]) -> dict[str, int]:
    """The position of each output by its name, and of a region of one value by that value's name as well."""
    known = {alike(name): position for position, name in enumerate(outputs)}
    labels, regions = said.get("labels"), said.get("regions")
    if isinstance(labels, dict) and isinstance(regions, dict):
        for name, values in regions.items():
            if isinstance(values, list) and len(values) == 1 and alike(name) in known:
                known.setdefault(alike(str(labels.get(str(values[0]), name))), known[alike(name)])
    return known


def _checked(shares: Shares, path: Path) -> Shares:
    """The same array, with 1 where rounding carried a share above it."""
    if not (shares.min() >= 0 and shares.max() <= 1 + _ABOVE):  # false for NaN as well
        raise InputError("holds values outside of 0 to 1", path, _AGAIN)
    return np.minimum(shares, np.float32(1), out=shares)


def _turned(shares: Shares, own: Grid, grid: Grid) -> Shares:
    """A view of an array on `own` in the directions of a grid of the same voxels."""
    matrix = np.rint(index_map(grid, own)[0]).astype(np.int64)  # of each own axis, the axis of `grid` and its direction
    order = np.abs(matrix).argmax(axis=0)
    flips = tuple(slice(None, None, int(matrix[own_axis, axis])) for axis, own_axis in enumerate(order))
    return shares.transpose(order)[flips]
