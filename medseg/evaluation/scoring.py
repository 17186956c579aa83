"""One pair of files: read, brought onto one grid, and scored structure by structure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter

from medseg.errors import MedsegError
from medseg.evaluation.case import diagonal_mm, score_case
from medseg.evaluation.labels import (
    Contours,
    Drawn,
    Side,
    common_grid,
    drawn,
    in_one_frame,
    masked,
    narrowed,
    nothing,
    on_one_grid,
    only,
    opened,
    without,
)
from medseg.evaluation.pairing import Pair
from medseg.evaluation.probabilities import rest_on, structure_probabilities
from medseg.evaluation.score import StructureScore
from medseg.evaluation.settings import Settings
from medseg.files import Record
from medseg.imaging.formats import with_data
from medseg.imaging.nifti_header import Prefer
from medseg.imaging.structures import Structures
from medseg.imaging.volume import LabelMap
from medseg.kept import Kept, Subject, digest_of

Score = Callable[[LabelMap, LabelMap], tuple[StructureScore, ...]]
Both = Callable[[Collection[str] | None], tuple[Drawn, Drawn]]

MADE_UP = "both sides are contours alone: they are scored on voxels that were made for them"
ONE_BY_ONE = "structures overlap: in the scores each counts with all of its own voxels"


class CaseScores(Record):
    """What one case brings: its rows, the diagonal of its image in mm, and why its prediction counts as missed.

    notes: what was left of its labels, one line each. coarsest_mm: the largest distance between its voxels.
    """

    rows: tuple[StructureScore, ...]
    diagonal_mm: float
    failure: str = ""
    notes: tuple[str, ...] = ()
    coarsest_mm: float = 0.0


def asked_of(settings: Settings, known: Structures | None, prefer: Prefer) -> str:
    """A digest of all that scores depend on besides the files."""
    return digest_of(settings.model_dump(mode="json"), repr(known), prefer)


def subject_of(pair: Pair) -> Subject:
    """A pair with all files that its scores are made from."""
    given = [path for path in (pair.reference, pair.prediction) if path is not None]
    try:
        files = tuple(with_data(given))
    except MedsegError:  # it will fail by name
        files = tuple(given)
    maps, said = ((), "") if pair.prediction is None else rest_on(pair.prediction.parent, pair.case)
    return Subject(pair.case, (*files, *maps), f"{pair.prediction is not None} {said}")


def score_kept(
    pair: Pair, kept: Kept[CaseScores], settings: Settings, known: Structures | None, prefer: Prefer, threads: int = 1
) -> CaseScores:
    """`score_pair`, unless what it found before stands; it is kept."""
    make = partial(score_pair, pair, settings, known, prefer, threads)
    return kept.made(subject_of(pair), make, attrgetter("failure"))


def score_pair(
    pair: Pair, settings: Settings, known: Structures | None, prefer: Prefer = "", threads: int = 1
) -> CaseScores:
    """Read and score one case; a prediction that does not exist or cannot be used counts as an empty one.

    known: what the values of the evaluation stand for; None if each stands for itself. Where probabilities lie beside
    the prediction their calibration is measured.

    Raises:
        InputError: the reference cannot be read; said without its path, which may tell of a patient.
    """
    failure = ""
    if pair.prediction is not None:
        try:
            return _scored(pair, settings, known, prefer, threads)
        except MedsegError as error:
            failure = str(error)
    empty = _scored(replace(pair, prediction=None), settings, known, prefer, threads)
    return empty.model_copy(update={"failure": failure})


def drawn_pair(
    pair: Pair, known: Structures | None, prefer: Prefer = "", resample: bool = False
) -> tuple[LabelMap, LabelMap]:
    """Both sides of a pair on one grid, in the values of the evaluation; an unusable prediction is an empty one.

    Of voxels in several structures one is drawn. resample: as `Settings.resample`.

    Raises:
        InputError: as `score_pair`.
    """
    try:
        sides, _ = _sides(pair, known, prefer, resample)
        grid = common_grid(sides)
        one, *others = [drawn(side, grid, known) for side in sides]
    except MedsegError:
        if pair.prediction is None:
            raise
        return drawn_pair(replace(pair, prediction=None), known, prefer)
    other = others[0] if others else Drawn(nothing(one.labels), 0, ())
    if not one.labels.grid.agrees(other.labels.grid):
        other = Drawn(nothing(one.labels), 0, ())
    reference, prediction = masked(one, other, _ignored(sides, known))
    return reference.labels, prediction.labels


def _sides(pair: Pair, known: Structures | None, prefer: Prefer, resample: bool) -> tuple[list[Side], tuple[str, ...]]:
    """What both files hold, and how a prediction was brought onto the reference's grid if it was."""
    wanted = None if known is None else list(known.labels.values())
    sides = [opened(pair.reference, "reference", known, wanted, prefer)]
    if pair.prediction is not None:
        sides.append(opened(pair.prediction, "prediction", known, wanted, prefer))
    sides = in_one_frame(sides)
    return on_one_grid(sides) if resample else (sides, ())


