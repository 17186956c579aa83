"""A recipe: verbs with their arguments in order, and what they are expected to reach. Data, never code.

Paths of inputs are relative to the recipe's `data` folder, paths of outputs to the folder that `medseg run -o` names.
Every verb goes on where it was interrupted, and so does a recipe: run the same command again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, ValidationError

from medseg.errors import InputError
from medseg.evaluation.asked import TOLERANCES, settings_from
from medseg.evaluation.records import Scores
from medseg.events import Event, StepBegins
from medseg.files import Record, output_folder, write_json
from medseg.pipeline import steps
from medseg.pipeline.expect import Expectation, Outcome, check_expectations
from medseg.pipeline.on_slurm import Asked, train_on_slurm
from medseg.pipeline.where import LOCAL, On


class PlanStep(Record):
    """`medseg plan`: `data`, `splits` and `init` below the recipe's data folder, `run` below its output folder."""

    data: str = "."
    run: str = "run"
    series: tuple[str, ...] = ()
    suv: bool = False
    allow_gaps: bool = False
    prefer: str = ""
    labels: tuple[str, ...] = ()
    splits: str | None = None
    also: tuple[str, ...] = ()
    init: str | None = None
    loss: str = "dice_ce"
    class_weights: str = "even"
    slurm: str | None = None


class TrainStep(Record):
    """`medseg train`: `init` below the recipe's data folder."""

    run: str = "run"
    fold: str | int | None = None
    folds: int | None = None
    configuration: str | None = None
    init: str | None = None
    deterministic: bool = False
    gpus: int | None = None
    nodes: int = 1
    budget: str | None = None  # else the recipe's
    slurm: str | None = None


class SelectStep(Record):
    """`medseg select`."""

    run: str = "run"


class InferStep(Record):
    """`medseg infer`: `scans` and `codes` below the data folder."""

    scans: str
    run: str = "run"
    out: str = "predictions"
    format: tuple[str, ...] = ()
    series: tuple[str, ...] = ()
    codes: str | None = None
    allow_gaps: bool = False
    prefer: str = ""
    slurm: str | None = None


class EvaluateStep(Record):
    """`medseg evaluate`: `references` below the data folder."""

    predictions: str = "predictions"
    references: str
    out: str = "scores"
    tolerance: str | float = TOLERANCES
    surface: str = "surfel"
    tubular: tuple[str, ...] = ()
    instances: tuple[str, ...] = ()
    slurm: str | None = None


class Step(Record):
    """One verb with its arguments; exactly one is given."""

    plan: PlanStep | None = None
    train: TrainStep | None = None
    select: SelectStep | None = None
    infer: InferStep | None = None
    evaluate: EvaluateStep | None = None


class Recipe(Record):
    """A whole recipe file.

    place, jobs, slurm, interface, tls: where the work is done, as the options of the verbs (`place` is their --on, a
    word that YAML reads as true); a step's own `slurm` stands instead of the recipe's.
    """

    model_config = ConfigDict(coerce_numbers_to_str=True)  # YAML reads `spacing: 1.5` as a number

    version: Literal[1]
    title: str
    data: str
    budget: str | None = None
    spacing: str = "isotropic"
    dims: str = "auto"
    network: str = "unet"
    memory: float | None = None
    device: str = "auto"
    seed: int = 0
    place: str = "local"
    jobs: int | None = None
    slurm: str = ""
    interface: str = ""
    tls: str | None = None
    steps: tuple[Step, ...]
    expect: tuple[Expectation, ...] = ()


@dataclass(frozen=True)
class Ran:
    """The end of a recipe: scores by name, outcomes of its expectations, failed cases, and where everything lies."""

    out: Path
    scores: tuple[tuple[str, Scores], ...]
    outcomes: tuple[Outcome, ...]
    failed: dict[str, str]
    seconds: float

    @property
    def met(self) -> bool:
        """True if every expectation is met."""
        return all(outcome.met for outcome in self.outcomes)


def read_recipe(path: Path, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe; `settings` are `key=value` texts that replace its own, `data=...` relative to where one stands.

    Raises:
        InputError: no such file, not a recipe, or a setting it does not have.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise InputError("there is no such recipe", path) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"is not YAML ({str(error).splitlines()[0]})", path) from error
    if not isinstance(found, dict):
        raise InputError("is not a recipe: it holds no keys", path)
    found.setdefault("data", ".")
    found["data"] = str((path.parent / str(found["data"])).resolve())
    changeable = sorted(set(Recipe.model_fields) - {"version", "title", "steps", "expect"})
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or key not in changeable:
            raise InputError(
                f"--set {setting} cannot be used", path, f"give key=value with one of {', '.join(changeable)}"
            )
        found[key] = str(Path(value).resolve()) if key == "data" else _value(setting, value)
    try:
        recipe = Recipe.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}", path) from error
    for number, step in enumerate(recipe.steps, 1):
        if sum(value is not None for _, value in step) != 1:
            raise InputError(f"step {number} must hold exactly one verb, such as plan: {{}}", path)
    return recipe


def _value(setting: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"--set {setting} is not YAML", fix="give key=value") from None


