"""Names of cases and channels in file names: `liver_7_0001.nii.gz` is channel 1 of the case `liver_7`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from medseg.imaging.case import Left
from medseg.imaging.formats import is_volume_file
from medseg.imaging.itk import itk_stem
from medseg.imaging.nifti import is_nifti
from medseg.imaging.nifti import stem as nifti_stem

MAX_CHANNELS = 8  # more files than this that differ in their number alone are cases that were numbered, not channels
_NUMBERED = re.compile(r"(?P<name>.+)_(?P<channel>\d{4})")


def stem(path: Path) -> str:
    """The name of a volume file without its ending: `x` for x.nii.gz, x.mha and x.seg.nrrd."""
    return nifti_stem(path) if is_nifti(path) else itk_stem(path)


def case_name(path: Path) -> str:
    """The case that a volume file belongs to: its name without ending and `_0000`."""
    return stem(path).removesuffix("_0000") or stem(path)


def image_files(folder: Path) -> list[Path]:
    """The volume files that lie directly in `folder`, sorted; hidden ones (`._*`) are no data."""
    return sorted(p for p in folder.iterdir() if is_volume_file(p) and not p.name.startswith(".") and p.is_file())


def split_channel(path: Path) -> tuple[str, int | None]:
    """Name and channel number of a file; None where its name ends in no `_0000`-like number."""
    match = _NUMBERED.fullmatch(stem(path))
    return (match["name"], int(match["channel"])) if match else (stem(path), None)


@dataclass(frozen=True, slots=True)
class Grouped:
    """Files by case: name -> channel files in order, or one file; and those that fit no case."""

    cases: dict[str, tuple[Path, ...]]
    left: tuple[Left, ...]


def group_channels(files: Iterable[Path], whole: Collection[str] = (), most: int = MAX_CHANNELS) -> Grouped:
    """Bring the files of one folder together by case.

    `x_0000`, `x_0001`, ... are the channels of `x` where they start at 0000 without a gap and are no more than `most`;
    otherwise four digits at the end are the number of a case (`x_0017` is a case of its own). Stems in `whole` are
    names of cases as they are.
    Two files for the same place are both left: which one is meant cannot be known.
    """
    paths = list(files)
    numbers: dict[str, set[int]] = {}
    for name, channel in map(split_channel, paths):
        if channel is not None:
            numbers.setdefault(name, set()).add(channel)
    places: dict[str, dict[int, list[Path]]] = {}
    for path in paths:
        name, channel = split_channel(path)
        as_it_is = channel is None or stem(path) in whole or not _are_channels(numbers[name], most)
        where = places.setdefault(stem(path) if as_it_is else name, {})
        where.setdefault(0 if as_it_is else channel or 0, []).append(path)
    cases, left = {}, []
    for name, by_channel in sorted(places.items()):
        all_files = [path for channel in sorted(by_channel) for path in by_channel[channel]]
        if len(all_files) == len(by_channel):
            cases[name] = tuple(all_files)
        else:
            left += [
                Left(p.name, f"{len(all_files)} files stand for the case {name}; keep one", broken=True)
                for p in all_files
            ]
    return Grouped(cases, tuple(left))


def _are_channels(numbers: set[int], most: int) -> bool:
    return numbers == set(range(len(numbers))) and len(numbers) <= most
