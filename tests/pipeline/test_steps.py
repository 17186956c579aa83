from __future__ import annotations

from pathlib import Path

import pytest

from medseg.cli.app import run_command
from medseg.errors import InputError
from medseg.files import read_record
from medseg.imaging.nifti import read_volume
from medseg.pipeline import steps
from medseg.pipeline.recipe import PlanStep
from medseg.pipeline.steps import convert
from medseg.planning import fitting
from medseg.planning.plan import Plan
from tests.preprocessing.build import write_dataset
from tests.tiny import last
from tests.tiny import write_dataset as tiny_dataset


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
        list(convert(tmp_path / "a.nii.gz", tmp_path / "a.seg.nrrd", names=names))


def test_structures_are_chosen_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_dataset(tmp_path / "data", n=3)
    said = ["plan", str(data), "-o", str(tmp_path / "run"), "--budget", "2epochs", "--device", "cpu"]
    assert run_command([*said, "--labels", " LIVER, "]) == 0
    assert read_record(tmp_path / "run" / "plan.json", Plan).names == {1: "liver"}
    assert "does not name them: lesion" in capsys.readouterr().err
    assert run_command([*said, "--labels", "heart"]) == 2
    assert "has no structure heart; choose with --labels among liver, lesion" in capsys.readouterr().err
    assert PlanStep.model_validate({"labels": ["liver"]}).labels == ("liver",)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("family", ["unet", "resenc-m"])
def test_low_resolution_is_planned_trained_and_predicts_on_the_scans_own_grid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.setattr(fitting, "CPU_CHOICES", ((4, 8), (4, 8)))  # patches that see little of these scans
    data = tiny_dataset(tmp_path / "data", 3, (32, 30, 28))
    run, out = tmp_path / "run", tmp_path / "out"
    asked = {"dims": "lowres", "budget": "1steps", "device": "cpu", "network": family}
    planned = last(steps.plan(data, run, **asked))
    made = planned.plan.configuration
    assert planned.plan.chosen == made.name == "3d_lowres"
    assert all(target > 1.5 for target in made.preprocessing.spacing_mm)
    assert (run / "cache" / "3d_lowres" / "case0.safetensors").is_file()
    assert [fold.steps for fold in last(steps.train(run, "all", device="cpu")).folds] == [1]
    last(steps.infer(run, data / "images", out, device="cpu"))
    scan, found = (read_volume(folder / "case1.nii.gz") for folder in (data / "images", out))
    assert found.grid.shape == scan.grid.shape == (32, 30, 28)
