"""The benchmark of training steps runs at toy size, so that it runs where there is a GPU."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from tests.benchmarks import steps_in_turn, training
from tests.benchmarks.steps_in_turn import Ours, Peer, Size
from tests.tiny import CPU

pytestmark = pytest.mark.usefixtures("single_precision")

TOY = Size((4, 8), (8, 8, 8), steps=1, rounds=2)


def test_both_parts_run_at_toy_size_and_say_that_the_peer_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {name: how for name, how in training.VARIANTS.items() if "way" not in how}
    monkeypatch.setattr(training, "VARIANTS", {**kept, "a way that is none here": {"way": "a CUDA graph"}})
    told = training.on_device(TOY, CPU, None, 1)
    json.dumps(told)
    assert told["peer"] == "nnU-Net is not installed here"
    assert "cannot" in told["variants"].pop("a way that is none here")
    assert all(one["medseg"]["cpu_s"] > 0 for one in told["variants"].values())
    assert told["best"] in kept
    assert 0 <= told["augmentation_share"] < 1
    assert training.judged(told).keys() == {"augmentation_share"}
    spent = training.on_cpu(TOY, None, 1)
    json.dumps(spent)
    assert spent["steps"]["medseg, fp32"]["cpu_s"] > 0


@pytest.mark.parametrize("norm", steps_in_turn.NORMS)
def test_another_form_of_the_norm_is_the_same_network(norm: str) -> None:
    image = steps_in_turn._batch(TOY, CPU, {}).image
    plain, stock = (steps_in_turn._learner(TOY, CPU, norm=n).network.eval() for n in ("", norm))
    torch.testing.assert_close(plain(image), stock(image), atol=1e-5, rtol=1e-4)


PRETENDED = """
    import json, sys
    print(json.dumps({"nnunetv2": "0"}), flush=True)
    for line in sys.stdin:
        print(json.dumps({"cpu_s": 2.0, "wall_s": 2.0 * int(line)}), flush=True)
"""


def test_the_peer_takes_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "peer.py").write_text(textwrap.dedent(PRETENDED))
    monkeypatch.setattr(steps_in_turn, "PEER", tmp_path / "peer.py")
    theirs = steps_in_turn.Theirs(TOY, CPU, Path(sys.executable), None, 1)
    found = steps_in_turn.in_turn(TOY, {"medseg": Ours(TOY, CPU).turn, "nnunet": theirs.turn})
    assert found["nnunet"] == {"cpu_s": 2.0, "wall_s": 2.0}
    assert 0 < found["medseg"]["cpu_s"] < 2
    assert theirs.versions == {"nnunetv2": "0"}
    theirs.close()
    assert not Peer(Path(sys.executable), tmp_path).is_there


def test_the_share_of_time_that_is_covered() -> None:
    assert training.covered([]) == 0
    assert training.covered([(2, 4), (0, 1), (3, 5)]) == pytest.approx(4 / 5)
    assert training.covered([(0, 10), (2, 3)]) == pytest.approx(1)
