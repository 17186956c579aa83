"""The one place of medseg that opens a pickle: a checkpoint of nnU-Net, as numbers and nothing else.

`weights_only` lets torch's own reader build tensors and plain containers alone; whatever else a file names is refused
before it is run. nnU-Net writes its curves as numpy numbers, so these, and no more, are allowed besides.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251 what torch raises of a file that names anything else
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import scalar  # by which numpy stores one number
from torch import Tensor

from medseg.errors import InputError

FOREIGN = "is no checkpoint of nnU-Net v2"
EPOCH_STEPS = 250  # nnU-Net's own; checkpoints count epochs
_NUMBERS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (scalar, "numpy.core.multiarray.scalar"),  # as numpy before version 2 names it
    (scalar, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float16, np.float32, np.float64, np.int32, np.int64, np.bool_)),
]


@dataclass(frozen=True)
class Checkpoint:
    """What one fold ended with, but its weights. mirror_axes: those of the network that it may be mirrored along."""

    path: Path
    trainer: str
    configuration: str
    mirror_axes: tuple[int, ...]
    steps: int
    seconds: float


def open_checkpoint(path: Path) -> Checkpoint:
    """What a checkpoint of nnU-Net v2 tells.

    Raises:
        InputError: it is missing, cut, no checkpoint of nnU-Net, or asks for anything but numbers.
    """
    told = _numbers_of(path)
    try:
        return Checkpoint(
            path=path,
            trainer=str(told["trainer_name"]),
            configuration=str(told["init_args"]["configuration"]),
            mirror_axes=tuple(int(axis) for axis in told.get("inference_allowed_mirroring_axes") or ()),
            steps=int(told["current_epoch"]) * EPOCH_STEPS,
            seconds=_seconds(told.get("logging") or {}),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(FOREIGN, path) from error


def weights_in(path: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint by nnU-Net's names, mapped from the file: it must stay for as long as they are used.

    Raises:
        InputError: as `open_checkpoint`.
    """
    found = _numbers_of(path).get("network_weights")
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise InputError(FOREIGN, path)
    return {str(name): tensor for name, tensor in found.items()}


def _numbers_of(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError("there is no such checkpoint", path, "see --checkpoint and --folds")
    if not zipfile.is_zipfile(path):
        raise InputError("is no whole checkpoint of torch", path, "copy it again")
    try:
        with torch.serialization.safe_globals(_NUMBERS):
            told = torch.load(path, map_location="cpu", weights_only=True, mmap=True)  # noqa: TID251 guarded above
    except UnpicklingError as error:
        what = "holds more than numbers, and was not opened: a pickle can run any program"
        raise InputError(what, path, "import only what nnU-Net itself has written") from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise InputError("is no whole checkpoint of torch", path, "copy it again") from error
    if not isinstance(told, dict):
        raise InputError(FOREIGN, path)
    return told


def _seconds(logging: Mapping[str, Any]) -> float:
    """How long the epochs took together."""
    begun, ended = logging.get("epoch_start_timestamps") or (), logging.get("epoch_end_timestamps") or ()
    return round(float(sum(end - start for start, end in zip(begun, ended, strict=False))), 1)
