"""What was found at a path, as a table: a row a case or scan."""

from __future__ import annotations

from medseg.imaging.inspect import Inspection, Look
from medseg.report.table import Table


def inspection_table(found: Inspection) -> Table:
    """Geometry, labels, verdicts and problems of each case or volume."""
    labelled, judged = bool(found.labels), any(look.verdict for look in found.cases)
    columns = (
        "case" if found.layout else "scan",
        "what",
        *(("verdict",) if judged else ()),
        "shape",
        "spacing mm",
        "axes",
        *(("labels",) if labelled else ()),
        "look at",
    )
    remarks = [f"region {name}: {', '.join(map(str, values))}" for name, values in found.regions.items()]
    remarks += [f"ignored label: {found.ignore}"] if found.ignore is not None else []
    remarks += [f"not used: {left.where}: {left.reason}" for left in found.left]
    wrong = sum(bool(look.problems) for look in found.cases)
    remarks.append(f"{len(found.cases)} {'cases' if found.layout else 'scans'}, {wrong} with problems")
    channels = ", ".join(found.channels)
    title = f"{found.name}: {found.layout} data set, channels {channels}" if found.layout else found.name
    rows = tuple(_row(look, labelled, judged) for look in found.cases)
    return Table(title, columns, rows, tuple(remarks))


def _row(look: Look, labelled: bool, judged: bool) -> tuple[str, ...]:
    shape, spacing = " x ".join(map(str, look.shape)), " x ".join(f"{s:.3g}" for s in look.spacing_mm)
    verdict = (look.verdict,) if judged else ()
    labels = (", ".join(look.labels),) if labelled else ()
    remarks = "; ".join((*look.problems, *look.notes))
    return look.name, look.source, *verdict, shape, spacing, look.orientation, *labels, remarks
