"""Labelled scans as hospitals have them: DICOM images with SEG or RTSTRUCT, in folders of any depth.

Every label object goes to the volume that it was drawn on (`label_owners`). Where that may be one of several, or where
cases have several channels, rules (`series`) say which volumes of each study are meant.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.errors import MedsegError
from medseg.imaging.case import LabelFile, Left
from medseg.imaging.dicom.headers import IMAGES, MULTI_FRAME, Header, is_dicom, quiet, read_header
from medseg.imaging.dicom.scanner import LABELS
from medseg.imaging.dicom.volumes import LabelObject, SubVolume
from medseg.imaging.label_files import label_names_in
from medseg.imaging.label_owners import in_space_of, owners_of
from medseg.imaging.layouts import Listing
from medseg.imaging.naming import dicom_name
from medseg.imaging.scans import sift
from medseg.imaging.source import ReadOptions, Source
from medseg.imaging.structures import alike, asked_for, numbered_by_name, renames_by_name
from medseg.imaging.studies import ALL, Picked, Wanted, pick, volume_name


@dataclass(frozen=True, eq=False)
class Drawn:
    """A label object: what it is called here (SEG 1), the names of its values, the volumes that it may belong to."""

    name: str
    object: LabelObject
    names: Mapping[int, str]
    owners: tuple[SubVolume, ...]


@dataclass(frozen=True, eq=False)
class Labelled:
    """One case in the making: a volume for each channel, and what labels the first."""

    channels: tuple[SubVolume, ...]
    labels: tuple[Drawn, ...]


def is_labelled_dicom(root: Path) -> bool:
    """True if a SEG or RTSTRUCT and a CT, MR or PET image lie somewhere under `root`; stops at the first of each."""
    wanted: list[set[str]] = [set(LABELS), {*IMAGES, *MULTI_FRAME}]
    with quiet():
        for path in _files(root):
            header = read_header(path, "")
            if isinstance(header, Header):
                wanted = [classes for classes in wanted if header.sop_class not in classes]
            if not wanted:
                return True
    return False


def holds_dicom(root: Path) -> bool:
    """True if any file under `root` is DICOM."""
    return any(map(is_dicom, _files(root)))


def _files(root: Path) -> Iterator[Path]:
    """Labels often stand beside or after the images of a series: the last file of each folder comes first."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = sorted(name for name in files if not name.startswith("."))
        yield from (path for name in reversed(names) if (path := Path(folder, name)).is_file())


def labelled_dicom(
    root: Path, key: bytes, options: ReadOptions, series: Sequence[str], wanted: Sequence[str] = ()
) -> Listing:
    """The labelled volumes under `root`; every name is made from `key`, none from a folder or header.

    Structures that label objects call alike (but for case, spaces and underscores) are one; they get the values 1 to n
    in the order of their names. Two objects may both hold what is not `wanted`, if anything is named there.

    Raises:
        InputError: a rule cannot be read.
    """
    found = sift(root, options=options)
    left = [*found.left, *found.dicom.left, *(Left(name, "is no DICOM") for name, _ in found.files)]
    volumes = found.dicom.volumes
    labels = _drawn(found.dicom.labels, volumes, left)
    if series and tuple(series) != (ALL,):
        picked = pick(volumes, key, Wanted(tuple(str(k) for k in range(len(series))), tuple(series), options))
        cases = _by_rule(picked, labels, left)
    else:
        cases = _by_reference(volumes, labels, key, left)
    cases = [case for case in cases if _no_name_twice(case, key, left, wanted or None)]
    cases.sort(key=lambda case: volume_name(case.channels[0], key))
    structures = numbered_by_name(label.names for case in cases for label in case.labels)
    listing = Listing(_channel_names(cases, len(series) or 1), structures, left=left)
    for case in cases:
        parts = [
            LabelFile(label.object.path, label.object.kind, renames_by_name(label.names, structures))
            for label in case.labels
        ]
        file = LabelFile(parts[0].path, parts[0].kind, parts[0].renames, tuple(parts[1:]))
        sources = [Source("dicom", volume.paths, dicom=volume) for volume in case.channels]
        first = case.channels[0]
        patient = dicom_name(key, first.patient_id or first.study_uid, "patient")
        listing.add(volume_name(first, key), sources, file, patient)
    return listing


