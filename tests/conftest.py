"""Options and fixtures that all tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.one_host_slurm import Slurm, one_host_slurm, why_not

ROOT = Path(__file__).parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--real-data",
        type=Path,
        default=ROOT.parent / "shared" / "data",
        help="folder of real scans (never part of the repository); tests that need it skip where it is absent",
    )


@pytest.fixture(scope="session")
def real_data(pytestconfig: pytest.Config) -> Path:
    folder = Path(pytestconfig.getoption("--real-data"))
    if not folder.is_dir():
        pytest.skip("no real data (--real-data DIR)")
    return folder


@pytest.fixture
def single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU computes in float32 also where it could in bf16: what others compute is compared with it to many digits."""
    monkeypatch.setattr("medseg.compute._cpu_has_bf16", lambda: False)


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verbs compute on one thread: small tests are slower on several, and the order of sums is fixed."""
    monkeypatch.setattr("medseg.compute.available_cores", lambda: 1)


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """A Slurm of two nodes on this host, which the commands of Slurm find by the environment."""
    if missing := why_not():
        pytest.skip(f"no Slurm here: {missing}")
    with one_host_slurm() as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment.items():
            patch.setenv(name, value)
        yield running
