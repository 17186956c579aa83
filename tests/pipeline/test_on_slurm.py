"""`medseg train --on slurm` with small stand-ins for Slurm's commands: what is submitted, refused and told."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from medseg.cli.app import run_command
from medseg.cluster.slurm import LeftRunning, Standing
from medseg.events import Advanced, Note, Stage
from medseg.files import read_record
from medseg.pipeline import waiting
from medseg.pipeline.on_slurm import Asked, Submitted, device_of, needs, train_on_slurm
from medseg.pipeline.waiting import Queued, follow
from medseg.planning.plan import Budget, Plan, Splits
from medseg.training.run import Trained
from tests.tiny import last, planned_run, untrained_run

SBATCH = """#!{python}
import sys
from pathlib import Path
folder = Path({folder!r})
if (folder / "refuse").exists():
    sys.exit("sbatch: error: invalid partition specified: nope")
n = len(list(folder.glob("*.job"))) + 11
(folder / f"{{n}}.job").write_text(Path(sys.argv[-1]).read_text())
print(n)
"""
SQUEUE = """#!{python}
import sys
from pathlib import Path
rows = Path({folder!r}) / "queue"
job = sys.argv[sys.argv.index("-j") + 1]
for line in rows.read_text().splitlines() if rows.exists() else []:
    if line.split("|")[0].split("_")[0] == job:
        print(line)
"""


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where scripts are found that were submitted, and `queue` tells what squeue says."""
    if sys.platform == "win32":
        pytest.skip("there is no Slurm on Windows, nor are its stand-ins programs there")
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in {"sbatch": SBATCH, "squeue": SQUEUE}.items():
        (folder / name).write_text(text.format(python=sys.executable, folder=str(folder)))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return planned_run(tmp_path / "a b", n=6)


