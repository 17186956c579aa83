"""One form of a scan, a segmentation or a dataset into another: `medseg convert`. Everything is read back and compared.

| from | to |
|---|---|
| DICOM images (folder, zip) | NIfTI, NRRD, MHA |
| NIfTI, NRRD, MHA | each other; a DICOM series (CT or MR) |
| DICOM SEG, RTSTRUCT | NIfTI, .seg.nrrd, each other |
| NIfTI, NRRD, .seg.nrrd labels | DICOM SEG, RTSTRUCT, .seg.nrrd |
| Medical Decathlon | nnU-Net raw, and back |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, get_args

import numpy as np

from medseg.errors import GeometryError, InputError
from medseg.events import Event
from medseg.imaging import itk, nifti
from medseg.imaging.dataset import is_dataset
from medseg.imaging.dicom.headers import text, whole
from medseg.imaging.dicom.label_objects import RTSTRUCT, SEG, items, label_object
from medseg.imaging.dicom.volumes import SubVolume
from medseg.imaging.grid import Grid
from medseg.imaging.label_files import LabelKind, label_kind, label_names_in, read_label_file_noted
from medseg.imaging.overlaps import overlaps
from medseg.imaging.overlaps import told as told_overlaps
from medseg.imaging.regrid import map_onto
from medseg.imaging.restructure import Restructured, decathlon_to_nnunet, nnunet_to_decathlon
from medseg.imaging.scans import Scan, Wanted, find_scans, read_scan
from medseg.imaging.source import Reading, ReadOptions
from medseg.imaging.volume import LabelMap, Volume
from medseg.imaging.writing.files import write_nifti
from medseg.imaging.writing.nrrd import write_seg_nrrd
from medseg.imaging.writing.result import Algorithm, Made, Result, Written
from medseg.imaging.writing.rtstruct import write_rtstruct
from medseg.imaging.writing.seg import write_seg
from medseg.imaging.writing.series import write_series
from medseg.kept import PartDone
from medseg.parallel import HERE, Where
from medseg.parts import WHOLE, Part

Form = Literal["nifti", "nrrd", "mha", "dicom", "seg", "labelmap", "rtstruct", "seg.nrrd", "nnunet", "decathlon"]
FORMS: tuple[str, ...] = get_args(Form)
BY_SUFFIX: tuple[tuple[str, tuple[Form, ...]], ...] = (  # what a name may hold: the first that fits, first if not told
    (".seg.nrrd", ("seg.nrrd",)),
    (".rtstruct.dcm", ("rtstruct",)),
    (".seg.dcm", ("seg", "labelmap")),
    (".dcm", ("seg", "labelmap", "rtstruct")),
    (".nii.gz", ("nifti",)),
    (".nii", ("nifti",)),
    (".nrrd", ("nrrd", "seg.nrrd")),
    (".mha", ("mha",)),
)
NEED_SUFFIX = ("nifti", "nrrd", "mha", "seg.nrrd")
OF_DICOM = ("seg", "labelmap", "rtstruct")
OF_LABELS: dict[str, Callable[[Path, Result], Written]] = {
    "seg": write_seg,
    "labelmap": lambda path, result: write_seg(path, result, labelmap=True),
    "rtstruct": write_rtstruct,
    "seg.nrrd": write_seg_nrrd,
    "nifti": write_nifti,
}
SAME_VALUES = 1e-6  # of the largest value: float32 rounding on the way through a file


@dataclass(frozen=True, slots=True)
class Wish:
    """What to convert into: `to` a form (empty: by the target's suffix), `like` the DICOM series that labels belong to,
    `names` of label values, `modality` of a DICOM series to write, `series` the rule that picks one volume.
    """

    to: str = ""
    like: Path | None = None
    names: Mapping[int, str] = field(default_factory=dict)
    modality: str = ""
    series: str = ""
    options: ReadOptions = field(default_factory=ReadOptions)


@dataclass(frozen=True, slots=True)
class Converted:
    """What was written, and the largest error of place that reading it back found."""

    form: str
    paths: tuple[Path, ...]
    deviation_mm: float
    notes: tuple[str, ...] = ()


def convert(
    source: Path, target: Path, wish: Wish, where: Where = HERE, part: Part = WHOLE
) -> Iterator[Event | Converted | PartDone]:
    """Convert `source` into `target`; yields events, and last what was written.

    where: who converts the scans of a data set. part: of several that share them; all but the last end in a `PartDone`.

    Raises:
        InputError: there is no such source, it is several volumes, or this cannot be converted into that.
        CasesFailed: scans of a data set failed; the others are kept for the next run.
        GeometryError: what was read back is not what was written, or labels lie outside the series.
        ResourceError: the target cannot be written to.
    """
    if not source.exists():
        raise InputError("there is no such file or folder", source, "check the spelling")
    form = _form(target, wish.to)
    if form in ("nnunet", "decathlon"):
        if not is_dataset(source):
            raise InputError("is no dataset", source, "give a Medical Decathlon or nnU-Net raw folder")
        restructured = decathlon_to_nnunet if form == "nnunet" else nnunet_to_decathlon
        for event in restructured(source, target, where, part):
            yield Converted(form, (target,), event.deviation_mm) if isinstance(event, Restructured) else event
        return
    if part != WHOLE:
        raise InputError(f"--part {part.words} is for data sets, and this is one scan", fix="leave it out")
    yield _converted(source, target, form, wish)


def _converted(source: Path, target: Path, form: str, wish: Wish) -> Converted:
    """One scan, or its labels."""
    notes: tuple[str, ...] = ("--names is ignored: only labels have names",) if wish.names else ()
    _refuse_same(source, target)
    kind = label_kind(source) if source.is_file() else None
    named = kind is not None and label_names_in(source) is not None  # a file that names its structures holds labels
    to_labels = form in (*OF_DICOM, "seg.nrrd") or named
    with TemporaryDirectory(prefix="medseg-") as scratch:
        if to_labels:
            return _labels(source, target, form, wish, Path(scratch))
        scan, told = _one_scan(source, wish, Path(scratch))
        (reading,) = read_scan(scan, wish.options)
    notes += (*told, *reading.notes)
    if form == "dicom":
        return _series(reading, target, wish, scan, notes)
    path, deviation = _image(target, form, reading.volume)
    return Converted(form, (path,), deviation, notes)


def _form(target: Path, to: str) -> str:
    possible = next((forms for suffix, forms in BY_SUFFIX if target.name.lower().endswith(suffix)), ())
    if not to:
        if not possible and target.suffix:
            what = f"a name that ends in {target.suffix} is of no form"
            raise InputError(what, target, f"give --to {'|'.join(FORMS)}")
        return possible[0] if possible else "dicom"
    if to not in FORMS:
        raise InputError(f"--to {to} is no form", fix=f"give one of {', '.join(FORMS)}")
    if (possible and to not in possible) or (not possible and to in NEED_SUFFIX):  # programs go by the name
        suffix = next((suffix for suffix, forms in BY_SUFFIX if to in forms), "")
        name = f"a name that ends in {suffix}" if suffix else "the name of a folder"
        raise InputError(f"--to {to} contradicts the name of what is to be written", target, f"give {name}")
    return to


def _refuse_same(source: Path, target: Path) -> None:
    if source.resolve() == target.resolve() or (source.is_dir() and source.resolve() in target.resolve().parents):
        raise InputError("lies within what is converted", target, "name another place")


def _one_scan(source: Path, wish: Wish, scratch: Path) -> tuple[Scan, tuple[str, ...]]:
    """The one scan at `source`, which a rule may pick, and what was chosen and left beside it.

    Raises:
        InputError: there are several, or others that cannot be used and that no rule excluded.
    """
    found = find_scans(source, b"", Wanted(("image",), (wish.series,) if wish.series else (), wish.options), scratch)
    if len(found.scans) > 1:
        listed = "; ".join(scan.source for scan in found.scans[:5])
        raise InputError(f"what is given holds {len(found.scans)} scans: {listed}", fix="give one, or --series RULE")
    if broken := [left for left in found.left if left.broken]:
        said = f"what is given also holds what cannot be used ({broken[0].where}: {broken[0].reason})"
        raise InputError(said, fix="give the folder of one scan")
    return found.scans[0], (*found.notes, *(f"not used: {left.where}: {left.reason}" for left in found.left))


def _image(target: Path, form: str, volume: Volume) -> tuple[Path, float]:
    stored = Volume(_smallest(volume), volume.grid)
    if form == "nifti":
        nifti.write_volume(target, stored)
    else:
        itk.write_itk_volume(target, stored)
    back = nifti.read_volume(target) if form == "nifti" else itk.read_itk_volume(target)
    return target, _compared(back, volume)


def _smallest(volume: Volume) -> np.typing.NDArray[np.generic]:
    """int16 where it holds every value, else float32."""
    array = volume.array
    whole = bool((array == np.rint(array)).all()) and float(np.abs(array).max(initial=0)) <= 32767
    return array.astype(np.int16) if whole else array


def _compared(back: Volume, meant: Volume) -> float:
    deviation = back.grid.deviation_mm(meant.grid)
    largest = float(np.abs(meant.array).max(initial=0.0))
    if not back.grid.agrees(meant.grid):
        raise GeometryError(f"[READ_BACK] what was written lies {deviation:.3g} mm from where it was")
    if float(np.abs(back.array - meant.array).max(initial=0.0)) > SAME_VALUES * largest:
        raise GeometryError("[READ_BACK] what was written holds other values than what was read")
    return deviation


def _series(reading: Reading, target: Path, wish: Wish, scan: Scan, notes: tuple[str, ...]) -> Converted:
    if wish.modality not in ("CT", "MR"):
        raise InputError("a DICOM series needs to be told what it is", fix="give --modality CT or --modality MR")
    modality: Literal["CT", "MR"] = "CT" if wish.modality == "CT" else "MR"
    written = write_series(target, reading.volume, modality, scan.name)
    return Converted("dicom", written.paths, written.deviation_mm, (*notes, *written.notes))


def _labels(source: Path, target: Path, form: str, wish: Wish, scratch: Path) -> Converted:
    kind = None if source.is_dir() else label_kind(source)
    if kind is None:
        raise InputError("is no file of labels", source, "give NIfTI, NRRD, MHA, DICOM SEG or RTSTRUCT")
    if form not in OF_LABELS:
        known = ", ".join(OF_LABELS)
        raise InputError(f"labels cannot be converted into {form}", source, f"convert them into one of {known}")
    if wish.like is None and (form in OF_DICOM or kind == "rtstruct"):
        what = "[NEEDS_SCAN] DICOM labels belong to a DICOM series, and which is not said"
        raise InputError(what, fix="give the folder of the series with --like")
    volume, told = _like(wish, scratch)
    own = label_names_in(source)
    drawn = kind in ("seg", "rtstruct")  # on slices, or on none: they take the grid of the series
    onto = volume.grid if drawn and volume is not None else None
    labels, left = read_label_file_noted(
        source, onto, own or wish.names or None, "", _frame_of_reference(volume), wish.options.prefer
    )
    shared = overlaps(source, onto, "", _frame_of_reference(volume)) if left else ()  # an overlap is noted
    notes = (*told, *left, *told_overlaps(shared, labels.names), *_told_names(labels, own, wish.names))
    if volume is not None and volume.grid is not None:
        labels, lost = _onto(labels, volume.grid)
        notes = (*notes, *lost)
    if own and form == "nifti":
        notes = (*notes, "values: " + ", ".join(f"{value} {name}" for value, name in sorted(own.items())))
    algorithm = Algorithm("medseg convert", version("medseg"))
    result = Result(labels, labels.grid, volume, algorithm, made=_how_drawn(source, kind))
    written = OF_LABELS[form](target, result)
    return Converted(form, (written.path,), written.deviation_mm, notes)


def _how_drawn(path: Path, kind: LabelKind) -> Made:
    """How a label object says that its structures were drawn, if it says the same of all."""
    if kind not in ("seg", "rtstruct"):
        return ""
    of_segments = kind == "seg"
    classes, sequence = (SEG, "SegmentSequence") if of_segments else (RTSTRUCT, "StructureSetROISequence")
    with label_object(path, classes, "", [sequence]) as found:
        structures = [item for item in items(found, sequence) if whole(item, "SegmentNumber", 1) > 0]
        said = {text(item, "SegmentAlgorithmType" if of_segments else "ROIGenerationAlgorithm") for item in structures}
    return next((made for made in get_args(Made) if said == {made}), "")


def _told_names(labels: LabelMap, own: Mapping[int, str] | None, asked: Mapping[int, str]) -> tuple[str, ...]:
    """What is odd about the names that were asked for."""
    if own:
        return ("--names is ignored: the file names its structures itself",) if asked else ()
    present = labels.present
    absent = ", ".join(str(value) for value in sorted(asked) if value not in present)
    nameless = ", ".join(str(value) for value in present if value not in asked)
    notes = (
        (absent, f"--names gives names to {absent}, which no voxel has"),
        (nameless, f"{nameless} has no name, and is called by its number: name it with --names '1=liver, 2=kidney'"),
    )
    return tuple(note for values, note in notes if values)


def _frame_of_reference(volume: SubVolume | None) -> str:
    """That of the series, where it states one: what stands for a missing one is no object's."""
    known = volume is not None and "NO_FRAME_OF_REFERENCE" not in volume.verdict.codes
    return volume.frame_of_reference if volume is not None and known else ""


def _like(wish: Wish, scratch: Path) -> tuple[SubVolume | None, tuple[str, ...]]:
    if wish.like is None:
        return None, ()
    scan, notes = _one_scan(wish.like, wish, scratch)
    volume = scan.channels[0].dicom
    if volume is None:
        raise InputError("is no DICOM series", wish.like, "give the series that the labels belong to")
    return volume, notes


def _onto(labels: LabelMap, grid: Grid) -> tuple[LabelMap, tuple[str, ...]]:
    """Labels on the series' grid; the loss is told."""
    if labels.grid.agrees(grid):
        return labels, ()
    moved = map_onto(labels, grid)
    before = float(np.count_nonzero(labels.array)) * labels.grid.voxel_ml
    after = float(np.count_nonzero(moved.array)) * grid.voxel_ml
    if before > 0 and after == 0:
        raise GeometryError("[OFF_GRID] the labels lie nowhere on the series", fix="give the series they were drawn on")
    changed = f"labels were brought onto the series' grid: {before:.4g} ml became {after:.4g} ml"
    return moved, () if abs(after - before) <= 1e-6 * before else (changed,)
