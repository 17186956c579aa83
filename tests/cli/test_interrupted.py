"""Killed or interrupted at any moment, the same command goes on and the outcome is whole. Real processes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medseg.inference.model import load_model
from medseg.planning.plan import Budget
from medseg.training.run import train
from tests.tiny import CPU, blobs, last, planned_run, untrained_run, write_case, write_dataset

# the real command line, which saves a checkpoint at every step, looks at no case until the end, and uses one thread
COMMAND = """
import sys
from medseg import compute, parallel
compute.available_cores = lambda: 1
from medseg.training import course, looks
course.SAVE_EVERY_S = -1.0
looks.LOOKS = 1
from medseg.cli.app import main
main(sys.argv[1:])
"""


def hears_ctrl_c() -> None:
    """A shell that starts the tests in the background has them, and their children, ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def begin(*arguments: Any, command: str = COMMAND) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", command, *map(str, arguments)],
        preexec_fn=hears_ctrl_c,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def stopped(how: signal.Signals, when: Callable[[], bool], *arguments: Any, command: str = COMMAND) -> tuple[int, str]:
    """Start a verb, send it a signal as soon as `when` holds, and wait for its end: exit code and standard error."""
    process = begin(*arguments, command=command)
    until = time.monotonic() + 120
    while not when() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.001)
    process.send_signal(how)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0, "it was finished before the signal came"
    return process.returncode, err


def whole(*arguments: Any) -> str:
    process = begin(*arguments)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return err


def some(folder: Path, pattern: str, n: int = 1) -> Callable[[], bool]:
    return lambda: sum(not path.name.startswith(".") for path in folder.glob(pattern)) >= n


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "n"), [("cache/fingerprint/*.json", 3), ("plan.json", 1), ("cache/3d/*.safetensors", 4)]
)
def test_plan_is_killed(tmp_path: Path, pattern: str, n: int) -> None:
    data, run = write_dataset(tmp_path / "data", 30, (40, 40, 40)), tmp_path / "run"
    asked = ("plan", data, "-o", run, "--budget", "2steps", "--device", "cpu")
    code, _ = stopped(signal.SIGKILL, some(run, pattern, n), *asked)
    assert code == -signal.SIGKILL
    whole(*asked)
    whole("plan", data, "-o", tmp_path / "other", *asked[4:])
    assert (run / "plan.json").read_bytes() == (tmp_path / "other/plan.json").read_bytes()
    assert (run / "splits.json").read_bytes() == (tmp_path / "other/splits.json").read_bytes()
    files = list((tmp_path / "other").rglob("*.safetensors"))
    assert len(files) == 30
    for file in files:
        assert (run / file.relative_to(tmp_path / "other")).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param("folds/3d/0", marks=pytest.mark.slow),
        "folds/3d/0/checkpoint.safetensors",
        pytest.param("folds/3d/0/validation/*.nii.gz", marks=pytest.mark.slow),
    ],
)
def test_train_is_killed(tmp_path: Path, pattern: str) -> None:
    torch.set_num_threads(1)
    run, other = planned_run(tmp_path / "a"), planned_run(tmp_path / "b")
    asked = ("train", run, "--steps", "40", "--device", "cpu")
    code, _ = stopped(signal.SIGKILL, some(run, pattern), *asked)
    assert code == -signal.SIGKILL
    assert not (run / "folds/3d/0/model.json").exists()
    err = whole(*asked)
    assert ("fold 0 goes on from step" in err) == (pattern != "folds/3d/0")
    last(train(other, ["0"], Budget(steps=40), CPU))
    ours, theirs = (load_model(r / "folds/3d/0", CPU).network.state_dict() for r in (run, other))
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name])
    for name in ("scores.csv", "scores.json"):
        kept, anew = ((r / "folds/3d/0/validation" / name).read_bytes() for r in (run, other))
        assert kept == anew
    assert not (run / "folds/3d/0/checkpoint.safetensors").exists()


def twenty_scans(data: Path, side: int = 24) -> Path:
    for k in range(20):
        write_case(data, f"case{k}", blobs(k, (side, side, side))[0], None, np.eye(4))
    return data / "images"


