from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medseg.errors import InputError
from medseg.files import read_record
from medseg.inference.records import Selection
from medseg.pipeline.recipe import Ran, StepBegins, read_recipe, run_recipe
from medseg.pipeline.where import On
from medseg.planning.plan import Plan, Splits
from medseg.training.run import Trained
from tests.conftest import ROOT
from tests.tiny import last, write_dataset

pytestmark = pytest.mark.usefixtures("one_thread")

PLAIN = "version: 1\ntitle: Tiny\nbudget: 2steps\ndevice: cpu\nspacing: 2\nsteps: [{plan: {}}]\n"


def recipe_file(folder: Path, text: str = PLAIN) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines").glob("*.yaml")), ids=lambda p: p.name)
def test_every_recipe_that_comes_with_medseg_can_be_read(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.steps
    assert recipe.expect
    assert "medseg run" in path.read_text(encoding="utf-8")  # its own command stands at its head


def test_data_is_relative_to_the_recipe_but_a_setting_to_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = recipe_file(tmp_path / "recipes", PLAIN + "data: ../scans\n")
    assert read_recipe(path).data == str(tmp_path / "scans")
    assert read_recipe(recipe_file(tmp_path)).data == str(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert read_recipe(path, ["data=here"]).data == str(tmp_path / "here")


def test_where_the_work_is_done_is_said_once_and_a_step_may_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, object]] = []

    def verb(name: str) -> Callable[..., Iterator[object]]:
        def begun(*given: object, **more: object) -> Iterator[object]:
            asked.append((name, more.get("on") or given[2]))
            return iter(())

        return begun

    for name in ("plan", "infer", "evaluate"):
        monkeypatch.setattr(f"medseg.pipeline.steps.{name}", verb(name))
    monkeypatch.setattr("medseg.pipeline.recipe.train_on_slurm", verb("train"))
    steps = "{plan: {}}, {train: {folds: 2, slurm: --gres=gpu:1}}, {infer: {scans: ., slurm: -p gpu}}"
    text = PLAIN.replace("[{plan: {}}]", f"[{steps}, {{evaluate: {{references: .}}}}]")
    path = recipe_file(tmp_path, text + "place: slurm\njobs: 3\nslurm: -p cpu\ninterface: ib0\n")
    *events, _ = run_recipe(read_recipe(path), tmp_path / "out")
    on = On("slurm", 3, "-p cpu", "ib0")
    assert asked == [
        ("plan", on),
        ("train", "--gres=gpu:1"),
        ("infer", replace(on, slurm="-p gpu")),
        ("evaluate", on),
    ]
    words = [event.words for event in events if isinstance(event, StepBegins)]
    assert words[0] == "plan . -o run --on slurm"
    assert words[1] == "train run --folds 2 --on slurm --wait"
    asked.clear()
    monkeypatch.setattr("medseg.pipeline.steps.train", verb("train"))
    list(run_recipe(read_recipe(path, ["place=local"]), tmp_path / "out"))
    assert [on for name, on in asked if name != "train"] == [On()] * 3


def test_settings_replace_the_recipes_own(tmp_path: Path) -> None:
    path = recipe_file(tmp_path)
    said = read_recipe(path, ["budget=1h", "spacing=1.5", "memory=12", "seed=3", "dims=2d", "device=auto"])
    assert (said.budget, said.spacing, said.memory, said.seed, said.dims, said.device) == (
        "1h",
        "1.5",
        12.0,
        3,
        "2d",
        "auto",
    )
    assert read_recipe(path).spacing == "2"


