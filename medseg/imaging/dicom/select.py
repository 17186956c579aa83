"""Which volume is meant: a rule over header values, else the best by a plain score. Never one among equals.

A rule is a list of conditions, joined by commas, all of which must hold:

    Modality=CT                          equal; upper and lower case are the same, and so are 4.6 and 4.60
    ConvolutionKernel=B3*                a pattern (`*` any text, `?` any character, `[ab]` one of these)
    SliceThickness=0.5..2                a range, ends included; `..2` and `0.5..` are open on one side
    SeriesDescription~arterial|portal    a regular expression, found anywhere
    !ImageType=*SECONDARY*               not

A value of several parts (ImageType) fits if all of it does, joined by backslashes, or one of its parts. Within a
condition, `\\,` is a comma.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate

from medseg.errors import InputError
from medseg.imaging.dicom.headers import as_numbers
from medseg.imaging.dicom.tags import KNOWN
from medseg.imaging.dicom.volumes import SubVolume

ALIKE = 0.1  # numbers of slices, or steps, that differ by less than this share count as equal
MODALITIES = {"CT": "CT", "MR": "MR", "MRI": "MR", "PT": "PT", "PET": "PT"}  # as it may be said -> as DICOM has it

_CONDITION = re.compile(r"\s*(?P<no>!?)\s*(?P<tag>\w+)\s*(?P<how>[=~])\s*(?P<value>.*?)\s*")
_RANGE = re.compile(r"([-+]?[\d.]*?(?:[eE][-+]?\d+)?)\.\.([-+]?[\d.]*(?:[eE][-+]?\d+)?)")
_FORM = "write conditions such as Modality=CT, SliceThickness=0.5..2, !ImageType=*SECONDARY*, joined by commas"


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition on one header value: whether `fits` holds for it, or must not."""

    tag: str
    fits: Callable[[str], bool]
    negated: bool

    def holds(self, tags: Mapping[str, str]) -> bool:
        """True if these header values meet the condition; a value that is absent fits nothing."""
        value = tags.get(self.tag, "")
        return (bool(value) and self.fits(value)) != self.negated


@dataclass(frozen=True, slots=True)
class Rule:
    """Conditions that must all hold, and the text that they were read from."""

    text: str
    conditions: tuple[Condition, ...]

    def fits(self, volume: SubVolume) -> bool:
        """True if all conditions hold for the volume's header values."""
        return all(condition.holds(volume.tags) for condition in self.conditions)


@dataclass(frozen=True, eq=False)
class Choice:
    """The volume chosen, or None; then `candidates` are those that are alike. `why` is safe to show."""

    volume: SubVolume | None
    candidates: tuple[SubVolume, ...]
    why: str


def parse_rule(text: str) -> Rule:
    """Read a rule.

    Raises:
        InputError: it is not of the form above, or asks for a value that is not kept; the known ones are named.
    """
    parts = [part.replace("\\,", ",") for part in re.split(r"(?<!\\),", text)]
    return Rule(text, tuple(map(_condition, parts)))


def _condition(text: str) -> Condition:
    found = _CONDITION.fullmatch(text)
    if found is None or not found["value"]:
        raise InputError(f"{text.strip()!r} is no condition of a selection rule", fix=_FORM)
    tag = next((known for known in KNOWN if known.lower() == found["tag"].lower()), None)
    if tag is None:
        raise InputError(f"{found['tag']!r} is nothing that a selection rule can ask for", fix=f"known: {_known()}")
    fits = _expression(found["value"]) if found["how"] == "~" else _range(found["value"]) or _pattern(found["value"])
    return Condition(tag, fits, bool(found["no"]))


def _known() -> str:
    return ", ".join(sorted(KNOWN))


def _expression(said: str) -> Callable[[str], bool]:
    try:
        expression = re.compile(said, re.IGNORECASE)
    except re.error as error:
        raise InputError(f"{said!r} is no regular expression ({error.msg})", fix=_FORM) from None
    return lambda value: expression.search(value) is not None


