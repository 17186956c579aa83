from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from medseg.errors import InputError
from medseg.events import Note
from medseg.files import read_record
from medseg.inference.model import ModelCard, run_plan
from medseg.inference.nnunet.checkpoint import weights_in
from medseg.inference.nnunet.importing import Imported, import_nnunet
from medseg.inference.nnunet.plans import plan_of
from medseg.inference.nnunet.weights import converted
from tests.inference.nnunet.build import KEPT, NAME, changed, copied, opened

FLAT = "nnUNetTrainer__nnUNetPlans__2d"
CASCADE, LOW = "nnUNetTrainer__nnUNetPlans__3d_cascade_fullres", "nnUNetTrainer__nnUNetPlans__3d_lowres"


def imported(source: Path, run: Path, **asked: Any) -> tuple[Imported, list[Note]]:
    events = list(import_nnunet(source, run, **asked))
    last = events[-1]
    assert isinstance(last, Imported)
    return last, [event for event in events if isinstance(event, Note)]


def rewritten(model: Path, fold: str = "0", **other: Any) -> None:
    path = model / f"fold_{fold}" / "checkpoint_final.pth"
    told = torch.load(path, weights_only=False)  # noqa: TID251 made by this test
    torch.save(told | other, path)


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, Path("Dataset001_Made") / file.relative_to(folder))
        archive.writestr("Dataset001_Made/../../escaped__a__b/plans.json", "{}")
        archive.writestr("inference_information.json", "{}")
    return path


def test_a_run_folder_with_nothing_of_where_it_came_from(tmp_path: Path) -> None:
    run = tmp_path / "run"
    done, notes = imported(copied(tmp_path), run)
    files = sorted(str(p.relative_to(run)) for p in run.rglob("*") if p.is_file())
    assert files == ["folds/3d/0/model.json", "folds/3d/0/model.safetensors", "plan.json"]
    assert (done.configurations, done.folds, done.dice) == (("3d",), ("0",), {})
    card = read_record(run / "folds" / "3d" / "0" / "model.json", ModelCard)
    assert card.plan == run_plan(run)
    assert (card.steps, card.seconds, card.trained_on) == (500, 20.5, 0)
    assert str(tmp_path) not in (run / "plan.json").read_text() + card.model_dump_json()
    assert [note.text for note in notes if "as its file stores it" in note.text]


def test_validation_scores_come_along_without_its_paths(tmp_path: Path) -> None:
    model = copied(tmp_path)
    told = {
        "metric_per_case": [{"prediction_file": "/home/someone/patient.nii.gz"}] * 4,
        "mean": {"1": {"Dice": 0.9}, "2": {"Dice": float("nan")}},
    }
    (model / "fold_0" / "validation").mkdir()
    (model / "fold_0" / "validation" / "summary.json").write_text(json.dumps(told))
    done, _ = imported(model, tmp_path / "run")
    assert done.dice == {"liver": 0.9}
    card = (tmp_path / "run" / "folds" / "3d" / "0" / "model.json").read_text()
    assert "someone" not in card
    assert read_record(tmp_path / "run" / "folds" / "3d" / "0" / "model.json", ModelCard).trained_on == 16


@pytest.mark.parametrize(
    "told",
    [
        {"mean": {"1": {"Dice": None}, "2": {"Dice": 0.5}}, "metric_per_case": 3},
        {"mean": {"1": None, "2": {"Dice": 0.5}, "3": {"Dice": 0.9}}, "metric_per_case": None},
        {"mean": {"1": {}, "2": {"Dice": 0.5}}},
        {"mean": [{"Dice": 0.9}]},
    ],
)
def test_of_validation_scores_only_numbers_come_along(tmp_path: Path, told: dict[str, Any]) -> None:
    model = copied(tmp_path)
    (model / "fold_0" / "validation").mkdir()
    (model / "fold_0" / "validation" / "summary.json").write_text(json.dumps(told))
    done, _ = imported(model, tmp_path / "run")
    assert done.dice == ({"lesion": 0.5} if isinstance(told["mean"], dict) else {})


def test_scores_of_regions(tmp_path: Path) -> None:
    model = copied(tmp_path, "regions")
    (model / "fold_0" / "validation").mkdir()
    means = {"(1, 2, 3)": {"Dice": 0.9}, "(2, 3)": {"Dice": 0.8}, "3": {"Dice": 0.7}}
    (model / "fold_0" / "validation" / "summary.json").write_text(json.dumps({"mean": means}))
    assert imported(model, tmp_path / "run")[0].dice == {"whole": 0.9, "core": 0.8, "spot": 0.7}


def test_a_cascade_brings_its_first_stage(tmp_path: Path) -> None:
    run = tmp_path / "run"
    done, _ = imported(KEPT / "cascade" / CASCADE, run)
    assert done.configurations == ("3d_lowres", "3d_cascade")
    plan = run_plan(run)
    assert (plan.chosen, plan.configuration.previous) == ("3d_cascade", "3d_lowres")
    assert plan.configuration.network.in_channels == 1 + 2
    first = read_record(run / "folds" / "3d_lowres" / "0" / "model.json", ModelCard)
    assert first.plan.chosen == "3d_lowres"


