"""Series that are written and scanned, with what must hold for every scan."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from pydicom.dataset import FileDataset

from medseg.imaging.dicom.scanner import scan_dicom
from medseg.imaging.dicom.volumes import Scanned, SubVolume
from tests.imaging.build import PATIENT, save_all


def scan(datasets: Sequence[FileDataset], folder: Path, allow_gaps: bool = False) -> Scanned:
    """Scan images written in a wild order under the patient's name; nothing that is shown may tell of either."""
    order = random.Random(len(datasets)).sample(range(len(datasets)), len(datasets))  # noqa: S311
    paths = save_all(datasets, folder / PATIENT, order)
    found = scan_dicom(paths, allow_gaps)
    files = {path for volume in found.volumes for path in (*volume.paths, *(copy.path for copy in volume.repeats))}
    files |= {label.path for label in found.labels}
    assert len(files) + len(found.left) == len(paths)
    for volume in found.volumes:
        said = f"{volume.verdict.said} {volume.verdict.fix} {volume.differs} {volume.shown} {volume.verdict}"
        assert not any(part in said for part in (*PATIENT.split("^"), str(folder), "12345678"))
        assert "\n" not in said
        assert "SeriesDescription" not in volume.shown
    return found


def verdicts(found: Scanned) -> list[str]:
    return [str(volume.verdict) for volume in found.volumes]


def only(found: Scanned) -> SubVolume:
    (volume,) = found.volumes
    return volume
