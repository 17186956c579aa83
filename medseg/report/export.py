"""What `medseg export` wrote, as a table."""

from __future__ import annotations

from medseg.inference.export.summary import ExportSummary
from medseg.report.table import Table, number


def export_table(summary: ExportSummary) -> Table:
    """A row for each thing written: its networks, size, and how far they are from torch."""
    rows = [
        (
            one.name,
            one.form,
            one.networks,
            number(one.bytes / 1e6, 1),
            f"{one.difference.largest:.2g}" if one.difference else "-",
            f"{one.difference.differing} of {one.difference.voxels}" if one.difference else "-",
        )
        for one in summary.written
    ]
    columns = ("written", "form", "networks", "MB", "from torch", "voxels decided otherwise")
    return Table("Export", columns, tuple(rows), (summary.notice,))
