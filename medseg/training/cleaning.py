"""Which steps of post-processing help, judged on held-out predictions: one is taken only where Dice rises by it.

First all structures together, then one by one; first components that go, then holes that are filled. Source of the
rule: nnU-Net (Isensee et al. 2021), whose only step is the largest component.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from medseg.evaluation.overlap import Overlap, count_overlaps
from medseg.imaging.volume import LabelMap
from medseg.inference.boxes import Box, Labels, box_of
from medseg.inference.postprocess import (
    Components,
    Mask,
    cleaned,
    components_of,
    filled,
    in_its_dimensions,
    kept_by,
    mask_of,
)
from medseg.inference.records import Cleaning
from medseg.planning.plan import Plan

VOLUMES_ML = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
RISES = 1e-4  # of the structures' mean Dice, added up; less is lost in the digits that are shown
FALLS = 1e-9  # rounding
ALL = "all structures together"

Targets = Mapping[str, tuple[int, ...]]
Pairs = Callable[[], Iterable[tuple[LabelMap, LabelMap]]]
Means = dict[str, float]
Group = Sequence[Cleaning]


def targets_of(plan: Plan) -> Targets:
    """What is scored: the values of each structure, or of each region, by name."""
    if plan.regions:
        return {region.name: region.values for region in plan.regions}
    return {structure.name: (structure.value,) for structure in plan.structures}


@dataclass(frozen=True)
class Judged:
    """Steps that help, and the mean Dice of each structure over all cases with them."""

    steps: tuple[Cleaning, ...]
    dice: Means


def choose_cleaning(pairs: Pairs, targets: Targets, ignore: int | None = None) -> Judged:
    """Steps that raise Dice; `pairs` gives each case's reference and held-out prediction, anew at every call.

    Of steps that remove components at most one is taken for each structure, and one for all together: that which
    raises the mean Dice most, if it lowers no structure's. ignore: the value in references of voxels that do not count.
    """
    best = Judged((), means(pairs, (), targets, ignore))
    for groups in _stages(targets):
        better = _helpful(pairs, best, groups, targets, ignore)
        if better:
            together = (*best.steps, *better)
            dice = means(pairs, together, targets, ignore)
            best = best if _any_falls(best.dice, dice) else Judged(together, dice)
    return best


def means(pairs: Pairs, steps: Sequence[Cleaning], targets: Targets, ignore: int | None = None) -> Means:
    """The mean Dice over cases of each structure that any case holds, after the steps."""
    found: dict[str, list[float]] = {name: [] for name in targets}
    for reference, prediction in pairs():
        for name, dice in dice_of(reference.array, cleaned(prediction, steps).array, targets, ignore).items():
            found[name].append(dice)
    return {name: float(np.mean(values)) for name, values in found.items() if values}


def mean(dice: Means) -> float:
    """Over structures; 0 where there are none."""
    return float(np.mean(list(dice.values()))) if dice else 0.0


def dice_of(reference: Labels, prediction: Labels, targets: Targets, ignore: int | None = None) -> Means:
    """Dice of each target that either array (of one shape) holds."""
    return _dice(_overlaps(reference, prediction, targets, ignore))


def _overlaps(reference: Labels, prediction: Labels, targets: Targets, ignore: int | None) -> dict[str, Overlap]:
    """Of each target; voxels that are to be ignored count as background in both."""
    if ignore is not None:
        counts = reference != ignore
        reference, prediction = reference * counts, prediction * counts
    if all(len(values) == 1 for values in targets.values()):
        found = count_overlaps(reference, prediction)
        return {name: found.get(values[0], Overlap(0, 0, 0)) for name, values in targets.items()}
    return {name: _overlap(reference, prediction, values) for name, values in targets.items()}


def _overlap(reference: Labels, prediction: Labels, values: Sequence[int]) -> Overlap:
    pair = (mask_of(array, values).view(np.uint8) for array in (reference, prediction))
    return count_overlaps(*pair).get(1, Overlap(0, 0, 0))


def _stages(targets: Targets) -> list[list[Group]]:
    """Groups of alternatives that are judged together: those of structures that share no voxel."""
    every = tuple(sorted({value for values in targets.values() for value in values}))
    disjoint = sum(map(len, targets.values())) == len(every)
    stages = [] if len(targets) == 1 else [[_removals(every, ALL)], [_fill(every, ALL)]]
    removals, fills = ([of(v, n) for n, v in targets.items()] for of in (_removals, _fill))
    if disjoint:
        return [*stages, removals, fills]
    return [*stages, *([group] for group in (*removals, *fills))]


def _removals(values: tuple[int, ...], what: str) -> Group:
    at_least = (Cleaning(kind="at_least", values=values, what=what, ml=ml) for ml in VOLUMES_ML)
    return (Cleaning(kind="largest", values=values, what=what), *at_least)


def _fill(values: tuple[int, ...], what: str) -> Group:
    return (Cleaning(kind="fill", values=values, what=what),)


def _helpful(
    pairs: Pairs, before: Judged, groups: Sequence[Group], targets: Targets, ignore: int | None
) -> list[Cleaning]:
    """The best step of each group, where one helps."""
    dice: dict[Cleaning, dict[str, list[float]]] = {
        step: {name: [] for name in targets} for group in groups for step in group
    }
    for reference, prediction in pairs():
        case = _Case.of(reference, cleaned(prediction, before.steps), targets, ignore)
        for group in groups:
            for step, found in case.after(group).items():
                for name, value in found.items():
                    dice[step][name].append(value)
    taken = []
    for group in groups:
        gains = {step: _gain(before.dice, dice[step]) for step in group}
        best = max(group, key=lambda step: gains[step])
        if gains[best] >= RISES:
            taken.append(best)
    return taken


def _gain(before: Means, after: Mapping[str, Sequence[float]]) -> float:
    """How much the sum of the structures' means rises; less than nothing where any falls."""
    now = {name: float(np.mean(values)) for name, values in after.items() if values}
    return -1.0 if _any_falls(before, now) else sum(now.values()) - sum(before[name] for name in now)