def test_a_cascade_without_its_first_stage_is_refused(tmp_path: Path) -> None:
    model = copied(tmp_path, "cascade", CASCADE)
    with pytest.raises(
        InputError, match=r"the second stage of a cascade, and the first, .*3d_lowres, is not beside it"
    ):
        imported(model, tmp_path / "run")


def test_of_several_configurations_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="holds 2 models; choose one by --configuration: 3d_cascade_fullres, 3d_lowres"
    ):
        imported(KEPT / "cascade", tmp_path / "run")
    with pytest.raises(InputError, match="holds no configuration 2d; choose among"):
        imported(KEPT / "cascade", tmp_path / "run", configuration="2d")
    done, _ = imported(KEPT / "cascade", tmp_path / "run", configuration="3d_lowres")
    assert done.configurations == ("3d_lowres",)


def test_of_several_models_of_a_configuration_the_folders_are_listed(tmp_path: Path) -> None:
    other = "nnUNetTrainer__nnUNetResEncUNetLPlans__3d_fullres"
    first = copied(tmp_path / "models")
    shutil.copytree(first, first.with_name(other))
    folders = f"name one of its folders: {NAME}, {other}"
    with pytest.raises(InputError, match=f"holds 2 models of 3d_fullres; {folders}"):
        imported(tmp_path / "models", tmp_path / "run", configuration="3d_fullres")
    with pytest.raises(InputError, match=f"holds 2 models; {folders}"):
        imported(tmp_path / "models", tmp_path / "run")
    source = zipped(tmp_path / "models", tmp_path / "model.zip")
    with pytest.raises(InputError, match=f"holds 2 models; name one of its folders, unpacked: {NAME}, {other}"):
        imported(source, tmp_path / "run")
    shutil.copytree(KEPT / "2d" / FLAT, tmp_path / "models" / FLAT)
    assert imported(tmp_path / "models", tmp_path / "run", configuration="2d")[0].configurations == ("2d",)


