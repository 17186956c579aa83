from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from medseg.cluster.batch import ELEMENT, JOB, Batch, Needs, check_options, clock, listed, script
from medseg.cluster.options import sbatch_options
from medseg.errors import InputError

ARRAY = Batch(
    "medseg-train-3d",
    ("/opt/my python/bin/python", "-m", "medseg", "train", "/data/a b/run", "--fold", ELEMENT, "--budget", "2h"),
    Path("/data/a b/run/logs"),
    Needs(cpus=4, memory_gb=11.2, time_s=9000, gpus=1),
    sbatch_options("-p gpu --comment='a b'"),
    (0, 1, 2, 3, 4),
)
GOLDEN = r"""#!/bin/bash
#SBATCH --partition=gpu
#SBATCH --comment='a b'
#SBATCH --job-name=medseg-train-3d
#SBATCH --array=0-4
#SBATCH --time=02:30:00
#SBATCH --cpus-per-task=4
#SBATCH --mem=12G
#SBATCH --gres=gpu:1
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
#SBATCH --output='/data/a b/run/logs/medseg-train-3d-%A_%a.log'

child= asked=
trap 'asked=yes; kill -TERM "$child"' USR1  # the time limit is near: medseg saves its checkpoint and ends
'/opt/my python/bin/python' -m medseg train '/data/a b/run' --fold "$SLURM_ARRAY_TASK_ID" --budget 2h &
child=$!
wait "$child"; code=$?
while kill -0 "$child" 2>/dev/null; do wait "$child"; code=$?; done  # a signal ends the waiting alone
if [ "$code" -eq 138 ]; then wait "$child"; code=$?; fi  # it had ended by then
if [ "$asked" ] && [ "$code" -ge 130 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 100 ]; then
  scontrol requeue "$SLURM_JOB_ID" && sleep 60  # until Slurm ends this script; the job goes on from its checkpoint
fi
exit "$code"
"""


def directives(batch: Batch) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script(batch).splitlines() if line.startswith("#SBATCH")]


def test_the_whole_script_of_an_array() -> None:
    assert script(ARRAY) == GOLDEN


def test_what_the_user_gives_is_not_given_again() -> None:
    own = sbatch_options(
        "-t 5 -c2 --mem-per-cpu=3G -G 2 --no-requeue --signal=TERM -o x.log -J mine --open-mode=truncate"
    )
    assert directives(replace(ARRAY, options=own)) == [*own.directives, "--array=0-4"]


def test_one_job_on_two_nodes() -> None:
    batch = replace(ARRAY, array=(), needs=Needs(1, 2.0, None, nodes=2), options=sbatch_options(""))
    assert directives(replace(batch, command=("x", "--job", JOB))) == [
        "--job-name=medseg-train-3d",
        "--nodes=2",
        "--ntasks-per-node=1",
        "--cpus-per-task=1",
        "--mem=2G",
        "--requeue",
        "--signal=B:USR1@120",
        "--open-mode=append",
        "--output='/data/a b/run/logs/medseg-train-3d-%j.log'",
    ]
    text = script(replace(batch, command=("x", "--job", JOB)))
    assert 'x --job "$SLURM_JOB_ID" &' in text
    assert 'export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"' in text


def test_a_job_after_another() -> None:
    said = directives(replace(ARRAY, after="12", array=(), options=sbatch_options("-d afterok:3 -A me")))
    assert said[:4] == [
        "--account=me",
        "--job-name=medseg-train-3d",
        "--dependency=afterok:12",
        "--kill-on-invalid-dep=yes",
    ]


def test_a_per_cent_sign_in_a_path_is_no_number() -> None:
    assert directives(replace(ARRAY, logs=Path("/50%j")))[-1] == "--output=/50%%j/medseg-train-3d-%A_%a.log"


@pytest.mark.parametrize(
    ("numbers", "text"), [([0], "0"), ([1, 3, 4], "1,3,4"), ([4, 3, 2, 0], "0,2-4"), (range(5), "0-4"), ([0, 1], "0,1")]
)
def test_numbers_of_an_array(numbers: list[int], text: str) -> None:
    assert listed(numbers) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(1, "00:01:00"), (61, "00:02:00"), (9000, "02:30:00"), (3 * 86400 + 3600, "3-01:00:00")]
)
def test_times_of_slurm(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize("text", ["-a 0-3", "-N 2", "--nodes=2", "-n 2", "-W", "--wrap=x", "--parsable"])
def test_what_is_for_medseg_to_choose(text: str) -> None:
    with pytest.raises(InputError, match="is for medseg to choose"):
        check_options(sbatch_options(text))
    check_options(sbatch_options("-p gpu"))


BODY = """
import signal, sys, time
def end(*_):
    print("checkpoint"); sys.exit(130)
signal.signal(signal.SIGTERM, end)
print("begins", flush=True)
time.sleep(float(sys.argv[1])); print("done")
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
@pytest.mark.parametrize(
    ("asked", "said", "code"), [(True, "begins checkpoint requeue 7", 130), (False, "begins done", 0)]
)
def test_asked_to_end_it_saves_and_goes_back_into_the_queue(tmp_path: Path, asked: bool, said: str, code: int) -> None:
    (tmp_path / "scontrol").write_text('#!/bin/bash\necho "$@"; exit 1\n')  # else the script waits for its end
    (tmp_path / "scontrol").chmod(0o755)
    path = tmp_path / "script"
    path.write_text(script(replace(ARRAY, command=("python3", "-c", BODY, "30" if asked else "0.1"))))
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}
    with subprocess.Popen(["bash", str(path)], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        if asked:
            subprocess.run(["kill", "-USR1", str(process.pid)], check=True)
        assert " ".join((first + process.stdout.read()).split()) == said
    assert process.returncode == code
