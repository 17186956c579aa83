from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from medseg.errors import InputError
from medseg.pipeline import machine as module
from medseg.pipeline.machine import kind_of, machine, may_have_gpu, resampler
from medseg.preprocessing.resample import ON_CPU
from tests.preprocessing.build import write_dataset
from tests.tiny import configuration


def driver(folder: Path, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setattr(module, "DRIVERS", (str(folder / "nvidia"),))
    if there:
        (folder / "nvidia").mkdir()


def test_without_a_driver_there_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, monkeypatch, there=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert not may_have_gpu()
    monkeypatch.setattr(sys, "platform", "win32")
    assert may_have_gpu()  # nothing tells, so torch is asked
    monkeypatch.setattr(sys, "platform", "linux")
    driver(tmp_path, monkeypatch, there=True)
    assert may_have_gpu()


def test_the_device_to_plan_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, monkeypatch, there=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("medseg.compute.device_kind", lambda _: pytest.fail("torch is asked"))
    assert kind_of("cpu", None) == "cpu"
    assert kind_of("auto", None) == "cpu"
    assert kind_of("auto", 8) == "cpu"
    assert kind_of("cuda", 8) == "cuda"


def test_a_device_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="--device tpu is no device"):
        kind_of("tpu", 8)


@pytest.mark.usefixtures("one_thread")
def test_this_machine_measures_and_tells_its_memory() -> None:
    here = machine("cpu")
    assert here.free_bytes() > 1e8
    found = here.measure(configuration().network, (8, 8, 8), 2)
    assert found is not None
    assert found.seconds > 0
    assert resampler("cpu") is ON_CPU


PLAN = """
import sys
from medseg.cli.app import run_command
code = run_command(sys.argv[1:])
print(code, [m for m in ("torch", "monai") if m in sys.modules], file=sys.stderr)
"""


@pytest.mark.parametrize("options", [["--memory", "8", "--device", "cpu"], ["--memory", "8", "--device", "cuda"]])
def test_a_plan_for_a_memory_imports_no_torch(tmp_path: Path, options: list[str]) -> None:
    if options[-1] == "cuda" and may_have_gpu():
        pytest.skip("with a GPU here torch prepares the cases")
    data = write_dataset(tmp_path / "data", n=2)
    said = [sys.executable, "-c", PLAN, "plan", str(data), "-o", str(tmp_path / "run"), *options]
    done = subprocess.run(said, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "0 []"
    assert ("there is no GPU here: the plan is for one of another machine" in done.stderr) is (options[-1] == "cuda")
