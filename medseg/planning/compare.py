"""Two plans side by side: every decision in which they differ, each with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from medseg.files import Record
from medseg.planning.plan import Configuration, Name, Plan, Reason

# What a plan states but does not decide: where it comes from, and what it is expected to cost.
_PLAN_FACTS = {
    "version", "medseg", "dataset", "cases", "fingerprint", "request", "configurations", "reasons", "alternatives",
}  # fmt: skip
_CONFIGURATION_FACTS = {"name", "cost", "reasons"}


class Side(Record):
    """What one plan says of a field: its value, as in plan.json, and why."""

    value: Any
    why: str


class Difference(Record):
    """A field in which two plans differ, and in which of their configurations; none if it is one of the whole plan."""

    field: str
    configurations: tuple[Name, ...]
    ours: Side
    other: Side


def decisions(record: Plan | Configuration) -> dict[str, Any]:
    """Every field of a plan (without its configurations) or of a configuration that is a decision: name -> value."""
    facts = _PLAN_FACTS if isinstance(record, Plan) else _CONFIGURATION_FACTS
    return {name: value for name, value in _leaves(record, "") if name.split(".")[0] not in facts}


def _leaves(record: Record, before: str) -> Iterator[tuple[str, Any]]:
    for name in type(record).model_fields:
        value = getattr(record, name)
        if isinstance(value, Record):
            yield from _leaves(value, f"{before}{name}.")
        else:
            yield before + name, value


def reason_for(plan: Plan, field: str, configuration: Name | None = None) -> Reason | None:
    """The reason that names a field of a plan, or of one of its configurations."""
    own = plan.configurations[configuration].reasons if configuration else ()
    return next((reason for reason in (*own, *plan.reasons) if field in reason.fields), None)


def compare(ours: Plan, other: Plan) -> list[Difference]:
    """Every field in which two plans differ: those of the whole plan, then those of the configurations chosen.

    Fields that differ alike in several configurations are one difference.
    """
    found = [*_facts(ours, other), *_between(ours, other, None)]
    merged: dict[str, Difference] = {}
    for name in dict.fromkeys((ours.chosen, other.chosen)):
        for difference in _between(ours, other, name):
            key = difference.model_dump_json(exclude={"configurations"})
            before = merged.get(key)
            names = (*before.configurations, name) if before else (name,)
            merged[key] = difference.model_copy(update={"configurations": names})
    return [*found, *merged.values()]


def _facts(ours: Plan, other: Plan) -> Iterator[Difference]:
    """What the two were made from."""
    for field in ("medseg", "dataset", "cases", "fingerprint"):
        mine, theirs = getattr(ours, field), getattr(other, field)
        if mine != theirs:
            why = "the data that was looked at" if field != "medseg" else "the medseg that planned"
            yield _difference(field, None, Side(value=mine, why=why), Side(value=theirs, why=why))
    asked, before = dict(_leaves(ours.request, "request.")), dict(_leaves(other.request, "request."))
    for field in asked:
        if asked[field] != before[field]:
            sides = (Side(value=of[field], why="as asked") for of in (asked, before))
            yield _difference(field, None, *sides)


def _between(ours: Plan, other: Plan, name: Name | None) -> Iterator[Difference]:
    """In what the plans decide for all (no name), or in a configuration; one that a plan lacks is one difference."""
    mine, theirs = ((plan.configurations.get(name) if name else plan) for plan in (ours, other))
    if mine is None or theirs is None:
        sides = (_presence(record is not None) for record in (mine, theirs))
        yield _difference("configurations", name, *sides)
        return
    values, before = decisions(mine), decisions(theirs)
    for field in values:
        if values[field] != before[field]:
            yield _difference(field, name, _side(ours, field, name, values), _side(other, field, name, before))


def _presence(there: bool) -> Side:
    why = "it was planned" if there else "scans are not much larger than a patch, or it was not thought of"
    return Side(value="there" if there else "none", why=why)


def _side(plan: Plan, field: str, name: Name | None, values: dict[str, Any]) -> Side:
    reason = reason_for(plan, field, name)
    return Side(value=_plain(values[field]), why=reason.why if reason else "")


def _difference(field: str, name: Name | None, ours: Side, other: Side) -> Difference:
    return Difference(field=field, configurations=(name,) if name else (), ours=ours, other=other)


def _plain(value: Any) -> Any:
    """As in JSON."""
    if isinstance(value, Record):
        return value.model_dump(mode="json")
    return [_plain(one) for one in value] if isinstance(value, tuple) else value
