"""No name, id or date of a patient leaves medseg, except within DICOM results, which must carry them."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from medseg.cli.app import run_command
from tests.imaging.build import ROOT_UID, save_all, some_series
from tests.tiny import untrained_run

NAME, ID, BORN, WORDS = "Müller^Jörg", "K-4711-X", "19610203", "Nachkontrolle Muenster"
SECRETS = ("Müller", "Jörg", "Mueller", ID, BORN, WORDS, "Nachkontrolle")


def hospital(folder: Path) -> Path:
    """Good, broken and foreign files, with the patient in every tag and name that can hold him."""
    kinds: dict[str, dict[str, Any]] = {"1": {"n": 12}, "2": {"n": 6}, "3": {"n": 4}}
    for series, what in kinds.items():
        datasets = some_series(series=series, **what).datasets()
        for ds in datasets:
            ds.PatientName, ds.PatientID, ds.PatientBirthDate = NAME, ID, BORN
            ds.StudyInstanceUID, ds.FrameOfReferenceUID = f"{ROOT_UID}.9.{series}", f"{ROOT_UID}.8.{series}"
            ds.StudyDescription = ds.SeriesDescription = ds.ProtocolName = f"{WORDS} {NAME}"
            ds.StudyID, ds.AccessionNumber, ds.StudyDate, ds.StudyTime = "1", ID, BORN, "101010"
            ds.PatientSex, ds.ReferringPhysicianName, ds.SeriesNumber = "M", NAME, int(series)
        if series == "2":
            del datasets[2]  # a gap
        save_all(datasets, folder / NAME / f"{WORDS} {series}")
    cut = next((folder / NAME / f"{WORDS} 3").iterdir())
    cut.write_bytes(cut.read_bytes()[:-40])
    (folder / NAME / f"{NAME} {BORN}.pdf").write_bytes(b"%PDF Mueller")
    (folder / NAME / "odd.dcm").write_bytes(b"\0" * 128 + b"DICM" + NAME.encode() * 9)
    return folder / NAME


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr()
    return said.out + said.err


def check(text: str, where: str) -> None:
    assert not [secret for secret in SECRETS if secret.casefold() in text.casefold()], where


def check_files(folder: Path) -> int:
    """Everything but DICOM results and the one private map; NIfTI and NRRD unpacked."""
    n = 0
    for path in (p for p in folder.rglob("*") if p.is_file() and not p.name.endswith("case_map.json")):
        check(str(path.relative_to(folder)), "file name")
        if path.suffix == ".dcm":
            continue
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        check(content.decode("utf-8", "replace"), path.name)
        check(content.decode("latin-1"), path.name)
        n += 1
    return n


def test_nothing_tells_of_the_patient(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, one_thread: None
) -> None:
    scans, out = hospital(tmp_path / "in"), tmp_path / "out"
    run = untrained_run(tmp_path / "run")
    assert run_command(["inspect", str(scans), "-o", str(out / "inspection.json")]) == 1
    check(shown(capsys), "inspect")
    assert run_command(["inspect", str(scans), "--json"]) == 1
    check(shown(capsys), "inspect --json")
    formats = "nifti,seg,rtstruct,nrrd,sr"
    assert run_command(["infer", str(run), str(scans), "-o", str(out / "p"), "--format", formats]) == 1
    check(shown(capsys), "infer")
    (case,) = (out / "p").glob("case-*.nii.gz")
    references = tmp_path / "references" / NAME
    references.mkdir(parents=True)
    seg = case.with_name(case.name.replace(".nii.gz", ".seg.dcm"))
    (references / "labels.dcm").write_bytes(seg.read_bytes())
    assert run_command(["evaluate", str(out / "p"), str(references), "-o", str(out / "scores")]) == 0
    check(shown(capsys), "evaluate")
    series = scans / f"{WORDS} 1"
    assert run_command(["convert", str(series), str(out / "scan.nii.gz")]) == 0
    assert run_command(["convert", str(seg), str(out / "back.seg.nrrd"), "--like", str(series)]) == 0
    check(shown(capsys), "convert")
    assert check_files(out) >= 8
    check(caplog.text, "log")


def test_refusals_do_not_tell_of_the_patient(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scans = hospital(tmp_path / "in")
    assert run_command(["convert", str(scans / f"{WORDS} 2"), str(tmp_path / "x.nii.gz")]) == 2
    said = shown(capsys)
    assert "[GAP]" in said
    check(said, "convert")
    assert list(tmp_path.iterdir()) == [tmp_path / "in"]
