from __future__ import annotations

from pathlib import Path

import pytest

from medseg.errors import InputError
from medseg.pipeline.doctor import PACKAGES, doctor, known_bad


def test_the_doctor_looks_at_everything(tmp_path: Path) -> None:
    findings = {f.what: f for f in doctor(tmp_path).findings}
    assert {*PACKAGES, "Python", "CPU", "GPU", "memory", "disk"} <= set(findings)
    assert sum(what.startswith("DICOM, ") for what in findings) >= 5
    assert all(f.found for f in findings.values())
    assert findings["torch"].state == "ok"


def test_known_faults() -> None:
    assert known_bad("2.13.0+cpu") == []
    assert "torch 2.9.0" in known_bad("2.9.0+cu128")[0]
    assert known_bad("", 91002)
    assert not known_bad("", 91500)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such folder"):
        doctor(tmp_path / "none")
