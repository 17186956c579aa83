"""A run of several configurations, prepared, whose folds hold untrained networks and made-up held-out predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medseg.files import read_record
from medseg.imaging.dataset import find_dataset
from medseg.imaging.volume import LabelMap
from medseg.inference.held_out import keep_held_out
from medseg.inference.model import save_model
from medseg.networks.table import build_network
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.plan import Configuration, Name, Plan, Request, Splits
from medseg.planning.preparation import prepare_cases
from medseg.preprocessing.cache import load_cases, load_reference
from medseg.preprocessing.resample import ON_CPU
from tests.tiny import KEY, card_of, configuration, planned_run


def configurations() -> dict[Name, Configuration]:
    """2D, 3D, 3D of twice the spacing, and the cascade of these, for scans of two structures."""
    made: dict[Name, Configuration] = {"3d": configuration(), "2d": configuration(dims=2)}
    how = made["3d"].preprocessing.channels
    for one, spacing in (("3d", (1.0, 1.0, 1.0)), ("2d", (1.0, 1.0, None))):
        settings = made[one].preprocessing.model_copy(update={"spacing_mm": spacing, "channels": how})
        made[one] = made[one].model_copy(update={"preprocessing": settings})
    coarse = made["3d"].preprocessing.model_copy(update={"spacing_mm": (2.0, 2.0, 2.0)})
    made["3d_lowres"] = made["3d"].model_copy(update={"name": "3d_lowres", "preprocessing": coarse})
    network = made["3d"].network.model_copy(update={"in_channels": 3})
    cascade = {"name": "3d_cascade", "network": network, "previous": "3d_lowres"}
    made["3d_cascade"] = made["3d"].model_copy(update=cascade)
    return made


def run_of(root: Path, names: Sequence[Name], chosen: Name = "3d", n: int = 6) -> Path:
    """A run that is planned and prepared for the named configurations."""
    run = planned_run(root, n=n)
    plan = read_record(run / "plan.json", Plan)
    made = {name: one for name, one in configurations().items() if name in names}
    plan = plan.model_copy(
        update={
            "configurations": made,
            "chosen": chosen,
            "request": Request(also=tuple(n for n in made if n != chosen)),
        }
    )
    (run / "plan.json").write_text(plan.model_dump_json())
    failed: dict[str, str] = {}
    looked = read_record(run / "fingerprint.json", Fingerprint)
    list(prepare_cases(find_dataset(root / "data", KEY), run, looked, plan, failed, ON_CPU))
    assert not failed
    return run


def plan_for(run: Path, name: Name) -> Plan:
    return read_record(run / "plan.json", Plan).model_copy(update={"chosen": name})


def references(run: Path) -> dict[str, LabelMap]:
    """The label map of every case."""
    plan = read_record(run / "plan.json", Plan)
    folder = run / "cache" / plan.configuration.cache
    cases = [c.case for c in read_record(run / "fingerprint.json", Fingerprint).cases]
    loaded = load_cases(folder, cases, plan.configuration.preprocessing)
    return {case.name: load_reference(folder, case, plan.names) for case in loaded}


def train_fold(run: Path, name: Name, fold: int, predictions: Mapping[str, LabelMap] | None = None) -> Path:
    """A finished fold: a network of random weights, and what it is said to have found in its validation cases."""
    plan = plan_for(run, name)
    folder = run / "folds" / name / str(fold)
    folder.mkdir(parents=True)
    for case in read_record(run / "splits.json", Splits).folds[fold].validation:
        keep_held_out(folder, case, (predictions or references(run))[case])
    save_model(folder, build_network(plan.configuration.network, 7 * fold), card_of(plan))
    return folder


def worse(labels: LabelMap, share: float, seed: int = 0) -> LabelMap:
    """The same with a share of the labelled voxels missing."""
    lost = np.random.default_rng(seed).random(labels.array.shape) < share
    return LabelMap(np.where(lost, 0, labels.array).astype(np.uint8), labels.grid, labels.names)
