"""The paragraph for a paper says what was done, and nothing that was not."""

from __future__ import annotations

from medseg.evaluation.cohort import summarise
from medseg.evaluation.methods import MAIN
from medseg.evaluation.settings import Settings
from medseg.report.evaluation import scores_table
from tests.evaluation.test_cohort import DIAGONALS, ROWS, row


def text(rows=ROWS, settings=None, **more):
    return summarise(rows, DIAGONALS, settings or Settings(), **more).methods


def test_the_paragraph():
    said = text()
    for part in (
        "compared with the reference segmentations of 5 cases",
        "for 2 structures (liver, spleen)",
        "Dice, 2 |R ∩ P| / (|R| + |P|), of voxels",
        "HD95, 95th percentile of the distances of each direction, the larger of the two",
        "Surfaces are the surface elements of DeepMind's surface-distance",
        "The tolerance of NSD and BF1 is 1 mm.",
        "(missed, 1 time)",
        "A structure in neither (1 time) is left out.",
        "10 000 bootstrap samples of cases drawn",
        "medseg 0.",
        "numpy 2.",
        "(version 1 of each metric)",
        "Nikolov 2018: ",
        "Csurka 2013: ",
        "Efron 1993: ",
    ):
        assert part in said, part
    assert "Cheng 2021" not in said  # Boundary IoU is not in the main table
    assert "\n" not in said.split("\n\nReferences\n")[0]


def test_settings_are_told():
    settings = Settings(
        surface="voxel",
        tolerances_mm=(2.0, 3.0),
        tolerances_of={"tumour": (0.5,)},
        both_empty="perfect",
        fov_faces="exclude",
    )
    said = text(settings=settings)
    assert "the centres of voxels with a face to the outside" in said
    assert "is 2 mm (but tumour 0.5 mm)" in said
    assert "counts as perfect" in said
    assert "on the border of the image is left out" in said


def test_patients_regions_failures_and_one_structure():
    said = text(patients={"a": 1, "b": 1}, mean_over=["liver"], failed={"x": "is cut"}, missing_predictions=["c", "d"])
    assert "5 cases of 4 patients" in said
    assert "patients, each with all of its cases, drawn" in said
    assert "over the regions liver, of their means" in said
    assert "Not everything of 1 case could be read." in said
    assert "For 2 references there was no prediction" in said
    alone = text([row("a")])
    assert "of 1 case, for 1 structure (liver)." in alone
    assert "overall" not in alone
    assert "of 0 cases" in text([])


def test_the_main_table_is_what_is_defined():
    table = scores_table(summarise(ROWS, DIAGONALS))
    assert len(table.columns) == 4 + len(MAIN)
