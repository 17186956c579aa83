from __future__ import annotations

from pathlib import Path

import pytest

from medseg.cli.app import run_command
from medseg.errors import InputError
from medseg.files import read_record
from medseg.pipeline.recipe import PlanStep
from medseg.pipeline.steps import convert
from medseg.planning.plan import Plan
from tests.preprocessing.build import write_dataset


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("1=liver,2=liver", "calls two values liver; give each its own name"),
        ("1=left kidney,2=Left_Kidney", "calls two values Left_Kidney"),
        ("1=liver,1=kidney", "cannot be used"),
        ("0=liver", "cannot be used"),
    ],
)
def test_names_of_convert(tmp_path: Path, names: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        convert(tmp_path / "a.nii.gz", tmp_path / "a.seg.nrrd", names=names)


def test_structures_are_chosen_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_dataset(tmp_path / "data", n=3)
    said = ["plan", str(data), "-o", str(tmp_path / "run"), "--budget", "2epochs", "--device", "cpu"]
    assert run_command([*said, "--labels", " LIVER, "]) == 0
    assert read_record(tmp_path / "run" / "plan.json", Plan).names == {1: "liver"}
    assert "does not name them: lesion" in capsys.readouterr().err
    assert run_command([*said, "--labels", "heart"]) == 2
    assert "has no structure heart; choose with --labels among liver, lesion" in capsys.readouterr().err
    assert PlanStep.model_validate({"labels": ["liver"]}).labels == ("liver",)
