"""A dataset: labelled cases found at a path, and how they are read.

| layout | what is found |
|---|---|
| `manifest` | `manifest.csv` or `.json`, in the folder or given itself: files and DICOM, case by case |
| `decathlon` | Medical Decathlon: `dataset.json` that lists its files; several channels may lie in one 4D file |
| `nnunet` | nnU-Net raw: `dataset.json`, `imagesTr/<case>_0000.nii.gz`, `labelsTr/<case>.nii.gz` |
| `folders` | `images/` and `labels/` (or `imagesTr/`, `labelsTr/`), paired by name |
| `bids` | `dataset_description.json`, labels among the derivatives |
| `dicom` | DICOM images with SEG or RTSTRUCT, in folders of any depth |

Image and label files may be NIfTI, NRRD or MHA.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medseg.errors import InputError, explained
from medseg.imaging import layouts
from medseg.imaging.bids import bids, is_bids
from medseg.imaging.case import Case, LabelFile, Left
from medseg.imaging.case_reading import case_digest, check_pair, read_case, read_case_images, read_case_label
from medseg.imaging.channels import image_files
from medseg.imaging.description import FILE, Description, read_description
from medseg.imaging.labelled_dicom import holds_dicom, is_labelled_dicom, labelled_dicom
from medseg.imaging.manifest import find_manifest, from_manifest
from medseg.imaging.source import ReadOptions

__all__ = [
    "Case",
    "Dataset",
    "LabelFile",
    "Layout",
    "Left",
    "case_digest",
    "check_pair",
    "find_dataset",
    "is_dataset",
    "is_file_dataset",
    "read_case",
    "read_case_images",
    "read_case_label",
]

Layout = Literal["manifest", "decathlon", "nnunet", "folders", "bids", "dicom"]

DICOM = "the DICOM given"  # its folder may be named after a patient
_UNDERSTOOD = (
    "give a Medical Decathlon folder (dataset.json), an nnU-Net raw folder (dataset.json, imagesTr, labelsTr), "
    "a folder with images/ and labels/, a BIDS folder with derivatives, a manifest.csv, or DICOM with SEG or RTSTRUCT"
)


@dataclass(frozen=True)
class Dataset:
    """Labelled cases: `labels` maps values to structures (no background), `left` says what was not used and why.

    options: how its scans are read. regions: structures made of several values, by name. ignore: the value of voxels
    that nobody labelled. stored_values: dataset value -> value in the files, where these cannot be used as they are.
    not_wanted: structures that were not chosen, and are background here.
    """

    name: str
    layout: Layout
    channels: tuple[str, ...]
    labels: Mapping[int, str]
    cases: tuple[Case, ...]
    left: tuple[Left, ...]
    root: Path
    options: ReadOptions = field(default_factory=ReadOptions)
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    region_order: tuple[int, ...] = ()
    ignore: int | None = None
    stored_values: Mapping[int, int] = field(default_factory=dict)
    not_wanted: tuple[str, ...] = ()


def is_dataset(path: Path) -> bool:
    """True if `path` looks like a dataset of any layout. Of DICOM, headers are read until a label and an image are
    found.
    """
    return is_file_dataset(path) or (path.is_dir() and is_labelled_dicom(path))


def is_file_dataset(path: Path) -> bool:
    """True if `path` looks like a dataset of files: any layout but labelled DICOM."""
    if find_manifest(path) is not None:
        return True
    return path.is_dir() and ((path / FILE).is_file() or layouts.image_folders(path) is not None or is_bids(path))


def find_dataset(
    path: Path,
    key: bytes = b"",
    options: ReadOptions | None = None,
    series: Sequence[str] = (),
    labels: Sequence[str] = (),
) -> Dataset:
    """Find the labelled cases at a path.

    A case whose image or label is missing is left, with the reason; the others are used. `key` is the secret of the
    keyed hash that names DICOM cases; `series` selects DICOM volumes, one rule a channel, in a manifest as well.
    `labels` names the structures to use, all others become background; none names all.

    Raises:
        InputError: there is no such folder or no dataset in it, its description is broken, a name stands for two
            cases, no case can be used, or one of `labels` is no structure of it.
        ResourceError: a folder may not be opened.
    """
    options = options or ReadOptions()
    with explained(path):
        _check_path(path)
        layout, found = _listing(path, key, options, series, labels)
    if series and layout not in ("dicom", "manifest"):
        raise InputError("holds no DICOM to select from", path, "leave --series out")
    if twice := layouts.repeated(found.cases):
        raise InputError(f"the name {twice} stands for two cases", path, "give each case a file name of its own")
    where = DICOM if layout == "dicom" else path
    _check_usable(where, found)
    every = found.structures.labels
    if labels:
        found = layouts.only_chosen(found, labels, where)
        _check_usable(where, found)
    return Dataset(
        name=_name(path, layout),
        layout=layout,
        channels=found.channels,
        labels=found.structures.labels,
        cases=tuple(found.cases),
        left=tuple(found.left),
        root=path if path.is_dir() else path.parent,
        options=options,
        regions=found.structures.regions,
        region_order=found.structures.region_order,
        ignore=found.structures.ignore,
        stored_values=found.structures.stored,
        not_wanted=tuple(name for value, name in every.items() if value not in found.structures.labels),
    )


def _name(path: Path, layout: Layout) -> str:
    if layout == "dicom":
        return "dicom"
    whole = path.resolve()
    return whole.name if whole.is_dir() else whole.parent.name if whole.stem == "manifest" else whole.stem


def _check_path(path: Path) -> None:
    if not path.exists():
        raise InputError("there is no such folder", path, "check the spelling")
    if path.is_file() and find_manifest(path) is None:
        raise InputError("is a file, not the folder of a dataset", path, _UNDERSTOOD)
    if is_dataset(path):
        return
    if holds_dicom(path):
        raise InputError("holds no SEG or RTSTRUCT that labels its images", DICOM, "put them into the same folder")
    within = next((child.name for child in sorted(path.iterdir()) if is_file_dataset(child)), "")
    raise InputError("holds no dataset", path, f"one is in its folder {within}: name that" if within else _UNDERSTOOD)


def _listing(
    path: Path, key: bytes, options: ReadOptions, series: Sequence[str], labels: Sequence[str]
) -> tuple[Layout, layouts.Listing]:
    folder = path if path.is_dir() else path.parent
    said = read_description(folder / FILE) if (folder / FILE).is_file() else None
    manifest = find_manifest(path)
    if manifest is not None:
        return "manifest", from_manifest(manifest, said, key, options, series)
    pair = layouts.image_folders(path)
    raw = (path / "imagesTr").is_dir() and (path / "labelsTr").is_dir()
    if said is not None and said.training is not None and not (raw and _first_nnunet(path, said)):
        return "decathlon", layouts.decathlon(path, said, options)
    if said is not None and said.channels and raw:
        return "nnunet", layouts.nnunet(path, said, options)
    if pair is not None and (image_files(pair[0]) or not is_labelled_dicom(path)):
        return "folders", layouts.folders(pair, said, options)
    if said is not None:
        what = 'lists no "training" cases, and there are no folders imagesTr and labelsTr beside it'
        raise InputError(what, path / FILE, _UNDERSTOOD)
    if is_bids(path):
        return "bids", bids(path, options)
    return "dicom", labelled_dicom(path, key, options, series, labels)


def _first_nnunet(path: Path, said: Description) -> bool:
    """True for the first nnU-Net's own form: it lists `case.nii.gz` where `case_0000.nii.gz` lies."""
    listed = [path / entry.images[0] for entry in said.training or ()]
    return not any(image.is_file() for image in listed) and any((path / "imagesTr").glob("*_0000.*"))


def _check_usable(path: Path | str, found: layouts.Listing) -> None:
    if found.cases and found.structures.labels:
        return
    if found.cases:
        raise InputError("all its labels are empty", path, "label at least one structure in one case")
    if found.left:
        first = next((left for left in found.left if left.broken), found.left[0])
        reason = f"none of its {len(found.left)} case(s) can be used ({first.where}: {first.reason})"
        raise InputError(reason, path, "a case needs its images and its label")
    raise InputError("holds no labelled case", path, _UNDERSTOOD)
