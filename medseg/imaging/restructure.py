"""A Medical Decathlon folder as an nnU-Net raw folder, and back: every file is read again and compared.

Voxels and headers stay as they are stored; several channels in one 4D file become a file each, and the reverse. Labels,
regions, the ignore label, channel names and the texts of `dataset.json` are kept; Decathlon's form has no regions, so
they stand in keys of their own there.
"""

from __future__ import annotations

import filecmp
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError, InputError, explained
from medseg.files import write_json
from medseg.imaging.case import Case
from medseg.imaging.channels import case_name, group_channels, image_files, stem
from medseg.imaging.description import FILE, Description, read_description
from medseg.imaging.label_files import read_label_file
from medseg.imaging.layouts import Listing, decathlon, file_sources, nnunet
from medseg.imaging.nifti import is_nifti, read_labels, read_nifti, read_volume, write_labels, write_volume
from medseg.imaging.nifti_header import Header, read_bytes, read_header
from medseg.imaging.reading import read_channels, read_source
from medseg.imaging.source import ReadOptions, Source
from medseg.imaging.structures import IGNORE, Structures
from medseg.imaging.volume import Volume

ENDING = ".nii.gz"
SAME_MM = 0.01
ANY_PLACE = ReadOptions(need_place=False)
_STRUCTURAL = {  # keys that either form writes anew
    *("modality", "channel_names", "labels", "regions", "regions_class_order", "ignore", "file_ending"),
    *("numTraining", "numTest", "training", "test", "tensorImageSize", "overwrite_image_reader_writer"),
}
_TEXTS = ("descrip", "aux_file", "intent_name", "db_name")  # of a NIfTI header: they may name a patient


@dataclass(frozen=True, slots=True)
class Scan:
    """Images of one case, and its label unless it is a test case."""

    name: str
    images: tuple[Source, ...]
    label: Path | None


def decathlon_to_nnunet(source: Path, target: Path) -> float:
    """Write the Medical Decathlon folder `source` as the nnU-Net raw folder `target`.

    Returns the largest distance, in mm, between a place in a source file and in what was written.

    Raises:
        InputError: `source` is no such folder, a case of it cannot be used, or `target` is not empty.
        GeometryError: what was read back is not what was written.
        ResourceError: `target` cannot be written to.
    """
    said, texts = _description(source)
    if said.training is None:
        raise InputError('lists no "training" cases', source / FILE, "give a Medical Decathlon folder")
    scans = _scans(decathlon(source, said), source)
    tests = [_test(source / image, len(said.channels)) for image in _listed_tests(texts)]
    ending = _common_ending([*scans, *tests])
    with _made_whole(source, target) as beside:
        away = [_split(scan, beside / "imagesTr", beside / "labelsTr", ending) for scan in scans]
        away += [_split(scan, beside / "imagesTs", beside, ending) for scan in tests]
        write_json(beside / FILE, {**_kept(texts), **_as_nnunet(said, len(scans), ending)})
    return max(away, default=0.0)


def nnunet_to_decathlon(source: Path, target: Path) -> float:
    """Write the nnU-Net raw folder `source` as the Medical Decathlon folder `target`; as `decathlon_to_nnunet`."""
    said, texts = _description(source)
    if not (source / "imagesTr").is_dir() or not (source / "labelsTr").is_dir():
        raise InputError("has no folders imagesTr and labelsTr", source, "give an nnU-Net raw folder")
    scans = _scans(nnunet(source, said), source)
    folder = source / "imagesTs"
    grouped = group_channels(image_files(folder), most=len(said.channels)).cases if folder.is_dir() else {}
    tests = [Scan(name, file_sources(paths, len(said.channels)), None) for name, paths in grouped.items()]
    with _made_whole(source, target) as beside:
        away = [_join(scan, beside / "imagesTr", beside / "labelsTr") for scan in scans]
        away += [_join(scan, beside / "imagesTs", beside) for scan in tests]
        write_json(beside / FILE, {**_kept(texts), **_as_decathlon(said, scans, tests)})
    return max(away, default=0.0)


def _description(source: Path) -> tuple[Description, dict[str, Any]]:
    if not (source / FILE).is_file():
        raise InputError("has no dataset.json", source, "give the folder of a data set")
    return read_description(source / FILE), json.loads((source / FILE).read_text(encoding="utf-8"))


def _scans(found: Listing, source: Path) -> list[Scan]:
    broken = next((left for left in found.left if left.broken), None)
    if broken is not None or not found.cases:
        why = f"{broken.where}: {broken.reason}" if broken else "it holds no labelled case"
        raise InputError(f"cannot be converted whole ({why})", source, "mend the case, or take it out")
    for case in found.cases:  # files are copied as they are
        label = case.label.renames if case.label else {}
        if label != found.structures.renames and any(value != number for value, number in label.items()):
            what = f"the label of {case.name} names its structures with other values than dataset.json"
            raise InputError(what, source, "save it with those values")
    return [_scan(case) for case in found.cases]


