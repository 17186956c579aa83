"""Several configurations, a choice among them, a cascade and fine-tuning, by the words that one types."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medseg.files import read_record
from medseg.inference.model import ModelCard, load_model
from medseg.planning.plan import Plan
from tests.cli.test_verbs import call, strictly
from tests.tiny import CPU, planned_run, trained_run, write_dataset
from tests.training.several import run_of

pytestmark = pytest.mark.usefixtures("one_thread")
STEP = ("--steps", "1", "--device", "cpu")


def test_configurations_are_prepared_trained_compared_and_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = write_dataset(tmp_path / "data", 4), tmp_path / "run"
    asked = ("plan", data, "-o", run, "--budget", "1steps", "--device", "cpu", "--spacing", "2")
    assert call(capsys, *asked)[0] == 0
    assert call(capsys, "train", run, "--folds", "2", *STEP)[0] == 0
    code, _, err = call(capsys, *asked, "--also", "2d")  # trained folds stay: it only prepares more
    assert code == 0, err
    assert (run / "cache" / "2d").is_dir()
    assert read_record(run / "plan.json", Plan).request.also == ("2d",)
    code, _, err = call(capsys, *asked, "--also", "lowres")
    assert code == 2
    assert "--also 3d_lowres: there is no such configuration for these scans; the plan has 3d, 2d" in err
    assert call(capsys, "train", run, "--configuration", "2d", "--folds", "2", *STEP)[0] == 0

    code, out, err = call(capsys, "select", run, "--device", "cpu")
    assert code == 0, err
    for word in ("Selection", "2d + 3d", "chosen: ", "Dice over 4 cases"):
        assert word in out
    assert "selected.json; medseg infer" in err
    code, out, _ = call(capsys, "select", run, "--json", "--device", "cpu")
    chosen = strictly(out)
    assert (code, chosen["cases"], len(chosen["candidates"])) == (0, 4, 3)
    assert str(tmp_path) not in out
    code, out, err = call(capsys, "infer", run, data / "images", "-o", tmp_path / "out", "--device", "cpu", "--json")
    assert code == 0, err
    assert f"by medseg select: {' + '.join(chosen['members'])}" in err
    assert strictly(out)["configurations"] == chosen["members"]


def test_a_cascade_from_its_first_stage_to_new_scans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path, ["3d_lowres", "3d_cascade"], chosen="3d_cascade", n=4)
    code, _, err = call(capsys, "train", run, *STEP)
    assert code == 2
    assert "of which fold 0, 1, 2, 3 is not trained yet; run medseg train run --configuration 3d_lowres" in err
    assert call(capsys, "train", run, "--configuration", "3d_lowres", "--folds", "2", *STEP)[0] == 0
    code, _, err = call(capsys, "train", run, "--folds", "2", *STEP)
    assert code == 0, err
    card = read_record(run / "folds/3d_cascade/0/model.json", ModelCard)
    assert card.plan.configuration.network.in_channels == 3
    assert card.dice
    code, out, err = call(capsys, "infer", run, tmp_path / "data/images", "-o", tmp_path / "out", "--json")
    assert code == 0, err
    assert strictly(out)["configurations"] == ["3d_cascade"]
    assert len(strictly(out)["cases"]) == 4
    code, out, err = call(capsys, "select", run, "--device", "cpu", "--json")
    assert code == 0, err
    assert [one["members"] for one in strictly(out)["candidates"]] == [
        ["3d_lowres"],
        ["3d_cascade"],
        ["3d_lowres", "3d_cascade"],
    ]


def test_a_model_is_fine_tuned_by_a_plan_that_is_made_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = trained_run(tmp_path / "model")
    data, run = write_dataset(tmp_path / "data", 4), tmp_path / "run"
    labels = json.dumps({"labels": {"background": 0, "1": 1, "new": 2}, "channel_names": {"0": "0"}})
    (data / "dataset.json").write_text(labels)
    asked = ("plan", data, "-o", run, "--budget", "1steps", "--device", "cpu", "--init", model)
    code, _, err = call(capsys, *asked)
    assert code == 0, err
    assert "training will begin with the model of data, fold 0: Dice 1 " in err
    theirs, ours = (read_record(path / "plan.json", Plan).configuration for path in (model, run))
    assert ours.network == theirs.network
    assert (ours.patch, ours.preprocessing) == (theirs.patch, theirs.preprocessing)
    assert str(tmp_path) not in (run / "plan.json").read_text()
    assert call(capsys, *asked)[0] == 0  # stands

    code, _, err = call(capsys, "train", run, *STEP)
    assert code == 0, err
    assert "structure new: new, starts fresh" in err
    assert "structure 2: of the model alone, left out" in err
    start, end = (load_model(path / "folds/3d/0", CPU).network.state_dict() for path in (model, run))
    for name in start:  # a step at a rate that begins near 0 moves weights by little
        if not name.startswith("heads"):
            assert (start[name] - end[name]).abs().max() < 1e-3, name
    code, _, err = call(capsys, *asked, "--network", "resenc-m")
    assert code == 2
    assert "--init takes dimensions, spacing, network and patch from the model; leave out --dims" in err


def test_training_begins_with_a_model_that_is_named_later(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = trained_run(tmp_path / "model")
    run = planned_run(tmp_path / "other")
    code, _, err = call(capsys, "train", run, *STEP, "--init", model / "folds/3d/0")
    assert code == 0, err
    assert "100.0 % of the weights are the model's" in err
    code, _, err = call(capsys, "train", run, "--fold", "1", *STEP, "--init", tmp_path)
    assert code == 2
    assert "is neither a trained fold nor a run of medseg" in err


@pytest.mark.parametrize("verb", ["select"])
def test_what_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    code, _, err = call(capsys, verb, tmp_path)
    assert code == 2
    assert err.count("\n") == 1
    assert "is not a run of medseg: it holds no plan.json; make one with medseg plan DATA -o RUN" in err
