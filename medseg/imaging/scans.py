"""Scans to be segmented: what is found at a path, NIfTI or DICOM, and reading one of them.

Names: a NIfTI scan is called as its file (without suffix and `_0000`); a DICOM series `case-` and 8 hex digits, a
keyed hash of its SeriesInstanceUID, since everything else about it may name the patient. Where DICOM lies, folder
and file names may do so too: nothing but `Scan.paths` shows them.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medseg.errors import InputError, explained
from medseg.imaging.case import Left
from medseg.imaging.channels import MAX_CHANNELS, case_name, group_channels, nifti_files
from medseg.imaging.dataset import check_channels
from medseg.imaging.dicom.series import find_series, is_dicom, read_series
from medseg.imaging.nifti import is_nifti, read_volume
from medseg.imaging.volume import Volume

Kind = Literal["nifti", "dicom"]

_UNDERSTOOD = "give a NIfTI file, a folder of NIfTI files, a DICOM series folder, or a folder of such folders"


@dataclass(frozen=True, slots=True)
class Scan:
    """One scan: its name, its files (NIfTI: one a channel), and `source`, which is safe to show."""

    name: str
    kind: Kind
    paths: tuple[Path, ...]
    description: str
    source: str


@dataclass(frozen=True, slots=True)
class Found:
    """The scans found, and what was left with the reason."""

    scans: tuple[Scan, ...]
    left: tuple[Left, ...]


def find_scans(path: Path, key: bytes, channels: int = MAX_CHANNELS) -> Found:
    """Find the scans at `path`: a NIfTI file, a folder of NIfTI files, a DICOM series folder, or folders of such.

    `key` is the secret of the keyed hash that names DICOM series; no more than `channels` files make one NIfTI scan.
    Hidden files are no data and are not mentioned.
    Scans that would have the same name are left, all of them.

    Raises:
        InputError: there is no such path, or nothing at it can be read as a scan.
        ResourceError: it may not be opened.
    """
    with explained(path):
        if not path.exists():
            raise InputError("there is no such file or folder", path, "check the spelling")
        return _in_folder(path, key, channels) if path.is_dir() else Found((_single_file(path),), ())


def _in_folder(path: Path, key: bytes, channels: int) -> Found:
    scans: list[Scan] = []
    left: list[Left] = []
    others: list[Path] = []
    for folder, files in _walk(path, left):
        grouped = group_channels(nifti_files(folder), most=channels)
        scans += [_nifti(name, paths) for name, paths in grouped.cases.items()]
        left += grouped.left
        others += [file for file in files if not is_nifti(file)]
    found = _dicom(others, key)
    distinct = _distinct(scans + list(found.scans))
    if not distinct.scans:
        first = next(iter((*distinct.left, *left, *found.left)), None)
        why = f" ({first.where}: {first.reason})" if first else ""
        raise InputError(f"holds no scan{why}", path, _UNDERSTOOD)
    return Found(distinct.scans, (*left, *found.left, *distinct.left))


def _single_file(path: Path) -> Scan:
    if is_nifti(path):
        return _nifti(case_name(path), (path,))
    if is_dicom(path):
        raise InputError("is one DICOM file", path, "give the folder of its series")
    raise InputError("is neither NIfTI nor DICOM", path, _UNDERSTOOD)


def _walk(path: Path, left: list[Left]) -> Iterator[tuple[Path, list[Path]]]:
    """Every folder from `path` down with its files, and into `left` what cannot be opened.

    No links to folders are followed, and hidden names are passed over. Reading a pipe would wait for ever, so only
    ordinary files count.
    """

    def closed(error: OSError) -> None:
        left.append(Left("a folder", f"cannot be opened ({os.strerror(error.errno or 0).lower()})", broken=True))

    for folder, folders, files in os.walk(path, onerror=closed):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [Path(folder, name) for name in sorted(files) if not name.startswith(".")]
        ordinary = [file for file in paths if file.is_file()]
        left += [Left("a file", "is a broken link or no ordinary file", broken=True)] * (len(paths) - len(ordinary))
        yield Path(folder), ordinary


def _nifti(name: str, paths: tuple[Path, ...]) -> Scan:
    description = "NIfTI" if len(paths) == 1 else f"NIfTI, {len(paths)} channels"
    return Scan(name, "nifti", paths, description, paths[0].name)


def _dicom(files: list[Path], key: bytes) -> Found:
    series, left = find_series(files)
    if not any(map(is_dicom, files)):  # names of files are safe to show, as those of NIfTI files are
        return Found((), tuple(Left(file.name, "is neither NIfTI nor DICOM") for file in sorted(files)))
    scans = []
    for one in series:
        digits = hmac.new(key, one.uid.encode(), hashlib.sha256).hexdigest()[:8]
        source = f"DICOM {one.modality} series, {one.n} images"
        scans.append(Scan(f"case-{digits}", "dicom", one.paths, f"{one.modality}, {one.n} images", source))
    return Found(tuple(scans), left)


def _distinct(scans: list[Scan]) -> Found:
    times = Counter(scan.name for scan in scans)
    kept = tuple(sorted((scan for scan in scans if times[scan.name] == 1), key=lambda scan: scan.name))
    twice = [scan for scan in scans if times[scan.name] > 1]
    reason = "{} scans have this name; rename them or give them one by one"
    return Found(kept, tuple(Left(scan.name, reason.format(times[scan.name]), broken=True) for scan in twice))


def read_scan(scan: Scan) -> tuple[Volume, ...]:
    """Read a scan as float32 volumes (X, Y, Z), one a channel, all on the same grid.

    Raises:
        InputError: it cannot be read, with the reason; DICOM is named by the case alone, never by a path.
        GeometryError: its channels do not lie on each other.
    """
    return READERS[scan.kind](scan)


def _read_nifti(scan: Scan) -> tuple[Volume, ...]:
    volumes = tuple(read_volume(path) for path in scan.paths)
    check_channels(volumes, scan.name)
    return volumes


def _read_dicom(scan: Scan) -> tuple[Volume, ...]:
    series, _ = find_series(scan.paths)
    if len(series) != 1:
        raise InputError("its files have changed since they were found", scan.name, "run the same command again")
    return (read_series(series[0], scan.name),)


READERS: dict[Kind, Callable[[Scan], tuple[Volume, ...]]] = {"nifti": _read_nifti, "dicom": _read_dicom}
