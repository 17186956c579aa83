"""Which prediction belongs to which reference, and what a pair is called: never by the name of a DICOM file.

Names of DICOM files and of their folders may name the patient. So a case of DICOM objects alone is called by the case
map, by the name that medseg gave to the prediction, or by a keyed hash.
"""

from __future__ import annotations

import json
import re
import secrets
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from medseg.errors import InputError, MedsegError, explained
from medseg.evaluation.case_name import case_name
from medseg.imaging.label_files import LabelKind, label_kind, label_references
from medseg.imaging.naming import dicom_name

_DICOM = ("seg", "rtstruct")
_HASHED = re.compile(r"(case|seg|rtstruct)-[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class Pair:
    """A reference with its prediction; None where there is none."""

    case: str
    reference: Path
    prediction: Path | None


@dataclass(frozen=True, slots=True)
class Pairing:
    """All references in the order of their cases, and the names of predictions that belong to none.

    keyed: whether any of the names is a hash of which no case map holds the key.
    """

    pairs: tuple[Pair, ...]
    unpaired_predictions: tuple[str, ...]
    keyed: bool = False


@dataclass(frozen=True, slots=True)
class _Known:
    """A case map: the key of its names, and what each name of a source stands for."""

    key: bytes = b""
    case_of: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Found:
    """A file of labels: `name` is the case map's, else that of the file; `shown` may be told to anyone."""

    file: Path
    kind: LabelKind
    name: str
    shown: str
    mapped: bool
    series: str
    keyed: bool = False

    @property
    def told(self) -> str:
        """What it is called in an error."""
        return f"a DICOM object ({self.shown})" if self.kind in _DICOM else self.file.name


def pair_up(predictions: Path, references: Path, key: bytes = b"") -> Pairing:
    """Pair by case name: the file name without extension and `_0000`, or what `case_map.json` makes of it.

    A DICOM SEG or RTSTRUCT may lie at any depth. The case map knows it also by the series and the frame of reference
    that it names; two such objects of one series are a pair whatever their names. Where a folder of predictions holds
    one case in several formats, the first of NIfTI, NRRD, SEG, RTSTRUCT is scored.

    key: of the hashes that DICOM objects are called by where no case map has one; a new one where none is given.

    Either side may be a single file: then only its case is asked about, and two single files are a pair whatever
    their names.

    Raises:
        InputError: a side is missing or holds no labels, two files stand for one case, or nothing pairs.
    """
    known = _case_map(_folder(predictions) / "case_map.json")
    mapped_key = bool(known.key)
    known = known if mapped_key else replace(known, key=key or secrets.token_bytes(16))
    made = _made(_folder(predictions) / "predictions.json")
    ours = made is not None
    predicted_files = _without_maps(_found(predictions, "prediction", known, ours), made or ())
    referred_files = _found(references, "reference", known, False)
    shared = _shared_series(predicted_files, referred_files)
    predicted = _by_case(predicted_files, shared, predictions, choose=ours)
    referred = _by_case(referred_files, shared, references, choose=False)
    if predictions.is_file() and references.is_file():
        referred = dict(zip(predicted, referred.values(), strict=True))
    both = predicted.keys() & referred.keys()
    if not both:
        names = (min(one.shown for one in side.values()) for side in (predicted, referred))
        raise InputError(
            "no prediction has the name of a reference",
            predictions if predictions.is_dir() else "",
            f"name them alike (now for example {' and '.join(names)})",
        )
    asked = both if predictions.is_file() else referred.keys()
    lone = [] if references.is_file() else [predicted[key].shown for key in predicted.keys() - both]
    pairs = [_pair(referred[key], predicted.get(key)) for key in asked]
    if len({pair.case for pair in pairs}) < len(pairs):
        raise InputError("several references would bear the name of one case", "", "give each file its own name")
    keyed = not mapped_key and any(one.keyed for one in (*predicted_files, *referred_files))
    return Pairing(tuple(sorted(pairs, key=lambda pair: (pair.case, pair.reference))), tuple(sorted(lone)), keyed)


def _made(path: Path) -> tuple[str, ...] | None:
    """The cases that medseg predicted in this folder; None where it did not write there."""
    if not path.is_file():
        return None
    cases = json_object(path).get("cases")
    return tuple(str(one.get("case")) for one in cases if isinstance(one, dict)) if isinstance(cases, list) else ()


def _without_maps(found: Sequence[_Found], made: Collection[str]) -> list[_Found]:
    """All but what medseg writes of a case beside its labels: `<case>.probabilities.nii.gz` and the like."""
    begins = tuple(f"{case}." for case in made)
    return [one for one in found if one.name in made or not one.name.startswith(begins)]


def _pair(reference: _Found, prediction: _Found | None) -> Pair:
    """By the name of the prediction, since medseg may have made it, unless only the reference's may be told."""
    spoken = [one.shown for one in (prediction, reference) if one and (one.mapped or one.kind not in _DICOM)]
    case = next(iter([*spoken, *([prediction.shown] if prediction else [])]), reference.shown)
    return Pair(case, reference.file, prediction.file if prediction else None)


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _found(path: Path, what: str, known: _Known, ours: bool) -> list[_Found]:
    """The label files of a side; everything else in the folder is left alone. `ours`: medseg named the files."""
    if not path.exists():
        raise InputError("there is no such file or folder", path, f"give the folder (or file) of the {what}s")
    with explained("" if path.is_file() else path):
        files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file() and p.name[0] != ".")
        labelled = [(file, kind) for file in files if (kind := label_kind(file)) is not None]
        if path.is_dir() and not (ours and labelled):
            deeper = sorted(p for p in path.rglob("*") if p.parent != path and p.is_file() and p.name[0] != ".")
            labelled += [(file, kind) for file in deeper if (kind := label_kind(file)) in _DICOM and kind]
    if not labelled:
        formats = "NIfTI, NRRD, MHA, DICOM SEG or RTSTRUCT"
        where = path if path.is_dir() else ""
        raise InputError(f"holds no {what} ({formats})", where, "give the folder that holds them")
    order = list(get_args(LabelKind))
    labelled.sort(key=lambda pair: (order.index(pair[1]), pair[0]))
    return [_one(file, kind, what, known, ours, _folder(path)) for file, kind in labelled]


