"""Where a trained nnU-Net model lies: its results folder, or the zip that nnUNetv2_export_model_to_zip makes of it."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from medseg.errors import InputError, explained
from medseg.files import BROKEN_ZIP

_FOLD = re.compile(r"fold_(all|\d+)")
_WANTED = re.compile(
    r"(?P<above>(?:[^/]+/)*)(?P<model>[^/:\\]+__[^/:\\]+__[^/:\\]+)/"  # `D:` and `\` lead elsewhere on Windows
    r"(?P<file>(?:plans|dataset)\.json|fold_(?:all|\d+)/(?:checkpoint_(?:final|best)\.pth|validation/summary\.json))"
)


@contextmanager
def models_in(source: Path) -> Iterator[list[Path]]:
    """The model folders (those with plans.json) at or below `source`; of a zip unpacked for as long as this lasts.

    Of a zip nothing is unpacked but what a model consists of, under names that are known.

    Raises:
        InputError: there is none, or the zip is damaged.
        ResourceError: a disk without room to unpack.
    """
    if source.is_dir():
        yield _found(source, source)
        return
    if not source.is_file():
        raise InputError("there is no such folder or zip", source)
    with TemporaryDirectory(prefix="medseg-") as scratch:
        _unpacked(source, Path(scratch))
        yield _found(Path(scratch), source)


def _found(folder: Path, source: Path) -> list[Path]:
    found = sorted({path.parent for at in ("", "*/", "*/*/") for path in folder.glob(f"{at}plans.json")})
    if not found:
        raise InputError(
            "holds no model of nnU-Net", source, "name a folder ...__...__3d_fullres with plans.json and fold_0"
        )
    return found


def _unpacked(source: Path, scratch: Path) -> None:
    try:
        with zipfile.ZipFile(source) as archive:
            wanted = [match for name in archive.namelist() if (match := _WANTED.fullmatch(name)) and ".." not in name]
            if len({match["above"] for match in wanted}) > 1:
                raise InputError("holds models of several data sets", source, "unpack it and name one model folder")
            for match in wanted:
                name, target = match[0], scratch / match["model"] / match["file"]
                with explained(scratch):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(name) as packed, target.open("wb") as unpacked:
                        shutil.copyfileobj(packed, unpacked, 1 << 20)
    except BROKEN_ZIP as error:
        raise InputError("is neither a folder nor a whole zip", source) from error


def chosen_model(models: Sequence[Path], configuration: str, source: Path) -> Path:
    """The one model folder, or that of the configuration that was asked for (`3d_fullres`).

    Raises:
        InputError: none is of that name, or there are several.
    """
    names = dict.fromkeys(map(configuration_of, models))
    found = [model for model in models if configuration in ("", configuration_of(model))]
    if not found:
        raise InputError(f"holds no configuration {configuration}", source, f"choose among {', '.join(names)}")
    if len(found) == 1:
        return found[0]
    if len(names) == len(models):
        raise InputError(f"holds {len(found)} models", source, f"choose one by --configuration: {', '.join(names)}")
    folders = ", ".join(str(model.relative_to(source)) if source.is_dir() else model.name for model in found)
    fix = f"name one of its folders{'' if source.is_dir() else ', unpacked'}: {folders}"
    raise InputError(f"holds {len(found)} models{f' of {configuration}' if configuration else ''}", source, fix)


def configuration_of(model: Path) -> str:
    """What the folder's name says of its configuration."""
    return model.name.rpartition("__")[2]


def previous_model(model: Path, name: str) -> Path:
    """The folder of a cascade's first stage, which lies beside that of the second.

    Raises:
        InputError: it does not.
    """
    beside = model.resolve().with_name(f"{model.resolve().name.rpartition('__')[0]}__{name}")
    if not (beside / "plans.json").is_file():
        what = f"is the second stage of a cascade, and the first, {beside.name}, is not beside it"
        raise InputError(what, model, "import the folder or zip that holds both")
    return beside


def folds_in(model: Path, asked: Sequence[str], checkpoint: str) -> tuple[str, ...]:
    """Names of the folds to take: those asked for, else all with a checkpoint; `all` only where it is the only one.

    Raises:
        InputError: a fold is not there, or none is finished.
    """
    places = [(match[1], path) for path in model.glob("fold_*") if (match := _FOLD.fullmatch(path.name))]
    found = sorted((name for name, path in places if (path / f"checkpoint_{checkpoint}.pth").is_file()), key=_number)
    if missing := [name for name in asked if name not in found]:
        there = f"there are {', '.join(found)}" if found else "there is none"
        raise InputError(f"has no checkpoint_{checkpoint}.pth of fold {missing[0]}", model, there)
    if not found:
        fix = "train it to its end, or try --checkpoint best" if checkpoint == "final" else "try --checkpoint final"
        raise InputError(f"no fold has a checkpoint_{checkpoint}.pth", model, fix)
    return tuple(asked) or tuple(name for name in found if name != "all") or ("all",)


def _number(fold: str) -> tuple[bool, int]:
    return (True, 0) if fold == "all" else (False, int(fold))
