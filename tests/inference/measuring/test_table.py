from __future__ import annotations

import csv
from pathlib import Path

from medseg.inference.measuring.record import StructureStatistics
from medseg.inference.measuring.table import COLUMNS, as_csv, write_statistics
from medseg.inference.trust.records import StructureTrust

EMPTY = StructureStatistics(structure="spleen", voxels=0, volume_ml=0.0)
FULL = StructureStatistics(
    structure='liver, "left"',
    instance=2,
    voxels=3,
    volume_ml=0.1,
    unit="HU",
    mean=-12.5,
    first_voxel=(1, 2, 3),
    last_voxel=(4, 5, 6),
    size_mm=(4.0, 4.0, 2.5),
    centroid_mm=(-1.0, 2.0, 3.25),
    cut_at=("inferior", "superior"),
)
SPLEEN = StructureTrust(
    structure="spleen",
    confidence=None,
    entropy=None,
    agreement=None,
    predicted_dice=0.9,
    dice_low=None,
    dice_high=None,
    volume_ml=0.0,
    volume_low_ml=None,
    volume_high_ml=None,
    coverage=None,
    concern=0.1,
    words="",
)


def test_there_is_a_row_a_structure_and_a_column_a_number() -> None:
    text = as_csv([("a", (EMPTY, FULL), (SPLEEN,)), ("b", (), ())])
    lines = text.split("\r\n")
    assert (len(lines), lines[-1], "\n" in text.replace("\r\n", "")) == (4, "", False)
    empty, full = csv.DictReader(lines[:3])
    assert (tuple(empty), empty["case"], empty["structure"]) == (COLUMNS, "a", "spleen")
    known = {"case", "structure", "voxels", "volume_ml", "predicted_dice", "concern"}
    assert {name for name, value in empty.items() if value} == known
    assert (empty["predicted_dice"], full["predicted_dice"]) == ("0.9", "")
    assert full["structure"] == 'liver, "left"'
    assert (full["instance"], full["volume_ml"], full["mean"], full["median"]) == ("2", "0.1", "-12.5", "")
    assert [full[f"last_voxel_{axis}"] for axis in "xyz"] == ["4", "5", "6"]
    assert [full[f"centroid_{axis}_mm"] for axis in "ras"] == ["-1.0", "2.0", "3.25"]
    assert full["cut_at"] == "inferior superior"


def test_columns_are_as_programs_know_them() -> None:
    assert ",".join(COLUMNS) == (
        "case,structure,instance,voxels,volume_ml,unit,mean,sd,p5,p25,median,p75,p95,"
        "first_voxel_x,first_voxel_y,first_voxel_z,last_voxel_x,last_voxel_y,last_voxel_z,"
        "size_x_mm,size_y_mm,size_z_mm,centroid_r_mm,centroid_a_mm,centroid_s_mm,"
        "longest_axial_diameter_mm,surface_mm2,cut_at,"
        "volume_low_ml,volume_high_ml,predicted_dice,dice_low,dice_high,coverage,confidence,agreement,concern"
    )


def test_it_is_written_whole_and_byte_for_byte(tmp_path: Path) -> None:
    write_statistics(tmp_path / "statistics.csv", [("a", (FULL,), ())])
    assert (tmp_path / "statistics.csv").read_bytes().decode() == as_csv([("a", (FULL,), ())])
    assert [path.name for path in tmp_path.iterdir()] == ["statistics.csv"]