@pytest.mark.parametrize("how", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_a_zip_that_is_damaged_within_is_told_in_a_line(tmp_path: Path, how: int) -> None:
    path, name = tmp_path / "model.zip", f"Dataset001_Made/{NAME}/plans.json"
    with zipfile.ZipFile(path, "w", how) as archive:
        archive.writestr(name, "{}" * 1000)
    damaged = bytearray(path.read_bytes())
    content = 30 + len(name) + (9 if how == zipfile.ZIP_LZMA else 0)  # after the header, and the settings of LZMA
    damaged[content : content + 8] = b"\xff" * 8
    path.write_bytes(damaged)
    with pytest.raises(InputError, match="is neither a folder nor a whole zip"):
        imported(path, tmp_path / "run")


@pytest.mark.parametrize("name", ["D:evil__b__c", "C:\\evil__b__c", "a\\evil__b__c"])
def test_a_zip_unpacks_to_no_place_of_windows(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.writestr(f"{name}/plans.json", "{}")
    with pytest.raises(InputError, match="holds no model of nnU-Net"):
        imported(tmp_path / "model.zip", tmp_path / "run")


def test_an_exported_zip(tmp_path: Path) -> None:
    source = zipped(KEPT / "cascade", tmp_path / "model.zip")
    done, _ = imported(source, tmp_path / "run", configuration="3d_cascade_fullres")
    assert done.configurations == ("3d_lowres", "3d_cascade")
    assert not list(tmp_path.parent.glob("escaped*"))
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        for name in ("Dataset001_A", "Dataset002_B"):
            archive.writestr(f"{name}/{LOW}/plans.json", "{}")
    with pytest.raises(InputError, match="holds models of several data sets"):
        imported(tmp_path / "two.zip", tmp_path / "again")
    source.write_bytes(source.read_bytes()[:-30])
    with pytest.raises(InputError, match="is neither a folder nor a whole zip"):
        imported(source, tmp_path / "again")


def test_folds(tmp_path: Path) -> None:
    model = copied(tmp_path)
    for fold in ("10", "2", "all"):
        shutil.copytree(model / "fold_0", model / f"fold_{fold}")
    (model / "fold_3").mkdir()  # not finished
    assert imported(model, tmp_path / "every")[0].folds == (
        "0",
        "2",
        "10",
    )  # as nnU-Net: `all` only where it is asked for
    assert imported(model, tmp_path / "some", folds=("all", "2"))[0].folds == ("all", "2")
    card = read_record(tmp_path / "some" / "folds" / "3d" / "all" / "model.json", ModelCard)
    assert card.trained_on == 20
    with pytest.raises(InputError, match=r"no checkpoint_final\.pth of fold 3; there are 0, 2, 10, all"):
        imported(model, tmp_path / "run", folds=("3",))
    with pytest.raises(InputError, match=r"no fold has a checkpoint_best\.pth"):
        imported(model, tmp_path / "run", checkpoint="best")
    with pytest.raises(InputError, match="--checkpoint latest is none of nnU-Net's; give final or best"):
        imported(model, tmp_path / "run", checkpoint="latest")
    for fold in ("0", "2", "10"):
        shutil.rmtree(model / f"fold_{fold}")
    assert imported(model, tmp_path / "all")[0].folds == ("all",)


def test_folds_of_two_trainers_are_refused(tmp_path: Path) -> None:
    model = copied(tmp_path)
    shutil.copytree(model / "fold_0", model / "fold_1")
    rewritten(model, "1", trainer_name="nnUNetTrainerDA5")
    with pytest.raises(InputError, match="of several configurations or trainers"):
        imported(model, tmp_path / "run")


@pytest.mark.parametrize(
    ("trainer", "warns"),
    [
        ("nnUNetTrainer", False),
        ("nnUNetTrainerNoMirroring", False),
        ("nnUNetTrainer_4000epochs_NoMirroring", False),
        ("nnUNetTrainer_DASegOrd0_NoMirroring", False),
        ("nnUNetTrainer_onlyMirror01_1500ep", False),
        ("nnUNetTrainerVanillaAdam3en4", False),
        ("nnUNetTrainerSwin", True),
        ("MyTrainer", True),
    ],
)
def test_a_trainer_of_unknown_ways_is_warned_of(tmp_path: Path, trainer: str, warns: bool) -> None:
    model = copied(tmp_path)
    rewritten(model, trainer_name=trainer)
    notes = imported(model, tmp_path / "run")[1]
    assert any(note.warning and trainer in note.text for note in notes) == warns


def test_a_folder_that_stands_and_one_without_a_model_are_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "plan.json").write_text("{}")
    with pytest.raises(InputError, match="is there already"):
        imported(KEPT / "plain" / NAME, tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no model of nnU-Net"):
        imported(tmp_path / "empty", tmp_path / "new")
    with pytest.raises(InputError, match="there is no such folder or zip"):
        imported(tmp_path / "nowhere", tmp_path / "new")
    (tmp_path / "file").write_text("no zip")
    with pytest.raises(InputError, match="is neither a folder nor a whole zip"):
        imported(tmp_path / "file", tmp_path / "new")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda w: w.pop("decoder.transpconvs.0.bias"), r"lacks weights .* decoder\.transpconvs\.0\.bias"),
        (lambda w: w.update({"encoder.stages.0.0.convs.0.norm.running_mean": torch.ones(3)}), "another network"),
        (lambda w: w.update({"decoder.seg_layers.1.weight": torch.ones(9, 3, 1, 1, 1)}), "another shape"),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path: Path, damage: Any, said: str) -> None:
    model = copied(tmp_path)
    told, checkpoint = opened(model)
    weights = {name: tensor.clone() for name, tensor in weights_in(checkpoint.path).items()}
    damage(weights)
    rewritten(model, network_weights=weights)
    with pytest.raises(InputError, match=said):
        imported(model, tmp_path / "run")
    assert not (tmp_path / "run" / "plan.json").exists()  # what stands is no run
    assert told.ours == "3d"


@pytest.mark.parametrize(("ours", "theirs"), [("2d", "plain"), ("plain", "2d")])
def test_weights_of_other_dimensions_than_the_plans_are_refused(tmp_path: Path, ours: str, theirs: str) -> None:
    names = {"2d": FLAT, "plain": NAME}
    model, other = copied(tmp_path, ours, names[ours]), KEPT / theirs / names[theirs]
    rewritten(model, network_weights=weights_in(other / "fold_0" / "checkpoint_final.pth"))
    with pytest.raises(InputError, match="holds weights of another shape than its plans describe"):
        imported(model, tmp_path / "run")


def test_weights_find_their_places_once(tmp_path: Path) -> None:
    """Two weights of one shape that changed places would be told by their values."""
    told, checkpoint = opened(copied(tmp_path, "resenc"))
    weights = weights_in(checkpoint.path)
    settings = plan_of([(told, checkpoint)]).configuration.network
    state = converted(weights, settings, told.axes, tmp_path)
    sums = sorted(round(float(tensor.double().sum()), 9) for tensor in state.values())
    given = {
        name: round(float(tensor.double().sum()), 9)
        for name, tensor in weights.items()
        if ".all_modules." not in name and not name.startswith("decoder.encoder.")
    }
    assert len(sums) == len(set(sums))
    assert set(sums) <= set(given.values())
    unused = sorted(name for name, total in given.items() if total not in set(sums))
    assert all(name.endswith(".conv.bias") or name.startswith("decoder.seg_layers.0.") for name in unused)


def test_two_dimensions_told_wrongly(tmp_path: Path) -> None:
    model = copied(tmp_path)
    changed(model / "plans.json", lambda told: told["configurations"]["3d_fullres"].update(patch_size=[8, 8]))
    with pytest.raises(InputError, match="other dimensions than its patch"):
        imported(model, tmp_path / "run")