def _range(said: str) -> Callable[[str], bool] | None:
    """None if `said` is no range."""
    if (found := _RANGE.fullmatch(said)) is None:
        return None
    try:
        low, high = (
            float(end) if end else without for end, without in zip(found.groups(), (-math.inf, math.inf), strict=True)
        )
    except ValueError:
        raise InputError(f"{said!r} is no range of numbers", fix=_FORM) from None
    if low > high:
        raise InputError(f"the range {said!r} is empty", fix="put the smaller number first")
    return lambda value: bool(numbers := as_numbers(value)) and all(low <= number <= high for number in numbers)


def _pattern(said: str) -> Callable[[str], bool]:
    pattern = re.compile(translate(said), re.IGNORECASE)
    wanted = as_numbers(said)

    def fits(value: str) -> bool:
        if any(map(pattern.match, (value, *value.split("\\")))):
            return True
        numbers = as_numbers(value)
        return len(wanted) == len(numbers) == 1 and math.isclose(wanted[0], numbers[0], rel_tol=1e-6)

    return fits


def choose(volumes: Sequence[SubVolume], rule: Rule | None, modality: str = "") -> Choice:
    """Choose one of the usable volumes that the rule fits.

    `modality` is the one that a model was made for (CT, MR or PT; empty if unknown): without a rule no other one is
    taken. Among several, in this order: the modality, ORIGINAL and PRIMARY images, most slices, smallest step. Numbers
    of slices and steps that differ by less than 10 % count as equal. If several are left, none is chosen.
    """
    fitting = [volume for volume in volumes if volume.verdict.usable and (rule is None or rule.fits(volume))]
    wanted = MODALITIES.get(modality.upper(), "")
    if rule is None and wanted and not any(volume.modality == wanted for volume in fitting):
        return Choice(None, (), f"none of them is {wanted}" if fitting else "none of them can be used")
    if not fitting:
        return Choice(None, (), "the rule fits none of them" if rule is not None else "none of them can be used")
    why = "the only one that the rule fits" if rule is not None else "the only one"
    for better, said in _PREFERENCES:
        if len(fitting) == 1:
            return Choice(fitting[0], (), why)
        kept = better(fitting, wanted)
        why = said.format(modality=wanted) if 0 < len(kept) < len(fitting) else why
        fitting = kept or fitting
    if len(fitting) == 1:
        return Choice(fitting[0], (), why)
    return Choice(None, tuple(fitting), f"{len(fitting)} of them are alike")


def _of_modality(volumes: list[SubVolume], modality: str) -> list[SubVolume]:
    return [volume for volume in volumes if volume.modality == modality]


def _original(volumes: list[SubVolume], _: str) -> list[SubVolume]:
    first = ["ORIGINAL", "PRIMARY"]
    return [v for v in volumes if v.tags.get("ImageType", "").upper().split("\\")[:2] == first]


def _longest(volumes: list[SubVolume], _: str) -> list[SubVolume]:
    most = max(len(volume.frames) for volume in volumes)
    return [volume for volume in volumes if len(volume.frames) > (1 - ALIKE) * most]


def _thinnest(volumes: list[SubVolume], _: str) -> list[SubVolume]:
    steps = [_step_mm(volume) for volume in volumes]
    return [volume for volume, step in zip(volumes, steps, strict=True) if step < (1 + ALIKE) * min(steps)]


def _step_mm(volume: SubVolume) -> float:
    return volume.grid.spacing_mm[2] if volume.grid is not None else math.inf


_PREFERENCES: tuple[tuple[Callable[[list[SubVolume], str], list[SubVolume]], str], ...] = (
    (_of_modality, "the only {modality}"),
    (_original, "the only one with ORIGINAL, PRIMARY images"),
    (_longest, "the one with most slices"),
    (_thinnest, "the one with the thinnest slices"),
)
