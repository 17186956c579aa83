from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import nn

from medseg.errors import ResourceError, RunError
from medseg.networks.table import build_network
from medseg.planning.plan import Configuration
from medseg.training import checkpoint
from medseg.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from medseg.training.loop import build_optimiser, fit
from tests.tiny import CPU, configuration, loaded_blobs

Optimiser = Literal["adamw", "sgd"]


def begun(made: Configuration) -> tuple[nn.Module, torch.optim.Optimizer]:
    network = build_network(made.network)
    return network, build_optimiser(network, made.schedule)


def some(path: Path, made: Configuration) -> Path:
    network, optimiser = begun(made)
    list(fit(network, optimiser, loaded_blobs(), made, lambda step: step / 2, (0, 0), 0, CPU))
    save_checkpoint(path, network, optimiser, Progress(plan="this", step=2, elapsed_s=1.5, loss=0.25))
    return path


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_interrupted_and_resumed_is_as_never_interrupted(tmp_path: Path, optimiser: Optimiser, dims: int) -> None:
    torch.set_num_threads(1)
    made = configuration(dims=dims, optimiser=optimiser)
    cases = loaded_blobs()
    whole, whole_optimiser = begun(made)
    losses = [d.loss for d in fit(whole, whole_optimiser, cases, made, lambda step: step / 8, (0, 0), 0, CPU)]

    first, first_optimiser = begun(made)
    early = [next(steps) for steps in [fit(first, first_optimiser, cases, made, lambda s: s / 8, (0, 0), 0, CPU)] * 3]
    save_checkpoint(tmp_path / "c.safetensors", first, first_optimiser, Progress(plan="this", step=3))
    second, second_optimiser = begun(made)
    progress = load_checkpoint(tmp_path / "c.safetensors", second, second_optimiser, "this")
    assert progress is not None
    late = fit(second, second_optimiser, cases, made, lambda s: s / 8, (0, 0), progress.step, CPU)

    assert [d.loss for d in early] + [d.loss for d in late] == losses
    for a, b in zip(whole.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_progress_comes_back(tmp_path: Path) -> None:
    made = configuration()
    progress = load_checkpoint(some(tmp_path / "c.safetensors", made), *begun(made), plan="this")
    assert progress == Progress(plan="this", step=2, elapsed_s=1.5, loss=0.25)
    assert load_checkpoint(tmp_path / "none.safetensors", *begun(made), plan="this") is None


def test_optimiser_state_comes_back_in_the_weights_own_layout(tmp_path: Path) -> None:
    made = configuration()
    path = some(tmp_path / "c.safetensors", made)
    network, optimiser = begun(made)
    load_checkpoint(path, network, optimiser, "this")
    for parameter, state in optimiser.state.items():
        assert state["exp_avg"].stride() == parameter.stride()
        assert state["exp_avg_sq"].stride() == parameter.stride()


def test_a_damaged_checkpoint_or_one_of_another_plan_is_named(tmp_path: Path) -> None:
    made = configuration()
    path = some(tmp_path / "c.safetensors", made)
    with pytest.raises(RunError, match="belongs to another plan; delete it"):
        load_checkpoint(path, *begun(made), plan="that")
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"\0" * 100, whole.replace(b"elapsed_s", b"elapsed_z")):
        path.write_bytes(damaged)
        with pytest.raises(RunError, match="cannot be read; delete it"):
            load_checkpoint(path, *begun(made), plan="this")


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = configuration()
    path = some(tmp_path / "c.safetensors", made)
    before = path.read_bytes()

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ResourceError, match="no space left on device; free some space"):
        save_checkpoint(path, *begun(made), progress=Progress(plan="this"))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    with path.open("rb") as file:
        assert file.read() == before


def test_weights_are_never_pickled() -> None:
    assert not hasattr(checkpoint, "pickle")
    package = Path(checkpoint.__file__).parents[1]
    for source in package.rglob("*.py"):
        text = source.read_text(encoding="utf-8")
        assert "torch.load(" not in text, source
        assert "torch.save(" not in text, source
        assert "import pickle" not in text, source
        assert "allow_pickle=True" not in text, source
