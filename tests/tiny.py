"""The smallest data set and run that behave like real ones: bright blobs on noise, 16 voxels a side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medseg.imaging.grid import Grid
from medseg.imaging.nifti import write_labels, write_volume
from medseg.imaging.volume import LabelMap, Volume
from medseg.inference.blending import Slab
from medseg.inference.model import ModelCard, save_model
from medseg.inference.window import SlidingWindow
from medseg.networks.table import build_network
from medseg.networks.topology import NetworkSettings
from medseg.planning.cost import Machine, Measured
from medseg.planning.dataset import Planned, plan_dataset
from medseg.planning.plan import Budget, Configuration, Cost, Plan, Request, Schedule, Splits, Structure, Window
from medseg.preprocessing.cache import LoadedCase, foreground_voxels
from medseg.preprocessing.prepare import Undo, prepare
from medseg.preprocessing.restore import Restoring
from medseg.preprocessing.settings import Normalisation, PreprocessingSettings
from medseg.training.run import train

CPU = torch.device("cpu")
SIDE = 16
KEY = "0123456789abcdef"
COST = Cost(
    hours=None,
    steps=2,
    step_s=None,
    training_gb=0.1,
    preparing_gb=0.1,
    inference_s=None,
    cache_gb=0.1,
    measured=False,
)
FAST = Machine(lambda *_: Measured(0.01), lambda: 16e9)


def blobs(seed: int, shape: tuple[int, int, int] = (SIDE, SIDE, SIDE)) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """A scan and its labels: a large blob of brightness 300, beside it a small one of 600, on noise about 100."""
    rng = np.random.default_rng(seed)
    at = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    labels = np.zeros(shape, np.uint8)
    for value, place, radius in ((1, (0.4, 0.45, 0.5), 0.26), (2, (0.75, 0.6, 0.35), 0.15)):
        centre = (np.array(place) + rng.uniform(-0.05, 0.05, 3)) * shape
        labels[np.linalg.norm((at - centre) / shape, axis=-1) < radius] = value
    image = np.array([100, 300, 600])[labels] + rng.normal(0, 15, shape)
    return image.astype(np.int16), labels


def write_case(folder: Path, name: str, image: NDArray[Any], labels: NDArray[np.uint8] | None, affine: Any) -> None:
    """`folder/images/<name>.nii.gz` and, unless None, `folder/labels/<name>.nii.gz`."""
    grid = Grid(image.shape, np.asarray(affine, dtype=np.float64))
    write_volume(folder / "images" / f"{name}.nii.gz", Volume(image, grid))
    if labels is not None:
        write_labels(folder / "labels" / f"{name}.nii.gz", LabelMap(labels, grid, {1: "1", 2: "2"}))


def write_dataset(folder: Path, n: int = 6, shape: tuple[int, int, int] = (SIDE, SIDE, SIDE)) -> Path:
    """`n` labelled cases in images/ and labels/, 1 mm a voxel."""
    for k in range(n):
        write_case(folder, f"case{k}", *blobs(k, shape), np.eye(4))
    return folder


def slid(
    networks: Sequence[torch.nn.Module], image_CXYZ: NDArray[np.float32], made: Configuration
) -> NDArray[np.float32]:
    """Logits (L, X, Y, Z) of the sliding window, its slabs put together."""
    parts, axis = [], 0
    for slab in SlidingWindow(networks, made, CPU).slabs(image_CXYZ):
        assert slab.start == sum(map(len, parts))
        parts.append(slab.logits_PQRL.numpy().copy())
        axis = slab.axis
    return np.moveaxis(np.moveaxis(np.concatenate(parts), 0, axis), -1, 0)


def slabs_of(logits_LXYZ: NDArray[np.float32], axis: int = 2, planes: int = 2) -> Iterator[Slab]:
    """Logits as the sliding window would give them."""
    whole = np.moveaxis(np.moveaxis(logits_LXYZ, 0, -1), axis, 0)
    for start in range(0, len(whole), planes):
        yield Slab(axis, start, torch.from_numpy(np.ascontiguousarray(whole[start : start + planes])))


def configuration(
    dims: int = 3,
    slice_axis: int = 2,
    patch: tuple[int, int, int] = (8, 8, 8),
    classes: int = 3,
    channels: int = 1,
    step: float = 0.5,
    window_mirror: tuple[int, ...] = (),
    **schedule: Any,
) -> Configuration:
    """A configuration with a network of a few thousand weights; keyword arguments change the schedule."""
    plain: dict[str, Any] = {
        "batch": 2,
        "optimiser": "adamw",
        "learning_rate": 1e-2,
        "weight_decay": 1e-5,
        "warm_up_share": 0.05,
        "foreground_share": 0.5,
        "batch_dice": False,
        "mirror_axes": (),
    }
    flat = dims == 2
    return Configuration(
        name="2d" if flat else "3d",
        slice_axis=slice_axis if flat else None,
        preprocessing=PreprocessingSettings(
            spacing_mm=(1.0, 1.0, 1.0), channels=(Normalisation(kind="zscore"),) * channels
        ),
        patch=tuple(1 if flat and axis == slice_axis else p for axis, p in enumerate(patch)),  # type: ignore[arg-type]
        network=NetworkSettings(
            kind="unet",
            dims=2 if flat else 3,
            in_channels=channels,
            classes=classes,
            features=(4, 8, 8),
            kernels=((3,) * dims,) * 3,
            strides=((1,) * dims, (2,) * dims, (2,) * dims),
            convs_encoder=(1, 1, 1),
            convs_decoder=(1, 1),
        ),
        schedule=Schedule(**{**plain, **schedule}),
        window=Window(step=step, mirror_axes=window_mirror),
        median_shape=(SIDE, SIDE, SIDE),
        cost=COST,
        reasons=(),
    )


def plan_of(made: Configuration, budget: Budget | None = None) -> Plan:
    """A plan of one configuration for structures `1` and `2`."""
    return Plan(
        medseg="0",
        dataset="tiny",
        channels=("0",) * made.network.in_channels,
        structures=tuple(Structure(value=v, name=f"blob{v}") for v in range(1, made.network.classes)),
        cases=6,
        fingerprint="",
        request=Request(),
        budget=budget or Budget(steps=2),
        configurations={made.name: made},
        chosen=made.name,
        reasons=(),
    )


def loaded(image: NDArray[np.float32], classes: NDArray[np.uint8], name: str = "case") -> LoadedCase:
    """A prepared case that lies in memory: image (C, X, Y, Z), classes (X, Y, Z), 1 mm a voxel."""
    prepared = prepare([Volume(c, Grid(classes.shape, np.eye(4))) for c in image + 1000], _as_it_is(len(image)))
    undo: Undo = prepared.undo
    found = {int(k): v for k, v in foreground_voxels(classes, KEY).items()}
    return LoadedCase(name, image, classes, found, (1.0, 1.0, 1.0), undo)


def _as_it_is(channels: int) -> PreprocessingSettings:
    how = Normalisation(kind="ct", lower=-1e6, upper=1e6)
    return PreprocessingSettings(spacing_mm=(None, None, None), channels=(how,) * channels)


def loaded_blobs(n: int = 2, shape: tuple[int, int, int] = (SIDE, SIDE, SIDE)) -> list[LoadedCase]:
    """Prepared cases of blobs, normalised."""
    cases = []
    for k in range(n):
        image, classes = blobs(k, shape)
        scaled = ((image.astype(np.float32) - image.mean()) / image.std())[None]
        cases.append(loaded(scaled, classes, f"case{k}"))
    return cases


def planned_run(root: Path, budget: Budget | None = None, n: int = 6, made: Configuration | None = None) -> Path:
    """A planned and prepared run of the tiny data set whose plan holds the tiny network instead of the decided one."""
    data = write_dataset(root / "data", n)
    request = Request(budget=budget or Budget(steps=2))
    (planned,) = [e for e in plan_dataset(data, root / "run", request, FAST) if isinstance(e, Planned)]
    path = root / "run" / "plan.json"
    decided = planned.plan.configuration
    small = (made or configuration()).model_copy(update={"preprocessing": decided.preprocessing})
    plan = planned.plan.model_copy(update={"configurations": {"3d": small}, "chosen": "3d"})
    path.write_text(plan.model_dump_json())
    return root / "run"


def trained_run(root: Path, steps: int = 1, **what: Any) -> Path:
    """A planned run whose fold 0 is trained for some steps."""
    run = planned_run(root, **what)
    last(train(run, ["0"], Budget(steps=steps), CPU))
    return run


def untrained_run(root: Path, made: Configuration | None = None, seed: int = 0) -> Path:
    """A run with one finished fold whose network has its first, random weights."""
    plan = plan_of(made or configuration())
    run = root / "run"
    fold = run / "folds" / plan.chosen / "0"
    fold.mkdir(parents=True)
    (run / "plan.json").write_text(plan.model_dump_json())
    (run / "splits.json").write_text(Splits(seed=0, folds=()).model_dump_json())
    save_model(fold, build_network(plan.configuration.network, seed), card_of(plan))
    return run


def card_of(plan: Plan) -> ModelCard:
    return ModelCard(
        plan=plan, fold="0", trained_on=1, steps=1, seconds=1.0, dice={}, weights_sha256="", medseg="0", torch="0"
    )


def last(events: Iterable[Any]) -> Any:
    """The summary record that a front door ends in."""
    return list(events)[-1]


def restore(
    logits_LXYZ: NDArray[np.float32],
    undo: Undo,
    values: Sequence[int],
    names: Mapping[int, str],
    painted: bool = False,
) -> LabelMap:
    """Logits that are there as a whole to labels on the scan's own grid; see `Restoring`."""
    restoring = Restoring(undo, values, painted)
    restoring.take(0, 0, np.ascontiguousarray(np.moveaxis(logits_LXYZ, 0, -1), np.float32))
    return restoring.labels(names)
