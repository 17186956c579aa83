"""The parts of a page of predictions that tell of all cases: summary, failures, plots, what the numbers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from medseg.inference.records import Predictions
from medseg.planning.explain import counted
from medseg.report.cells import shown
from medseg.report.inference_cases import Seen
from medseg.report.page import Section, html
from medseg.report.plots import Dot, Figure, strips
from medseg.report.unusual import FAR, FEWEST

MOST_NAMED: Final = 200  # cases in a list of what to look at
Named = tuple[str, str]  # a case and its address on the page, empty where it has none

_SAID: Final = (
    ("unlike", "{} unlike the scans that the model was trained on: its confidence tells little there."),
    ("doubtful", "In {} a structure is likely to be wrong."),
    ("unusual", "In {} a volume lies far from those of the other cases."),
    ("cut", "In {} the field of view cuts a structure: its volume is that of a part."),
    ("warned", "{} something was mended on reading, or computed otherwise than planned."),
)
NUMBERS: Final = (
    (
        "Dice to expect",
        "The overlap with a reference that is to be expected (0 to 1), as learned from held-out cases of the training. "
        "None is told of a scan that is unlike the training scans. The interval holds in the stated share of cases "
        "that are like the held-out ones.",
    ),
    ("Confidence", "Mean calibrated probability of the voxels of the structure, 0 to 1."),
    ("Agreement", "Mean Dice of the models of all folds, and of mirrored looks, among themselves."),
    (
        "z",
        f"How far a volume lies from the median of this folder, in robust standard deviations (median absolute "
        f"deviation times 1.4826). Beyond {FAR:g} it is marked. It is told where {FEWEST} cases or more hold the "
        "structure. It compares these cases with each other, not with what is normal.",
    ),
    (
        "Order",
        "Scans unlike the training scans come first, then cases whose worst structure is likeliest to be wrong, with "
        "unusual volumes, cut structures and warnings added.",
    ),
    ("Rating", "Your own, kept in this page alone. Download them as a table before the page is closed."),
)


def summary_section(cases: Sequence[Seen], predictions: Predictions, structures: Sequence[str], panels: int) -> Section:
    """How many cases, how many failed, and which to look at."""
    look = sum(bool(one.states) for one in cases)
    failed = len(predictions.failed)
    figures = [
        ("Cases", str(len(cases)), f"{failed} failed" if failed else "none failed"),
        ("To look at", str(look), f"of {len(cases)}" if cases else ""),
        ("Structures", str(len(structures)), ""),
        ("Dice to expect", *_expected(cases)),
    ]
    return Section(
        "summary",
        "Summary",
        html("inference_summary.html", figures=figures, warnings=_warnings(cases, panels), remarks=_remarks(cases)),
    )


def _expected(cases: Sequence[Seen]) -> tuple[str, str]:
    """The median over the cases of their weakest structure, and the lowest of all."""
    lowest = []
    for one in cases:
        known = [t.predicted_dice for t in one.of.trust if t.predicted_dice is not None]
        lowest += [min(known)] if known else []
    if not lowest:
        return "-", "not known"
    return shown(float(np.median(lowest)), 2), f"median of the weakest structures; lowest {shown(min(lowest), 2)}"


def _warnings(cases: Sequence[Seen], panels: int) -> list[tuple[str, list[Named]]]:
    found: list[tuple[str, list[Named]]] = []
    for state, words in _SAID:
        held = [one for one in cases if state in one.states]
        if not held:
            continue
        many = counted(len(held), "case")
        many = f"{many} {'is' if len(held) == 1 else 'are'}" if state == "unlike" else many
        many = f"Of {many}" if state == "warned" else many
        named = [(one.of.case, one.anchor if one.number < panels else "") for one in held[:MOST_NAMED]]
        found.append((words.format(many), [*named, *([("...", "")] if len(held) > MOST_NAMED else [])]))
    return found


def _remarks(cases: Sequence[Seen]) -> list[str]:
    remarks = []
    if cases and not any(t.predicted_dice is not None for one in cases for t in one.of.trust):
        remarks.append("No Dice can be told: the model has no held-out cases, or no scan is like its training scans.")
    if cases and not any(one.z for one in cases):
        remarks.append(f"Volumes are compared with each other in folders of {FEWEST} cases or more.")
    if not any(one.states for one in cases) and cases:
        remarks.append("Nothing asks to be looked at. That is no proof: look at some cases all the same.")
    return remarks


def failed_section(predictions: Predictions) -> tuple[Section, ...]:
    """The cases that failed, with their reasons; none where none did."""
    if not predictions.failed:
        return ()
    lead = "They were set aside, and have no labels, or older ones. The same command tries them again."
    return (Section("failed", "Failed", html("inference_failed.html", failed=predictions.failed), lead),)


def plots_section(cases: Sequence[Seen], structures: Sequence[str], panels: int) -> tuple[Section, ...]:
    """How Dice and volumes are spread over the cases; nothing where there is nothing to show."""
    dice: dict[str, list[Dot]] = {name: [] for name in structures}
    z: dict[str, list[Dot]] = {name: [] for name in structures}
    for one in cases:
        anchor = one.anchor if one.number < panels else "cases"
        for t in one.of.trust:
            if t.predicted_dice is not None and t.structure in dice:
                dice[t.structure].append(Dot(t.predicted_dice, one.of.case, anchor))
        for name, value in one.z.items():
            z[name].append(Dot(value, one.of.case, anchor))
    figures: list[Figure] = []
    if any(map(len, dice.values())) and len(cases) > 1:
        says = "Overlap that is to be expected of each case; 1 is best."
        figures.append(strips("Dice to expect", says, _held(dice), "", (0.0, 1.0)))
    if any(map(len, z.values())):
        says = f"z: distance from the median of this folder in robust standard deviations; beyond {FAR:g} is unusual."
        figures.append(strips("Volumes", says, _held(z)))
    if not figures:
        return ()
    lead = "Each point is a case; choose it to see its pictures. Within a plot the arrow keys go from point to point."
    return (Section("plots", "Plots", html("figures.html", figures=figures), lead),)


def _held(groups: Mapping[str, list[Dot]]) -> dict[str, list[Dot]]:
    return {name: dots for name, dots in groups.items() if dots}


def methods_section(predictions: Predictions) -> Section:
    """How the labels were made, and what the numbers are."""
    made = [("Model", f"{' + '.join(predictions.configurations)}, {counted(len(predictions.folds), 'fold')}")]
    made.append(("Post-processing", "; ".join(predictions.postprocessing) or "none"))
    minutes = sum(effort.minutes for effort in predictions.machine.values())
    if minutes:
        where = "on a GPU" if predictions.device == "cuda" else "on the processor"
        made.append(("Time", f"{minutes:.1f} min in the last run, {where}"))
    return Section("numbers", "What the numbers are", html("terms.html", terms=(*made, *NUMBERS)))
