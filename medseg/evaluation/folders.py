"""The front door: a folder of predictions against a folder of references, to `scores.csv` and `scores.json`.

OUT/cases/<case>.json    scores of a finished case, so that the same command goes on and parts share the work
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from medseg.errors import InputError, MedsegError
from medseg.evaluation.case import warm_up
from medseg.evaluation.cohort import summarise
from medseg.evaluation.engine.choice import engine
from medseg.evaluation.metadata import Metadata, left_out, read_metadata
from medseg.evaluation.names import named, structures_of, unambiguous, unknown_names
from medseg.evaluation.pairing import Pair, Pairing, json_object, pair_up
from medseg.evaluation.records import Scores
from medseg.evaluation.scoring import CaseScores, asked_of, score_kept, subject_of
from medseg.evaluation.settings import DEFAULT, Settings, checked
from medseg.evaluation.writing import write_scores
from medseg.events import Advanced, Event, Note, Stage
from medseg.files import output_folder
from medseg.imaging.label_files import read_label_grid
from medseg.imaging.nifti_header import Prefer
from medseg.imaging.structures import Structures, read_structures
from medseg.kept import Kept, PartDone, Share, joining, shared_key
from medseg.parallel import HERE, Done, Failed, InPlace, Where, Workers, among, over_cases
from medseg.parts import WHOLE, Part, claimed
from medseg.resources import available_cores

SECONDS_PER_VOXEL = 20e-9  # reading and scoring, measured on 512x512x200 voxels with 8 structures
SECONDS_PER_CASE = 0.007
CASES = "cases"
BYTES_PER_VOXEL = 40.0  # two maps as int64 files hold them, one of them sorted to find its values


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation found, where it was written, and from which pairs of files in which values."""

    scores: Scores
    csv: Path
    json: Path
    pairs: tuple[Pair, ...] = ()
    known: Structures | None = None

    @property
    def failed(self) -> Mapping[str, str]:
        """Cases that could not be scored, with the reason."""
        return self.scores.failed

    @property
    def missing_predictions(self) -> tuple[str, ...]:
        """References without a prediction: scored as missed."""
        return self.scores.missing_predictions

    @property
    def unpaired_predictions(self) -> tuple[str, ...]:
        """Predictions without a reference: not scored."""
        return self.scores.unpaired_predictions


