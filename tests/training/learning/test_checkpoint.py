from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from medseg.errors import MedsegError, ResourceError, RunError
from medseg.planning.plan import Configuration
from medseg.training.learning import checkpoint
from medseg.training.learning.checkpoint import Progress, load_checkpoint, save_checkpoint
from medseg.training.learning.loop import Learner, StepDone, build_learner, fit
from medseg.training.losses.table import build_loss
from tests.tiny import CPU, configuration, plan_of
from tests.training.batches import batches, learner_for, straight

Optimiser = Literal["adamw", "sgd"]
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def one_thread_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def trained(made: Configuration, learner: Learner, first: int, last: int, total: int) -> list[float | None]:
    """The losses of steps `first` + 1 to `last` of `total`."""
    steps = fit(learner, batches(made, first), build_loss(plan_of(made)), straight(total), first)
    taken = [next(steps) for _ in range(last - first)]
    return [step.loss for step in taken if isinstance(step, StepDone)]


def some(path: Path, made: Configuration) -> Path:
    _, learner = learner_for(made)
    trained(made, learner, 0, 2, 2)
    save_checkpoint(path, learner, Progress(plan="this", step=2, elapsed_s=1.5, loss=0.25, total_steps=7))
    return path


def weights_of(learner: Learner) -> list[torch.Tensor]:
    return [*learner.network.state_dict().values(), *learner.evaluated().state_dict().values()]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
@pytest.mark.parametrize("average_share", [0.0, 0.2])
def test_interrupted_and_resumed_is_as_never_interrupted(
    tmp_path: Path, optimiser: Optimiser, dims: int, average_share: float
) -> None:
    made = configuration(dims=dims, optimiser=optimiser, average_share=average_share)
    _, whole = learner_for(made)
    losses = trained(made, whole, 0, 8, 8)

    _, first = learner_for(made)
    early = trained(made, first, 0, 3, 8)
    save_checkpoint(tmp_path / "c.safetensors", first, Progress(plan="this", step=3))
    _, second = learner_for(made)
    progress = load_checkpoint(tmp_path / "c.safetensors", second, "this")
    assert progress is not None
    late = trained(made, second, progress.step, 8, 8)

    assert early + late == losses
    for a, b in zip(weights_of(whole), weights_of(second), strict=True):
        assert torch.equal(a, b)


def fold(path: Path, steps: int, pause_s: float = 0.0) -> Learner:
    """What a training of `steps` steps does, with a checkpoint after each; goes on from the one at `path`."""
    made = configuration(average_share=0.2, batch_dice=True)
    plan = plan_of(made)
    learner = build_learner(plan, CPU, deterministic=True)
    progress = load_checkpoint(path, learner, "this") or Progress(plan="this")
    for event in fit(learner, batches(made, progress.step), build_loss(plan), straight(steps), progress.step):
        if isinstance(event, StepDone):
            save_checkpoint(path, learner, Progress(plan="this", step=event.step))
            time.sleep(pause_s)
    return learner


