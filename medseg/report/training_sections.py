"""The parts of a training's page: what was planned and why, how it went, and how good the held-out cases are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from medseg.evaluation.records import Scores
from medseg.planning.explain import IN_WORDS, by, counted, duration, mm
from medseg.planning.plan import Budget
from medseg.report.cells import shown
from medseg.report.page import Section, html
from medseg.report.plots import Figure, curves
from medseg.report.trained import FoldSeen, RunSeen
from medseg.report.training import crossvalidation_table

UNEVEN: Final = 2.0  # times the steps of another fold
FEWER: Final = 0.5  # of the planned steps: below it is told
MOST_STRUCTURES: Final = 6  # that have a curve of their own
DICE: Final = "Dice"
Points = list[tuple[float, float]]
Line = dict[str, Any]  # of a journal
Value = Callable[[Line], float | None]


def summary_section(seen: RunSeen, warnings: Sequence[str]) -> Section:
    """How far the training is, what it took, how good it is, and what to know before believing it."""
    spent = sum(fold.card.seconds for fold in seen.finished if fold.card)
    steps = [fold.card.steps for fold in seen.finished if fold.card]
    figures = [
        ("Folds trained", str(len(seen.finished)), f"of {seen.of}"),
        ("Time", duration(spent) if spent else "-", f"of {_budget(seen.plan.budget)} that the plan has"),
        ("Steps", f"{sum(steps):,}".replace(",", "\u2009"), "of all folds" if len(steps) > 1 else ""),
        ("Dice", *_dice(seen)),
    ]
    listed = [(text, ()) for text in (*_to_know(seen), *dict.fromkeys(warnings))]
    return Section("summary", "Summary", html("inference_summary.html", figures=figures, warnings=listed, remarks=()))


def _budget(budget: Budget) -> str:
    if budget.steps is not None:
        return counted(budget.steps, "step")
    return duration(budget.seconds) if budget.seconds is not None else "what"


def _dice(seen: RunSeen) -> tuple[str, str]:
    scores = seen.crossvalidation or next((fold.scores for fold in seen.finished if fold.scores), None)
    found = scores.mean_over_structures.get("dice") if scores else None
    if found is None or found.mean is None:
        return "-", "no case was held out"
    what = "of all folds" if seen.crossvalidation else "of the held-out cases of one fold"
    return shown(found.mean), f"mean of structures, {what}"


def _to_know(seen: RunSeen) -> list[str]:
    """What was fallen back on, and what weakens the figures."""
    told = []
    begun = [fold.name for fold in seen.folds if fold.card is None]
    if begun:
        told.append(f"Not finished: fold {', '.join(begun)}. The same command goes on with it.")
    steps = {fold.name: fold.card.steps for fold in seen.finished if fold.card}
    if steps and max(steps.values()) > UNEVEN * min(steps.values()):
        each = ", ".join(f"fold {name} {n}" for name, n in steps.items())
        told.append(f"The folds were trained for very different numbers of steps ({each}).")
    planned = seen.plan.configuration.cost.steps
    if steps and planned and max(steps.values()) < FEWER * planned:
        told.append(
            f"The plan reckoned with about {counted(planned, 'step')} and {counted(max(steps.values()), 'step')} were "
            "done: this machine was slower than it was planned for, or the folds shared the budget."
        )
    known = {fold.name: fold.card.origin.known for fold in seen.finished if fold.card and fold.card.origin.known}
    told += [
        f"The model that fold {name} began with was trained on {counted(n, 'case')} of its held-out ones: its scores "
        "are too good."
        for name, n in known.items()
    ]
    return [*told, *_missed(seen)]


def _missed(seen: RunSeen) -> list[str]:
    found: dict[str, int] = {}
    for fold in seen.finished:
        for s in fold.scores.structures if fold.scores else ():
            found[s.structure] = found.get(s.structure, 0) + s.n_missed
    return [f"{name} was missed in {counted(n, 'held-out case')}." for name, n in found.items() if n]


def plan_section(seen: RunSeen) -> Section:
    """Every choice of the plan with its value and its reason."""
    plan, made = seen.plan, seen.plan.configuration
    terms = [
        ("Configuration", IN_WORDS[made.name]),
        ("Structures", ", ".join(region.name for region in plan.regions) or ", ".join(plan.names.values())),
        ("Cases", f"{plan.cases}, {', '.join(plan.channels)}"),
        ("Voxels", mm([s for s in made.preprocessing.spacing_mm if s is not None])),
        ("Patch and batch", f"{by(made.patch)} voxels, {made.schedule.batch} at a time"),
        ("Network", f"{made.network.kind}, {len(made.network.features)} levels of {_features(made.network.features)}"),
        ("Optimiser", f"{made.schedule.optimiser}, learning rate {made.schedule.learning_rate:g}"),
        ("Budget", _budget(plan.budget)),
    ]
    reasons = [(one.topic, one.choice, one.why) for one in (*plan.reasons, *made.reasons)]
    left = [(one.what, one.cost, one.why_not) for one in plan.alternatives]
    return Section("plan", "Plan", html("training_plan.html", terms=terms, reasons=reasons, left=left))


def _features(features: Sequence[int]) -> str:
    return f"{', '.join(map(str, features))} features"


def curves_section(seen: RunSeen) -> tuple[Section, ...]:
    """Loss, Dice and learning rate along steps and time; nothing where no journal stands."""
    if not any(fold.lines for fold in seen.folds):
        return ()
    last = max((line.get("elapsed_s") or 0.0 for fold in seen.folds for line in fold.lines), default=0.0)
    per, unit = (3600.0, "hours") if last > 7200 else (60.0, "minutes") if last > 120 else (1.0, "seconds")
    ways = (("step", 1.0, "steps"), ("elapsed_s", per, unit))
    figures = [_along(seen, way, title, says, of) for title, says, of in _CURVES for way in ways]
    looked = [fold for fold in seen.folds if any(line.get("dice") for line in fold.lines)]
    each = [_dice_along(fold) for fold in looked]
    lead = "Along the steps, and along the time. The last Dice of a fold is of all its held-out cases."
    notes = [(fold.name, line["note"]) for fold in seen.folds for line in fold.lines if line.get("note")]
    return (
        Section(
            "curves",
            "Curves",
            html("training_curves.html", figures=[f for f in figures if f.rows], each=each, notes=notes),
            lead,
        ),
    )


def _along(seen: RunSeen, way: tuple[str, float, str], title: str, says: str, of: Value) -> Figure:
    """A line for each fold."""
    key, scale, unit = way
    series = {f"fold {fold.name}": _points(fold.lines, key, scale, of) for fold in seen.folds}
    return curves(title, says, {name: points for name, points in series.items() if points}, unit, "", _within(title))


def _within(title: str) -> tuple[float, float] | None:
    return (0.0, 1.0) if title == DICE else None


def _dice_along(fold: FoldSeen) -> Figure:
    """A line for each structure, or for the lowest, the mean and the highest where there are many."""
    looks = [line for line in fold.lines if line.get("dice")]
    names = list(dict.fromkeys(name for line in looks for name in line["dice"]))
    of: dict[str, Value]
    if len(names) <= MOST_STRUCTURES:
        of = {name: partial(_dice_of, name) for name in names}
    else:
        of = {
            "highest": lambda line: max(line["dice"].values()),
            f"mean of {len(names)} structures": _mean_dice,
            "lowest": lambda line: min(line["dice"].values()),
        }
    series = {name: _points(looks, "step", 1.0, value) for name, value in of.items()}
    return curves(f"{DICE}, fold {fold.name}", "Of each structure; 1 is best.", series, "steps", "", (0.0, 1.0))


def _dice_of(name: str, line: Line) -> float | None:
    value: float | None = line["dice"].get(name)
    return value


def _mean_dice(line: Line) -> float | None:
    dice = line.get("dice")
    return sum(dice.values()) / len(dice) if dice else None


_CURVES: Final[tuple[tuple[str, str, Value], ...]] = (
    ("Loss", "What training makes small.", lambda line: line.get("loss")),
    (DICE, "Overlap on held-out cases, the mean of structures; 1 is best.", _mean_dice),
    ("Learning rate", "How far a step goes.", lambda line: line.get("rate")),
)


def _points(lines: Sequence[Line], key: str, scale: float, value: Value) -> Points:
    found = ((line.get(key), value(line)) for line in lines)
    return [(float(x) / scale, float(y)) for x, y in found if x is not None and y is not None]


def scores_section(seen: RunSeen) -> tuple[Section, ...]:
    """The held-out cases of each fold and of all together, with the intervals of their means."""
    parts = [(f"fold {fold.name}", fold.scores) for fold in seen.finished if fold.scores]
    if not parts:
        return ()
    groups: list[tuple[str, tuple[tuple[str, ...], ...]]] = []
    columns: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    whole: list[tuple[str, Scores]] = [("all folds", seen.crossvalidation)] if seen.crossvalidation else []
    for name, scores in (*whole, *parts):
        table = crossvalidation_table(scores)
        columns, remarks = ("", *table.columns), table.remarks[:-1]
        groups.append((name, table.rows))
    body = html("training_scores.html", columns=columns, groups=groups, remarks=remarks, trust=_trust(seen))
    lead = "Every case is scored by a fold that was not trained on it."
    return (Section("scores", "Held-out cases", body, lead),)


def _trust(seen: RunSeen) -> list[tuple[str, str]]:
    """What the held-out cases taught of how far predictions of new scans are to be trusted."""
    trust = seen.trust
    if trust is None:
        return []
    told = [("Learned from", counted(trust.cases, "held-out case"))]
    if trust.dice_error is not None:
        told.append(("Dice of a new scan", f"is predicted to within {trust.dice_error:.3f} on average"))
    if trust.ece_before is not None and trust.ece_after is not None:
        what = f"{trust.ece_before:.3f} before and {trust.ece_after:.3f} after calibration"
        told.append(("Calibration error", f"{what}; temperature {trust.temperature:.2f}"))
    return told
