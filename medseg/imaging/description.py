"""Reading `dataset.json`, as the Medical Segmentation Decathlon and as nnU-Net write it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.errors import InputError
from medseg.imaging.formats import is_volume_file
from medseg.imaging.structures import Structures, read_structures

FILE = "dataset.json"
_MEND = "mend the file or make it anew"


@dataclass(frozen=True, slots=True)
class Listed:
    """One entry of `training`: image files and label file as they are written there."""

    images: tuple[str, ...]
    label: str | None


@dataclass(frozen=True, slots=True)
class Description:
    """What a `dataset.json` says; what it does not say is empty (`training`: None)."""

    path: Path
    channels: tuple[str, ...]
    structures: Structures
    training: tuple[Listed, ...] | None
    ending: str = ".nii.gz"

    def require(self, *keys: str) -> None:
        """Refuse the file where one of `keys` (channels, labels) is not said.

        Raises:
            InputError: a key is missing.
        """
        known = {"channels": ("channel_names or modality", self.channels), "labels": ("labels", self.structures.labels)}
        for key in keys:
            name, value = known[key]
            if not value:
                raise InputError(f"does not say {name}", self.path, "add the key to the file")


def read_description(path: Path) -> Description:
    """Read a `dataset.json`.

    Raises:
        InputError: cut or not JSON, a key that is not as either layout writes it, or files of an unknown kind.
    """
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError("is not valid JSON", path, _MEND) from error
    if not isinstance(said, dict):
        raise InputError("is JSON, but no object with keys", path, _MEND)
    ending = said.get("file_ending", ".nii.gz")
    if not isinstance(ending, str) or is_volume_file(Path(f"case{ending}")) is None:
        raise InputError(f"its files end in {ending}, which are not read", path, "convert them to NIfTI (.nii.gz)")
    return Description(
        path,
        read_channel_names(said.get("channel_names", said.get("modality")), path),
        read_structures(said, path),
        _training(said.get("training"), path),
        ending,
    )


def read_channel_names(said: Any, path: Path) -> tuple[str, ...]:
    """The names of the channels, told as {"0": "CT"} or as a list; nothing where nothing is said.

    Raises:
        InputError: it is neither, or the numbers are not 0, 1, ...
    """
    if said is None:
        return ()
    if isinstance(said, list):
        said = dict(enumerate(said))
    if not isinstance(said, dict) or not said:
        raise InputError("its channel names are no list of names", path, 'write them as {"0": "CT"}')
    if set(map(str, said)) != {str(i) for i in range(len(said))}:
        raise InputError(f"its channels are numbered {', '.join(map(str, said))}, not 0, 1, ...", path, _MEND)
    return tuple(str(said[key]) for key in sorted(said, key=int))


def _training(said: Any, path: Path) -> tuple[Listed, ...] | None:
    if said is None:
        return None
    entries = []
    for entry in said if isinstance(said, list) else [None]:
        images = entry.get("image") if isinstance(entry, dict) else None
        images = [images] if isinstance(images, str) else images
        label = entry.get("label") if isinstance(entry, dict) else None
        named = isinstance(images, list) and all(isinstance(image, str) for image in images)
        if not images or not named or not isinstance(label, str | None):
            raise InputError('its "training" is no list of {"image": ..., "label": ...}', path, _MEND)
        entries.append(Listed(tuple(images), label))
    return tuple(entries)
