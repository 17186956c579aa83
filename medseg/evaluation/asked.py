"""What was typed for an evaluation, as its settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

import yaml

from medseg.errors import InputError, explained
from medseg.evaluation.settings import DEFAULT, Settings, SurfaceMode

TOLERANCES = "1,2,3"  # mm
_MOST_BYTES = 1 << 20
_EVERY = "default"


def settings_from(
    tolerance: str = TOLERANCES,
    surface: str = "surfel",
    tubular: Sequence[str] = (),
    instances: Sequence[str] = (),
    min_lesion_mm3: float = 0.0,
    fov_faces: str = "count",
    both_empty: str = "exclude",
    resample: bool = False,
) -> Settings:
    """Settings as options say them.

    tolerance: `1,2,3` in mm, or a YAML or JSON file with a number or a list for each structure, and for `default`.
    tubular, instances: names of structures, several in one with commas between them.

    Raises:
        InputError: one of them is no choice, or the file is not of this form.
    """
    tolerances, of = _tolerances(tolerance)
    return Settings(
        surface=cast(SurfaceMode, _choice("--surface", surface, get_args(SurfaceMode))),
        tolerances_mm=tolerances,
        tolerances_of=of,
        tubular=_names(tubular),
        instances=_names(instances),
        min_lesion_mm3=min_lesion_mm3,
        fov_faces=cast(Any, _choice("--fov-faces", fov_faces, ("count", "exclude"))),
        both_empty=cast(Any, _choice("--both-empty", both_empty, ("exclude", "perfect"))),
        resample=resample,
    )


def _choice(option: str, text: str, choices: Sequence[str]) -> str:
    if text not in choices:
        raise InputError(f"{option} {text} is no choice", fix=f"give {', '.join(choices)}")
    return text


def _names(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for text in texts for part in text.split(",") if (name := part.strip()))


def _tolerances(text: str) -> tuple[tuple[float, ...], dict[str, tuple[float, ...]]]:
    """Those of all structures, and those of some."""
    found = _numbers(text.split(","))
    if found:
        return found, {}
    path = Path(text)
    if not path.is_file():
        fix = "write it as 1,2,3 (mm), or give a YAML or JSON file with them"
        raise InputError(f"--tolerance {text} is neither numbers nor a file", fix=fix)
    said = _read(path)
    of = {str(name): _numbers(mm if isinstance(mm, list) else [mm]) for name, mm in said.items()}
    wrong = [name for name, numbers in of.items() if not numbers]
    if wrong:
        raise InputError(f"the tolerance of {wrong[0]} is no number, and no list of numbers", path, "write it in mm")
    return of.pop(_EVERY, DEFAULT.tolerances_mm), of


def _numbers(parts: Sequence[Any]) -> tuple[float, ...]:
    """None if any is not a number."""
    try:
        return tuple(float(part) for part in parts if not isinstance(part, bool))
    except (TypeError, ValueError):
        return ()


def _read(path: Path) -> dict[Any, Any]:
    with explained(path):
        if path.stat().st_size > _MOST_BYTES:
            raise InputError("is too large for a file of tolerances", path)
        text = path.read_text(encoding="utf-8-sig")
    try:
        said = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise InputError("is neither YAML nor JSON", path, "write `liver: 3` on a line for each structure") from error
    if not isinstance(said, dict):
        raise InputError("names no structures", path, "write `liver: 3` on a line for each structure")
    return said
