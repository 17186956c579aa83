from __future__ import annotations

from pathlib import Path

import pytest

from medseg.errors import InputError
from medseg.pipeline.doctor import PACKAGES, doctor, known_bad


def test_the_doctor_looks_at_everything(tmp_path: Path) -> None:
    findings = {f.what: f for f in doctor(tmp_path).findings}
    assert {*PACKAGES, "Python", "CPU", "GPU", "memory", "disk"} <= set(findings)
    codecs = {what: f for what, f in findings.items() if what.startswith("DICOM, ")}
    assert {"DICOM, RLE", "DICOM, JPEG baseline", "DICOM, JPEG extended", "DICOM, JPEG lossless"} <= set(codecs)
    assert {f.state for f in codecs.values()} == {"ok"}
    assert all(f.found for f in findings.values())
    assert findings["torch"].state == "ok"


def test_a_missing_codec_is_told_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseg.pipeline.doctor.available_codecs", lambda: {"RLE": True, "JPEG lossless": False})
    findings = {f.what: f for f in doctor(tmp_path).findings}
    assert findings["DICOM, RLE"].state == "ok"
    assert findings["DICOM, JPEG lossless"].state == "warning"
    assert 'pip install "imagecodecs' in findings["DICOM, JPEG lossless"].found


def test_what_a_cluster_needs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseg.pipeline.doctor.find_spec", lambda _: None)
    assert doctor(tmp_path).findings[-1].found == "not set up: pip install 'medseg[cluster]' for --on"
    monkeypatch.setattr("medseg.pipeline.doctor.find_spec", lambda _: True)
    monkeypatch.setattr("medseg.pipeline.doctor.shutil.which", lambda _: None)
    assert doctor(tmp_path).findings[-1].found == "--on dask:ADDRESS, no Slurm here (no sbatch)"


def test_known_faults() -> None:
    assert known_bad("2.13.0+cpu") == []
    assert "torch 2.9.0" in known_bad("2.9.0+cu128")[0]
    assert known_bad("", 91002)
    assert not known_bad("", 91500)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such folder"):
        doctor(tmp_path / "none")