def evaluate_folders(
    predictions: Path,
    references: Path,
    out: Path,
    settings: Settings = DEFAULT,
    names: Mapping[int, str] | None = None,
    prefer: Prefer = "",
    metadata: Path | None = None,
    by: Sequence[str] = (),
    where: Where = HERE,
    part: Part = WHOLE,
) -> Iterator[Event | Evaluation | PartDone]:
    """Score every reference against its prediction and summarise them; yields events, and last an `Evaluation`.

    `predictions` and `references` are folders or single files of labels in any format, paired by `pairing.pair_up`;
    `settings`: how they are compared; `prefer` decides between contradicting affines of NIfTI files. `metadata`: a CSV
    with a row a case, by whose columns `by` scores are broken down, and whose column `patient` tells which cases are of
    one patient. A reference without a prediction counts as missed. A case that cannot be scored is set aside in
    `failed`; the others go on. What was scored before from the same files with the same settings is not scored again.
    `where`: who scores. `part`: of several that share `out`; the one that finds all cases done writes the scores, the
    others end in a `PartDone`.

    Raises:
        InputError: a side is missing, empty, or nothing pairs; a tolerance below 0; names that are not unique; another
            run works on that part.
        ResourceError: `out` cannot be written to.
    """
    told = _metadata(metadata, by)
    pairing = pair_up(predictions, references)
    known: Structures | None
    mean_over: tuple[str, ...] = ()
    if names is not None:
        known, aside = Structures(unambiguous(names)), ""
    else:
        known, aside = structures_of(predictions, references, pairing)
        known, mean_over = _regions(predictions, known)
    settings = checked(settings, known)
    output_folder(out)
    with claimed(out, part, CASES):
        if pairing.keyed:  # by a secret that all parts, and all runs, share
            pairing = pair_up(predictions, references, bytes.fromhex(shared_key(out / CASES)))
        missing = [pair.case for pair in pairing.pairs if pair.prediction is None]
        yield from _notes(pairing, missing)
        unused = left_out(told, [pair.case for pair in pairing.pairs]) if told is not None else ()
        for line in filter(None, (aside, *named(unknown_names(pairing, known)), *unused)):
            yield Note(line, warning=True)
        kept = Kept(out / CASES, CaseScores, asked_of(settings, known, prefer))
        share = Share(kept, part, [subject_of(pair) for pair in pairing.pairs])
        yield from _scored(pairing.pairs, share, _Work(kept, settings, known, prefer, where, mean_over))

        with joining(out / CASES):
            others = share.join()
            if others is None:
                done = {case: share.done[case] for case in sorted(share.done)}
                failures = {case: one.failure for case, one in done.items() if one.failure}
                scores = summarise(
                    [row for one in done.values() for row in one.rows],
                    {case: one.diagonal_mm for case, one in done.items()},
                    settings,
                    missing_predictions=missing,
                    unpaired_predictions=pairing.unpaired_predictions,
                    failed=dict(sorted((share.failed | failures).items())),
                    mean_over=mean_over,
                    metadata=told,
                    by=by,
                )
                written = write_scores(out, scores)
        if others is not None:
            yield others
            return
        if coarse := _coarse([one.coarsest_mm for one in done.values()], settings):
            yield Note(coarse, warning=True)
        yield Evaluation(scores, *written, pairing.pairs, known)


@dataclass(frozen=True, slots=True)
class _Work:
    """How cases are scored, and where."""

    kept: Kept[CaseScores]
    settings: Settings
    known: Structures | None
    prefer: Prefer
    where: Where
    mean_over: tuple[str, ...]


def _scored(pairs: Sequence[Pair], share: Share[CaseScores], how: _Work) -> Iterator[Event]:
    """Score what is to be done of this part; into `share` what came of it."""
    share.look()
    subjects = {one.name: one for one in share.mine}
    todo = [pair for pair in pairs if share.is_todo(pair.case)]
    workers, expect = _where_to_work(todo, how.prefer, how.where)
    in_place = isinstance(workers.executor, InPlace)
    if not in_place and how.where.here:
        warm_up(how.settings.surface)  # what is compiled here once need not be compiled by every worker
    if engine().name != "compiled":
        yield Note("numba cannot be imported here: scores are the same, and take about ten times as long", warning=True)
    for text in workers.told:
        yield Note(text)
    yield Stage("evaluate", len(subjects), expect)
    if share.before:
        yield from (Note(f"{case}: {note}") for case, one in share.done.items() for note in one.notes)
        yield Note(share.told)
        yield Advanced(share.before, "done before")
    threads = available_cores() if in_place else workers.threads or 1
    work = partial(
        score_kept, kept=how.kept, settings=how.settings, known=how.known, prefer=how.prefer, threads=threads
    )
    for count, result in enumerate(over_cases(work, todo, workers.executor, workers.in_flight), share.before + 1):
        case = result.case.case
        if isinstance(result, Failed):
            share.fail(subjects[case], result.reason)
            yield Note(f"{case} failed: {result.reason}", warning=True)
            yield Advanced(count, among(case, workers.status()))
            continue
        share.done[case] = result.record
        if result.record.failure:
            share.failed[case] = result.record.failure
            yield Note(f"{case} counts as missed: {result.record.failure}", warning=True)
        for note in result.record.notes:
            yield Note(f"{case}: {note}")
        yield Advanced(count, among(f"{case} {_told(result, how.mean_over)}", workers.status()))


