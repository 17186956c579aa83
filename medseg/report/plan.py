"""The plan as tables that a radiologist can follow: what was chosen, and why."""

from __future__ import annotations

from medseg.files import RESEARCH_USE
from medseg.planning.plan import Plan
from medseg.report.table import Table


def plan_tables(plan: Plan) -> tuple[Table, Table]:
    """The choices of the chosen configuration with their reasons, and all configurations side by side."""
    chosen = plan.configuration
    reasons = (*plan.reasons, *chosen.reasons)
    choices = Table(
        title=f"Plan for {plan.dataset}: {plan.cases} cases, {', '.join(s.name for s in plan.structures)}",
        columns=("", "choice", "why"),
        rows=tuple((r.topic, r.choice, r.why) for r in reasons),
    )
    rows = []
    for name, c in plan.configurations.items():
        spacing = " x ".join("as stored" if s is None else f"{s:.3g}" for s in c.preprocessing.spacing_mm)
        rows.append(
            (
                name.upper() + (" (chosen)" if name == plan.chosen else ""),
                f"{spacing} mm",
                " x ".join(map(str, c.median_shape)),
                " x ".join(map(str, c.patch)),
                str(c.schedule.batch),
                ", ".join(map(str, c.network.features)),
            )
        )
    columns = ("configuration", "spacing R x A x S", "median scan", "patch", "batch", "features")
    return choices, Table("Configurations", columns, tuple(rows), (RESEARCH_USE,))