def same_labels(out: Path, other: Path) -> None:
    """Both folders hold the labels of all cases, to the last byte, and the same is said of them."""
    files = {path.name: path.read_bytes() for path in other.glob("*.nii.gz")}
    assert len(files) == 20
    assert {path.name: path.read_bytes() for path in out.glob("*.nii.gz")} == files
    assert (out / "statistics.csv").read_bytes() == (other / "statistics.csv").read_bytes()
    said, theirs = (json.loads((folder / "predictions.json").read_text()) for folder in (out, other))
    assert [(c["case"], c["volumes_ml"]) for c in said["cases"]] == [
        (c["case"], c["volumes_ml"]) for c in theirs["cases"]
    ]
    assert said["failed"] == []
    assert {path.name for path in out.rglob("*")} == {path.name for path in other.rglob("*")}


@pytest.mark.slow
@pytest.mark.parametrize(("pattern", "n"), [("case_map.json", 1), ("*.nii.gz", 1), ("cases/*.json", 5)])
def test_infer_is_killed(tmp_path: Path, pattern: str, n: int) -> None:
    run, out, other = untrained_run(tmp_path), tmp_path / "out", tmp_path / "other"
    scans = twenty_scans(tmp_path / "data")
    asked = ("infer", run, scans, "-o", out, "--device", "cpu")
    code, _ = stopped(signal.SIGKILL, some(out, pattern, n), *asked)
    assert code == -signal.SIGKILL
    done = len(list((out / "cases").glob("case*.json")))
    err = whole(*asked)
    assert not done or f"{done} of 20 already done" in err
    whole("infer", run, scans, "-o", other, "--device", "cpu")
    same_labels(out, other)


@pytest.mark.slow
def test_infer_is_killed_at_ten_random_moments(tmp_path: Path) -> None:
    """Each run goes on where the one before was killed; a moment is a number of further cases and a bit of time."""
    run, out, other = untrained_run(tmp_path), tmp_path / "out", tmp_path / "other"
    asked = ("infer", run, twenty_scans(tmp_path / "data", 32), "-o", out, "--device", "cpu")
    random, killed = np.random.default_rng(0), 0
    for _ in range(10):
        done = len(list((out / "cases").glob("case*.done.json")))
        process = begin(*asked)
        reached = some(out, "cases/case*.done.json", min(done + int(random.integers(0, 3)), 20))
        begun = out / "cases/.running-0-of-1.lock"
        begun.unlink(missing_ok=True)  # of the one killed before: else this one would be killed while it starts
        until = time.monotonic() + 120
        while not (begun.exists() and reached()) and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.001)
        time.sleep(float(random.uniform(0, 0.15)))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=120)
        killed += process.returncode == -signal.SIGKILL
    assert killed >= 8
    whole(*asked)
    whole(*asked[:4], other, "--device", "cpu")
    same_labels(out, other)


@pytest.mark.slow
def test_two_that_run_at_once(tmp_path: Path) -> None:
    """The same part twice: the second refuses in one line; two parts share the folder."""
    run, out, other = untrained_run(tmp_path), tmp_path / "out", tmp_path / "other"
    asked = ("infer", run, twenty_scans(tmp_path / "data", 32), "-o", out, "--device", "cpu")
    first = begin(*asked, "--part", "0/2")
    until = time.monotonic() + 120
    while not (out / "cases/.running-0-of-2.lock").exists() and time.monotonic() < until:
        time.sleep(0.001)
    first.send_signal(signal.SIGSTOP)  # it goes on working as long as the others need
    for part, said in (("0/2", "works on part 0/2 of it at this moment"), ("0/1", "this would be all of it")):
        second = begin(*asked, "--part", part)
        _, err = second.communicate(timeout=240)
        assert second.returncode == 2
        assert "Traceback" not in err
        assert err.splitlines()[-1].startswith("medseg: ")
        assert said in err.splitlines()[-1]
    beside = begin(*asked, "--part", "1/2")
    first.send_signal(signal.SIGCONT)
    for process in (first, beside):
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
    whole(*asked[:4], other, "--device", "cpu")
    same_labels(out, other)
    assert set(json.loads((out / "predictions.json").read_text())["machine"]) == {"0/2", "1/2"}


