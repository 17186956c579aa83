"""A dataset as a list of cases: `manifest.csv` or `manifest.json`, which say where images and labels lie.

CSV: columns case, image (or image_0, image_1, ...), label, and patient if known; others are of no concern here. Paths
are relative to the manifest. JSON: a list of objects with the same keys (`image` may be a list), or an object with
`cases` and, as in `dataset.json`, `labels`, `channel_names`, `regions` and `ignore`.
An image may be a volume file or the folder of a DICOM series; a label a volume file, a DICOM SEG or an RTSTRUCT.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.errors import InputError, MedsegError
from medseg.imaging.case import LabelFile, Left
from medseg.imaging.description import Description, read_channel_names
from medseg.imaging.dicom.headers import is_dicom
from medseg.imaging.dicom.select import Rule
from medseg.imaging.formats import is_volume_file
from medseg.imaging.label_files import label_kind
from medseg.imaging.layouts import Listing, file_sources, with_names
from medseg.imaging.naming import dicom_name
from medseg.imaging.scans import sift
from medseg.imaging.source import ReadOptions, Source
from medseg.imaging.structures import Structures, read_structures
from medseg.imaging.studies import Wanted, told

NAMES_OF_FILE = ("manifest.csv", "manifest.json")
_IMAGE = re.compile(r"image_(\d+)")
_SAFE_NAME = re.compile(r"[^\x00-\x1f<>:\"/\\|?*.][^\x00-\x1f<>:\"/\\|?*]*")
_TEXTS = ("case", "label", "patient")
_MEND = "give the columns case, image (or image_0, image_1, ...), label, and patient if known"


@dataclass(frozen=True, slots=True)
class Entry:
    """One case as the manifest lists it; paths are absolute, the label is None where there is none."""

    name: str
    images: tuple[Path, ...]
    label: Path | None
    patient: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """All entries, and what a JSON manifest says besides."""

    entries: tuple[Entry, ...]
    channels: tuple[str, ...] = ()
    structures: Structures = field(default_factory=Structures)


def find_manifest(path: Path) -> Path | None:
    """The manifest that `path` is or holds, or None.

    Raises:
        InputError: the folder holds two.
    """
    if path.is_file():
        return path if path.suffix.lower() in (".csv", ".json") and path.name != "dataset.json" else None
    found = [path / name for name in NAMES_OF_FILE if (path / name).is_file()]
    if len(found) > 1:
        raise InputError("holds manifest.csv and manifest.json", path, "name the one that counts")
    return found[0] if found else None


def from_manifest(
    path: Path, said: Description | None, key: bytes, options: ReadOptions, series: Sequence[str] = ()
) -> Listing:
    """The cases that a manifest lists; `said` is the `dataset.json` beside it, for what the manifest does not name.

    What nothing names is named as `with_names` does. Where the folder of an image holds several DICOM volumes, the rule
    of its channel in `series` picks one.

    Raises:
        InputError: it is broken, lists a case twice or under a name that no file may have, or its labels are partly
            files, partly DICOM, and nothing names their values; a rule cannot be read, or nothing is DICOM.
    """
    manifest = read_manifest(path)
    structures = manifest.structures if manifest.structures.labels else said.structures if said else Structures()
    channels = manifest.channels or (said.channels if said else ())
    n = len(channels) or max((len(entry.images) for entry in manifest.entries), default=1)
    found = Listing(channels or tuple(str(k) for k in range(n)), structures)
    rules = Wanted(found.channels, tuple(series)).rules
    for entry in manifest.entries:
        try:
            label, sources = _label(entry), _sources(entry, rules, options)
        except MedsegError as error:
            found.left.append(Left(entry.name, error.what, broken=entry.label is not None))
            continue
        patient = entry.patient or (sources[0].dicom.patient_id if sources[0].dicom else "")
        found.add(entry.name, sources, label, dicom_name(key, patient, "patient") if patient else "")
    if series and found.cases and not any(source.dicom for case in found.cases for source in case.images):
        raise InputError("lists no DICOM to select from", path, "leave --series out")
    return with_names(found, options)


def _label(entry: Entry) -> LabelFile:
    if entry.label is None:
        raise InputError("has no label")
    if not entry.label.is_file():
        raise InputError("[NOT_FOUND] its label is missing")
    kind = label_kind(entry.label)
    if kind is None:
        raise InputError("its label is neither a volume file nor DICOM SEG or RTSTRUCT")
    return LabelFile(entry.label, kind if kind == "seg" or kind == "rtstruct" else "file")


def _sources(entry: Entry, rules: Sequence[Rule | None], options: ReadOptions) -> tuple[Source, ...]:
    if any(not image.exists() for image in entry.images):
        raise InputError("[NOT_FOUND] an image of it is missing")
    if all(is_volume_file(image) and image.is_file() for image in entry.images):
        return file_sources(entry.images, len(rules))
    if len(entry.images) != len(rules):
        raise InputError(f"has {len(entry.images)} image(s), but the dataset {len(rules)} channel(s)")
    return tuple(_source(image, rule, options) for image, rule in zip(entry.images, rules, strict=True))


def _source(image: Path, rule: Rule | None, options: ReadOptions) -> Source:
    kind = is_volume_file(image)
    if kind and image.is_file():
        return Source(kind, (image,))
    if image.is_file() and not is_dicom(image):
        raise InputError("an image of it is neither a volume file nor DICOM")
    volumes = sift(image, options=options).dicom.volumes
    usable = [volume for volume in volumes if volume.verdict.usable]
    fitting = [volume for volume in usable if rule is None or rule.fits(volume)]
    if len(fitting) == 1:
        return Source("dicom", fitting[0].paths, dicom=fitting[0])
    if usable:
        fit = f", of which {len(fitting)} fit the rule" if rule else ""
        listed = "; ".join(told(volume) for volume in (fitting or usable)[:5])
        way_out = "name the folder of one, or pick one with --series RULE"
        raise InputError(f"[CHOOSE] an image of it holds {len(usable)} DICOM volumes{fit}: {listed}; {way_out}")
    verdict = volumes[0].verdict if volumes else None
    raise InputError(f"[{', '.join(verdict.codes)}] {verdict.said}" if verdict else "an image of it holds no volume")


def read_manifest(path: Path) -> Manifest:
    """Read a manifest; nothing that it lists is opened.

    Raises:
        InputError: it cannot be read, a column or key is missing, or a name is given twice or cannot name a file.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows, said = _json_rows(text) if path.suffix.lower() == ".json" else (_csv_rows(text), {})
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise InputError("is no list of cases", path, _MEND) from error
    entries = [_entry(row, path) for row in rows]
    names = [entry.name for entry in entries]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise InputError(f"lists the case {twice} twice", path, "give each case its own name")
    return Manifest(tuple(entries), read_channel_names(said.get("channel_names"), path), read_structures(said, path))


