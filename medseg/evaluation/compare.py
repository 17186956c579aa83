"""The front door of comparisons: the scores of several methods in the same cases, to `comparison.json` and `.csv`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from medseg.errors import InputError
from medseg.evaluation.cohort import LIBRARIES, meant
from medseg.evaluation.common import Common, in_common
from medseg.evaluation.comparison import Comparison, Difference, write_comparison
from medseg.evaluation.conclusions import conclusions
from medseg.evaluation.methods import comparison_paragraph
from medseg.evaluation.paired import adjusted, differences
from medseg.evaluation.ranking import rankings
from medseg.evaluation.records import Scores
from medseg.events import Advanced, Event, Note, Stage
from medseg.files import output_folder, read_record

METRICS = ("dice", "nsd")  # one of overlap and one of boundaries, chosen before results are seen


def compare(
    paths: Sequence[Path], out: Path, metrics: Sequence[str] = METRICS, names: Sequence[str] = ()
) -> Iterator[Event | Comparison]:
    """Compare evaluations of the same cases, each a folder with `scores.json` or that file; last comes a `Comparison`.

    names: what the methods are called, in this order; else they have the names of their folders.

    Raises:
        InputError: there is nothing to compare, or the evaluations are not alike: see `common.in_common`.
        ResourceError: `out` cannot be written to.
    """
    called = _called(paths, names)
    scores = {name: read_scores(path) for name, path in zip(called, paths, strict=True)}
    common = in_common(scores, metrics)
    output_folder(out)
    for line in common.left:
        yield Note(line, warning=True)
    pairs = len(common.names) * (len(common.names) - 1) // 2
    total = len(common.metrics) * pairs * (len(common.structures) + int(common.counted.sum() > 1))
    yield Stage("compare", total, f"{len(common.cases)} cases, {len(common.structures)} structure(s)")
    found = []
    for done, difference in enumerate(differences(common), 1):
        found.append(difference)
        yield Advanced(done, f"{difference.metric} of {difference.structure or 'all'}")
    comparison = _compared(common, next(iter(scores.values())), found)
    write_comparison(out, comparison)
    yield comparison


def read_scores(path: Path) -> Scores:
    """Scores of a folder, or of the file itself.

    Raises:
        InputError: there is none, or it is damaged.
    """
    file = path / "scores.json" if path.is_dir() else path
    if not file.is_file():
        raise InputError("there are no scores", path, "name a folder that medseg evaluate wrote")
    return read_record(file, Scores)


def names_of(paths: Sequence[Path]) -> list[str]:
    """A name for each path, that of its folder; where folders are called alike, what their paths differ in."""
    folders = [(path if path.is_dir() else path.parent).resolve().parts for path in paths]
    if len(set(folders)) < len(folders):
        raise InputError("an evaluation is named twice", fix="name each once")
    deepest = max(map(len, folders))
    depth = next(n for n in range(1, deepest + 1) if len({parts[-n:] for parts in folders}) == len(folders))
    alike = {parts[-depth + 1 :] for parts in folders} if depth > 1 else set()
    if len(alike) == 1:
        return [parts[-depth] for parts in folders]
    return ["/".join(part for part in parts[-depth:] if part != os.sep) for parts in folders]


def _called(paths: Sequence[Path], names: Sequence[str]) -> list[str]:
    if len(paths) < 2:
        raise InputError("there is nothing to compare with", fix="name two evaluations or more")
    if not names:
        return names_of(paths)
    if len(names) != len(paths):
        raise InputError(f"{len(names)} name(s) for {len(paths)} evaluations", fix="give each one name")
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise InputError(f"two evaluations are called {twice[0]}", fix="give each its own name")
    return list(names)


def _compared(common: Common, first: Scores, found: Sequence[Difference]) -> Comparison:
    tested = adjusted(found)
    ranked = tuple(rankings(common))
    patients = len(set(common.whose.tolist()))
    comparison = Comparison(
        medseg=version("medseg"),
        software={name: version(name) for name in LIBRARIES},
        names=common.names,
        cases=len(common.cases),
        patients=patients,
        structures=common.structures,
        settings=first.settings,
        metrics={one.name: meant(one) for one in common.metrics},
        left=common.left,
        differences=tested,
        rankings=ranked,
        conclusions=tuple(conclusions(tested, ranked, patients)),
    )
    return comparison.model_copy(update={"methods": comparison_paragraph(comparison, first, common.metrics)})
