from __future__ import annotations

import datetime as dt
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medseg.errors import InputError
from medseg.inference.nnunet.checkpoint import open_checkpoint, weights_in
from tests.inference.nnunet.build import checkpoint_of


class Runs:
    """What a pickle can hold besides numbers: a call, made as it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def saved(folder: Path, told: Any) -> Path:
    torch.save(told, folder / "checkpoint_final.pth")
    return folder / "checkpoint_final.pth"


def test_numbers_are_read(tmp_path: Path) -> None:
    logging = {
        "mean_fg_dice": [np.float32(0.5), np.float64(0.25)],
        "epoch_start_timestamps": [100.0, np.float64(110.0)],
        "epoch_end_timestamps": [109.5, 121.0],
    }
    told = checkpoint_of({"a": torch.ones(2)}, logging=logging, _best_ema=np.float64(0.5))
    found = open_checkpoint(saved(tmp_path, told))
    assert torch.equal(weights_in(found.path)["a"], torch.ones(2))
    assert (found.trainer, found.configuration, found.mirror_axes) == ("nnUNetTrainer", "3d_fullres", (0, 1, 2))
    assert (found.steps, found.seconds) == (500, 20.5)


def test_a_model_without_mirroring(tmp_path: Path) -> None:
    told = checkpoint_of({}, inference_allowed_mirroring_axes=None)
    assert open_checkpoint(saved(tmp_path, told)).mirror_axes == ()


@pytest.mark.parametrize("where", ["network_weights", "logging", "optimizer_state", "anything"])
def test_a_program_in_a_pickle_is_refused_and_not_run(tmp_path: Path, where: str) -> None:
    told = checkpoint_of({}) | {where: {"x": Runs(tmp_path / "done")}}
    with pytest.raises(InputError, match="holds more than numbers, and was not opened") as caught:
        open_checkpoint(saved(tmp_path, told))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "done").exists()


def test_even_a_harmless_object_is_refused(tmp_path: Path) -> None:
    told = checkpoint_of({}) | {"when": dt.date(2020, 1, 1)}
    with pytest.raises(InputError, match="holds more than numbers"):
        open_checkpoint(saved(tmp_path, told))


@pytest.mark.parametrize("told", [[1, 2], {"state_dict": {}}, checkpoint_of({}, init_args=None)])
def test_other_checkpoints_are_refused(tmp_path: Path, told: Any) -> None:
    with pytest.raises(InputError, match=r"is no checkpoint of nnU-Net v2"):
        open_checkpoint(saved(tmp_path, told))


@pytest.mark.parametrize("weights", [{"a": 1}, [1], None])
def test_weights_that_are_none_are_refused(tmp_path: Path, weights: Any) -> None:
    with pytest.raises(InputError, match=r"is no checkpoint of nnU-Net v2"):
        weights_in(saved(tmp_path, checkpoint_of(weights)))


def test_a_checkpoint_that_is_cut_or_missing_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, checkpoint_of({"a": torch.ones(1000)}))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match="is no whole checkpoint of torch; copy it again"):
        open_checkpoint(path)
    path.unlink()
    with pytest.raises(InputError, match="there is no such checkpoint"):
        open_checkpoint(path)
