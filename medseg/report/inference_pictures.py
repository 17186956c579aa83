"""The pictures of one predicted case: its labels on its scan, and where the prediction was unsure of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from medseg.imaging.grid import Grid
from medseg.imaging.label_files import read_label_file
from medseg.imaging.nifti import read_labels, read_volume
from medseg.imaging.regrid import volume_onto
from medseg.imaging.scans import Scan, read_scan
from medseg.imaging.source import ReadOptions
from medseg.imaging.volume import LabelMap, Volume
from medseg.inference.records import Prediction
from medseg.report.frame import Frame, frame_of
from medseg.report.montage import Layers, montage
from medseg.report.pictures import window_of
from medseg.report.viewer import REPORT_VOXELS, Scene, Window, in_bytes, scene_of

UNSURE: Final = 0.5  # of the largest uncertainty: from here on slices are tinted
NO_LABELS: Final = "none of its files holds labels that can be drawn"
_NIFTI: Final = ".nii.gz"
_DRAWN_ANEW: Final = (".seg.nrrd", ".labelmap.dcm", ".seg.dcm", ".rtstruct.dcm")


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was drawn of a case. structures: those that it holds, in the order of their colours."""

    montage: bytes = b""
    size: tuple[int, int] = (0, 0)
    scene: Scene | None = None
    window: str = ""
    structures: tuple[str, ...] = ()
    uncertainty: bool = False
    note: str = ""


def drawn(
    case: Prediction, out: Path, scan: Scan, names: Mapping[int, str], options: ReadOptions, most_bytes: int
) -> Drawn:
    """Read and draw one case of `out`; a montage of about `most_bytes` at most.

    Raises:
        InputError, GeometryError: its scan or its labels can no longer be read.
    """
    volume = read_scan(replace(scan, channels=scan.channels[:1]), options)[0].volume
    labels = _labels(case, out, names, volume.grid)
    if labels is None:
        return Drawn(note=NO_LABELS)
    volume = volume_onto(volume, labels.grid, float(volume.array.min()))
    unsure = _uncertainty(case, out, labels.grid)
    frame = frame_of([labels.array], labels.grid)
    window = window_of(volume, frame, labels.array)
    structures = {value: labels.names.get(value, str(value)) for value in labels.present}
    raw, size = montage(_layers(labels, structures, volume, window, frame, unsure), None, most_bytes)
    scene = scene_of(
        {"prediction": labels}, structures, volume, window, scan_voxels=REPORT_VOXELS, frame=frame, uncertainty=unsure
    )
    return Drawn(raw, size, scene, window.said(), tuple(structures.values()), unsure is not None)


def _labels(case: Prediction, out: Path, names: Mapping[int, str], grid: Grid) -> LabelMap | None:
    """From the file of whatever format that was asked for; None where there is none."""
    held = [output.name for output in case.outputs]
    if f"{case.case}{_NIFTI}" in held:
        return read_labels(out / f"{case.case}{_NIFTI}", dict(names))
    for suffix in _DRAWN_ANEW:
        if f"{case.case}{suffix}" in held:
            return read_label_file(out / f"{case.case}{suffix}", onto=grid, name=case.case)
    return _together([out / name for name in held if _is_part(name, case.case)], names)


def _is_part(name: str, case: str) -> bool:
    """Whether it is the file of one structure alone."""
    middle = name.removeprefix(f"{case}.").removesuffix(_NIFTI)
    whole = name == f"{case}.{middle}{_NIFTI}"
    return whole and "." not in middle and middle not in ("probabilities", "uncertainty")


def _together(parts: list[Path], names: Mapping[int, str]) -> LabelMap | None:
    """Structures that each have a file of their own, in one map."""
    whole: npt.NDArray[np.unsignedinteger[Any]] | None = None
    grid: Grid | None = None
    for path in parts:
        labels = read_labels(path, dict(names))
        whole, grid = labels.array if whole is None else np.maximum(whole, labels.array), labels.grid
    return None if whole is None or grid is None else LabelMap(whole, grid, names)


def _uncertainty(case: Prediction, out: Path, grid: Grid) -> Volume | None:
    """0 to 1, where it was asked for."""
    name = f"{case.case}.uncertainty{_NIFTI}"
    if name not in [output.name for output in case.outputs]:
        return None
    return volume_onto(read_volume(out / name), grid, 0.0)


def _layers(
    labels: LabelMap,
    structures: Mapping[int, str],
    scan: Volume,
    window: Window,
    frame: Frame,
    unsure: Volume | None,
) -> Layers:
    shown = frame.take(labels.array)
    if list(structures) != list(range(1, len(structures) + 1)):  # else it takes a while for nothing
        table = np.zeros(1 << 16, np.uint16)
        table[list(structures)] = np.arange(1, len(structures) + 1)
        shown = table[shown]
    return Layers(
        in_bytes(frame.take(scan.array), window.shown),
        shown,
        None,
        frame.spacing_mm,
        frame.first,
        frame.of,
        None if unsure is None else frame.take(unsure.array) >= UNSURE,
    )
