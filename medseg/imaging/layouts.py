"""How labelled scans lie in a folder: Medical Decathlon, nnU-Net raw, and plain folders of images and labels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from medseg.errors import InputError
from medseg.imaging.case import Case, Left
from medseg.imaging.channels import case_name, group_channels, nifti_files, split_channel
from medseg.imaging.description import Description, Listed
from medseg.imaging.nifti import is_nifti, read_labels, stem

FOLDERS = (("images", "labels"), ("imagesTr", "labelsTr"))


@dataclass(slots=True)
class Listing:
    """What was found in one layout: cases that can be used, and what was left."""

    channels: tuple[str, ...]
    labels: dict[int, str]
    cases: list[Case] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)

    def add(self, name: str, images: tuple[Path, ...], label: Path | None, reason: str) -> None:
        """Take the case, or leave it where a reason is given; one without a label is not broken, just not labelled."""
        if reason:
            self.left.append(Left(name, reason, broken=label is not None))
        else:
            self.cases.append(Case(name, images, label, patient=name))


def image_folders(root: Path) -> tuple[Path, Path] | None:
    """The folders of images and of labels under `root`, if it has them."""
    pairs = ((root / images, root / labels) for images, labels in FOLDERS)
    return next((pair for pair in pairs if pair[0].is_dir() and pair[1].is_dir()), None)


def decathlon(root: Path, said: Description) -> Listing:
    """The cases that `training` lists; paths are relative to the dataset's folder.

    Raises:
        InputError: `labels` or `modality` is missing, or several channels lie in one 4D file.
    """
    said.require("channels", "labels")
    found = Listing(said.channels, said.labels)
    entries = said.training or ()
    if len(said.channels) > 1 and any(len(entry.images) == 1 for entry in entries):
        raise InputError(
            f"it names {len(said.channels)} channels in one 4D file, which is not supported yet",
            said.path,
            "split them into one file a channel (nnU-Net: case_0000.nii.gz, case_0001.nii.gz, ...)",
        )
    for entry in entries:
        images = tuple(root / image for image in entry.images)
        label = root / entry.label if entry.label else None
        found.add(case_name(images[0]), images, label, _problem(entry, images, label, len(said.channels)))
    return found


def _problem(entry: Listed, images: tuple[Path, ...], label: Path | None, channels: int) -> str:
    if label is None:
        return "dataset.json gives it no label"
    if len(images) != channels:
        return f"has {len(images)} image file(s), but the dataset {channels} channel(s)"
    for said, path in zip((*entry.images, entry.label), (*images, label), strict=True):
        if not is_nifti(path):
            return f"{said} is not a NIfTI file"
        if not path.is_file():
            return f"{said} is missing"
    return ""


def nnunet(root: Path, said: Description) -> Listing:
    """`imagesTr/<case>_0000.nii.gz` for each channel and `labelsTr/<case>.nii.gz`.

    Raises:
        InputError: `labels` or `channel_names` is missing, or one case has two files.
    """
    said.require("channels", "labels")
    found = Listing(said.channels, said.labels)
    images: dict[str, dict[int, Path]] = {}
    for path in nifti_files(root / "imagesTr"):
        name, channel = split_channel(path)
        if channel is None:
            found.left.append(Left(path.name, "its name does not end in a channel number such as _0000"))
        elif images.setdefault(name, {}).setdefault(channel, path) != path:
            raise InputError(f"there are two files of channel {channel}", f"imagesTr/{name}", "keep one of them")
    labels = _labels_by_name(root / "labelsTr")
    for name in sorted({*images, *labels}):
        have = images.get(name, {})
        missing = [f"imagesTr/{name}_{c:04d}.nii.gz" for c in range(len(said.channels)) if c not in have]
        missing += [] if name in labels else [f"labelsTr/{name}.nii.gz"]
        extra = len(have) > len(said.channels)
        reason = f"{missing[0]} is missing" if missing else "has more channels than dataset.json names" if extra else ""
        found.add(name, tuple(have[c] for c in sorted(have)), labels.get(name), reason)
    return found


def folders(pair: tuple[Path, Path], said: Description | None) -> Listing:
    """Images and labels of the same name in two folders.

    Where no `dataset.json` names the structures, every label file is read and its values are named by their number.

    Raises:
        InputError: one case has two label files.
    """
    labels = _labels_by_name(pair[1])
    grouped = group_channels(nifti_files(pair[0]), whole=labels)
    images = grouped.cases
    n = max((len(images[name]) for name in images if name in labels), default=1)
    channels = said.channels if said and said.channels else tuple(str(i) for i in range(n))
    found = Listing(channels, dict(said.labels) if said else {}, left=list(grouped.left))
    for name in sorted({*images, *labels}):
        reason = ""
        if name not in labels:
            reason = f"there is no label of this name in {pair[1].name}"
        elif name not in images:
            reason = f"there is no image of this name in {pair[0].name}"
        elif len(images[name]) != len(channels):
            reason = f"has {len(images[name])} image file(s), but the dataset {len(channels)} channel(s)"
        found.add(name, images.get(name, ()), labels.get(name), reason)
    return found if found.labels else _named_by_number(found)


def _named_by_number(found: Listing) -> Listing:
    named = Listing(found.channels, {}, left=found.left)
    for case in found.cases:
        try:
            names = read_labels(case.label).names if case.label else {}
        except InputError as error:
            named.left.append(Left(case.name, f"its label {error.what}", broken=True))
            continue
        named.labels |= names
        named.cases.append(case)
    named.labels = dict(sorted(named.labels.items()))
    return named


def _labels_by_name(folder: Path) -> dict[str, Path]:
    files = nifti_files(folder)
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