def call(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    code = run_command([str(a) for a in arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def jobs(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted(folder.glob("*.job"))]


def trained(run: Path, *folds: str) -> None:
    for fold in folds:
        (run / "folds/3d" / fold).mkdir(parents=True)
        (run / "folds/3d" / fold / "model.json").touch()


def words(script: str) -> str:
    (line,) = (line for line in script.splitlines() if line.endswith(" &"))
    return line.removeprefix(f"{sys.executable} -m medseg ")


def test_folds_are_an_array_and_a_job_that_scores_them(
    run: Path, stand_ins: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, "train", run, "--folds", 5, "--budget", "2h", "--on", "slurm", "--slurm", "-p gpu")
    assert (code, out) == (0, "")
    folds, scores = jobs(stand_ins)
    for line in ("--array=0-4", "--time=02:30:00", "--partition=gpu", "--requeue", "--signal=B:USR1@120"):
        assert f"#SBATCH {line}\n" in folds
    assert f"#SBATCH --output='{run}/logs/medseg-train-3d-%A_%a.log'" in folds
    assert words(folds) == f"train '{run}' --fold \"$SLURM_ARRAY_TASK_ID\" --budget 2h --device cpu &"
    assert "#SBATCH --dependency=afterok:11\n#SBATCH --kill-on-invalid-dep=yes\n" in scores
    assert words(scores) == f"train '{run}' --folds 5 --budget 2h --device cpu &"
    assert "5 folds, each in a job of its own with the whole of the budget" in err
    assert "submitted: job 11 and 12" in err
    assert "squeue -j 11,12; to end them: scancel 11 12" in err
    assert (run / "logs/medseg-train-3d.sbatch").read_text() == folds


def test_trained_folds_are_left_out(run: Path, stand_ins: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(run, "0", "2")
    _, _, err = call(capsys, "train", run, "--folds", 5, "--steps", 4, "--on", "slurm")
    assert "#SBATCH --array=1,3,4\n" in jobs(stand_ins)[0]
    assert "2 of 5 folds are trained already" in err
    assert "nothing tells how long so many steps take" in err


def test_one_fold_is_no_array(run: Path, stand_ins: Path) -> None:
    asked = Asked(fold="all", budget="90s", deterministic=True, tensorboard=True, init=untrained_run(run.parent / "m"))
    submitted = last(train_on_slurm(run, asked, "-t 5"))
    assert submitted == Submitted(run, ("11",), ("all",), run / "logs")
    (script,) = jobs(stand_ins)
    assert "--array" not in script
    assert "#SBATCH --time=5\n" in script
    init = str(run.parent / "m/run")
    assert words(script) == (
        f"train '{run}' --fold all --budget 90s --init '{init}' --deterministic --tensorboard --device cpu &"
    )


def test_all_folds_trained_leaves_the_scores(run: Path, stand_ins: Path) -> None:
    trained(run, "0", "1", "2", "3", "4")
    assert last(train_on_slurm(run, Asked(folds=5))).jobs == ("11",)
    assert "--dependency" not in jobs(stand_ins)[0]
    assert "--folds 5" in words(jobs(stand_ins)[0])


def test_several_nodes(run: Path, stand_ins: Path) -> None:
    last(train_on_slurm(run, Asked(gpus=1, nodes=2, interface="ib0", budget="1h")))
    (script,) = jobs(stand_ins)
    for line in ("--nodes=2", "--ntasks-per-node=1", "--gres=gpu:1", "--cpus-per-task=4"):
        assert f"#SBATCH {line}\n" in script
    expected = '--fold 0 --budget 1h --device cuda --gpus 1 --nodes 2 --job "$SLURM_JOB_ID" --interface ib0 &'
    assert words(script).endswith(expected)


def test_a_dry_run_changes_nothing(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")  # nor does it need sbatch
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    code, out, _ = call(capsys, "train", run, "--folds", 3, "--steps", 4, "--on", "slurm", "--dry-run")
    assert code == 0
    assert out.count("#!/bin/bash\n") == 2
    assert "#SBATCH --array=0-2\n" in out
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert len(read_record(run / "splits.json", Splits).folds) == 5
    call(capsys, "train", run, "--folds", 3, "--steps", 4, "--on", "slurm", "--dry-run", "--slurm=-c1")


def test_the_cases_are_split_right_before(run: Path, stand_ins: Path) -> None:
    last(train_on_slurm(run, Asked(folds=3)))
    assert len(read_record(run / "splits.json", Splits).folds) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--wait"], "--wait is for --on slurm; add --on slurm"),
        (["--dry-run"], "--dry-run is for --on slurm"),
        (["--slurm", "-p gpu"], "--slurm is for --on slurm"),
        (["--nodes", 2], "--nodes 2: this is no job of Slurm; add --on slurm"),
        (["--nodes", 0], "--nodes 0 trains nothing"),
        (["--on", "slurm", "--nodes", 0], "--nodes 0 trains nothing"),
        (["--nodes", 2, "--job", "7"], "--nodes 2: there is no srun here; run it in a job of Slurm"),
        (["--interface", "nope0"], "--interface nope0 has no address on"),
        (["--on", "mars"], "--on mars is no place to train; give local or slurm"),
        (["--on", "slurm"], "--on slurm: there is no sbatch here; run it on a login node"),
        (
            ["--on", "slurm", "--dry-run", "--slurm", "-N2"],
            "--nodes is for medseg to choose; give medseg's own --nodes",
        ),
        (["--on", "slurm", "--dry-run", "--fold", 9], "there is no fold 9"),
        (["--on", "slurm", "--dry-run", "--nodes", 3], "a batch of 2 cannot be split over 3"),
        (["--on", "slurm", "--dry-run", "--device", "mps"], "--device mps is no device"),
        (["--on", "slurm", "--dry-run", "--gpus", 0], "--gpus 0 trains nothing"),
        (["--on", "slurm", "--job", 3], "--job is for a command within that job"),
    ],
)
def test_what_is_refused(
    run: Path, options: list[Any], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    code, _, err = call(capsys, "train", run, "--steps", 1, *options)
    assert code == 2
    assert said in err
    assert len(err.splitlines()) == 1


def test_what_sbatch_says(run: Path, stand_ins: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (stand_ins / "refuse").touch()
    code, _, err = call(capsys, "train", run, "--fold", 0, "--budget", "1h", "--on", "slurm")
    assert code == 2
    assert "sbatch refused: invalid partition specified: nope; mend the options in --slurm" in err


def test_a_fold_is_not_submitted_twice(run: Path, stand_ins: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last(train_on_slurm(run, Asked(fold="1", budget="1h")))
    (stand_ins / "queue").write_text("11|PENDING|Resources|\n")
    code, _, err = call(capsys, "train", run, "--folds", 5, "--budget", "1h", "--on", "slurm")
    assert code == 2
    assert "fold 1 is in the queue already, as job 11; add --wait to wait for it, or end it with scancel 11" in err
    assert last(train_on_slurm(run, Asked(fold="2", budget="1h"))).jobs == ("12",)
    (stand_ins / "queue").unlink()
    assert last(train_on_slurm(run, Asked(fold="1", budget="1h"))).jobs == ("13",)


def test_what_a_job_takes(run: Path) -> None:
    plan = read_record(run / "plan.json", Plan)
    assert device_of(plan, Asked()) == "cpu"
    assert device_of(plan, Asked(gpus=2)) == "cuda"
    assert device_of(plan, Asked(gpus=2, device="cpu")) == "cpu"
    on_cpu = needs(plan, Asked(), Budget(seconds=100), "cpu")
    assert (on_cpu.gpus, on_cpu.memory_gb, on_cpu.time_s) == (0, pytest.approx(2.3), 700)
    on_two = needs(plan, Asked(gpus=2), Budget(steps=10), "cuda")
    assert (on_two.gpus, on_two.cpus, on_two.memory_gb, on_two.time_s) == (2, 8, pytest.approx(10.3), None)


JOB = Queued(jobs=("7", "8"), folds=("0", "1"), of=("0", "1"), configuration="3d", array=True)


def followed(
    run: Path,
    looks: list[dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    then: Callable[[int], None] = lambda _: None,
) -> list[Any]:
    """What is told where Slurm tells of these states, one look after another."""
    left: Iterator[tuple[int, dict[str, str]]] = iter(enumerate(looks))

    def stands(_: object) -> dict[str, Standing]:
        n, found = next(left)
        then(n)
        return {number: Standing(state, node="n1") for number, state in found.items()}

    monkeypatch.setattr(waiting, "standings", stands)
    return list(follow(run, JOB, lambda _: None))


def test_waiting_tells_how_far_the_folds_are(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def journal(n: int) -> None:
        if n == 1:
            (run / "folds/3d/0").mkdir(parents=True)
            (run / "folds/3d/0/events.jsonl").write_text('{"share": 0.25, "step": 5, "total_steps": 20}\n{"sha')

    over = {"7_0": "COMPLETED", "7_1": "FAILED", "8": "CANCELLED"}
    (run / "logs").mkdir()
    (run / "logs/medseg-train-3d-7_1.log").write_text("train\nmedseg: the memory ran out; plan again\n")
    looks = [{"7_0": "PENDING", "7_1": "PENDING"}, {"7_0": "RUNNING", "7_1": "NODE_FAIL", "8": "PENDING"}, over, over]
    *events, found = followed(run, looks, monkeypatch, journal)
    assert events[0] == Stage("train folds 0, 1", 200, "job 7 and 8 of Slurm")
    notes = [e.text for e in events if isinstance(e, Note)]
    for note in ("fold 0, job 7_0: pending", "fold 0, job 7_0: running on n1", "fold 1, job 7_1: node fail"):
        assert note in notes
    assert isinstance(found, Trained)
    assert found.failed == {
        "fold 0": "job 7_0 ended as COMPLETED",
        "fold 1": "job 7_1 ended as FAILED: the memory ran out; plan again",
    }
    assert next(e.done for e in events if isinstance(e, Advanced)) == 0


def test_a_journal_is_read_to_its_last_whole_line(run: Path) -> None:
    path = run / "events.jsonl"
    assert waiting._last_line(path) == (0.0, "")
    path.write_text('{"share": 0.25, "step": 5, "total_steps": null}\n')
    assert waiting._last_line(path) == (0.25, "step 5 of ?")


def test_interrupted_the_jobs_go_on(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(n: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(LeftRunning, match="the jobs 7 and 8 go on; end them with scancel 7 8") as told:
        followed(run, [{}], monkeypatch, interrupt)
    assert told.value.exit_code == 130