@pytest.mark.slow
def test_two_on_one_folder_are_killed_at_twenty_random_moments(tmp_path: Path) -> None:
    """Whatever the moment, what is committed is whole; what was half-written is swept up."""
    run, out, other = untrained_run(tmp_path), tmp_path / "out", tmp_path / "other"
    scans, random = twenty_scans(tmp_path / "data", 40), np.random.default_rng(0)
    asked = ("infer", run, scans, "-o", out, "--device", "cpu", "--no-report")
    killed = 0
    for _ in range(20):
        both = [begin(*asked, "--part", f"{k}/2") for k in range(2)]
        locks = [out / f"cases/.running-{k}-of-2.lock" for k in range(2)]
        for lock in locks:
            lock.unlink(missing_ok=True)
        until = time.monotonic() + 120
        while not all(p.poll() is not None or lock.exists() for p, lock in zip(both, locks, strict=True)):
            assert time.monotonic() < until
            time.sleep(0.001)
        time.sleep(float(random.uniform(0, 1.0)))
        for process in both:
            process.send_signal(signal.SIGKILL)
        for process in both:
            process.communicate(timeout=120)
            killed += process.returncode == -signal.SIGKILL
        for manifest in (out / "cases").glob("*.done.json"):
            for output in json.loads(manifest.read_text())["outputs"]:
                written = (out / output["name"]).read_bytes()
                assert (len(written), hashlib.sha256(written).hexdigest()) == (output["bytes"], output["sha256"])
    assert killed >= 20
    whole(*asked)
    assert not list(out.rglob(".part-*"))
    whole(*asked[:4], other, *asked[5:])
    same_labels(out, other)


def test_ctrl_c_ends_with_130_and_one_line_and_the_same_command_goes_on(tmp_path: Path) -> None:
    run = planned_run(tmp_path)
    asked = ("train", run, "--steps", "60", "--device", "cpu")
    code, err = stopped(signal.SIGINT, some(run, "folds/3d/0/checkpoint.safetensors"), *asked)
    assert code == 130
    assert err.splitlines()[-1] == "medseg: interrupted; run the same command again to go on"
    assert "Traceback" not in err
    assert "goes on from step" in whole(*asked)
    assert (run / "folds/3d/0/model.json").is_file()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_end_it_saves_first(tmp_path: Path, how: signal.Signals) -> None:
    run = planned_run(tmp_path)
    asked = ("train", run, "--steps", "200", "--device", "cpu")
    seldom = COMMAND.replace("SAVE_EVERY_S = -1.0", "WRITE_EVERY_S = 0.0")
    code, err = stopped(how, some(run, "folds/3d/0/events.jsonl"), *asked, command=seldom)
    assert code == 130
    assert err.splitlines()[-1] == "medseg: interrupted; run the same command again to go on"
    assert "Traceback" not in err
    assert (run / "folds/3d/0/checkpoint.safetensors").is_file()


def workers(run: Path) -> list[int]:
    """Processes that were started for a run, beside the command itself."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace")
            state = (folder / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        if "medseg.pipeline.worker" in words and str(run) in words and state != "Z":
            found.append(int(folder.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("which", [["--fold", "0"], ["--folds", "5"]])
def test_training_in_several_processes_is_ended(tmp_path: Path, how: signal.Signals, which: list[str]) -> None:
    run = planned_run(tmp_path)
    asked = ("train", run, *which, "--budget", "600s", "--device", "cpu", "--gpus", "2")
    code, err = stopped(how, some(run, "folds/3d/0/events.jsonl"), *asked)
    assert code == (-how if how == signal.SIGKILL else 130)
    assert "Traceback" not in err
    until = time.monotonic() + 30
    while workers(run) and time.monotonic() < until:
        time.sleep(0.1)
    assert not workers(run)
    assert (run / "folds/3d/0/checkpoint.safetensors").is_file()


@pytest.mark.slow
def test_ctrl_c_while_planning_and_predicting(tmp_path: Path) -> None:
    data, run, out = write_dataset(tmp_path / "data", 30, (40, 40, 40)), tmp_path / "planned", tmp_path / "out"
    for when, asked in (
        (some(run, "cache/3d/*.safetensors"), ("plan", data, "-o", run, "--budget", "2steps", "--device", "cpu")),
        (some(out, "cases/*.json"), ("infer", untrained_run(tmp_path), data / "images", "-o", out)),
    ):
        code, err = stopped(signal.SIGINT, when, *asked)
        assert code == 130
        assert err.splitlines()[-1] == "medseg: interrupted; run the same command again to go on"
        assert "Traceback" not in err
        whole(*asked)
