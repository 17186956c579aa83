"""How labelled scans lie in a folder: Medical Decathlon, nnU-Net raw, and plain folders of images and labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medseg.errors import InputError, MedsegError
from medseg.imaging.case import Case, LabelFile, Left
from medseg.imaging.channels import case_name, group_channels, image_files, split_channel, stem
from medseg.imaging.description import Description, Listed
from medseg.imaging.formats import is_volume_file, volumes_in
from medseg.imaging.label_files import label_names_in
from medseg.imaging.label_values import values_in
from medseg.imaging.source import ReadOptions, Source
from medseg.imaging.structures import (
    Structures,
    chosen,
    named_by_number,
    numbered_by_name,
    renames_by_name,
    says_nothing,
)

FOLDERS = (("images", "labels"), ("imagesTr", "labelsTr"))


@dataclass(slots=True)
class Listing:
    """What was found in one layout: cases that can be used, and what was left."""

    channels: tuple[str, ...]
    structures: Structures
    cases: list[Case] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)

    def add(self, name: str, images: Sequence[Source], label: LabelFile, patient: str = "") -> None:
        """Take a case; without a patient of its own it stands for itself."""
        self.cases.append(Case(name, tuple(images), label, patient or name))

    def add_files(self, name: str, images: Sequence[Path], label: Path | None, reason: str = "") -> None:
        """Take a case of files, or leave it where a reason is given or found.

        One without a label is not broken, just not labelled.
        """
        sources: tuple[Source, ...] = ()
        if not reason:
            try:
                sources = file_sources(images, len(self.channels))
            except MedsegError as error:
                reason = f"{images[0].name} {error.what}"
        if reason or label is None:
            self.left.append(Left(name, reason or "has no label", broken=label is not None))
        else:
            self.add(name, sources, LabelFile(label, renames=self.structures.renames))


def file_sources(images: Sequence[Path], channels: int) -> tuple[Source, ...]:
    """A source for each channel: a file each, or the volumes of one 4D file.

    Raises:
        InputError: a file is of no known format, or there are not as many files or volumes as channels.
    """
    formats = [is_volume_file(path) for path in images]
    if len(images) == 1 and channels > 1 and formats[0]:
        n = volumes_in(images[0])
        if n != channels:
            raise InputError(f"holds {n} volume(s), but the dataset has {channels} channels")
        return tuple(Source(formats[0], tuple(images), component=k) for k in range(channels))
    if len(images) != channels:
        raise InputError(f"and others make {len(images)} channel(s), but the dataset has {channels}")
    found = [Source(kind, (path,)) for kind, path in zip(formats, images, strict=True) if kind]
    if len(found) < len(images):
        raise InputError("is no image file", fix="convert it to NIfTI")
    return tuple(found)


def image_folders(root: Path) -> tuple[Path, Path] | None:
    """The folders of images and of labels under `root`, if it has them."""
    pairs = ((root / images, root / labels) for images, labels in FOLDERS)
    return next((pair for pair in pairs if pair[0].is_dir() and pair[1].is_dir()), None)


def decathlon(root: Path, said: Description, options: ReadOptions | None = None) -> Listing:
    """The cases that `training` lists, one file a channel or all in one 4D file; paths are relative to `root`.

    Raises:
        InputError: `labels` or `modality` is missing.
    """
    said.require("channels", "labels")
    found = Listing(said.channels, said.structures)
    for entry in said.training or ():
        images = tuple(root / image for image in entry.images)
        label = root / entry.label if entry.label else None
        found.add_files(case_name(images[0]), images, label, _problem(entry, images, label, len(said.channels)))
    return with_names(found, options or ReadOptions())


def _problem(entry: Listed, images: tuple[Path, ...], label: Path | None, channels: int) -> str:
    if label is None:
        return "dataset.json gives it no label"
    if len(images) not in (1, channels):
        return f"has {len(images)} image file(s), but the dataset {channels} channel(s)"
    for said, path in zip((*entry.images, entry.label), (*images, label), strict=True):
        if not is_volume_file(path):
            return f"{said} is no image file"
        if not path.is_file():
            return f"[NOT_FOUND] {said} is missing"
    return ""


def nnunet(root: Path, said: Description, options: ReadOptions | None = None) -> Listing:
    """`imagesTr/<case>_0000.nii.gz` for each channel and `labelsTr/<case>.nii.gz`, or another ending.

    Raises:
        InputError: `labels` or `channel_names` is missing, or one case has two files.
    """
    said.require("channels", "labels")
    found = Listing(said.channels, said.structures)
    images: dict[str, dict[int, Path]] = {}
    for path in image_files(root / "imagesTr"):
        name, channel = split_channel(path)
        if channel is None:
            found.left.append(Left(path.name, "its name does not end in a channel number such as _0000"))
        elif images.setdefault(name, {}).setdefault(channel, path) != path:
            raise InputError(f"there are two files of channel {channel}", f"imagesTr/{name}", "keep one of them")
    labels = _labels_by_name(root / "labelsTr")
    for name in sorted({*images, *labels}):
        have = images.get(name, {})
        missing = [f"imagesTr/{name}_{c:04d}{said.ending}" for c in range(len(said.channels)) if c not in have]
        missing += [] if name in labels else [f"labelsTr/{name}{said.ending}"]
        extra = len(have) > len(said.channels)
        reason = "has more channels than dataset.json names" if extra else ""
        reason = f"[NOT_FOUND] {missing[0]} is missing" if missing else reason
        found.add_files(name, [have[c] for c in sorted(have)], labels.get(name), reason)
    return with_names(found, options or ReadOptions())


def folders(pair: tuple[Path, Path], said: Description | None, options: ReadOptions) -> Listing:
    """Images and labels of the same name in two folders.

    Where no `dataset.json` names the structures, every label file is read (see `with_names`).

    Raises:
        InputError: one case has two label files.
    """
    labels = _labels_by_name(pair[1])
    grouped = group_channels(image_files(pair[0]), whole=labels)
    images = grouped.cases
    n = max((len(images[name]) for name in images if name in labels), default=1)
    channels = said.channels if said and said.channels else tuple(str(i) for i in range(n))
    found = Listing(channels, said.structures if said else Structures(), left=list(grouped.left))
    for name in sorted({*images, *labels}):
        have, reason = images.get(name, ()), ""
        if name not in labels:
            reason = f"[NOT_FOUND] there is no label of this name in {pair[1].name}"
        elif not have:
            reason = f"[NOT_FOUND] there is no image of this name in {pair[0].name}"
        elif len(have) not in (1, len(channels)) or (len(have) < len(channels) and n > 1):
            reason = f"has {len(have)} image file(s), but the dataset {len(channels)} channel(s)"
        found.add_files(name, have, labels.get(name), reason)
    return with_names(found, options)


def with_names(found: Listing, options: ReadOptions) -> Listing:
    """The same, with every label's values brought to those of the dataset; what cannot be is left.

    Where structures are told, files that name their structures hold those of these names (DICOM, .seg.nrrd; a file's
    names do not count where they say nothing, or regions are told), others hold their values. Else they are named as
    all label files name them themselves, or by the values that the files hold.

    Raises:
        InputError: nothing is told, and only some of the label files name their structures.
    """
    tables: dict[Path, dict[int, str]] = {}
    values: set[int] = set()
    cases: list[Case] = []
    for case, label in [(case, case.label) for case in found.cases if case.label is not None]:
        try:
            table = _table(label, found.structures)
            if table is not None:
                tables[label.path] = table
            elif not found.structures.labels:
                values.update(values_in(label.path, options))
            cases.append(case)
        except MedsegError as error:
            found.left.append(Left(case.name, f"its label {error.what}", broken=True))
    structures = found.structures
    if not structures.labels:
        if tables and len(tables) < len(cases):
            what = "some labels name their structures, others hold values alone"
            raise InputError(what, fix='name them in a manifest.json or dataset.json: "labels": {"liver": 1}')
        structures = numbered_by_name(tables.values()) if tables else named_by_number(values)
    renamed = Listing(found.channels, structures, left=found.left)
    for case, label in [(case, case.label) for case in cases if case.label is not None]:
        try:
            table = tables.get(label.path)
            renames = structures.renames if table is None else renames_by_name(table, structures)
            renamed.cases.append(replace(case, label=replace(label, renames=renames)))
        except InputError as error:
            renamed.left.append(Left(case.name, error.what, broken=True))
    return renamed


def _table(label: LabelFile, told: Structures) -> dict[int, str] | None:
    table = label_names_in(label.path)
    by_value = label.kind == "file" and told.labels and table and (told.regions or says_nothing(table.values()))
    return None if by_value else table


def only_chosen(found: Listing, wanted: Sequence[str], where: Path | str) -> Listing:
    """The same with the structures of the wanted names alone; all other values become background.

    A case whose label names none of them is left: nothing says that they are not there.

    Raises:
        InputError: a name is none of the structures.
    """
    structures = chosen(found.structures, wanted, where)
    kept = {*structures.labels, structures.ignore}
    every = {*found.structures.labels, *([] if found.structures.ignore is None else [found.structures.ignore])}
    made = Listing(found.channels, structures, left=list(found.left))
    for case, label in [(case, case.label) for case in found.cases if case.label is not None]:
        parts = []
        for part in label.parts:
            renames = part.renames or {value: value for value in every}
            becomes = {value: number if number in kept else 0 for value, number in renames.items()}
            parts += [replace(part, renames=becomes)] if any(becomes.values()) else []
        if parts:
            made.cases.append(replace(case, label=replace(parts[0], others=tuple(parts[1:]))))
        else:
            made.left.append(Left(case.name, "its label names none of the structures that are wanted"))
    return made


def _labels_by_name(folder: Path) -> dict[str, Path]:
    files = image_files(folder)
    labels = {stem(path): path for path in files}
    if len(labels) < len(files):
        twice = next(name for name in labels if sum(stem(p) == name for p in files) > 1)
        raise InputError("there are two label files of this name", f"{folder.name}/{twice}", "keep one of them")
    return labels


def repeated(cases: Iterable[Case]) -> str:
    """The first name that stands for two cases, or an empty text."""
    seen: set[str] = set()
    for case in cases:
        if case.name in seen:
            return case.name
        seen.add(case.name)
    return ""
