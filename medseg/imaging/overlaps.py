"""Which structures of a label object lose voxels to others: a voxel of a label map holds one value alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError
from medseg.imaging.dicom.rtstruct import Structure, filled, of_one_frame, read_structures
from medseg.imaging.dicom.seg import read_segments
from medseg.imaging.grid import Grid
from medseg.imaging.itk import read_itk_layers
from medseg.imaging.label_files import label_kind

CODE = "[OVERLAP]"
_MOST = 5  # pairs in one line

Labels = npt.NDArray[np.unsignedinteger[Any]]
Alone = tuple[int, npt.NDArray[np.bool_]]  # a structure's value, and where it was drawn


@dataclass(frozen=True, slots=True)
class Overlap:
    """The structure of the value `loser` has lost `share` of its voxels (above 0, to 1) to that of `winner`."""

    loser: int
    winner: int
    share: float


def overlaps(
    path: Path,
    onto: Grid | None = None,
    name: str = "",
    frame_of_reference: str = "",
    wanted: Collection[str] | None = None,
) -> tuple[Overlap, ...]:
    """Which of the `wanted` structures of a label file share voxels, by their values in it; the largest loss first.

    Every structure is drawn alone, which takes its time. An RTSTRUCT needs the grid `onto`.

    Raises:
        InputError, GeometryError: the file cannot be read.
    """
    kind = label_kind(path)
    if kind == "seg":
        segments = read_segments(path, name, wanted)
        each = ((v, read_segments(path, name, {said}).array == v) for v, said in segments.names.items())
        return _losses(segments.array, each) if segments.overlapping else ()
    if kind == "itk":
        layered = read_itk_layers(path, wanted)
        of_one = ((v, read_itk_layers(path, {said}).labels.array == v) for v, said in layered.labels.names.items())
        return _losses(layered.labels.array, of_one) if layered.overlapping else ()
    if kind == "rtstruct" and onto is not None:
        structures = of_one_frame(read_structures(path, name, wanted), frame_of_reference, name)
        whole = filled(structures, onto, name, frame_of_reference)
        return _losses(whole.labels.array, _filled_alone(structures, onto)) if whole.overlapping else ()
    return ()


def _filled_alone(structures: Sequence[Structure], onto: Grid) -> Iterator[Alone]:
    for structure in structures:
        try:
            yield structure.value, filled([structure], onto).labels.array > 0
        except GeometryError:  # it lies outside the scan, and loses nothing
            continue


def _losses(whole: Labels, each: Iterable[Alone]) -> tuple[Overlap, ...]:
    found = []
    for value, drawn in each:
        kept = np.bincount(whole[drawn])
        found += [Overlap(value, int(k), kept[k] / kept.sum()) for k in np.flatnonzero(kept) if k != value]
    return tuple(sorted(found, key=lambda one: (-one.share, one.loser, one.winner)))


def lost(found: Sequence[Overlap]) -> tuple[Overlap, ...]:
    """For each structure that lost every voxel, where most of them went."""
    shares: dict[int, float] = {}
    for one in found:
        shares[one.loser] = shares.get(one.loser, 0.0) + one.share
    largest = {one.loser: one for one in reversed(found)}
    return tuple(largest[loser] for loser, share in shares.items() if share > 1 - 1e-9)


def told(found: Sequence[Overlap], names: Mapping[int, str]) -> tuple[str, ...]:
    """One line on what was lost, or none."""
    if not found:
        return ()
    said = [f"{names[one.loser]} loses {_percent(one.share)} of its voxels to {names[one.winner]}" for one in found]
    more = f" and {len(said) - _MOST} more" if len(said) > _MOST else ""
    return (f"{CODE} {', '.join(said[:_MOST])}{more}",)


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else "less than 1%"