def _any_falls(before: Means, now: Means) -> bool:
    return any(value < before[name] - FALLS for name, value in now.items())


@dataclass(frozen=True, eq=False)
class _Case:
    """A case whose overlaps are known; steps are tried within the box of what they may change."""

    reference: Labels
    prediction: Labels
    voxel_ml: float
    targets: Targets
    ignore: int | None
    overlaps: Mapping[str, Overlap]

    @classmethod
    def of(cls, reference: LabelMap, prediction: LabelMap, targets: Targets, ignore: int | None) -> _Case:
        r, p = in_its_dimensions(reference.array), in_its_dimensions(prediction.array)
        return cls(r, p, reference.grid.voxel_ml, targets, ignore, _overlaps(r, p, targets, ignore))

    def after(self, group: Group) -> dict[Cleaning, Means]:
        """Dice of the targets after each step of a group, whose steps are of the same values."""
        values = set(group[0].values)
        touched = {name: of for name, of in self.targets.items() if values & set(of)}
        box = box_of(self.prediction, tuple({value for of in touched.values() for value in of}))
        if box is None:
            return dict.fromkeys(group, _dice(self.overlaps))
        found = self._filled(group[0], box, touched) if group[0].kind == "fill" else self._removed(group, box, touched)
        return {step: _dice({**self.overlaps, **changed}) for step, changed in found.items()}

    def _filled(self, step: Cleaning, box: Box, touched: Targets) -> dict[Cleaning, dict[str, Overlap]]:
        """The overlaps that filling changes: all of the prediction lies in the box, of the reference perhaps a part."""
        before = self.prediction[box]
        after = filled(before, step.values)
        if after is before:
            return {step: {}}
        found = _overlaps(self.reference[box], after, touched, self.ignore)
        return {step: {n: replace(of, reference=self.overlaps[n].reference) for n, of in found.items()}}

    def _removed(self, group: Group, box: Box, touched: Targets) -> dict[Cleaning, dict[str, Overlap]]:
        """The overlaps that removing components changes: each component is counted once for all steps."""
        reference, prediction = self.reference[box], self.prediction[box]
        components = components_of(mask_of(prediction, group[0].values))
        kept = {step: kept_by(step, components, self.voxel_ml) for step in group}
        found: dict[Cleaning, dict[str, Overlap]] = {step: {} for step in group}
        if all(of.all() for of in kept.values()):
            return found
        counts = None if self.ignore is None else reference != self.ignore
        for name, of in touched.items():
            ours = mask_of(prediction, of) if counts is None else mask_of(prediction, of) & counts
            both = ours & mask_of(reference, of)
            n_ours, n_both = (_counted(components, where) for where in (ours, both))
            for step, stays in kept.items():
                overlap = Overlap(self.overlaps[name].reference, int(n_ours[stays].sum()), int(n_both[stays].sum()))
                found[step][name] = overlap
        return found


def _counted(components: Components, where: Mask) -> npt.NDArray[np.int64]:
    """Voxels of each component, and of none, that lie `where`."""
    return np.bincount(components.numbered[where], minlength=components.voxels.size)


def _dice(overlaps: Mapping[str, Overlap]) -> Means:
    return {name: of.dice for name, of in overlaps.items() if of.reference or of.prediction}