@pytest.mark.parametrize(
    "setting", ["colour=blue", "budget", "=", "steps=[]", "expect=[]", "title=x", "version=2", "budget=[1", "seed=x"]
)
def test_settings_that_a_recipe_does_not_have(tmp_path: Path, setting: str) -> None:
    with pytest.raises(InputError):
        read_recipe(recipe_file(tmp_path), [setting])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not a recipe: it holds no keys"),
        ("- 1\n", "is not a recipe: it holds no keys"),
        ("a: [1", "is not YAML"),
        ("a: \0", "is not YAML"),
        (PLAIN + "colour: blue\n", "colour: extra inputs are not permitted"),
        (PLAIN.replace("version: 1", "version: 2"), "version: input should be 1"),
        (PLAIN.replace("title: Tiny\n", ""), "title: field required"),
        (PLAIN.replace("{}", "{colour: blue}"), "steps.0.plan.colour: extra"),
        (PLAIN.replace("plan: {}", "paint: {}"), "steps.0.paint: extra"),
        (PLAIN.replace("plan: {}", "plan: {}, train: {}"), "step 1 must hold exactly one verb"),
        (PLAIN.replace("plan: {}", "plan: "), "step 1 must hold exactly one verb, such as plan: {}"),
        (PLAIN.replace("{plan: {}}", "{}"), "step 1 must hold exactly one verb"),
        (PLAIN + "expect: [{scores: s, structure: a, metric: dice}]\n", "needs min or max"),
    ],
)
def test_what_is_no_recipe(tmp_path: Path, text: str, words: str) -> None:
    path = recipe_file(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read_recipe(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.where == str(path)


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(InputError, match="there is no such recipe"):
            read_recipe(path)


def test_data_that_are_not_there(tmp_path: Path) -> None:
    recipe = read_recipe(recipe_file(tmp_path), [f"data={tmp_path / 'none'}"])
    with pytest.raises(InputError, match="there is no such data folder; name one with --set data=FOLDER"):
        last(run_recipe(recipe, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


CHOICE = """
version: 1
title: A choice
data: data
budget: 1steps
device: cpu
spacing: 2
steps:
  - plan: {also: [2d]}
  - train: {folds: 2}
  - train: {folds: 2, configuration: 2d}
  - select: {}
  - plan: {run: tuned, init: ../out/run}
"""


def test_a_recipe_chooses_among_configurations_and_fine_tunes(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", 4)
    recipe = read_recipe(recipe_file(tmp_path, CHOICE))
    plain = recipe.model_copy(update={"steps": recipe.steps[:4]})
    events = list(run_recipe(plain, tmp_path / "out"))
    assert [e.words for e in events if isinstance(e, StepBegins)] == [
        "plan . -o run --also 2d",
        "train run --folds 2",
        "train run --folds 2 --configuration 2d",
        "select run",
    ]
    chosen = read_record(tmp_path / "out/run/selected.json", Selection)
    assert [one.members for one in chosen.candidates] == [("2d",), ("3d",), ("2d", "3d")]
    tuned = recipe.model_copy(update={"steps": recipe.steps[4:], "spacing": "isotropic"})
    events = list(run_recipe(tuned, tmp_path / "out"))
    assert [e.words for e in events if isinstance(e, StepBegins)] == ["plan . -o tuned --init ../out/run"]
    assert (tmp_path / "out/tuned/init/model.json").is_file()


WHOLE = """
version: 1
title: Tiny, whole
data: data
budget: 2steps
device: cpu
steps:
  - plan: {}
  - train: {folds: 2}
  - infer: {scans: images}
  - evaluate: {references: labels}
expect:
  - {scores: scores, structure: mean, metric: dice, min: 0.0}
  - {scores: run/folds/3d/1/validation, structure: "1", metric: dice, min: %s}
"""


def ran(root: Path, floor: str) -> tuple[Ran, list[Any]]:
    events = list(run_recipe(read_recipe(recipe_file(root, WHOLE % floor)), root / "out"))
    assert isinstance(events[-1], Ran)
    return events[-1], events


def test_a_recipe_from_plan_to_scores_twice(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    first, events = ran(tmp_path, "0.0")
    begun = [e.words for e in events if isinstance(e, StepBegins)]
    assert begun == [
        "plan . -o run",
        "train run --folds 2",
        "infer run images -o predictions",
        "evaluate predictions labels -o scores",
    ]
    assert first.met
    assert first.failed == {}
    named = ["validation of fold 0", "validation of fold 1", "cross-validation", "scores"]
    assert [name for name, _ in first.scores] == named
    assert len(read_record(tmp_path / "out/run/splits.json", Splits).folds) == 2
    said = json.loads((tmp_path / "out" / "outcome.json").read_text())
    assert [o["met"] for o in said["outcomes"]] == [True, True]

    weights = tmp_path / "out/run/folds/3d/1/model.safetensors"
    before = weights.stat().st_mtime_ns
    again, _ = ran(tmp_path, "0.0")  # goes on where it stood: nothing is trained anew
    assert weights.stat().st_mtime_ns == before
    assert again.scores == first.scores

    missed, _ = ran(tmp_path, "0.999")
    assert not missed.met
    assert [o.met for o in missed.outcomes] == [True, False]


def test_cases_that_a_step_sets_aside_are_told(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    shutil.copytree(data / "images", tmp_path / "more")
    (tmp_path / "more" / "broken.nii.gz").write_bytes(b"no scan")
    (data / "images" / "case0.nii.gz").write_bytes(b"no scan")
    text = WHOLE.replace("images}", "../more}").replace("{folds: 2}", "{fold: all}").split("expect:")[0]
    events = run_recipe(read_recipe(recipe_file(tmp_path, text)), tmp_path / "out")
    summary = last(events)
    assert sorted(summary.failed) == ["broken", "case0"]


def test_a_recipe_may_name_the_network_and_the_folds(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", 3)
    (data / "mine.json").write_text('[{"train": ["case0", "case1"], "val": ["case2"]}]')
    text = PLAIN.replace("{plan: {}}", "{plan: {splits: mine.json}}") + "data: data\nnetwork: resenc-m\n"
    assert last(run_recipe(read_recipe(recipe_file(tmp_path, text)), tmp_path / "out")).failed == {}
    assert read_record(tmp_path / "out/run/plan.json", Plan).configuration.network.kind == "resenc"
    assert read_record(tmp_path / "out/run/splits.json", Splits).folds[0].validation == ("case2",)
    assert read_recipe(recipe_file(tmp_path), ["network=resenc-l"]).network == "resenc-l"


def test_a_recipe_may_choose_the_loss(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", 3)
    asked = "{plan: {loss: dice-focal, class_weights: volume}}"
    recipe = read_recipe(recipe_file(tmp_path, PLAIN.replace("{plan: {}}", asked) + "data: data\n"))
    events = list(run_recipe(recipe, tmp_path / "out"))
    words = [e.words for e in events if isinstance(e, StepBegins)]
    assert words[0] == "plan . -o run --loss dice-focal --class-weights volume"
    schedule = read_record(tmp_path / "out/run/plan.json", Plan).configuration.schedule
    assert (schedule.loss, len(schedule.class_weights)) == ("dice_focal", 3)


def test_all_that_training_can_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[Any, ...]] = []

    def train(*given: Any, **named: Any) -> Any:
        told.append((*given, named))
        return iter([Trained(given[0], ())])

    monkeypatch.setattr("medseg.pipeline.steps.train", train)
    text = "{folds: 5, configuration: lowres, init: model, gpus: 2, deterministic: true, budget: 1h}"
    recipe = read_recipe(recipe_file(tmp_path, PLAIN.replace("{plan: {}}", f"{{train: {text}}}, {{train: {{}}}}")))
    words = [e.words for e in run_recipe(recipe, tmp_path / "out") if isinstance(e, StepBegins)]
    assert words == [
        "train run --folds 5 --configuration lowres --init model --gpus 2 --budget 1h --deterministic",
        "train run",
    ]
    run, named = tmp_path / "out" / "run", told[0][-1]
    assert told[0][:4] == (run, None, 5, "1h")
    assert (named["configuration"], named["init"], named["gpus"]) == ("lowres", tmp_path / "model", 2)
    assert named["deterministic"]
    assert told[1][:4] == (run, None, None, "2steps")