def _coarse(coarsest_mm: Sequence[float], settings: Settings) -> str:
    """A warning where a tolerance is so small that how the voxels lie decides; else empty."""
    least = min(mm for each in (settings.tolerances_mm, *settings.tolerances_of.values()) for mm in each)
    n = sum(2 * least < mm for mm in coarsest_mm)
    if not n:
        return ""
    what = f"a tolerance of {least:g} mm is less than half of the distance between voxels in {n} case(s)"
    return f"{what} (up to {max(coarsest_mm):g} mm): NSD and boundary metrics there depend on how the voxels lie"


def _metadata(path: Path | None, by: Sequence[str]) -> Metadata | None:
    if path is None:
        if by:
            raise InputError(f"--by {by[0]} needs --metadata", fix="give the CSV file that has this column")
        return None
    told = read_metadata(path)
    told.check(by)
    return told


def _regions(predictions: Path, known: Structures | None) -> tuple[Structures | None, tuple[str, ...]]:
    """The structures with the regions that the predictions' network was trained on, and the names of these regions.

    `predictions.json` tells them; where it does not, a `dataset.json` whose regions have an order counts.
    """
    path = (predictions if predictions.is_dir() else predictions.parent) / "predictions.json"
    said = json_object(path)
    if known is None:
        return None, ()
    if "regions" in said:
        trained = read_structures(said, path).regions
        known = known if known.regions else replace(known, regions=trained)
        if not trained:
            return known, ()
    elif not known.region_order:
        return known, ()
    names = (known.labels.get(values[0], name) if len(values) == 1 else name for name, values in known.regions.items())
    return known, tuple(names)


def _where_to_work(pairs: Sequence[Pair], prefer: Prefer, where: Where) -> tuple[Workers, str]:
    """Choose where to work by the sizes in the headers; also say how long it will take."""
    voxels = [_voxels(pair, prefer) for pair in pairs]
    expected_s = SECONDS_PER_VOXEL * sum(voxels) + SECONDS_PER_CASE * len(pairs)
    if not pairs:
        return Workers(InPlace(), 1), "done before"
    workers = where.workers(len(pairs), expected_s, BYTES_PER_VOXEL * max(voxels))
    wall_s = max(expected_s / _abreast(workers.in_flight), 1.0)
    return workers, f"about {wall_s:.0f} s" if wall_s < 120 else f"about {wall_s / 60:.0f} min"


def _abreast(in_flight: int | Callable[[], int]) -> int:
    """Workers: those here are handed the next case before they have finished one, those elsewhere are not."""
    return max(1, in_flight() if callable(in_flight) else in_flight // 2)


def _voxels(pair: Pair, prefer: Prefer) -> int:
    """Of the larger side; 0 where no header tells."""
    sizes = [0]
    for path in (pair.reference, pair.prediction):
        try:
            grid = read_label_grid(path, prefer) if path is not None else None
            sizes.append(math.prod(grid.shape) if grid is not None else 0)
        except MedsegError:
            continue  # it will fail by name when its turn comes
    return max(sizes)


def _notes(pairing: Pairing, missing: list[str]) -> Iterator[Note]:
    if missing:
        yield Note(f"{len(missing)} reference(s) without a prediction count as missed: {_list(missing)}", warning=True)
    if pairing.unpaired_predictions:
        lone = pairing.unpaired_predictions
        yield Note(f"{len(lone)} prediction(s) without a reference are not scored: {_list(lone)}", warning=True)


def _list(cases: Iterable[str], most: int = 5) -> str:
    all_of_them = list(cases)
    return ", ".join(all_of_them[:most]) + (", ..." if len(all_of_them) > most else "")


def _told(result: Done[Pair, CaseScores], mean_over: Sequence[str]) -> str:
    rows = [row for row in result.record.rows if not mean_over or row.structure in mean_over]
    dices = [row.dice for row in rows if row.dice is not None]
    return f"Dice {sum(dices) / len(dices):.3f}" if dices else "empty"
