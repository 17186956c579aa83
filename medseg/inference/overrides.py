"""What the user asks of post-processing in place of what training chose: `--min-volume`, `--largest`, `--fill`.

Each is a list of words with commas: names of structures or regions, `all` for each of them on its own, `none` for
nothing of what was chosen. `--min-volume` has `liver=0.5`, or `0.5` for all, in ml.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from medseg.errors import InputError
from medseg.imaging.structures import alike
from medseg.inference.named import Named, known_name, named_values, words_of
from medseg.inference.records import Cleaning
from medseg.planning.plan import Plan

ALL, NONE = "all", "none"

Kind = Literal["at_least", "largest", "fill"]
OPTIONS: Mapping[Kind, str] = {"at_least": "--min-volume", "largest": "--largest", "fill": "--fill"}


def overridden(
    chosen: Sequence[Cleaning],
    plan: Plan,
    *,
    min_volume: Sequence[str] = (),
    largest: Sequence[str] = (),
    fill: Sequence[str] = (),
) -> tuple[Cleaning, ...]:
    """The steps to take: what was chosen but for what is asked otherwise, then what is asked.

    A step that is asked of a structure replaces the chosen one of its kind for that structure, and a chosen step of
    all structures together is taken of the others alone. `none` leaves out all chosen steps of its kind; a minimal
    volume of 0 keeps every component. Of `0.5,liver=2` the liver's own counts for it.

    Raises:
        InputError: a name is not known, or a volume is no number of at least 0.
    """
    known = named_values(plan)
    each = tuple(region.name for region in plan.regions) or tuple(plan.names.values())
    typed: Mapping[Kind, Sequence[str]] = {"at_least": min_volume, "largest": largest, "fill": fill}
    steps = list(chosen)
    for kind, texts in typed.items():
        words = list(words_of(texts, known))
        volumes_ml = _asked(kind, [word for word in words if alike(word) != NONE], known, each)
        if NONE in map(alike, words):
            steps = [step for step in steps if step.kind != kind]
        left = (step if step.kind != kind else _of_the_others(step, list(volumes_ml), known) for step in steps)
        steps = [step for step in left if step is not None]
        for name, ml in volumes_ml.items():
            if ml > 0 or kind != "at_least":
                steps.append(Cleaning(kind=kind, values=known[name], what=name, ml=ml))
    return tuple(steps)


def _asked(kind: Kind, words: Sequence[str], known: Named, each: Sequence[str]) -> dict[str, float]:
    """For each structure that a step of this kind is asked of the minimal volume in ml, 0 where the step has none.

    What is said of a structure by name counts more than what is said of all.
    """
    of_all: dict[str, float] = {}
    by_name: dict[str, float] = {}
    for word in words:
        name, ml = _volume(word) if kind == "at_least" else (word, 0.0)
        if alike(name) == ALL:
            of_all |= dict.fromkeys(each, ml)
        else:
            by_name[known_name(name, known, OPTIONS[kind])] = ml
    return of_all | by_name


def _volume(word: str) -> tuple[str, float]:
    """The name and the volume of `liver=0.5`; the name is `all` where there is a number alone."""
    name, equals, number = word.rpartition("=")
    try:
        ml = float(number)
    except ValueError:
        ml = math.nan
    if not (math.isfinite(ml) and ml >= 0):
        raise InputError(f"--min-volume {word} is no volume", fix="give ml, such as 0.5 for all or liver=0.5 for one")
    return (name.strip() if equals else ALL), ml


def _of_the_others(step: Cleaning, asked: Sequence[str], known: Named) -> Cleaning | None:
    """A chosen step without the structures that the same kind is asked of; None where nothing is left of it.

    A step of another structure or region stays whole, even where it shares label values with one of these.
    """
    if step.what in asked:
        return None
    taken = {value for name in asked for value in known[name]}
    values = tuple(value for value in step.values if value not in taken)
    if step.what in known or values == step.values:
        return step
    return step.model_copy(update={"values": values, "what": f"{step.what} but {', '.join(asked)}"}) if values else None
