"""Front door of `medseg select`: which trained configuration, or pair of them, is best, and what cleaning helps it.

All are compared by Dice over the same cases, each predicted by networks that were not trained on it. A pair averages
probabilities. Source of the rule: nnU-Net (Isensee et al. 2021).

RUN/selected.json                                        the choice, which `medseg infer` uses
    folds/<A>+<B>/<K>/held_out/<case>.safetensors        what a pair found in a case, so that a choice begun goes on
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import numpy as np
import numpy.typing as npt
import torch

from medseg.compute import describe
from medseg.errors import RunError
from medseg.events import Advanced, Event, Note, Stage
from medseg.files import output_folder, read_record, write_record
from medseg.imaging.volume import LabelMap
from medseg.inference.averaging import Answer, averaged, spooled
from medseg.inference.held_out import keep_held_out, kept_key, read_held_out, validated_by, validation_folds
from medseg.inference.model import ModelCard, load_model, run_plan
from medseg.inference.predictor import SELECTED, weights_digest, with_stages
from medseg.inference.quality import Quality, with_quality, work_of
from medseg.inference.records import Candidate, Selection
from medseg.inference.restoring import restored
from medseg.inference.window import SlidingWindow, network_input
from medseg.planning.explain import counted
from medseg.planning.plan import Name, Plan, Splits
from medseg.preprocessing.cache import LoadedCase, load_cases, load_reference
from medseg.training.cascade import with_previous
from medseg.training.cleaning import Means, Targets, choose_cleaning, dice_of, mean, targets_of
from medseg.training.crossvalidation import uneven

ORDER: tuple[Name, ...] = ("2d", "3d_lowres", "3d", "3d_cascade")  # of equally good ones the first is taken
QUALITY_CASES = 20  # at most, evenly spread, that tell what a quality gains
DIGITS = 4  # of Dice: what is alike in them is equally good

Members = tuple[Name, ...]


@dataclass(frozen=True)
class Selected:
    """The end of a choice."""

    run: Path
    selection: Selection

    @property
    def failed(self) -> dict[str, str]:
        """Cases that failed: none."""
        return {}


def select(run: Path, device: torch.device) -> Iterator[Event | Selected]:
    """Compare all trained configurations of `run` and every pair of them, choose the cleaning of the winner, keep both.

    Raises:
        RunError: nothing is trained, no case is held out in all configurations, or a case is not prepared any more.
        ResourceError: the disk is full.
    """
    plan = run_plan(run)
    held = {name: found for name in ORDER if name in plan.configurations and (found := validated_by(run, name))}
    cases = _shared(run, held)
    yield from _told(run, held, cases)
    compared = [(name,) for name in held] + list(combinations(held, 2))
    job = _Job(run, plan, held, cases, device)
    dice: dict[Members, list[Means]] = {members: [] for members in compared}
    expect = f"{counted(len(cases), 'held-out case')}, {describe(device)}"
    yield Stage("compare", len(cases), f"{counted(len(compared), 'candidate')} on {expect}")
    with TemporaryDirectory(prefix="medseg-") as scratch:
        for done, case in enumerate(cases, 1):
            pairs = [members for members in compared if len(members) > 1]
            job.predict_pairs(case, pairs, Path(scratch))
            reference = job.reference(case)
            for members in compared:
                labels = job.held_out(members, case, reference)
                dice[members].append(dice_of(reference.array, labels.array, job.targets, plan.ignore))
            yield Advanced(done, case)
    candidates = [_candidate(members, of) for members, of in dice.items()]
    best = max(candidates, key=lambda one: round(one.dice, DIGITS))

    qualities = yield from job.qualities(best.members[0])

    yield Stage("clean", 1, f"which post-processing helps {best.words}")
    judged = choose_cleaning(lambda: job.pairs(best.members), job.targets, plan.ignore)
    selection = Selection(
        members=best.members,
        cleaning=judged.steps,
        cases=len(cases),
        models=weights_digest(run, held),
        candidates=tuple(candidates),
        cleaned=Candidate(members=best.members, dice=mean(judged.dice), structures=judged.dice),
        qualities=qualities,
    )
    write_record(run / SELECTED, selection)
    yield Advanced(1, f"{counted(len(judged.steps), 'step')} {'helps' if len(judged.steps) == 1 else 'help'}")
    yield Selected(run, selection)


def _shared(run: Path, held: Mapping[Name, Mapping[str, Path]]) -> list[str]:
    """The cases that every configuration holds out, fold by fold, so that each network is loaded once.

    Raises:
        RunError: there are none, or what a fold found in one of them is not kept any more.
    """
    if not held and not _any_validation(run):
        what = "there are no folds with validation cases (one patient gives none), so nothing can be compared"
        raise RunError(what, run, "plan with labelled cases of two patients or more")
    if not held:
        raise RunError("no fold with validation cases is trained to its end", run, f"run medseg train {run.name}")
    first, *others = held.values()
    shared = [case for case in first if all(case in other for other in others)]
    if not shared:
        what = f"no case is held out in all of {', '.join(held)}: they were trained on different folds"
        raise RunError(what, run, "train the same folds of each, best all of them (--folds 5)")
    _refuse_lost(run, held, shared)
    return sorted(shared, key=lambda case: (first[case].name, case))


def _any_validation(run: Path) -> bool:
    return any(fold.validation for fold in read_record(run / "splits.json", Splits).folds)


def _refuse_lost(run: Path, held: Mapping[Name, Mapping[str, Path]], cases: Sequence[str]) -> None:
    """Look for all kept predictions before the long work begins."""
    lost: dict[Path, list[str]] = {}
    for of in held.values():
        for case in cases:
            if kept_key(of[case], case) is None:
                lost.setdefault(of[case], []).append(case)
    if lost:
        told = "; ".join(f"{fold.parent.name}/{fold.name}: {', '.join(of)}" for fold, of in sorted(lost.items()))
        what = f"predictions of validation cases are missing or damaged ({told})"
        raise RunError(what, run, "delete these folds and train them again")


def _told(run: Path, held: Mapping[Name, Mapping[str, Path]], cases: Sequence[str]) -> Iterator[Note]:
    """On what the comparison rests where that is not all cases of the cross-validation."""
    for name, of in held.items():
        folds = validation_folds(run, name)
        untrained = [folder.name for folder, names in folds if names and names[0] not in of]
        if untrained:
            text = f"{name}: fold {', '.join(untrained)} is not trained; the {len(cases)} cases that all have count"
            yield Note(text, warning=True)
    different = {name: uneven({of[case] for case in cases}) for name, of in held.items()}
    if told := "; ".join(f"{name}: {text}" for name, text in different.items() if text):
        yield Note(f"folds were trained to very different amounts, {told}", warning=True)


def _candidate(members: Members, dice: Sequence[Means]) -> Candidate:
    by_structure: dict[str, list[float]] = {}
    for of_case in dice:
        for name, value in of_case.items():
            by_structure.setdefault(name, []).append(value)
    means = {name: float(np.mean(values)) for name, values in by_structure.items()}
    return Candidate(members=members, dice=mean(means), structures=means)


@dataclass
class _Job:
    """What is compared; the networks of one fold at a time are held, and one case's answers on disk."""

    run: Path
    plan: Plan
    held: Mapping[Name, Mapping[str, Path]]
    cases: Sequence[str]
    device: torch.device
    _loaded: dict[Path, torch.nn.Module] | None = None

    @property
    def targets(self) -> Targets:
        """What is scored."""
        return targets_of(self.plan)

    def reference(self, case: str) -> LabelMap:
        """The label map as it was given."""
        name = next(iter(self.held))
        loaded = self._prepared(name, case)
        return load_reference(self._cache(name), loaded, self.plan.names)

    def held_out(self, members: Members, case: str, reference: LabelMap) -> LabelMap:
        """What the members found in a case that they were not trained on."""
        return read_held_out(self._folder(members, case), case, reference.grid, self.plan.names)

    def pairs(self, members: Members) -> Iterator[tuple[LabelMap, LabelMap]]:
        """Reference and held-out prediction of every case."""
        for case in self.cases:
            reference = self.reference(case)
            yield reference, self.held_out(members, case, reference)

    def predict_pairs(self, case: str, pairs: Iterable[Members], scratch: Path) -> None:
        """Keep what each pair finds in a case, unless that is done; every network predicts once."""
        todo = [pair for pair in pairs if kept_key(self._folder(pair, case), case) != self._key(pair, case)]
        names = [name for name in self.held if any(name in pair for pair in todo)]
        answers = {name: self._answer(name, case, scratch / f"{name}.logits") for name in names}
        for pair in todo:
            labels = averaged([answers[name] for name in pair], self.plan)
            keep_held_out(output_folder(self._folder(pair, case)), case, labels, self._key(pair, case))

    def qualities(self, name: Name) -> Generator[Event, None, dict[Quality, float]]:
        """Mean Dice of a configuration at each quality of inference, on some of the cases; none where all are alike."""
        made = self.plan.configurations[name]
        others = [one for one in get_args(Quality) if with_quality(made, one) != made]
        if not others:
            return {}
        cases = [self.cases[k] for k in range(0, len(self.cases), -(-len(self.cases) // QUALITY_CASES))]
        work = sum(work_of(with_quality(made, one)) for one in others) / work_of(made)
        told = f"{', '.join(others)} on {counted(len(cases), 'case')}, {work:.2g} times the work of the standard"
        yield Stage("qualities", len(cases), told)
        found: dict[Quality, list[Means]] = {one: [] for one in ("standard", *others)}
        for done, case in enumerate(cases, 1):
            reference = self.reference(case)
            for one, dice in found.items():
                labels = self._at(name, case, one) if one in others else self.held_out((name,), case, reference)
                dice.append(dice_of(reference.array, labels.array, self.targets, self.plan.ignore))
            yield Advanced(done, case)
        return {one: round(_candidate((name,), dice).dice, DIGITS) for one, dice in found.items()}

    def _at(self, name: Name, case: str, quality: Quality) -> LabelMap:
        """What a configuration finds in a case at a quality."""
        loaded, image = self._input(name, case)
        made = with_quality(self.plan.configurations[name], quality)
        window = SlidingWindow([self._network(self.held[name][case])], made, self.device)
        return restored(window.slabs(image), loaded.undo, self.plan)

    def _input(self, name: Name, case: str) -> tuple[LoadedCase, npt.NDArray[np.float32]]:
        """A prepared case, and what the network of a configuration reads of it."""
        plan = self.plan.model_copy(update={"chosen": name})
        (loaded,) = with_previous([self._prepared(name, case)], self.run, plan)
        channels = plan.configuration.network.in_channels
        return loaded, network_input(loaded.image_CXYZ, loaded.previous_XYZ, channels)

    def _answer(self, name: Name, case: str, path: Path) -> Answer:
        """A configuration's logits, on disk: several at a time may be more than memory holds."""
        loaded, image = self._input(name, case)
        made = self.plan.configurations[name]
        window = SlidingWindow([self._network(self.held[name][case])], made, self.device, path.parent)
        return Answer(spooled(window.slabs(image), image.shape[1:], path), loaded.undo)

    def _network(self, fold: Path) -> torch.nn.Module:
        held = self._loaded or {}
        if fold not in held:
            held = {path: network for path, network in held.items() if path.name == fold.name}
            held[fold] = load_model(fold, self.device).network
            self._loaded = held
        return held[fold]

    def _prepared(self, name: Name, case: str) -> LoadedCase:
        (found,) = load_cases(self._cache(name), [case], self.plan.configurations[name].preprocessing)
        return found

    def _cache(self, name: Name) -> Path:
        return self.run / "cache" / self.plan.configurations[name].cache

    def _folder(self, members: Members, case: str) -> Path:
        fold = self.held[members[0]][case]
        return fold if len(members) == 1 else self.run / "folds" / "+".join(members) / fold.name

    def _key(self, members: Members, case: str) -> str:
        stages = [name for name in with_stages(members, self.plan) if case in self.held.get(name, {})]
        cards = (read_record(self.held[name][case] / "model.json", ModelCard) for name in stages)
        return hashlib.sha256(" ".join(card.weights_sha256 for card in cards).encode()).hexdigest()
