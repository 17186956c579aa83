"""What is asked is checked before any work begins, and shares of a folder are stable."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.errors import InputError
from medseg.imaging.scans import Scan
from medseg.imaging.source import ReadOptions, Source
from medseg.imaging.writing.codes import Code
from medseg.inference.asked import Asked, Part, checked, part_from, quality_from
from medseg.planning.plan import Region
from tests.tiny import configuration, plan_of

PLAN = plan_of(configuration())


@given(st.sets(st.text(max_size=20), max_size=30), st.integers(1, 6), st.text(max_size=20))
def test_every_scan_is_in_exactly_one_part_whatever_others_there_are(names: set[str], of: int, more: str) -> None:
    parts = [Part(number, of) for number in range(of)]
    shares = [{name for name in names if part.holds(name)} for part in parts]
    assert sum(map(len, shares)) == len(names)
    assert set().union(*shares) == names
    with_one_more = [{name for name in names | {more} if part.holds(name)} for part in parts]
    assert all(before <= after for before, after in zip(shares, with_one_more, strict=True))


def test_parts_are_about_equal() -> None:
    for of in (2, 3, 8):
        shares = [sum(Part(number, of).holds(f"case{k:04d}") for k in range(4000)) for number in range(of)]
        assert max(shares) < 1.15 * 4000 / of


@pytest.mark.parametrize(("text", "part"), [("0/2", Part(0, 2)), (" 1 / 2 ", Part(1, 2)), ("0/1", Part())])
def test_a_part_is_read(text: str, part: Part) -> None:
    assert part_from(text) == part


@pytest.mark.parametrize("text", ["", "2/2", "3/2", "0/0", "-1/2", "1", "a/b", "1/2/3", "0.5/2"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is no part"):
        part_from(text)


def test_names_are_checked() -> None:
    assert quality_from("fast") == "fast"
    with pytest.raises(InputError, match="--quality best is no choice; give fast, standard, max"):
        quality_from("best")
    asked = checked(Asked(structures=("BLOB1",), formats=("nifti", "nifti")), PLAN)
    assert (asked.structures, asked.formats) == (("blob1",), ("nifti",))
    with pytest.raises(InputError, match="--structures: the model finds no structure 'spleen'"):
        checked(Asked(structures=("spleen",)), PLAN)
    with pytest.raises(InputError, match="--instances"):
        checked(Asked(instances=("spleen",)), PLAN)
    regions = (Region(name="whole", values=(1, 2), value=1),)
    assert checked(Asked(instances=("whole",)), PLAN.model_copy(update={"regions": regions})).instances == ("whole",)


def test_whatever_changes_results_is_another_question() -> None:
    """A field that is added to `Asked` and forgotten in `told_of` would let old results stand."""
    scan = Scan("a", (Source("nifti", (Path("a.nii"),)),), "")
    others = {
        "formats": ("nrrd",),
        "codes": {"blob1": Code(("1", "SCT", "a"), ("2", "SCT", "b"))},
        "options": ReadOptions(allow_gaps=True),
        "quality": "fast",
        "structures": ("blob1",),
        "split": True,
        "min_volume": ("1",),
        "largest": ("all",),
        "fill": ("all",),
        "instances": ("blob1",),
        "probabilities": True,
        "uncertainty": True,
    }
    alike = {"series", "overwrite", "part"}  # they choose scans: what a scan is, its bytes tell
    assert {field.name for field in fields(Asked)} == {*others, *alike}
    told = [Asked(**{name: value}).told_of(scan) for name, value in others.items()]  # type: ignore[arg-type]
    assert len({Asked().told_of(scan), *told}) == 1 + len(others)
