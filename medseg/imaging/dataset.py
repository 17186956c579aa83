"""A dataset: labelled cases found in a folder, and reading one of them.

Three layouts are understood: Medical Decathlon (`dataset.json` that lists its files), nnU-Net raw (`dataset.json`,
`imagesTr/<case>_0000.nii.gz`, `labelsTr/<case>.nii.gz`), and two folders `images/` and `labels/` paired by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medseg.errors import GeometryError, InputError, explained
from medseg.imaging import layouts
from medseg.imaging.case import Case, Left
from medseg.imaging.description import FILE, Description, read_description
from medseg.imaging.grid import Grid
from medseg.imaging.nifti import read_labels, read_volume
from medseg.imaging.volume import LabelMap, Volume

__all__ = [
    "Case",
    "Dataset",
    "Layout",
    "Left",
    "check_channels",
    "check_pair",
    "find_dataset",
    "is_dataset",
    "read_case_image",
    "read_case_label",
]

Layout = Literal["decathlon", "nnunet", "folders"]

_UNDERSTOOD = (
    "give a Medical Decathlon folder (dataset.json), an nnU-Net raw folder (dataset.json, imagesTr, labelsTr), "
    "or a folder with images/ and labels/"
)


@dataclass(frozen=True)
class Dataset:
    """Labelled cases: `labels` maps values to structures (no background), `left` says what was not used and why."""

    name: str
    layout: Layout
    channels: tuple[str, ...]
    labels: Mapping[int, str]
    cases: tuple[Case, ...]
    left: tuple[Left, ...]
    root: Path


def is_dataset(path: Path) -> bool:
    """True if `path` looks like a dataset: it has a `dataset.json`, or a folder of images and one of labels."""
    return path.is_dir() and ((path / FILE).is_file() or layouts.image_folders(path) is not None)


def find_dataset(path: Path) -> Dataset:
    """Find the labelled cases in a folder.

    A case whose image or label file is missing is left, with the reason; the others are used.

    Raises:
        InputError: there is no such folder or no dataset in it, its `dataset.json` is broken or asks for what is not
            supported yet, a name stands for two cases, or no case can be used.
        ResourceError: a folder may not be opened.
    """
    with explained(path):
        _check_folder(path)
        said = read_description(path / FILE) if (path / FILE).is_file() else None
        layout, found = _listing(path, said)
    if twice := layouts.repeated(found.cases):
        raise InputError(f"the name {twice} stands for two cases", path, "give each case its own file name")
    _check_usable(path, found)
    name = path.resolve().name
    return Dataset(name, layout, found.channels, found.labels, tuple(found.cases), tuple(found.left), path)


def _check_folder(path: Path) -> None:
    if not path.exists():
        raise InputError("there is no such folder", path, "check the spelling")
    if not path.is_dir():
        raise InputError("is a file, not the folder of a dataset", path, _UNDERSTOOD)
    if is_dataset(path):
        return
    within = next((child.name for child in sorted(path.iterdir()) if is_dataset(child)), "")
    raise InputError("holds no dataset", path, f"one is in its folder {within}: name that" if within else _UNDERSTOOD)


def _listing(path: Path, said: Description | None) -> tuple[Layout, layouts.Listing]:
    pair = layouts.image_folders(path)
    raw = (path / "imagesTr").is_dir() and (path / "labelsTr").is_dir()
    if said is not None and said.training is not None and not (raw and _first_nnunet(path, said)):
        return "decathlon", layouts.decathlon(path, said)
    if said is not None and said.channels and raw:
        return "nnunet", layouts.nnunet(path, said)
    if pair is not None:
        return "folders", layouts.folders(pair, said)
    raise InputError(
        'lists no "training" cases, and there are no folders imagesTr and labelsTr beside it', path / FILE, _UNDERSTOOD
    )


def _first_nnunet(path: Path, said: Description) -> bool:
    """True for the first nnU-Net's own form: it lists `case.nii.gz` where `case_0000.nii.gz` lies."""
    listed = [path / entry.images[0] for entry in said.training or ()]
    return not any(image.is_file() for image in listed) and any((path / "imagesTr").glob("*_0000.nii*"))


def _check_usable(path: Path, found: layouts.Listing) -> None:
    if found.cases and found.labels:
        return
    if found.cases:
        raise InputError("all its labels are empty", path, "label at least one structure in one case")
    if found.left:
        first = found.left[0]
        reason = f"none of its {len(found.left)} case(s) can be used ({first.where}: {first.reason})"
        raise InputError(reason, path, "a case needs its images and its label")
    raise InputError("holds no labelled case", path, _UNDERSTOOD)


def read_case_image(case: Case, channel: int = 0) -> Volume:
    """Read one channel of a case as float32 (X, Y, Z).

    Raises:
        InputError: missing, cut or not a 3D NIfTI file.
    """
    return read_volume(case.images[channel])


def read_case_label(case: Case, dataset: Dataset) -> LabelMap:
    """Read the label of a case (X, Y, Z), named as the dataset says; it may be empty.

    Raises:
        InputError: the case has none, it cannot be read, or it holds values that the dataset does not name.
    """
    if case.label is None:
        raise InputError("has no label", case.name)
    found = read_labels(case.label)
    if unknown := sorted(set(found.names) - set(dataset.labels)):
        shown = ", ".join(map(str, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        raise InputError(
            f"its label holds value(s) {shown}, which the dataset does not name",
            case.name,
            "name them in dataset.json or mend the label",
        )
    return LabelMap(found.array, found.grid, dataset.labels)


def check_pair(volume: Volume, labels: LabelMap, case: Case) -> None:
    """Refuse a label that does not lie on its image.

    Raises:
        GeometryError: the shapes differ, or a corner lies more than a hundredth of a voxel elsewhere.
    """
    _check_same_place(volume.grid, labels.grid, case.name, "label")


def check_channels(volumes: Sequence[Volume], name: str) -> None:
    """Refuse channels of one case that do not lie on each other.

    Raises:
        GeometryError: as `check_pair`.
    """
    for i, volume in enumerate(volumes[1:], start=1):
        _check_same_place(volumes[0].grid, volume.grid, name, f"channel {i}")


def _check_same_place(grid: Grid, other: Grid, name: str, what: str) -> None:
    fix = f"export image and {what} from the same scan again"
    if grid.shape != other.shape:
        raise GeometryError(f"its {what} has shape {other.shape}, its image {grid.shape}", name, fix)
    if not grid.agrees(other):
        away = f"its {what} lies up to {grid.deviation_mm(other):.3g} mm away from its image"
        raise GeometryError(away, name, fix)
