"""A plan on one page that a radiologist can follow: the data, what was chosen and why, what it takes, what else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from medseg.files import RESEARCH_USE
from medseg.planning.compare import Difference
from medseg.planning.explain import by, channel, counted, duration, mm, size
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.plan import Cost, Name, Plan, Reason, Splits
from medseg.planning.volumes import Volumes, volumes
from medseg.report.table import Table

SHOWN = "dimensions", "slices", "spacing", "intensities", "crop", "patch", "network", "batch", "optimiser", "mirroring"
BRIEFLY: dict[Name, str] = {"2d": "2D", "3d": "3D", "3d_lowres": "3D low-res", "3d_cascade": "3D cascade"}
ALL = 0.95  # a crop that keeps more of a scan is not worth a line
MOST_STRUCTURES = 6
MOST_CHANNELS = 3
LONGEST = 60  # of a value in a comparison


def plan_tables(plan: Plan, fingerprint: Fingerprint, splits: Splits) -> tuple[Table, ...]:
    """Data and choices; configurations with what they take; what was not chosen, if anything."""
    reasons = [*plan.reasons, *plan.configuration.reasons]
    rows = [*_data(plan, fingerprint, splits), *_choices(plan, reasons)]
    choices = Table(f"Plan for {plan.dataset}: {_expected(plan)}", ("", "what", "why"), tuple(rows))
    remarks = (f"All {len(reasons)} reasons and the numbers behind them are in plan.json. {RESEARCH_USE}",)
    if not plan.alternatives:
        return choices, replace(_sizes(plan), remarks=remarks)
    others = tuple((a.what, a.cost, a.why_not) for a in plan.alternatives)
    return choices, _sizes(plan), Table("Not chosen", ("", "what it takes", "why not"), others, remarks)


def _expected(plan: Plan) -> str:
    cost = plan.configuration.cost
    where = "GPU" if plan.request.device == "cuda" else "CPU"
    time = (
        f"{duration(3600 * cost.hours)} on a {where}" if cost.hours is not None else f"{cost.steps} steps on a {where}"
    )
    if plan.configuration.previous is not None:
        time += " a fold, after as much for each fold at low resolution"
    memory = f"{size(cost.training_gb)} of {'GPU memory' if where == 'GPU' else 'RAM'}"
    return f"{time}, {memory}, {size(cost.cache_gb)} on disk"


def _data(plan: Plan, fingerprint: Fingerprint, splits: Splits) -> Iterator[tuple[str, str, str]]:
    cases = fingerprint.cases
    patients = len({c.patient or c.case for c in cases})
    whose = f" of {counted(patients, 'patient')}" if patients < len(cases) else ""
    shapes, spacings = np.array([c.shape for c in cases]), np.array([c.spacing_mm for c in cases])
    median = f"{by([round(n) for n in np.median(shapes, axis=0)])} voxels of {mm(np.median(spacings, axis=0))}"
    if np.ptp(shapes, axis=0).any():
        median += f"; {by(shapes.min(axis=0))} to {by(shapes.max(axis=0))}"
    if mm(spacings.min(axis=0)) != mm(spacings.max(axis=0)):
        median += f"; {mm(spacings.min(axis=0))} to {mm(spacings.max(axis=0))}"
    yield "scans", f"{counted(len(cases), 'case')}{whose}, {', '.join(map(channel, plan.channels))}", f"median {median}"
    found = volumes(fingerprint, plan.structures)
    shown = found if len(found) <= MOST_STRUCTURES else found[: MOST_STRUCTURES - 1]
    told = "; ".join(_volume(v, len(cases)) for v in shown)
    told += f"; and {len(found) - len(shown)} more" if len(shown) < len(found) else ""
    yield "structures", f"{len(found)}", told
    parts = [len(fold.validation) for fold in splits.folds]
    how = "as the user gave them" if splits.given else "by patient, every structure spread evenly"
    if parts:
        many = ("" if min(parts) == max(parts) else f"{min(parts)} to ") + counted(max(parts), "case")
        yield "folds", f"{len(parts)}, {many} validated in each", how
    else:
        yield "folds", "none", "there is one patient only: train with --fold all"


def _volume(of: Volumes, cases: int) -> str:
    if not of.cases:
        return f"{of.name}: in no case"
    some = "" if of.cases == cases else f" in {counted(of.cases, 'case')}"
    return f"{of.name}: {of.median_ml:.3g} ml ({of.least_ml:.3g} to {of.most_ml:.3g}){some}"


def _choices(plan: Plan, reasons: Sequence[Reason]) -> Iterator[tuple[str, str, str]]:
    """The reasons that matter to a reader, in the order of the work."""
    parts = ("data",) if plan.regions or plan.ignore is not None else ()
    asked = ("loss",) if (plan.request.loss, plan.request.class_weights) != ("dice_ce", "even") else ()
    for topic in (*parts, *SHOWN, *asked, "budget"):
        found = [reason for reason in reasons if reason.topic.split(" of ")[0] == topic]
        if (topic == "slices" and plan.configuration.slice_axis is None) or (topic == "crop" and _keeps_all(found)):
            continue
        for reason in found[:MOST_CHANNELS]:
            yield reason.topic, reason.choice, reason.why
        if len(found) > MOST_CHANNELS:
            yield topic, f"{len(found) - MOST_CHANNELS} more channels", "see plan.json"


def _keeps_all(found: Sequence[Reason]) -> bool:
    return all(reason.numbers.get("share of the median scan", 0) > ALL for reason in found)


def _sizes(plan: Plan) -> Table:
    """A column for each configuration: so they fit a narrow terminal too."""
    names = (BRIEFLY[name] + (" (chosen)" if name == plan.chosen else "") for name in plan.configurations)
    rows: dict[str, list[str]] = {}
    for c in plan.configurations.values():
        spacing, about = [s for s in c.preprocessing.spacing_mm if s is not None], "" if c.cost.measured else "~"
        told = {
            "voxels": mm(spacing) + ("" if len(spacing) == 3 else ", slices"),
            "median scan": by(c.median_shape),
            "patch": by(c.patch),
            "batch": str(c.schedule.batch),
            "steps": _steps(c.cost, about),
            "memory to train": about + size(c.cost.training_gb),
            "to prepare a case": f"~{size(c.cost.preparing_gb)}",
            "to predict a scan": "?" if c.cost.inference_s is None else f"~{duration(c.cost.inference_s)}",
            "disk": f"~{size(c.cost.cache_gb)}",
        }
        for topic, text in told.items():
            rows.setdefault(topic, [topic]).append(text)
    return Table("Configurations, and what they take", ("", *names), tuple(map(tuple, rows.values())))


def _steps(cost: Cost, about: str) -> str:
    if cost.step_s is None:
        return "not measured" if cost.steps is None else str(cost.steps)
    return f"{cost.steps} of {about}{duration(cost.step_s)}"


def differences_table(differences: Sequence[Difference]) -> Table:
    """Two plans, field by field, where they differ; a reason is given once for the fields that it decides together."""
    rows: list[tuple[str, ...]] = []
    before = ""
    for d in differences:
        where = f"{d.field} ({', '.join(BRIEFLY[n] for n in d.configurations)})" if d.configurations else d.field
        why = d.ours.why if d.ours.why == d.other.why else f"here: {d.ours.why}; there: {d.other.why}"
        rows.append((where, _short(d.ours.value), _short(d.other.value), "as above" if why == before else why))
        before = why
    title = f"{len(rows)} differences from the other plan" if rows else "No difference from the other plan"
    return Table(title, ("field", "here", "there", "why"), tuple(rows))


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
