"""Models that nnU-Net itself built, of every kind, imported: each step beside its answers (make_nnunet_models.py)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from medseg.imaging.nifti import read_labels
from medseg.imaging.reading import read_channels
from medseg.imaging.source import ReadOptions, Source
from medseg.inference.model import Model, finished_folds, load_model
from medseg.inference.nnunet.axes import Axes, axes_of
from medseg.inference.nnunet.importing import import_nnunet
from medseg.inference.nnunet.theirs import read_plans
from medseg.inference.restoring import painted_values
from medseg.inference.window import network_input
from medseg.preprocessing.prepare import Prepared, prepare, prepare_labels
from tests.tiny import CPU, restore, slid

MODELS = Path(__file__).parent / "nnunet_models"
CASES = sorted(path.name for path in MODELS.iterdir())


@dataclass(frozen=True, eq=False)
class Beside:
    """One case: the imported model, what it makes of the scan, and nnU-Net's answers in our axes."""

    model: Model
    prepared: Prepared
    image: NDArray[np.float32]
    logits: NDArray[np.float32]
    theirs: dict[str, NDArray[Any]]


def in_our_axes(array: NDArray[Any], axes: Axes) -> NDArray[Any]:
    """Channels first; of a 2D network's patch the two axes of a slice."""
    order = axes.place if array.ndim == 4 else axes.within
    return array.transpose(0, *(1 + k for k in order))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks as small as these are many times slower on several threads where these wait for each other. And in
    float32 also where a CPU could compute in bf16, since nnU-Net did.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medseg.compute._cpu_has_bf16", lambda: False)
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=CASES)
def beside(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Beside:
    folder, run = MODELS / request.param, tmp_path_factory.mktemp("import") / "run"
    source = folder / "nnUNetTrainer__nnUNetPlans__3d_cascade_fullres" if request.param == "cascade" else folder
    list(import_nnunet(source, run))
    model = load_model(finished_folds(run)[0], CPU)
    plan = model.card.plan
    files = sorted(folder.glob("scan_*.nii.gz"))
    read = read_channels(tuple(Source("nifti", (path,)) for path in files), "scan", ReadOptions())
    prepared = prepare([reading.volume for reading in read], plan.configuration.preprocessing)
    previous = None
    if plan.configuration.previous:
        first = read_labels(folder / "first.nii.gz")
        previous = prepare_labels(first, prepared.undo, plan.values)
    image = network_input(prepared.image_CXYZ, previous, plan.configuration.network.in_channels)
    told = next(folder.glob("*/plans.json"))
    axes = axes_of(read_plans(told).transpose_forward, plan.configuration.network.dims)
    with np.load(folder / "answers.npz") as kept:
        theirs = {key: kept[key] if key == "labels" else in_our_axes(kept[key], axes) for key in kept.files}
    logits = slid([model.network], image, plan.configuration)
    return Beside(model, prepared, image, logits, theirs)


def test_the_network_sees_what_nnunets_sees(beside: Beside) -> None:
    np.testing.assert_allclose(beside.image, beside.theirs["prepared"], rtol=0, atol=5e-5)


def test_the_network_answers_a_patch_as_nnunets(beside: Beside) -> None:
    configuration = beside.model.card.plan.configuration
    where = tuple(slice(0, n) for n in configuration.patch)
    tile = beside.theirs["prepared"][(slice(None), *where)]
    after = [(0, 0), *((0, p - n) for p, n in zip(configuration.patch, tile.shape[1:], strict=True))]
    tile = np.pad(tile, after)
    if configuration.slice_axis is not None:
        tile = tile.squeeze(configuration.slice_axis + 1)
    with torch.inference_mode():
        found = beside.model.network(torch.from_numpy(np.ascontiguousarray(tile))[None])[0].numpy()
    np.testing.assert_allclose(found, beside.theirs["patch"], rtol=1e-3, atol=1e-4)


def test_the_sliding_window_blends_as_nnunets(beside: Beside) -> None:
    """Its sums are of half precision: three digits, but in the corners of a scan, where its weights end, hardly one."""
    away = np.abs(beside.logits - beside.theirs["logits"])
    assert np.quantile(away, 0.9) < 4e-3


def test_its_logits_become_its_own_labels(beside: Beside) -> None:
    plan = beside.model.card.plan
    logits = np.ascontiguousarray(beside.theirs["logits"], np.float32)
    labels = restore(logits, beside.prepared.undo, painted_values(plan), plan.names, painted=bool(plan.regions))
    assert np.mean(labels.array != beside.theirs["labels"]) < 2e-4


def test_from_scan_to_labels(beside: Beside) -> None:
    """The weights are random and each voxel's classes nearly tie, so rounding in half precision shows in some."""
    plan = beside.model.card.plan
    labels = restore(beside.logits, beside.prepared.undo, painted_values(plan), plan.names, painted=bool(plan.regions))
    assert np.mean(labels.array == beside.theirs["labels"]) > 0.995


def test_every_case_was_tried() -> None:
    assert CASES == ["2d", "cascade", "plain", "regions", "resenc", "thick_slices"]
