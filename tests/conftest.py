"""Options and fixtures that all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

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
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verbs compute on one thread: small tests are slower on several, and the order of sums is fixed."""
    monkeypatch.setattr("medseg.compute.available_cores", lambda: 1)