def _ignored(sides: Sequence[Side], known: Structures | None) -> int | None:
    return known.ignore if known is not None and not sides[0].named else None


def _scored(pair: Pair, settings: Settings, known: Structures | None, prefer: Prefer, threads: int) -> CaseScores:
    sides, resampled = _sides(pair, known, prefer, settings.resample)
    grid = common_grid(sides)
    ignore = _ignored(sides, known)

    def both(names: Collection[str] | None) -> tuple[Drawn, Drawn]:
        """Both sides with these structures alone; an empty one for a prediction that there is not."""
        one, *others = [drawn(side if names is None else narrowed(side, names), grid, known) for side in sides]
        other = others[0] if others else Drawn(nothing(one.labels), 0, ())
        return masked(one, other, ignore)

    def score(reference: LabelMap, prediction: LabelMap) -> tuple[StructureScore, ...]:
        rows = score_case(pair.case, reference, prediction, settings, threads)
        try:
            return calibrated(rows, pair, reference, prediction)
        except MedsegError as error:  # of the file of probabilities: labels are scored all the same
            uncalibrated.add(f"probabilities: {error.what}; calibration is not measured")
            return rows

    uncalibrated: set[str] = set()
    reference, prediction = both(None)
    notes = [*resampled, *(f"reference: {note}" for note in reference.notes)]
    notes += [f"prediction: {note}" for note in prediction.notes]
    if len(sides) > 1 and all(isinstance(side.held, Contours) for side in sides):
        notes.append(MADE_UP)
    if known is not None and (reference.overlapping or prediction.overlapping):
        notes.append(ONE_BY_ONE)
        rows = _one_by_one(score, both, known)
        rows += score(without(reference.labels, known.labels), without(prediction.labels, known.labels))
    else:
        rows = [*score(reference.labels, prediction.labels)]
        for name, values in _regions(known):
            rows += score(only(reference.labels, values, name), only(prediction.labels, values, name))
    grid_of = reference.labels.grid
    told = (*notes, *sorted(uncalibrated))
    coarsest_mm = max(grid_of.spacing_mm)
    return CaseScores(rows=tuple(rows), diagonal_mm=diagonal_mm(grid_of), notes=told, coarsest_mm=coarsest_mm)


def _one_by_one(score: Score, both: Both, known: Structures) -> list[StructureScore]:
    """The rows of structures, then of regions, where one label map cannot hold all of them."""
    single = [(name, (value,)) for value, name in known.labels.items()]
    rows: list[StructureScore] = []
    for name, values in [*single, *_regions(known)]:
        reference, prediction = both([known.labels[value] for value in values if value in known.labels])
        rows += score(only(reference.labels, values, name), only(prediction.labels, values, name))
    return rows


def _regions(known: Structures | None) -> list[tuple[str, tuple[int, ...]]]:
    """Regions of several values, which have rows of their own."""
    return [] if known is None else [(name, values) for name, values in known.regions.items() if len(values) > 1]


def calibrated(
    rows: Sequence[StructureScore], pair: Pair, reference: LabelMap, prediction: LabelMap
) -> tuple[StructureScore, ...]:
    """The rows with how well the probabilities beside the prediction are calibrated, where there are any.

    Raises:
        InputError, GeometryError: their file cannot be used.
    """
    if pair.prediction is None:
        return tuple(rows)
    values = {name: value for labels in (prediction, reference) for value, name in labels.names.items()}
    found: dict[str, dict[str, float | None]] = {}
    names = [row.structure for row in rows if row.structure in values]
    for name, share in structure_probabilities(pair.prediction.parent, pair.case, names, reference.grid):
        from medseg.evaluation.calibration import calibration_metrics  # its libraries take half a second to import

        ours, theirs = (labels.array == values[name] for labels in (reference, prediction))
        found[name] = calibration_metrics(share, ours, theirs, reference.grid.spacing_mm)
    return tuple(row.model_copy(update=found.get(row.structure, {})) for row in rows)