def _one(file: Path, kind: LabelKind, what: str, known: _Known, ours: bool, side: Path) -> _Found:
    name = case_name(file.name)
    if kind not in _DICOM:
        mapped = what == "reference" and name in known.case_of
        name = known.case_of[name] if mapped else name
        return _Found(file, kind, name, name, mapped, "")
    if ours:
        return _Found(file, kind, name, name, True, "")
    said = _references(file)
    asked = (*said, name, *([file.parent.name] if what == "reference" else []))
    case = next((known.case_of[one] for one in asked if one in known.case_of), None)
    if case is not None:
        return _Found(file, kind, case, case, True, "")
    own = what == "prediction" and _HASHED.fullmatch(name) is not None
    shown = name if own else dicom_name(known.key, f"{what} {file.relative_to(side)}", kind)
    return _Found(file, kind, name, shown, False, said[0] if said else "", keyed=not own)


def _references(file: Path) -> tuple[str, ...]:
    """None for a damaged object, which fails when its turn comes."""
    try:
        return label_references(file)
    except MedsegError:
        return ()


def _shared_series(one: Sequence[_Found], other: Sequence[_Found]) -> frozenset[str]:
    """The series that exactly one DICOM object of each side belongs to."""
    sides = [Counter(found.series for found in side if found.series) for side in (one, other)]
    return frozenset(uid for uid in sides[0] if sides[0][uid] == sides[1][uid] == 1)


def _by_case(found: Sequence[_Found], shared: frozenset[str], path: Path, choose: bool) -> dict[str, _Found]:
    """By what pairs: the series of a DICOM object if both sides have it, else the name. `choose`: the first counts."""
    cases: dict[str, _Found] = {}
    for one in found:
        key = f"series {one.series}" if one.series in shared else one.name
        if key not in cases:
            cases[key] = one
        elif not choose:
            where = path if path.is_dir() else ""
            raise InputError(f"{cases[key].told} and {one.told} are the same case", where, "keep only one of them")
    return cases


def _case_map(path: Path) -> _Known:
    """The case-id that outputs of each source are called by, and the key; a key for this run where there is none."""
    said = json_object(path)
    cases = said.get("cases", {})
    try:
        ids = [(str(name), str(case)) for case, entry in cases.items() for name in entry["names"]]
        key = bytes.fromhex(said.get("key", ""))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError("is not a valid case map", path, "write the predictions again") from None
    times = Counter(name for name, _ in ids)  # a folder's name that stands for two series tells of neither
    return _Known(key, {name: case for name, case in ids if times[name] == 1})


def json_object(path: Path) -> Mapping[str, Any]:
    """The file's object, or an empty one where there is no such file.

    Raises:
        InputError: it is no JSON, or no object.
    """
    if not path.is_file():
        return {}
    try:
        with explained(path):
            values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise InputError("is not valid JSON", path, "mend or remove it") from None
    if not isinstance(values, dict):
        raise InputError("does not hold a JSON object", path, "mend or remove it")
    return values
