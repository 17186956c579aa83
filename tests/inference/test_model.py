from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from medseg.errors import InputError, ResourceError, RunError
from medseg.files import read_record
from medseg.inference.export.model_file import write_model_file
from medseg.inference.model import (
    ModelCard,
    copy_model,
    finished_folds,
    load_model,
    model_at,
    read_card,
    read_weights,
    save_model,
)
from medseg.inference.records import RESEARCH_USE
from medseg.networks.table import build_network
from tests.tiny import CPU, card_of, configuration, plan_of, untrained_run


@pytest.mark.parametrize("dims", [2, 3])
def test_a_model_comes_back(tmp_path: Path, dims: int) -> None:
    plan = plan_of(configuration(dims=dims))
    network = build_network(plan.configuration.network, 3).eval()
    save_model(tmp_path, network, card_of(plan))
    model = load_model(tmp_path, CPU)
    assert model.card.plan == plan
    assert model.card.notice == RESEARCH_USE
    assert not model.network.training
    x = torch.randn((1, 1, *(8,) * dims))
    with torch.inference_mode():
        assert torch.equal(model.network(x), network(x))
    assert {p.name for p in tmp_path.iterdir()} == {"model.json", "model.safetensors"}


def test_weights_that_were_changed_are_refused(tmp_path: Path) -> None:
    fold = untrained_run(tmp_path) / "folds" / "3d" / "0"
    weights = fold / "model.safetensors"
    whole = weights.read_bytes()
    for damaged in (whole[:-1], whole[:-4] + b"\1\2\3\4", b""):
        weights.write_bytes(damaged)
        with pytest.raises(InputError, match=r"not those that model\.json names; train this fold again"):
            load_model(fold, CPU)
    weights.unlink()
    with pytest.raises(InputError, match="the weights are not those"):
        load_model(fold, CPU)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    fold = untrained_run(tmp_path) / "folds" / "3d" / "0"
    card = json.loads((fold / "model.json").read_text())
    card["plan"]["configurations"]["3d"]["network"]["features"] = [4, 8, 16]
    (fold / "model.json").write_text(json.dumps(card))
    with pytest.raises(InputError, match="the weights do not fit the plan") as caught:
        load_model(fold, CPU)
    assert "\n" not in str(caught.value)


def test_a_card_that_is_cut_or_of_unknown_keys_is_refused(tmp_path: Path) -> None:
    card = untrained_run(tmp_path) / "folds" / "3d" / "0" / "model.json"
    text = card.read_text()
    assert read_record(card, ModelCard).steps == 1
    for broken in (text[:100], text.replace('"steps"', '"stepz"'), "[]"):
        card.write_text(broken)
        with pytest.raises(InputError, match="is not a valid modelcard file"):
            load_model(card.parent, CPU)


def test_nothing_absolute_stands_in_a_model(tmp_path: Path) -> None:
    run = untrained_run(tmp_path)
    for file in (run / "folds" / "3d" / "0").iterdir():
        assert str(tmp_path).encode() not in file.read_bytes()


def test_finished_folds(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run of medseg"):
        finished_folds(tmp_path)
    run = untrained_run(tmp_path)
    (run / "folds" / "3d" / "1").mkdir()
    (run / "folds" / "3d" / "1" / "model.safetensors").write_bytes(b"half")
    assert [f.name for f in finished_folds(run)] == ["0"]
    (run / "folds" / "3d" / "0" / "model.json").unlink()
    with pytest.raises(RunError, match="no fold is trained to its end; run medseg train"):
        finished_folds(run)


def test_a_full_disk_leaves_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    plan = plan_of(configuration())
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ResourceError, match="no space left"):
        save_model(tmp_path, build_network(plan.configuration.network), card_of(plan))
    assert list(tmp_path.iterdir()) == []


def test_a_model_in_a_file_is_a_model_as_one_in_a_folder(tmp_path: Path) -> None:
    run, file = untrained_run(tmp_path), tmp_path / "m.medseg"
    write_model_file(run, file)
    fold = run / "folds" / "3d" / "0"
    assert model_at(file) == file
    assert read_card(file) == read_card(fold)
    assert copy_model(file, tmp_path / "copy") == read_card(fold)
    for name in ("model.json", "model.safetensors"):
        assert (tmp_path / "copy" / name).read_bytes() == (fold / name).read_bytes()
    ours, theirs = read_weights(file), load_model(fold, CPU).network.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
