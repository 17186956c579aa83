"""Which prediction belongs to which reference, and what their label values are called."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from medseg.errors import InputError, explained
from medseg.imaging.label_files import LabelKind, label_kind, label_names_in, label_references

SUFFIXES = (".gz", ".nii", ".nrrd", ".mha", ".mhd", ".dcm", ".seg", ".rtstruct")  # stripped in this order


@dataclass(frozen=True, slots=True)
class Pair:
    """A reference with its prediction; None where there is none."""

    case: str
    reference: Path
    prediction: Path | None


@dataclass(frozen=True, slots=True)
class Pairing:
    """All references in the order of their cases, and the names of predictions that belong to none."""

    pairs: tuple[Pair, ...]
    unpaired_predictions: tuple[str, ...]


def pair_up(predictions: Path, references: Path) -> Pairing:
    """Pair by case name: the file name without extension and `_0000`, or what `case_map.json` makes of it.

    A DICOM SEG or RTSTRUCT may lie at any depth; it is also known by the series and the frame of reference that it
    names. Where a folder of predictions holds one case in several formats, the first of NIfTI, NRRD, SEG, RTSTRUCT is
    scored.

    Either side may be a single file: then only its case is asked about, and two single files are a pair whatever
    their names.

    Raises:
        InputError: a side is missing or holds no labels, two files stand for one case, or nothing pairs.
    """
    case_ids = _case_ids(_folder(predictions) / "case_map.json")
    predicted = _files(predictions, "prediction", lambda name: name)
    referred = _files(references, "reference", lambda name: case_ids.get(name, name))
    if predictions.is_file() and references.is_file():
        referred = dict(zip(predicted, referred.values(), strict=True))
    both = predicted.keys() & referred.keys()
    if not both:
        raise InputError(
            f"no prediction here has the name of a reference in {references}",
            predictions,
            f"name them alike (now for example {min(predicted)} and {min(referred)})",
        )
    asked = both if predictions.is_file() else referred.keys()
    unpaired = () if references.is_file() else tuple(sorted(predicted.keys() - both))
    return Pairing(tuple(Pair(case, referred[case], predicted.get(case)) for case in sorted(asked)), unpaired)


def names_of_structures(predictions: Path, references: Path) -> dict[int, str] | None:
    """Read what label values are called: from `predictions.json`, else the `dataset.json` of the references, else None.

    Raises:
        InputError: such a file is no JSON, its `labels` cannot be understood, or a name has another value on each side.
    """
    references = _folder(references)
    beside = [f / "dataset.json" for f in (references, references.parent)]
    found = [_names(labels, p) for p in [_folder(predictions) / "predictions.json", *beside] if (labels := _labels(p))]
    for other in found[1:]:
        values = {name.casefold(): value for value, name in other.items()}
        for value, name in found[0].items():
            if values.get(name.casefold(), value) != value:
                raise InputError(
                    f"{name} is label {value} in the predictions and {values[name.casefold()]} in the references",
                    references,
                    "give both the same label values",
                )
    return found[0] if found else None


def names_in_files(pairing: Pairing) -> dict[int, str] | None:
    """Names that the label files themselves give (SEG, RTSTRUCT, .seg.nrrd), sorted and numbered; None if none does.

    Raises:
        InputError: a file cannot be read.
    """
    files = [path for pair in pairing.pairs for path in (pair.reference, pair.prediction) if path is not None]
    spoken = [names for path in files if (names := label_names_in(path)) is not None]
    alike = {plain(name): name for names in spoken for name in names.values()}
    return {value: alike[key] for value, key in enumerate(sorted(alike), 1)} if spoken else None


def plain(name: str) -> str:
    """A structure's name without case, spaces and underscores: `Left Kidney` is `left_kidney`."""
    return " ".join(name.casefold().replace("_", " ").split())


def _labels(path: Path) -> Any:
    return _json_object(path).get("labels")


def unambiguous(names: Mapping[int, str], where: Path | str = "") -> dict[int, str]:
    """Names without the background's.

    Raises:
        InputError: two values bear one name, so that their scores could not be told apart.
    """
    structures = {value: name for value, name in names.items() if value != 0}
    twice = sorted({name for name in structures.values() if list(structures.values()).count(name) > 1})
    if twice:
        raise InputError(f"several label values are called {twice[0]!r}", where, "give each value its own name")
    return structures


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _files(path: Path, what: str, case_of: Callable[[str], str]) -> dict[str, Path]:
    """Case name to file of labels; everything else in the folder is left alone."""
    if not path.exists():
        raise InputError("there is no such file or folder", path, f"give the folder (or file) of the {what}s")
    with explained(path):
        found = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file() and p.name[0] != ".")
        labelled = [(file, kind) for file in found if (kind := label_kind(file)) is not None]
        if not labelled and path.is_dir():
            deeper = sorted(p for p in path.rglob("*") if p.is_file() and p.name[0] != ".")
            labelled = [(file, kind) for file in deeper if (kind := label_kind(file)) in ("seg", "rtstruct")]
    ours = what == "prediction" and (_folder(path) / "predictions.json").is_file()
    cases: dict[str, Path] = {}
    order = list(get_args(LabelKind))
    for file, kind in sorted(labelled, key=lambda pair: (order.index(pair[1]), pair[0])):
        case = _case(file, kind, case_of)
        if case not in cases:
            cases[case] = file
        elif not ours:
            raise InputError(f"{cases[case].name} and {file.name} are the same case", path, "keep only one of them")
    if not cases:
        raise InputError(
            f"holds no {what} (NIfTI, NRRD, MHA, DICOM SEG or RTSTRUCT)", path, "give the folder that holds them"
        )
    return cases


def _case(file: Path, kind: LabelKind, case_of: Callable[[str], str]) -> str:
    stem = file.name
    for suffix in SUFFIXES:
        stem = stem.removesuffix(suffix)
    name = stem.removesuffix("_0000") or stem
    if kind in ("seg", "rtstruct"):
        known = (case_of(said) for said in (*label_references(file), file.parent.name))
        return next((case for case in known if case.startswith("case-")), case_of(name))
    return case_of(name)


def _case_ids(path: Path) -> dict[str, str]:
    """Name of a source to the case-id that its outputs are called by."""
    cases = _json_object(path).get("cases", {})
    try:
        ids = [(str(name), str(case)) for case, entry in cases.items() for name in entry["names"]]
    except (AttributeError, KeyError, TypeError):
        raise InputError("is not a valid case map", path, "write the predictions again") from None
    times = Counter(name for name, _ in ids)  # a folder's name that stands for two series tells of neither
    return {name: case for name, case in ids if times[name] == 1}


def _json_object(path: Path) -> Mapping[str, Any]:
    """The file's object, or an empty one where there is no such file."""
    if not path.is_file():
        return {}
    try:
        with explained(path):
            values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise InputError("is not valid JSON", path, "mend or remove it") from None
    if not isinstance(values, dict):
        raise InputError("does not hold a JSON object", path, "mend or remove it")
    return values


def _names(labels: Any, path: Path) -> dict[int, str]:
    """Both ways of writing them: {"1": "liver"} and {"liver": 1}."""
    try:
        if all(str(key).isdecimal() for key in labels):
            names = {int(value): str(name) for value, name in labels.items()}
        else:
            names = {int(value): str(name) for name, value in labels.items()}
    except (AttributeError, TypeError, ValueError):
        raise InputError("its labels are not one number for each name", path, "name them in an option") from None
    return unambiguous(names, path)
