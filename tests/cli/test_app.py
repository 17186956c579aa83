from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from medseg.cli.app import run_command
from medseg.errors import INTERRUPTED, MedsegError
from medseg.inference.records import RESEARCH_USE

VERBS = (
    "plan",
    "train",
    "select",
    "infer",
    "evaluate",
    "compare",
    "export",
    "import-nnunet",
    "run",
    "inspect",
    "doctor",
)
SCRIPT = Path(sys.executable).with_name("medseg")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([verb, "--help"]) == 0
    said = capsys.readouterr()
    assert f"Example: medseg {verb}" in " ".join(said.out.split()).replace("`", "")
    assert said.err == ""


def test_help_names_every_verb_and_so_does_medseg_alone(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["-h"], []):
        assert run_command(arguments) == 0
        said = capsys.readouterr()
        assert all(f" {verb} " in said.out for verb in VERBS)
        assert said.err == ""


def test_version_says_what_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["--version"]) == 0
    assert RESEARCH_USE in capsys.readouterr().out


def test_help_imports_no_torch_and_answers_at_once() -> None:
    heavy = "torch", "monai", "numpy", "scipy", "nibabel", "pydicom", "SimpleITK", "highdicom"
    code = "import sys; from medseg.cli.app import run_command; run_command(['--help']); run_command(['plan', '-h']); "
    code += f"print([m for m in {heavy!r} if m in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_the_console_script() -> None:
    if not SCRIPT.is_file():
        pytest.skip("medseg is not installed beside this Python")
    spent = []
    for _ in range(3):
        began = time.monotonic()
        done = subprocess.run([SCRIPT, "--help"], capture_output=True, text=True, check=True)
        spent.append(time.monotonic() - began)
    assert "plan" in done.stdout
    assert min(spent) < 2.0  # 0.25 s on an idle core
    assert subprocess.run([SCRIPT, "paint"], capture_output=True, check=False).returncode == 2


def test_python_m_medseg() -> None:
    done = subprocess.run([sys.executable, "-m", "medseg", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("medseg 0.")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["paint"], "No such command 'paint'"),
        (["plan"], "Missing argument 'DATA'; see medseg plan --help"),
        (["plan", "x"], "Missing option '-o' / '--out'; see medseg plan --help"),
        (["plan", "x", "-o", "y", "--colour"], "No such option: --colour"),
        (["plan", "x", "-o", "y", "--seed", "z"], "Invalid value for '--seed'"),
        (["plan", "x", "-o", "y", "--memory", "big"], "Invalid value for '--memory'"),
        (["train", "x", "--folds", "two"], "Invalid value for '--folds'"),
        (["train", "x", "--steps", "1.5"], "Invalid value for '--steps'"),
        (["train", "x", "--fold"], "requires an argument"),
        (["evaluate", "a", "b", "-o", "c", "--min-lesion", "x"], "Invalid value for '--min-lesion'"),
        (["infer", "a"], "Missing argument 'SCANS'"),
        (["inspect", "a", "b"], "unexpected extra argument"),
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("medseg: ")
    assert words in said.err
    assert "--help" in said.err


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(MedsegError):
        run_command(["--debug", "inspect", str(tmp_path / "none")])


def test_an_error_of_several_lines_is_shown_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["inspect", str(tmp_path / "two\nlines")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no SIGTERM from outside")
def test_an_end_from_outside_is_as_an_interruption() -> None:
    script = """
import os, signal, time
from medseg.cli import app
def work(*_, **__):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)
app.app = work
app.main(["doctor"])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == INTERRUPTED
    assert "interrupted; run the same command again" in done.stderr