def test_a_training_that_is_killed_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Killed in the middle, wherever it is; the processes share nothing but the checkpoint."""
    whole = fold(tmp_path / "whole.safetensors", 12)
    path = tmp_path / "killed.safetensors"
    done = f"torch.set_num_threads(1); fold(Path({str(path)!r}), 12, 0.5)"
    code = f"from tests.training.learning.test_checkpoint import *; {done}"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    ends = time.monotonic() + 120
    while step_of(path) < 3 and process.poll() is None and time.monotonic() < ends:
        time.sleep(0.01)
    process.kill()
    assert process.wait() not in (0, 1)
    assert 3 <= step_of(path) < 12
    resumed = fold(path, 12)
    for a, b in zip(weights_of(whole), weights_of(resumed), strict=True):
        assert torch.equal(a, b)


def step_of(path: Path) -> int:
    if not path.is_file():
        return 0
    with checkpoint.safe_open(path, framework="pt") as file:
        return Progress.model_validate_json(file.metadata()["progress"]).step


def test_a_reproducible_training_goes_on_with_as_many_threads(tmp_path: Path) -> None:
    made = configuration()
    path = some(tmp_path / "c.safetensors", made)
    torch.set_num_threads(2)
    load_checkpoint(path, learner_for(made)[1], "this")
    assert torch.get_num_threads() == 2
    load_checkpoint(path, build_learner(plan_of(made), CPU, deterministic=True), "this")
    assert torch.get_num_threads() == 1


def test_random_numbers_go_on(tmp_path: Path) -> None:
    made = configuration()
    path = some(tmp_path / "c.safetensors", made)
    drawn = torch.rand(3)
    load_checkpoint(path, learner_for(made)[1], "this")
    assert torch.equal(torch.rand(3), drawn)


def test_progress_comes_back(tmp_path: Path) -> None:
    made = configuration()
    progress = load_checkpoint(some(tmp_path / "c.safetensors", made), learner_for(made)[1], "this")
    assert progress == Progress(plan="this", step=2, elapsed_s=1.5, loss=0.25, total_steps=7, threads=1)
    assert load_checkpoint(tmp_path / "none.safetensors", learner_for(made)[1], "this") is None


def test_optimiser_state_comes_back_in_the_weights_own_layout(tmp_path: Path) -> None:
    made = configuration()
    path = some(tmp_path / "c.safetensors", made)
    _, learner = learner_for(made)
    load_checkpoint(path, learner, "this")
    for parameter, state in learner.optimiser.state.items():
        assert state["exp_avg"].stride() == parameter.stride()
        assert state["exp_avg_sq"].stride() == parameter.stride()


def test_a_damaged_checkpoint_or_one_of_another_plan_is_named(tmp_path: Path) -> None:
    made = configuration()
    path = some(tmp_path / "c.safetensors", made)
    with pytest.raises(RunError, match="belongs to another plan; delete it"):
        load_checkpoint(path, learner_for(made)[1], "that")
    save_checkpoint(tmp_path / "old", learner_for(made)[1], Progress(plan="this", version=1))
    with pytest.raises(RunError, match="another version of medseg; delete it"):
        load_checkpoint(tmp_path / "old", learner_for(made)[1], "this")
    with pytest.raises(RunError, match="other weights than the network; delete it"):
        load_checkpoint(path, learner_for(configuration(average_share=0.1))[1], "this")
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"\0" * 100, whole.replace(b"elapsed_s", b"elapsed_z")):
        path.write_bytes(damaged)
        with pytest.raises(RunError, match="cannot be read; delete it"):
            load_checkpoint(path, learner_for(made)[1], "this")


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = configuration()
    path = some(tmp_path / "c.safetensors", made)
    before = path.read_bytes()

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ResourceError, match="no space left on device; free some space"):
        save_checkpoint(path, learner_for(made)[1], Progress(plan="this"))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    with path.open("rb") as file:
        assert file.read() == before


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU tells of them some steps later: before it is saved, all must have been told."""
    made = configuration()
    path = some(tmp_path / "c.safetensors", made)
    before = path.read_bytes()
    plan, learner = learner_for(made)
    monkeypatch.setattr(learner.watch, "in_flight", 3)
    loss = build_loss(plan)

    def endless(logits: Any, classes: torch.Tensor) -> torch.Tensor:
        return loss(logits, classes) * torch.inf

    steps = fit(learner, batches(made), endless, straight(9), 0)
    assert isinstance(next(steps), StepDone)
    with pytest.raises(MedsegError, match=r"the loss became -?inf at step 1"):
        save_checkpoint(path, learner, Progress(plan="this", step=1))
    assert path.read_bytes() == before


def test_weights_are_never_pickled() -> None:
    assert not hasattr(checkpoint, "pickle")
    package = Path(checkpoint.__file__).parents[2]
    guarded = package / "inference" / "nnunet" / "checkpoint.py"  # opens nnU-Net's files, as numbers alone
    for source in package.rglob("*.py"):
        text = source.read_text(encoding="utf-8")
        opened = text.count("torch.load(")
        assert opened == (source == guarded), source
        assert text.count("weights_only=True, mmap=True)") == opened, source
        assert "torch.save(" not in text, source
        assert "import pickle" not in text, source
        assert "allow_pickle=True" not in text, source