def _scan(case: Case) -> Scan:
    return Scan(case.name, case.images, case.label.path if case.label else None)


def _listed_tests(texts: dict[str, Any]) -> list[str]:
    listed = texts.get("test") or []
    images = [entry.get("image") if isinstance(entry, dict) else entry for entry in listed]
    return [image for image in images if isinstance(image, str)]


def _test(image: Path, channels: int) -> Scan:
    if not image.is_file():
        raise InputError(f"the test image {image.name} is missing", image.parent, "take it out of dataset.json")
    return Scan(case_name(image), file_sources([image], channels), None)


def _common_ending(scans: Sequence[Scan]) -> str:
    """The one ending of all files, which nnU-Net wants; `.nii.gz` where there are several."""
    files = [path for scan in scans for path in (*(s.paths[0] for s in scan.images), scan.label) if path is not None]
    endings = {path.name.removeprefix(stem(path)).lower() for path in files}
    return endings.pop() if len(endings) == 1 else ENDING


@contextmanager
def _made_whole(source: Path, target: Path) -> Iterator[Path]:
    """A folder beside `target` that takes its place when all is done, and is removed on any error."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError("is not empty", target, "name a new folder")
    if source.resolve() in (target.resolve(), *target.resolve().parents):
        raise InputError("lies within what is converted", target, "name another place")
    beside = target.with_name(f".part-{os.getpid()}-{secrets.token_hex(4)}-{target.name}")
    with explained(target):
        try:
            beside.mkdir(parents=True)
            yield beside
            if target.exists():
                target.rmdir()
            beside.rename(target)
        finally:
            if beside.exists():
                shutil.rmtree(beside)


def _split(scan: Scan, images: Path, labels: Path, ending: str) -> float:
    away = [_write_image(s, images / f"{scan.name}_{k:04d}{ending}") for k, s in enumerate(scan.images)]
    if scan.label is not None:
        away.append(_write_label(scan.label, labels / f"{scan.name}{ending}"))
    return max(away)


def _join(scan: Scan, images: Path, labels: Path) -> float:
    image = images / f"{scan.name}{ENDING}"
    away = [_write_image(scan.images[0], image) if len(scan.images) == 1 else _write_channels(scan.images, image)]
    if scan.label is not None:
        away.append(_write_label(scan.label, labels / f"{scan.name}{ENDING}"))
    return max(away)


def _write_image(source: Source, path: Path) -> float:
    """One channel as a file of its own."""
    (given,) = source.paths
    if source.component is None and _ending(given) == _ending(path):
        return _copied(given, path)
    if source.format != "nifti":
        volume = read_source(source, "", ANY_PLACE).volume
        write_volume(path, volume)
        back = read_volume(path, need_place=False)
        return _compared(back.array, volume.array, back.grid.deviation_mm(volume.grid), path)
    header = read_header(given, "sform", need_place=False)
    _store(path, given, header, _voxels(given, header, source.component or 0))
    return _stored_alike(path, 0, given, source.component or 0)


def _write_channels(sources: Sequence[Source], path: Path) -> float:
    """Several channels as one 4D file: as they are stored if all are stored alike, else as float32."""
    first = sources[0].paths[0]
    alike = all(source.format == "nifti" for source in sources)
    headers = [read_header(source.paths[0], "sform", need_place=False) for source in sources] if alike else []
    if alike and len({(str(h.dtype), h.scaling, h.shape) for h in headers}) == 1:
        voxels = [_voxels(s.paths[0], h, s.component or 0) for s, h in zip(sources, headers, strict=True)]
        _store(path, first, headers[0], np.stack(voxels, axis=-1))
        return max(_stored_alike(path, k, s.paths[0], s.component or 0) for k, s in enumerate(sources))
    readings = read_channels(sources, path.name, ANY_PLACE)
    grid = readings[0].volume.grid
    write_volume(path, Volume(readings[0].volume.array, grid))
    _store(path, path, read_header(path), np.stack([r.volume.array for r in readings], axis=-1))
    back = [read_nifti(path, k) for k in range(len(readings))]
    away = [b.volume.grid.deviation_mm(r.volume.grid) for b, r in zip(back, readings, strict=True)]
    return max(
        _compared(b.volume.array, r.volume.array, mm, path) for b, r, mm in zip(back, readings, away, strict=True)
    )


def _write_label(given: Path, path: Path) -> float:
    if _ending(given) == _ending(path):
        return _copied(given, path)
    if is_nifti(given):
        header = read_header(given, "sform", need_place=False)
        _store(path, given, header, _voxels(given, header, 0))
        return _stored_alike(path, 0, given, 0)
    labels = read_label_file(given)
    write_labels(path, labels)
    back = read_labels(path)
    return _compared(back.array, labels.array, back.grid.deviation_mm(labels.grid), path)


def _ending(path: Path) -> str:
    return path.name.removeprefix(stem(path)).lower()


def _copied(given: Path, path: Path) -> float:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(given, path)
    if not filecmp.cmp(given, path, shallow=False):
        raise GeometryError("[READ_BACK] the copy differs from what was copied", path.name, "check the disk")
    return 0.0


def _voxels(path: Path, header: Header, volume: int) -> npt.NDArray[Any]:
    return read_bytes(path, header, volume).view(header.dtype).reshape(header.shape, order="F")


def _store(path: Path, like: Path, header: Header, voxels: npt.NDArray[Any]) -> None:
    """Write voxels (X, Y, Z) or (X, Y, Z, C) as they are stored, under the header of `like` without its texts."""
    image: Any = nib.load(like)
    said = image.header.copy()
    said.extensions.clear()
    for key in _TEXTS:
        said[key] = b""
    said.set_data_dtype(header.dtype)
    said.set_data_shape(voxels.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    made = type(image)(voxels, None, said, dtype=header.dtype)
    made.header.set_slope_inter(*(header.scaling or (1.0, 0.0)))  # so that the voxels are written as they are
    nib.save(made, path)


def _stored_alike(path: Path, volume: int, given: Path, component: int) -> float:
    ours, theirs = (read_header(p, "sform", need_place=False) for p in (path, given))
    found = _voxels(path, ours, volume) if ours.scaling == theirs.scaling else np.zeros(0)
    return _compared(found, _voxels(given, theirs, component), ours.grid.deviation_mm(theirs.grid), path)


def _compared(found: npt.NDArray[Any], meant: npt.NDArray[Any], away_mm: float, path: Path) -> float:
    if not np.array_equal(found, meant, equal_nan=meant.dtype.kind == "f"):
        raise GeometryError("[READ_BACK] what was written holds other values than what was read", path.name)
    if not away_mm <= SAME_MM:
        raise GeometryError(f"[READ_BACK] what was written lies {away_mm:.3g} mm from where it was", path.name)
    return away_mm


def _as_nnunet(said: Description, n: int, ending: str) -> dict[str, Any]:
    told = said.structures
    values = {name: list(map(_stored(told), region)) for name, region in told.regions.items()}
    plain = {name: _stored(told)(value) for value, name in told.labels.items()}
    labels = {"background": 0} | ({k: v if len(v) > 1 else v[0] for k, v in values.items()} or plain)
    return {
        "channel_names": {str(k): name for k, name in enumerate(said.channels)},
        "labels": labels | ({} if told.ignore is None else {IGNORE: _stored(told)(told.ignore)}),
        **_order(told),
        "numTraining": n,
        "file_ending": ending,
    }


def _as_decathlon(said: Description, scans: Sequence[Scan], tests: Sequence[Scan]) -> dict[str, Any]:
    told = said.structures
    regions = {name: list(map(_stored(told), region)) for name, region in told.regions.items()}
    return {
        "tensorImageSize": "4D" if len(said.channels) > 1 else "3D",
        "modality": {str(k): name for k, name in enumerate(said.channels)},
        "labels": {"0": "background"} | {str(_stored(told)(value)): name for value, name in told.labels.items()},
        **({"regions": regions} if regions else {}),
        **_order(told),
        **({} if told.ignore is None else {IGNORE: _stored(told)(told.ignore)}),
        "numTraining": len(scans),
        "numTest": len(tests),
        "training": [
            {"image": f"./imagesTr/{scan.name}{ENDING}", "label": f"./labelsTr/{scan.name}{ENDING}"} for scan in scans
        ],
        "test": [f"./imagesTs/{scan.name}{ENDING}" for scan in tests],
    }


def _stored(told: Structures) -> Callable[[int], int]:
    """Dataset value -> value in the files."""
    return lambda value: told.stored.get(value, value)


def _order(told: Structures) -> dict[str, list[int]]:
    return {"regions_class_order": list(map(_stored(told), told.region_order))} if told.region_order else {}


def _kept(texts: dict[str, Any]) -> dict[str, Any]:
    """What a description says besides its structure: name, licence and the like."""
    return {key: value for key, value in texts.items() if key not in _STRUCTURAL}
