"""The formats that results are written in, by name, and writing several of them for one case."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from medseg.errors import InputError
from medseg.imaging.writing.files import write_nifti
from medseg.imaging.writing.nrrd import write_seg_nrrd
from medseg.imaging.writing.result import Result, Written
from medseg.imaging.writing.rtstruct import write_rtstruct
from medseg.imaging.writing.seg import write_seg
from medseg.imaging.writing.sr import write_sr


@dataclass(frozen=True, slots=True)
class Format:
    """How files of a format end, what writes one, and whether it needs a DICOM scan.

    `after` names the formats whose files of the same case it refers to: they stand beside it before it is written.
    """

    suffix: str
    write: Callable[[Path, Result], Written]
    needs_dicom: bool
    after: tuple[str, ...] = ()


def _write_report(path: Path, result: Result) -> Written:
    """A report on the segmentation object that stands beside it."""
    case = path.name.removesuffix(FORMATS["sr"].suffix)
    return write_sr(path, result, path.with_name(f"{case}{FORMATS['seg'].suffix}"))


FORMATS: Mapping[str, Format] = {
    "nifti": Format(".nii.gz", write_nifti, needs_dicom=False),
    "nrrd": Format(".seg.nrrd", write_seg_nrrd, needs_dicom=False),
    "seg": Format(".seg.dcm", write_seg, needs_dicom=True),
    "labelmap": Format(".labelmap.dcm", partial(write_seg, labelmap=True), needs_dicom=True),
    "rtstruct": Format(".rtstruct.dcm", write_rtstruct, needs_dicom=True),
    "sr": Format(".sr.dcm", _write_report, needs_dicom=True, after=("seg",)),
}


def check_formats(formats: Sequence[str]) -> tuple[str, ...]:
    """The formats, each once.

    Raises:
        InputError: one is not known, or there is none.
    """
    if unknown := [name for name in formats if name not in FORMATS]:
        raise InputError(f"[FORMAT] {unknown[0]!r} is no format of results", fix=f"give some of {', '.join(FORMATS)}")
    if not formats:
        raise InputError("[FORMAT] no format of results is named", fix=f"give some of {', '.join(FORMATS)}")
    return tuple(dict.fromkeys(formats))


def write_all(folder: Path, case: str, formats: Sequence[str], result: Result) -> tuple[Written, ...]:
    """Write a case in several formats as `<case><suffix>`, each read back; what a format refers to is written first.

    A report refers to the segmentation object: asking for `sr` alone writes both.

    Raises:
        InputError: a format is not known, or needs a DICOM scan where there was none; then nothing is written.
        GeometryError: a file read back is not what was to be written; it does not appear.
        ResourceError: the disk is full or the folder cannot be written to.
    """
    wanted = check_formats(formats)
    wanted = tuple(dict.fromkeys(name for one in wanted for name in (*FORMATS[one].after, one)))
    if result.scan is None and (dicom := [name for name in wanted if FORMATS[name].needs_dicom]):
        plain = ", ".join(name for name, form in FORMATS.items() if not form.needs_dicom)
        raise InputError(f"[NO_SOURCE] the scan was no DICOM: {dicom[-1]} cannot be written", case, f"give {plain}")
    return tuple(FORMATS[name].write(folder / f"{case}{FORMATS[name].suffix}", result) for name in wanted)
