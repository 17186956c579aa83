"""Scans to be segmented: what is found at a path, in any format, and reading one of them.

Names: a file scan is called as its file (without suffix and `_0000`); a DICOM volume `case-` and 8 hex digits, a
keyed hash, since everything else about it may name the patient. Where DICOM lies, folder and file names may do so
too: nothing but `Scan.paths` shows them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.errors import InputError, MedsegError, explained
from medseg.imaging.archive import extract_zip, is_zip
from medseg.imaging.case import Left
from medseg.imaging.channels import MAX_CHANNELS, case_name, group_channels
from medseg.imaging.dicom.headers import is_dicom
from medseg.imaging.dicom.scanner import scan_dicom
from medseg.imaging.dicom.volumes import Scanned
from medseg.imaging.formats import is_volume_file, volumes_in
from medseg.imaging.naming import shown_path
from medseg.imaging.reading import read_channels
from medseg.imaging.source import Reading, ReadOptions, Source
from medseg.imaging.studies import Wanted, pick, volume_name

__all__ = ["Found", "Scan", "Sifted", "Wanted", "find_scans", "read_scan", "sift"]

UNDERSTOOD = (
    "give a NIfTI, NRRD or MHA file, a folder of such, DICOM (a folder of any depth, or a zip file of it), "
    "or a folder of all of them"
)


@dataclass(frozen=True, eq=False)
class Scan:
    """One scan: its name, a source for each channel, and `source`, which is safe to show."""

    name: str
    channels: tuple[Source, ...]
    source: str

    @property
    def paths(self) -> tuple[Path, ...]:
        """All its files, each once."""
        return tuple(dict.fromkeys(path for channel in self.channels for path in channel.paths))

    @property
    def is_dicom(self) -> bool:
        """True if its results may be stored as DICOM."""
        return self.channels[0].dicom is not None


@dataclass(frozen=True, slots=True)
class Found:
    """The scans found, what was left with the reason, and what was chosen among several, with the reason.

    unused: names of DICOM volumes that were left, and their files; archives: folders that zip files were unpacked into.
    Both are private.
    """

    scans: tuple[Scan, ...]
    left: tuple[Left, ...]
    notes: tuple[str, ...] = ()
    unused: tuple[tuple[str, tuple[Path, ...]], ...] = ()
    archives: tuple[tuple[Path, Path], ...] = ()

    def origin(self, path: Path) -> str:
        """Where a file came from; see `origin`."""
        return origin(path, self.archives)


def origin(path: Path, archives: Sequence[tuple[Path, Path]]) -> str:
    """Where a file came from, as text that any record can hold; of one in a zip file, that and the place in it."""
    for folder, archive in archives:
        if path.is_relative_to(folder):
            return f"{shown_path(archive)}!{shown_path(path.relative_to(folder))}"
    return shown_path(path.resolve())


@dataclass(frozen=True, slots=True)
class Sifted:
    """Everything at a path by kind: file scans (name, files in the order of channels), DICOM, and the rest."""

    files: tuple[tuple[str, tuple[Path, ...]], ...]
    dicom: Scanned
    left: tuple[Left, ...]
    archives: tuple[tuple[Path, Path], ...] = ()


def find_scans(path: Path, key: bytes, wanted: Wanted | None = None, scratch: Path | None = None) -> Found:
    """Find the scans at `path`: files, folders of any depth, DICOM, zip files of DICOM.

    `key` is the secret of the keyed hash that names DICOM volumes; `wanted` says what the model needs (see
    `studies.pick`). Zip files are unpacked into `scratch`, which the caller removes; without one they are refused.
    Scans that would have the same name are left, all of them.

    Raises:
        InputError: there is no such path, or nothing at it can be read as a scan.
        ResourceError: it may not be opened.
    """
    wanted = wanted or Wanted()
    sifted = sift(path, len(wanted.channels) or MAX_CHANNELS, wanted.options, scratch)
    scans = [_of_files(name, paths, len(wanted.channels)) for name, paths in sifted.files]
    picked = pick(sifted.dicom.volumes, key, wanted)
    scans += [Scan(case.name, case.channels, case.source) for case in picked.cases]
    distinct = _distinct(scans)
    labels = (Left("a DICOM object", f"is a label ({one.kind.upper()}), no scan") for one in sifted.dicom.labels)
    left = (*sifted.left, *sifted.dicom.left, *labels, *picked.left, *distinct.left)
    if not distinct.scans:
        raise InputError(f"holds no scan that can be used{_reasons(left)}", _safe(path, sifted), UNDERSTOOD)
    used = {scan.name for scan in distinct.scans}
    named = ((volume_name(volume, key), volume.paths) for volume in sifted.dicom.volumes)
    unused = tuple((name, paths) for name, paths in named if name not in used)
    return Found(distinct.scans, left, picked.notes, unused, sifted.archives)


def _reasons(left: Sequence[Left], most: int = 3) -> str:
    """The first few reasons, broken ones first, in brackets."""
    ordered = sorted(left, key=lambda one: not one.broken)
    words = "; ".join(f"{one.where}: {one.reason}" for one in ordered[:most])
    more = f"; and {len(ordered) - most} more, see medseg inspect" if len(ordered) > most else ""
    return f" ({words}{more})" if words else ""


def _safe(path: Path, sifted: Sifted) -> str | Path:
    """The path, unless DICOM lies there: its folder may be named after the patient."""
    dicom = sifted.dicom.volumes or sifted.dicom.labels or sifted.dicom.left
    return "the DICOM given" if dicom else path


def sift(
    path: Path, channels: int = MAX_CHANNELS, options: ReadOptions | None = None, scratch: Path | None = None
) -> Sifted:
    """Sort everything at `path` by kind; no more than `channels` files make one file scan. Hidden files are no data.

    Raises:
        InputError: there is no such path, it is a single file that is no scan, or a zip file is not safe to unpack.
        ResourceError: it may not be opened.
    """
    allow_gaps = options is not None and options.allow_gaps
    with explained(path):
        if not path.exists():
            raise InputError("there is no such file or folder", path, "check the spelling")
        if path.is_dir() or is_zip(path):
            return _in_folder(path, channels, allow_gaps, scratch)
        if is_volume_file(path):
            return Sifted(((case_name(path), (path,)),), Scanned((), (), ()), ())
        if not is_dicom(path):
            raise InputError("is neither an image file nor DICOM", path, UNDERSTOOD)
        scanned = scan_dicom([path], allow_gaps)
        if any("TOO_FEW" in volume.verdict.codes for volume in scanned.volumes):
            raise InputError("is one file of a series", "the DICOM given", "give the folder of its series")
        return Sifted((), scanned, ())


def _in_folder(path: Path, channels: int, allow_gaps: bool, scratch: Path | None) -> Sifted:
    found: list[tuple[str, tuple[Path, ...]]] = []
    left: list[Left] = []
    others: list[Path] = []
    archives: list[tuple[Path, Path]] = []
    for _, files in _walk(path, left, scratch, archives):
        grouped = group_channels([file for file in files if is_volume_file(file)], most=channels)
        found += grouped.cases.items()
        left += grouped.left
        others += [file for file in files if not is_volume_file(file)]
    if not any(map(is_dicom, others)):  # names of files are safe to show, as those of image files are
        left += [Left(file.name, "is neither an image file nor DICOM") for file in sorted(others)]
        return Sifted(tuple(found), Scanned((), (), ()), tuple(left))
    return Sifted(tuple(found), scan_dicom(others, allow_gaps), tuple(left), tuple(archives))


def _walk(
    path: Path, left: list[Left], scratch: Path | None, archives: list[tuple[Path, Path]]
) -> Iterator[tuple[Path, list[Path]]]:
    """Every folder from `path` down with its files, zip files unpacked (into `archives` where each is from); and into
    `left` what cannot be opened.

    No links to folders are followed, and hidden names are passed over. Reading a pipe would wait for ever, so only
    ordinary files count.
    """

    def closed(error: OSError) -> None:
        left.append(Left("a folder", f"cannot be opened ({os.strerror(error.errno or 0).lower()})", broken=True))

    if path.is_file():
        yield from _walk(_unpacked(path, scratch, archives), left, None, archives)
        return
    for folder, folders, files in os.walk(path, onerror=closed):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [Path(folder, name) for name in sorted(files) if not name.startswith(".")]
        ordinary = [file for file in paths if file.is_file()]
        left += [Left("a file", "is a broken link or no ordinary file", broken=True)] * (len(paths) - len(ordinary))
        packed = [file for file in ordinary if is_zip(file)]
        yield Path(folder), [file for file in ordinary if file not in packed]
        for number, archive in enumerate(packed, start=1):
            try:
                yield from _walk(_unpacked(archive, scratch, archives), left, None, archives)
            except InputError as error:
                left.append(Left(f"zip file {number}", error.what, broken=True))


def _unpacked(archive: Path, scratch: Path | None, archives: list[tuple[Path, Path]]) -> Path:
    if scratch is None:
        raise InputError("is a zip file within a zip file, or cannot be unpacked here", fix="unpack it first")
    into = scratch / f"zip{len(list(scratch.iterdir())):04d}"
    extract_zip(archive, into)
    archives.append((into, archive.resolve()))
    return into


def _of_files(name: str, paths: tuple[Path, ...], channels: int) -> Scan:
    """A 4D file holds the channels itself, if it has as many volumes as the model has channels."""
    kinds = [is_volume_file(path) for path in paths]
    sources = [Source(kind, (path,)) for kind, path in zip(kinds, paths, strict=True) if kind]
    if len(sources) == 1 and channels > 1 and _is_4d(paths[0], channels):
        sources = [Source(sources[0].format, paths, component=k) for k in range(channels)]
    return Scan(shown_path(name), tuple(sources), shown_path(paths[0].name))


def _is_4d(path: Path, channels: int) -> bool:
    try:
        return volumes_in(path) == channels
    except MedsegError:
        return False  # it is refused by name when it is read


def _distinct(scans: list[Scan]) -> Found:
    times = Counter(scan.name for scan in scans)
    kept = tuple(sorted((scan for scan in scans if times[scan.name] == 1), key=lambda scan: scan.name))
    twice = [scan for scan in scans if times[scan.name] > 1]
    reason = "{} scans have this name; rename them or give them one by one"
    return Found(kept, tuple(Left(scan.name, reason.format(times[scan.name]), broken=True) for scan in twice))


def read_scan(scan: Scan, options: ReadOptions | None = None) -> tuple[Reading, ...]:
    """Read a scan: one reading a channel, float32 (X, Y, Z), all on the grid of the first.

    Raises:
        InputError: it cannot be read, with the reason; DICOM is named by the case alone, never by a path.
        GeometryError: its channels do not lie on each other.
    """
    return read_channels(scan.channels, scan.name, options or ReadOptions())
