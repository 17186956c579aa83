"""Comparisons from folders to records: what is compared with what, and what is refused."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest

from medseg.errors import InputError
from medseg.evaluation.cohort import summarise
from medseg.evaluation.common import in_common
from medseg.evaluation.compare import compare, names_of
from medseg.evaluation.comparison import Comparison
from medseg.evaluation.records import Scores
from medseg.evaluation.settings import Settings
from medseg.evaluation.writing import write_scores
from medseg.events import Note
from tests.evaluation.test_cohort import row

CASES = [f"c{k:02}" for k in range(12)]


def scored(better=0.0, cases=CASES, structures=("liver", "spleen"), settings=None, seed=0, **more):
    rng = np.random.default_rng(seed)
    rows = [
        row(case, name, dice=0.7 + better + 0.1 * rng.random(), distance=2 + rng.random())
        for case in cases
        for name in structures
    ]
    return summarise(rows, dict.fromkeys(cases, 100.0), settings or Settings(), **more)


def compared(tmp_path, *scores, **more):
    paths = []
    for name, one in zip("abcdef", scores, strict=False):
        write_scores(tmp_path / name, one)
        paths.append(tmp_path / name)
    *events, last = compare(paths, tmp_path / "out", **more)
    assert isinstance(last, Comparison)
    return last, [event.text for event in events if isinstance(event, Note)]


def test_two_methods(tmp_path):
    found, notes = compared(tmp_path, scored(0.1), scored(seed=1))
    assert notes == []
    assert (found.names, found.cases, found.patients) == (("a", "b"), 12, 12)
    assert [(one.metric, one.structure) for one in found.differences] == [
        (metric, structure) for metric in ("dice", "nsd") for structure in ("liver", "spleen", None)
    ]
    liver = found.differences[0]
    assert liver.difference == pytest.approx(liver.mean_first - liver.mean_second)
    assert 0 < liver.low < liver.difference < liver.high
    assert (liver.n, liver.wins + liver.ties + liver.losses) == (12, 12)
    assert liver.p < 0.01
    assert liver.p <= liver.p_holm < 0.05
    assert found.rankings[0].ranks[0].name == "a"
    assert any("a is better; 2 of 2 structures differ" in line for line in found.conclusions)
    assert "12 patients are few" in found.conclusions[-1]
    for part in ("2 methods (a, b)", "12 cases and 2 structures", "all 6 tests by Holm", "Wiesenfarth 2021: "):
        assert part in found.methods
    said = json.loads((tmp_path / "out" / "comparison.json").read_text("utf-8"), parse_constant=pytest.fail)
    assert Comparison.model_validate(said) == found
    with (tmp_path / "out" / "comparison.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [line["structure"] for line in rows] == ["liver", "spleen", "mean"] * 2
    assert float(rows[0]["difference"]) == liver.difference


def test_a_method_beside_itself(tmp_path):
    found, _ = compared(tmp_path, scored(), scored())
    for one in found.differences:
        assert (one.difference, one.low, one.high, one.p, one.p_holm) == (0, 0, 0, 1, 1)
        assert one.ties == 12
    assert {rank.first for ranking in found.rankings for rank in ranking.ranks} == {0.5}
    assert any("no difference is shown" in line for line in found.conclusions)
    assert any("there is no first" in line for line in found.conclusions)


def test_three_methods_in_all_pairs(tmp_path):
    found, _ = compared(tmp_path, scored(0.1), scored(seed=1), scored(0.05, seed=2), metrics=("dice", "hd95"))
    assert list(dict.fromkeys((one.first, one.second) for one in found.differences)) == [
        ("a", "b"),
        ("a", "c"),
        ("b", "c"),
    ]
    assert list(found.metrics) == ["dice", "hd95_mm"]
    assert len(found.rankings) == 3
    assert len(found.differences) == 2 * 3 * 3


def test_what_not_all_have_is_told(tmp_path):
    found, notes = compared(
        tmp_path,
        scored(structures=("liver", "spleen", "tumour")),
        scored(cases=CASES[2:], seed=1, failed={"broken": "is cut"}),
    )
    assert (found.cases, found.structures) == (10, ("liver", "spleen"))
    assert notes == [
        "3 case(s) are not in all and left out: broken, c00, c01",
        "1 structure(s) are not in all and left out: tumour",
    ]
    assert found.left == tuple(notes)


def test_few_cases_are_not_tested(tmp_path):
    found, _ = compared(tmp_path, scored(cases=CASES[:4]), scored(cases=CASES[:4], seed=1))
    assert {(one.low, one.p, one.p_holm) for one in found.differences} == {(None, None, None)}
    assert found.rankings[0].tau is None
    assert "4 patient(s) are too few to tell a from b" in found.conclusions[0]


def test_patients_are_the_unit(tmp_path):
    patients = {case: k // 2 for k, case in enumerate(CASES)}
    found, _ = compared(tmp_path, scored(0.1, patients=patients), scored(seed=1))
    assert found.patients == 6
    assert found.differences[0].n_patients == 6
    assert found.differences[0].p == pytest.approx(2 / 2**6)
    assert "12 cases of 6 patients" in found.methods
    with pytest.raises(InputError, match="a and b do not agree which cases are of one patient"):
        compared(tmp_path, scored(patients=patients), scored(patients=dict.fromkeys(CASES, 1)))


def test_spurious_structures_are_not_forgiven():
    """What one method rightly leaves empty is perfect, beside one that finds something there."""
    empty = summarise([row("a", status="both_empty", volume=0), row("b")], {"a": 50.0, "b": 50.0})
    spurious = summarise([row("a", status="spurious", volume=0), row("b")], {"a": 50.0, "b": 50.0})
    found = in_common({"good": empty, "bad": spurious}, ["dice", "hd95_mm"])
    assert found.values["dice"][:, 0, 0].tolist() == [1, 0]
    assert found.values["hd95_mm"][:, 0, 0].tolist() == [0, math.inf]
    assert found.finite("hd95_mm")[:, 0, 0].tolist() == [0, 50]
    nowhere = in_common({"one": empty, "other": empty}, ["dice"])
    assert np.isnan(nowhere.values["dice"][:, 0, 0]).all()
    lacks = summarise([row("a", "spleen"), row("b")], {"a": 50.0, "b": 50.0})
    without_a_row = in_common({"good": lacks, "bad": spurious}, ["dice"])
    assert without_a_row.values["dice"][:, 0, 0].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("other", "metrics", "said"),
    [
        ({"settings": Settings(surface="voxel")}, "nsd", "the surface is surfel in a and voxel in b"),
        ({"settings": Settings(tolerances_mm=(2.0,))}, "nsd", "the tolerance of liver is 1 mm in a and 2 mm in b"),
        (
            {"settings": Settings(tolerances_of={"spleen": (3.0,)})},
            "nsd",
            "the tolerance of spleen is 1 mm in a and 3 mm in b",
        ),
        ({"settings": Settings(fov_faces="exclude")}, "hd95", "border of the image is count in a and exclude in b"),
        ({"settings": Settings(both_empty="perfect")}, "dice", "structures in neither map is exclude in a and perfect"),
        ({"cases": ["x", "y"]}, "dice", "a and b have no case in common"),
        ({"structures": ["heart"]}, "dice", "a and b have no structure in common"),
        ({}, "centreline_dice", "centreline_dice was not measured in a, b"),
        ({}, "beauty", "there is no metric beauty; choose from dice, iou"),
        ({}, "volume_ref_ml", "neither more nor less is better"),
        ({}, "", "no metric to compare by"),
    ],
)
def test_what_cannot_be_compared(tmp_path, other, metrics, said):
    with pytest.raises(InputError, match=said):
        compared(tmp_path, scored(), scored(**other), metrics=[m for m in metrics.split(",") if m])
    assert not (tmp_path / "out").exists()


def test_settings_that_a_metric_does_not_depend_on(tmp_path):
    compared(tmp_path, scored(), scored(settings=Settings(surface="voxel", tolerances_mm=(4.0,))), metrics=["dice"])


def test_versions_of_metrics(tmp_path):
    old = scored()
    meant = old.metrics["nsd"].model_copy(update={"version": 7})
    new = old.model_copy(update={"metrics": {**old.metrics, "nsd": meant}})
    with pytest.raises(InputError, match="the version of nsd is 1 in a and 7 in b"):
        compared(tmp_path, old, new)
    compared(tmp_path, old, new, metrics=["dice"])


def test_scores_of_the_first_version(tmp_path):
    said = scored().model_dump(mode="json") | {"version": 1, "tolerance_mm": 2.0}
    for name in ("settings", "metrics", "medseg", "patients", "agreement", "strata", "methods", "software"):
        del said[name]
    old = Scores.model_validate(said)
    with pytest.raises(InputError, match="the tolerance of liver is 2 mm in a and 1 mm in b"):
        compared(tmp_path, old, scored())
    compared(tmp_path, old, scored(settings=Settings(tolerances_mm=(2.0,))))


def test_other_references(tmp_path):
    rows = [one.model_copy(update={"volume_ref_ml": 1.1}) if one.case == "c03" else one for one in scored().scores]
    with pytest.raises(InputError, match=r"c03: the references differ: liver has 1.000 ml in a and 1.100 ml in b"):
        compared(tmp_path, scored(), summarise(rows, dict.fromkeys(CASES, 100.0)))


def test_names(tmp_path):
    for name in ("unet/scores", "resenc/scores", "c/d", "e/d/scores"):
        write_scores(tmp_path / name, scored())
    folders = [tmp_path / name for name in ("unet/scores", "resenc/scores", "c/d", "e/d/scores")]
    assert names_of(folders[:2]) == ["unet", "resenc"]
    assert names_of([folders[0] / "scores.json", folders[2]]) == ["scores", "d"]
    assert names_of(folders[:3]) == ["unet/scores", "resenc/scores", "c/d"]
    assert names_of([folders[0], folders[3]]) == ["unet", "d"]
    for paths, names, said in (
        (folders[:1], (), "there is nothing to compare with"),
        ([folders[0], folders[0] / "scores.json"], (), "an evaluation is named twice"),
        (folders[:2], ("x",), r"1 name\(s\) for 2 evaluations"),
        (folders[:2], ("x", "x"), "two evaluations are called x"),
        ([folders[0], tmp_path / "none"], (), "there are no scores; name a folder"),
    ):
        with pytest.raises(InputError, match=said):
            list(compare(paths, tmp_path / "out", names=names))
    *_, found = compare(folders[:2], tmp_path / "out", names=("x", "y"))
    assert found.names == ("x", "y")