def _drawn(objects: Sequence[LabelObject], volumes: Sequence[SubVolume], left: list[Left]) -> list[Drawn]:
    """The label objects that hold structures; no text of theirs names them here."""
    found = []
    for number, one in enumerate(objects, start=1):
        name = f"{'SEG' if one.kind == 'seg' else 'RTSTRUCT'} {number}"
        try:
            names = label_names_in(one.path)
        except MedsegError as error:
            left.append(Left(name, error.what, broken=True))
            continue
        if names:
            found.append(Drawn(name, one, names, owners_of(one, volumes)))
        else:
            left.append(Left(name, "holds no structure", broken=True))
    return found


def _by_reference(
    volumes: Sequence[SubVolume], labels: Sequence[Drawn], key: bytes, left: list[Left]
) -> list[Labelled]:
    """Every label object with the one volume that it belongs to."""
    owned: dict[int, list[Drawn]] = {}
    for label in labels:
        if len(label.owners) == 1:
            owned.setdefault(volumes.index(label.owners[0]), []).append(label)
            continue
        listed = ", ".join(volume_name(volume, key) for volume in label.owners[:5])
        reason = f"[CHOOSE] {len(label.owners)} volumes fit it: {listed}; say which with --series RULE"
        left.append(Left(label.name, reason if label.owners else "no volume fits it", broken=True))
    cases = []
    for k, volume in enumerate(volumes):
        if volume.verdict.usable and k in owned:
            cases.append(Labelled((volume,), tuple(owned[k])))
        else:
            left.append(Left(volume_name(volume, key), _why_not(volume), broken=k in owned))
    return cases


def _why_not(volume: SubVolume) -> str:
    verdict = volume.verdict
    if verdict.usable:
        return "has no label"
    said = f"[{', '.join(verdict.codes)}] {verdict.said}"
    return f"{said}; {verdict.fix}" if verdict.fix else said


def _by_rule(picked: Picked, labels: Sequence[Drawn], left: list[Left]) -> list[Labelled]:
    """The volumes that the rules pick in each study, with the label objects that were drawn on the first of them.

    If there are none, then with those that lie in its space: drawn on another volume of the study.
    """
    left += picked.left
    used: set[str] = set()
    cases = []
    for one in picked.cases:
        chosen = tuple(source.dicom for source in one.channels if source.dicom is not None)
        drawn_on_it = [label for label in labels if any(volume is chosen[0] for volume in label.owners)]
        mine = drawn_on_it or [label for label in labels if in_space_of(label.object, chosen[0])]
        used.update(label.name for label in mine)
        if mine:
            cases.append(Labelled(chosen, tuple(mine)))
        else:
            left.append(Left(one.name, "has no label"))
    left += [Left(label.name, "labels no volume that the rules chose") for label in labels if label.name not in used]
    return cases


def _no_name_twice(case: Labelled, key: bytes, left: list[Left], wanted: Sequence[str] | None) -> bool:
    """Leave a volume that two label objects give the same structure: which one is right cannot be known."""
    seen: set[str] = set()
    for label in case.labels:
        mine = {alike(name) for name in label.names.values() if asked_for(name, wanted)}
        if both := sorted(seen & mine):
            reason = f"[CHOOSE] {len(case.labels)} label objects of it hold {', '.join(both[:3])}; keep one of them"
            left.append(Left(volume_name(case.channels[0], key), reason, broken=True))
            return False
        seen |= mine
    return True


def _channel_names(cases: Sequence[Labelled], n: int) -> tuple[str, ...]:
    """The modality of each channel, numbered where several channels have the same."""
    names = []
    for k in range(n):
        found = sorted({case.channels[k].modality for case in cases})
        names.append(found[0] if len(found) == 1 else "image")
    return tuple(name if names.count(name) == 1 else f"{name} {k}" for k, name in enumerate(names))
