"""Every family of networks learns the sample data: planned, trained and validated as a user would, at 8 mm a voxel."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medseg.planning.cost import Machine, Measured
from medseg.planning.dataset import plan_dataset
from medseg.planning.families import FAMILIES
from medseg.planning.plan import Budget, Request
from medseg.training.run import Trained, train
from tests.tiny import last

TRAIN = Path(__file__).parents[2] / "sample_data" / "train"
SLOW_CPU = Machine(lambda *_: Measured(1000.0), lambda: 8e9)  # on which planning takes its narrowest network
STEPS = {"resenc-l": 0, "resenc-xl": 0, "swin-unetr": 120, "mednext": 200, "fcn": 500}  # others: see below; 0: as -m


@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name in FAMILIES if STEPS.get(name) != 0])
def test_each_finds_liver_and_kidney(family: str, tmp_path: Path, one_thread: None) -> None:
    request = Request(spacing="8", dims="3d", network=family, labels=("liver", "kidney"), budget=Budget(seconds=60))
    last(plan_dataset(TRAIN, tmp_path / "run", request, SLOW_CPU))
    steps = Budget(steps=STEPS.get(family, 300))
    done = last(train(tmp_path / "run", ["0"], steps, torch.device("cpu")))
    assert isinstance(done, Trained)
    (fold,) = done.folds
    assert fold.scores is not None
    dice = [s.metrics["dice"].mean for s in fold.scores.structures]
    assert sum(dice) / len(dice) >= 0.70, dice
