"""What was found at a path, as a table: a row a case or scan."""

from __future__ import annotations

from medseg.imaging.inspect import Inspection, Look
from medseg.report.table import Table


def inspection_table(found: Inspection) -> Table:
    """Geometry, labels and problems of each case."""
    labelled = bool(found.layout)
    columns = (
        "case" if labelled else "scan",
        "what",
        "shape",
        "spacing mm",
        "axes",
        *(("labels",) if labelled else ()),
        "problems",
    )
    remarks = [f"not used: {left.where}: {left.reason}" for left in found.left]
    wrong = sum(bool(look.problems) for look in found.cases)
    remarks.append(f"{len(found.cases)} {'cases' if labelled else 'scans'}, {wrong} with problems")
    title = f"{found.name}: {found.layout} data set, channels {', '.join(found.channels)}" if labelled else found.name
    return Table(title, columns, tuple(_row(look, labelled) for look in found.cases), tuple(remarks))


def _row(look: Look, labelled: bool) -> tuple[str, ...]:
    shape, spacing = " x ".join(map(str, look.shape)), " x ".join(f"{s:.3g}" for s in look.spacing_mm)
    labels = (", ".join(look.labels),) if labelled else ()
    return look.name, look.source, shape, spacing, look.orientation, *labels, "; ".join(look.problems)