def _csv_rows(text: str) -> list[dict[str, Any]]:
    head = text.split("\n", 1)[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count), strict=True)
    reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
    return [row for row in reader if any(row.values())]


def _json_rows(text: str) -> tuple[list[Any], dict[str, Any]]:
    said = json.loads(text)
    if isinstance(said, list):
        return said, {}
    if not isinstance(said, dict) or not isinstance(said.get("cases"), list):
        raise ValueError("no list of cases")
    return said["cases"], said


def _entry(row: Any, path: Path) -> Entry:
    if not isinstance(row, dict) or any(not isinstance(row.get(key), str | None) for key in _TEXTS):
        raise InputError("an entry of it is no object with case, image and label", path, _MEND)
    name = (row.get("case") or "").strip()
    if not _SAFE_NAME.fullmatch(name):
        what = f"a case is called {name!r}, which no file can be called" if name else "a case has no name"
        raise InputError(what, path, "give each case a short name of letters, digits, - and _")
    images = _images(row)
    if not images:
        raise InputError(f"gives the case {name} no image", path, _MEND)
    label = (row.get("label") or "").strip()
    return Entry(
        name,
        tuple(path.parent / image for image in images),
        path.parent / label if label else None,
        (row.get("patient") or "").strip(),
    )


def _images(row: Mapping[str, Any]) -> list[str]:
    """What the keys image, or image_0, image_1, ... say; nothing where they leave one out."""
    if row.get("image"):
        said = row["image"] if isinstance(row["image"], list) else [row["image"]]
    else:
        numbered = {int(m[1]): row[key] for key in row if key and (m := _IMAGE.fullmatch(key)) and row[key]}
        said = [numbered.get(k) for k in range(len(numbered))]
    return [image.strip() for image in said] if all(isinstance(image, str) for image in said) else []
