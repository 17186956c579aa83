"""Every architecture learns the sample data: planned, trained and validated as a user would, at 8 mm a voxel."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medseg.files import read_record
from medseg.inference.model import ModelCard
from medseg.planning.cost import Machine, Measured
from medseg.planning.dataset import plan_dataset
from medseg.planning.families import FAMILIES
from medseg.planning.plan import Budget, Request
from medseg.training.run import train
from tests.tiny import last

TRAIN = Path(__file__).parents[2] / "sample_data" / "train"
SLOW_CPU = Machine(lambda *_: Measured(1000.0), lambda: 8e9)  # on which planning takes its narrowest network
STEPS = {"unetr": 900, "swin-unetr": 220, "fcn": 500}  # transformers find the kidney late
ONE_OF_A_KIND = {family.kind: name for name, family in reversed(FAMILIES.items())}


@pytest.mark.slow
@pytest.mark.parametrize("family", ONE_OF_A_KIND.values())
def test_each_finds_liver_and_kidney(family: str, tmp_path: Path, one_thread: None) -> None:
    request = Request(spacing="8", dims="3d", network=family, labels=("liver", "kidney"), budget=Budget(seconds=60))
    last(plan_dataset(TRAIN, tmp_path / "run", request, SLOW_CPU))
    (fold,) = last(train(tmp_path / "run", ["0"], Budget(steps=STEPS.get(family, 300)), torch.device("cpu"))).folds
    dice = read_record(fold.folder / "model.json", ModelCard).dice
    assert sum(dice.values()) / 2 >= 0.70, dice
