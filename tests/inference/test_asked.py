"""What is asked is checked before any work begins, and shares of a folder are stable."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from medseg.errors import InputError
from medseg.imaging.scans import Scan
from medseg.imaging.source import ReadOptions, Source
from medseg.imaging.writing.codes import Code
from medseg.inference.asked import Asked, checked, quality_from
from medseg.planning.plan import Region
from tests.tiny import configuration, plan_of

PLAN = plan_of(configuration())


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
