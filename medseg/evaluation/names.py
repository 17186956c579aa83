"""What label values are called: said by `predictions.json`, by a `dataset.json`, or by the label files themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from medseg.errors import InputError, MedsegError
from medseg.evaluation.pairing import Pairing, json_object
from medseg.imaging.label_files import label_names_in
from medseg.imaging.structures import Structures, alike, read_structures


def structures_of(predictions: Path, references: Path, pairing: Pairing) -> tuple[Structures | None, str]:
    """What the values of the evaluation stand for; None if nothing says it, so that each is called by its number.

    Second, in one line, what had to be left aside: a `dataset.json` that cannot be understood where predictions tell.

    The names of `predictions.json` count, else those of the `dataset.json` of the references (beside or above them),
    which also tells of regions and of voxels to ignore, else those in the files.

    Raises:
        InputError: a file cannot be understood, or the two sides number structures differently.
    """
    ours = _described(_folder(predictions) / "predictions.json")
    theirs, aside = _theirs(_folder(references), must=ours is None)
    if ours is None:
        return (theirs if theirs is not None else _in_files(pairing)), aside
    if theirs is None:
        return Structures(ours.labels), aside
    _check_alike(ours.labels, theirs)
    return replace(theirs, labels=ours.labels), aside


def unknown_names(pairing: Pairing, known: Structures | None) -> tuple[str, ...]:
    """The structures that references name and that are not scored, because `known` does not name them; sorted."""
    if known is None:
        return ()
    names = {alike(name) for name in known.labels.values()}
    said = {alike(name): name for pair in pairing.pairs for name in _own(pair.reference).values()}
    return tuple(sorted(name for key, name in said.items() if key not in names))


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


def _theirs(folder: Path, must: bool) -> tuple[Structures | None, str]:
    """What the `dataset.json` says; one that cannot be understood is no error unless it must be (predictions tell)."""
    try:
        return next((said for f in (folder, folder.parent) if (said := _described(f / "dataset.json"))), None), ""
    except InputError as error:
        if must:
            raise
        aside = "the dataset.json of the references cannot be understood; its regions and ignore label are not heeded"
        return None, f"{aside} ({error.what})"


def _described(path: Path) -> Structures | None:
    """Names, regions and the value to ignore, as a JSON file beside labels says them; None where it does not."""
    said = json_object(path)
    found = read_structures(said, path) if said.get("labels") else None
    return found if found is not None and found.labels else None


def _check_alike(ours: Mapping[int, str], theirs: Structures) -> None:
    values = {alike(name): value for value, name in theirs.labels.items()}
    for value, name in ours.items():
        other = values.get(alike(name), value)
        if other != value:
            what = f"{name} is label {value} in the predictions and {other} in the references"
            raise InputError(what, "", "give both the same label values")
        if value == theirs.ignore:
            what = f"{name} is label {value} in the predictions, which the references ignore"
            raise InputError(what, "", "give both the same label values")


def _in_files(pairing: Pairing) -> Structures | None:
    """Names that the label files themselves give (SEG, RTSTRUCT, .seg.nrrd); None if none does.

    They are sorted and numbered where all files give names. Else the numbers in the files count, since the others have
    nothing else: all files must agree on them.
    """
    files = [path for pair in pairing.pairs for path in (pair.reference, pair.prediction) if path is not None]
    tables = [_own(path) for path in files]
    spoken = [table for table in tables if table]
    if not spoken:
        return None
    spelt = {alike(name): name for table in spoken for name in table.values()}
    if len(spoken) == len(tables):
        return Structures({value: spelt[key] for value, key in enumerate(sorted(spelt), 1)})
    numbered = {(value, alike(name)) for table in spoken for value, name in table.items()}
    if not len(numbered) == len({value for value, _ in numbered}) == len(spelt):
        what = "some files say what their label values mean, not all with the same numbers, and others do not say it"
        raise InputError(what, "", "say what the values mean in a dataset.json beside the references")
    return Structures({value: spelt[key] for value, key in sorted(numbered)})


def _own(path: Path) -> dict[int, str]:
    """The names in a file; none if it cannot be read, which is said when its turn comes."""
    try:
        return label_names_in(path) or {}
    except MedsegError:
        return {}


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def named(names: Sequence[str]) -> tuple[str, ...]:
    """One line for each structure of the references that is not scored."""
    return tuple(f"reference structure {name!r} is not in the predictions: not scored" for name in names)
