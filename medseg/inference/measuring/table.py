"""`statistics.csv`: a row for each case, structure and instance, one number a column."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from medseg.files import written_whole
from medseg.inference.measuring.record import StructureStatistics
from medseg.inference.trust.records import StructureTrust

_SPREAD = {  # fields of three numbers, and the columns that hold them
    "first_voxel": ("first_voxel_x", "first_voxel_y", "first_voxel_z"),
    "last_voxel": ("last_voxel_x", "last_voxel_y", "last_voxel_z"),
    "size_mm": ("size_x_mm", "size_y_mm", "size_z_mm"),
    "centroid_mm": ("centroid_r_mm", "centroid_a_mm", "centroid_s_mm"),
}
_TRUST = (  # of a structure as a whole
    "volume_low_ml",
    "volume_high_ml",
    "predicted_dice",
    "dice_low",
    "dice_high",
    "coverage",
    "confidence",
    "agreement",
    "concern",
)
COLUMNS = (
    "case",
    *(column for field in StructureStatistics.model_fields for column in _SPREAD.get(field, (field,))),
    *_TRUST,
)

Cases = Iterable[tuple[str, Sequence[StructureStatistics], Sequence[StructureTrust]]]


def as_csv(cases: Cases) -> str:
    """Cases with their statistics as RFC 4180 has it: lines end in CR LF, and a field is empty where there is nothing.

    Of several faces at which a structure is cut, spaces stand between.
    """
    text = io.StringIO()
    table = csv.writer(text)  # its own line ends are those of RFC 4180
    table.writerow(COLUMNS)
    for case, rows, trust in cases:
        trusted = {one.structure: one for one in trust}
        for row in rows:
            measured = (cell for field in StructureStatistics.model_fields for cell in _cells(row, field))
            of_it = trusted.get(row.structure) if row.instance is None else None
            table.writerow([case, *measured, *(getattr(of_it, field, None) for field in _TRUST)])
    return text.getvalue()


def write_statistics(path: Path, cases: Cases) -> None:
    """Write the table, whole or not at all.

    Raises:
        ResourceError: the folder cannot be written to.
    """
    with written_whole(path) as beside:
        beside.write_bytes(as_csv(cases).encode())


def _cells(row: StructureStatistics, field: str) -> Sequence[object]:
    value = getattr(row, field)
    if field in _SPREAD:
        return [""] * 3 if value is None else value
    return [" ".join(value) if field == "cut_at" else value]
