"""Reading `dataset.json`, as the Medical Segmentation Decathlon and as nnU-Net write it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.errors import InputError
from medseg.imaging.nifti import SUFFIXES

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
    labels: dict[int, str]
    training: tuple[Listed, ...] | None

    def require(self, *keys: str) -> None:
        """Refuse the file where one of `keys` (channels, labels) is not said.

        Raises:
            InputError: a key is missing.
        """
        known = {"channels": ("channel_names or modality", self.channels), "labels": ("labels", self.labels)}
        for key in keys:
            name, value = known[key]
            if not value:
                raise InputError(f"does not say {name}", self.path, "add the key to the file")


def read_description(path: Path) -> Description:
    """Read a `dataset.json`.

    Raises:
        InputError: cut or not JSON, a key that is not as either layout writes it, files that are not NIfTI, or
            labels that are not supported yet (regions, ignore).
    """
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError("is not valid JSON", path, _MEND) from error
    if not isinstance(said, dict):
        raise InputError("is JSON, but no object with keys", path, _MEND)
    ending = said.get("file_ending", SUFFIXES[0])
    if ending not in SUFFIXES:
        raise InputError(f"its files end in {ending}; only .nii and .nii.gz are read", path, "convert them to NIfTI")
    return Description(
        path,
        _channels(said.get("channel_names", said.get("modality")), path),
        _labels(said.get("labels"), path),
        _training(said.get("training"), path),
    )


def _channels(said: Any, path: Path) -> tuple[str, ...]:
    if said is None:
        return ()
    if isinstance(said, list):
        said = dict(enumerate(said))
    if not isinstance(said, dict) or not said:
        raise InputError("its channel names are no list of names", path, 'write them as {"0": "CT"}')
    if set(map(str, said)) != {str(i) for i in range(len(said))}:
        raise InputError(f"its channels are numbered {', '.join(map(str, said))}, not 0, 1, ...", path, _MEND)
    return tuple(str(said[key]) for key in sorted(said, key=int))


def _labels(said: Any, path: Path) -> dict[int, str]:
    if said is None:
        return {}
    if not isinstance(said, dict):
        raise InputError("its labels are no names with numbers", path, 'write them as {"background": 0, "liver": 1}')
    pairs = _by_value(said, path)
    labels = {value: name for value, name in sorted(pairs) if value != 0}
    if len({value for value, _ in pairs}) < len(pairs) or len(set(labels.values())) < len(labels):
        raise InputError("two of its labels share a number or a name", path, "give each its own")
    if not labels:
        raise InputError("names no structure besides the background", path, "add the structures to its labels")
    return labels


def _by_value(said: Mapping[str, Any], path: Path) -> list[tuple[int, str]]:
    """Both directions: {"1": "liver"} (Decathlon) and {"liver": 1} (nnU-Net)."""
    if any(isinstance(value, list) for value in said.values()):
        raise InputError("has labels made of several values (regions), which are not supported yet", path)
    if "ignore" in said or "ignore" in said.values():
        raise InputError("has an ignore label, which is not supported yet", path)
    turned = all(key.strip().isdecimal() for key in said) and all(isinstance(v, str) for v in said.values())
    pairs = [(key, name) for key, name in said.items()] if turned else [(value, key) for key, value in said.items()]
    try:
        numbered = [(int(value), str(name).strip()) for value, name in pairs if not isinstance(value, bool | float)]
    except (TypeError, ValueError):
        numbered = []
    if len(numbered) < len(pairs) or any(not name or not 0 <= value <= 65535 for value, name in numbered):
        raise InputError("a label is no name with a whole number from 0 to 65535", path, _MEND)
    return numbered


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