def run_recipe(recipe: Recipe, out: Path) -> Iterator[Event | Ran]:
    """Run every step in order, then check the expectations.

    Raises:
        MedsegError: a step could not be done; what earlier steps wrote stays and is used when run again.
    """
    began = time.monotonic()
    data = Path(recipe.data)
    if not data.is_dir():
        raise InputError("there is no such data folder", data, "name one with --set data=FOLDER")
    output_folder(out)
    scores: list[tuple[str, Scores]] = []
    failed: dict[str, str] = {}
    for number, step in enumerate(recipe.steps, 1):
        words, events = _begin(step, recipe, data, out)
        yield StepBegins(number, len(recipe.steps), words)
        for event in events:
            if isinstance(event, Event):
                yield event
            else:
                scores += _scores(step, event)
                failed |= event.failed
    outcomes = check_expectations(recipe.expect, out)
    seconds = time.monotonic() - began
    write_json(out / "outcome.json", {"seconds": round(seconds, 1), "outcomes": [o.model_dump() for o in outcomes]})
    yield Ran(out, tuple(scores), outcomes, failed, seconds)


def _scores(step: Step, summary: Any) -> list[tuple[str, Scores]]:
    if step.evaluate is not None:
        return [(step.evaluate.out, summary.scores)]
    if step.train is not None:
        found = [(f"validation of fold {fold.fold}", fold.scores) for fold in summary.folds if fold.scores is not None]
        return [*found, ("cross-validation", summary.crossvalidation)] if summary.crossvalidation else found
    return []


def _begin(step: Step, recipe: Recipe, data: Path, out: Path) -> tuple[str, Iterator[Any]]:
    """The step in words, as one would type it, and its events."""
    if step.plan:
        where, run = data / step.plan.data, out / step.plan.run
        p = step.plan
        asked = (recipe.spacing, recipe.dims, recipe.memory, recipe.budget, recipe.seed, recipe.device, p.series)
        read = steps.read_options(p.allow_gaps, p.suv, p.prefer)
        folds = data / p.splits if p.splits else None
        words = f"plan {p.data} -o {p.run}" + _given(p, "also", "init", "loss", "class_weights") + _there(recipe)
        model = data / p.init if p.init else None
        taken = (read, p.labels, recipe.network, folds, p.also, model)
        on = _place(recipe, p.slurm)
        return words, steps.plan(where, run, *asked, *taken, loss=p.loss, class_weights=p.class_weights, on=on)
    if step.train:
        return _begin_training(step.train, recipe, data, out)
    if step.select:
        return f"select {step.select.run}", steps.select(out / step.select.run, recipe.device)
    if step.infer:
        i = step.infer
        words = f"infer {i.run} {i.scans} -o {i.out}" + _given(i, "format") + _there(recipe)
        codes = data / i.codes if i.codes else None
        read = steps.read_options(i.allow_gaps, prefer=i.prefer)
        wanted = (recipe.device, i.format, i.series, codes, read)
        return words, steps.infer(out / i.run, data / i.scans, out / i.out, *wanted, on=_place(recipe, i.slurm))
    if step.evaluate:
        e = step.evaluate
        words = f"evaluate {e.predictions} {e.references} -o {e.out}{_there(recipe)}"
        settings = settings_from(str(e.tolerance), e.surface, e.tubular, e.instances)
        sides = (out / e.predictions, data / e.references)
        return words, steps.evaluate(*sides, out / e.out, settings, on=_place(recipe, e.slurm))
    raise InputError("a step without a verb")


def _given(step: Record, *names: str) -> str:
    """Those of a step's settings that are not its defaults, as one would type them."""
    values = {name: getattr(step, name) for name in names}
    given = {name: value for name, value in values.items() if value != type(step).model_fields[name].default}
    words = []
    for name, value in given.items():
        text = ",".join(value) if isinstance(value, tuple) else value
        words.append(f" --{name.replace('_', '-')}" + ("" if value is True else f" {text}"))
    return "".join(words)


def _place(recipe: Recipe, slurm: str | None) -> On:
    """Where a step's work per case is done; on this machine what else is said of clusters counts for nothing.

    Raises:
        InputError: it cannot be there.
    """
    if recipe.place == "local":
        return LOCAL
    tls = Path(recipe.tls) if recipe.tls else None
    return On(recipe.place, recipe.jobs, recipe.slurm if slurm is None else slurm, recipe.interface, tls).check()


def _there(recipe: Recipe) -> str:
    return "" if recipe.place == "local" else f" --on {recipe.place}"


def _begin_training(step: TrainStep, recipe: Recipe, data: Path, out: Path) -> tuple[str, Iterator[Any]]:
    fold = None if step.fold is None else str(step.fold)
    words = _given(step, "fold", "folds", "configuration", "init", "gpus", "nodes", "budget", "deterministic")
    init = data / step.init if step.init else None
    budget = step.budget or recipe.budget
    if recipe.place == "slurm":
        asked = Asked(
            fold=fold,
            folds=step.folds,
            budget=budget,
            device=recipe.device,
            configuration=step.configuration,
            init=init,
            deterministic=step.deterministic,
            gpus=step.gpus,
            nodes=step.nodes,
            interface=recipe.interface or None,
        )
        options = recipe.slurm if step.slurm is None else step.slurm
        there = train_on_slurm(out / step.run, asked, options, wait=True)
        return f"train {step.run}{words} --on slurm --wait", there
    if step.nodes > 1:
        raise InputError("several nodes need the recipe to be on Slurm", fix="add --set place=slurm")
    events = steps.train(
        out / step.run,
        fold,
        step.folds,
        budget,
        device=recipe.device,
        configuration=step.configuration,
        init=init,
        deterministic=step.deterministic,
        gpus=step.gpus,
    )
    return f"train {step.run}{words}", events
