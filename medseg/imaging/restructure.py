"""A Medical Decathlon folder as an nnU-Net raw folder, and back: every file is read again and compared.

Voxels and headers stay as they are stored; several channels in one 4D file become a file each, and the reverse. Labels,
regions, the ignore label, channel names and the texts of `dataset.json` are kept; Decathlon's form has no regions, so
they stand in keys of their own there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from medseg.errors import InputError
from medseg.events import Event
from medseg.imaging.case import Case
from medseg.imaging.channels import case_name, group_channels, image_files
from medseg.imaging.description import FILE, Description, read_description
from medseg.imaging.layouts import Listing, decathlon, file_sources, nnunet
from medseg.imaging.rebuilding import Restructured, ScanJob, made_of
from medseg.imaging.rewriting import ENDING, Scan, ending_of
from medseg.imaging.structures import IGNORE, Structures
from medseg.kept import PartDone
from medseg.parallel import HERE, Where
from medseg.parts import WHOLE, Part

__all__ = ["Restructured", "decathlon_to_nnunet", "nnunet_to_decathlon"]

_STRUCTURAL = {  # keys that either form writes anew
    *("modality", "channel_names", "labels", "regions", "regions_class_order", "ignore", "file_ending"),
    *("numTraining", "numTest", "training", "test", "tensorImageSize", "overwrite_image_reader_writer"),
}


def decathlon_to_nnunet(
    source: Path, target: Path, where: Where = HERE, part: Part = WHOLE
) -> Iterator[Event | Restructured | PartDone]:
    """Write the Medical Decathlon folder `source` as the nnU-Net raw folder `target`, which appears when all is done.

    where: who does it. part: of several that share the work; all but the last end in a `PartDone`. What was done
    before from the same files is not done again.

    Raises:
        InputError: `source` is no such folder, a case of it cannot be used, `target` is not empty, or another run
            works on that part.
        CasesFailed: some cannot be read, or what was read back is not what was written; the others are kept.
        ResourceError: `target` cannot be written to.
    """
    said, texts = _description(source)
    if said.training is None:
        raise InputError('lists no "training" cases', source / FILE, "give a Medical Decathlon folder")
    scans = _scans(decathlon(source, said), source)
    tests = [_test(source / image, len(said.channels)) for image in _listed_tests(texts)]
    ending = _common_ending([*scans, *tests])
    jobs = [ScanJob(scan, "imagesTr", "labelsTr", ending, joined=False) for scan in scans]
    jobs += [ScanJob(scan, "imagesTs", "", ending, joined=False) for scan in tests]
    described = {**_kept(texts), **_as_nnunet(said, len(scans), ending)}
    yield from made_of(source, target, jobs, described, where, part)


def nnunet_to_decathlon(
    source: Path, target: Path, where: Where = HERE, part: Part = WHOLE
) -> Iterator[Event | Restructured | PartDone]:
    """Write the nnU-Net raw folder `source` as the Medical Decathlon folder `target`; as `decathlon_to_nnunet`."""
    said, texts = _description(source)
    if not (source / "imagesTr").is_dir() or not (source / "labelsTr").is_dir():
        raise InputError("has no folders imagesTr and labelsTr", source, "give an nnU-Net raw folder")
    scans = _scans(nnunet(source, said), source)
    folder = source / "imagesTs"
    grouped = group_channels(image_files(folder), most=len(said.channels)).cases if folder.is_dir() else {}
    tests = [Scan(name, file_sources(paths, len(said.channels)), None) for name, paths in grouped.items()]
    jobs = [ScanJob(scan, "imagesTr", "labelsTr", ENDING, joined=True) for scan in scans]
    jobs += [ScanJob(scan, "imagesTs", "", ENDING, joined=True) for scan in tests]
    described = {**_kept(texts), **_as_decathlon(said, scans, tests)}
    yield from made_of(source, target, jobs, described, where, part)


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
    endings = {ending_of(path) for scan in scans for path in scan.files}
    return endings.pop() if len(endings) == 1 else ENDING


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
