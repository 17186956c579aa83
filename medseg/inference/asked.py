"""What the user asks of inference besides the scans, checked before any work begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast, get_args

from medseg.errors import InputError
from medseg.imaging.scans import Scan
from medseg.imaging.source import ReadOptions
from medseg.imaging.writing.codes import Code
from medseg.imaging.writing.table import FORMATS, check_formats
from medseg.inference.named import known_name, named_values, words_of
from medseg.inference.overrides import overridden
from medseg.inference.quality import Quality
from medseg.inference.records import Cleaning
from medseg.parts import WHOLE, Part
from medseg.planning.plan import Plan


def quality_from(text: str, option: str = "--quality") -> Quality:
    """The quality called so; `option` is how the user gave it.

    Raises:
        InputError: there is none.
    """
    for quality in get_args(Quality):
        if text == quality:
            return cast(Quality, quality)
    raise InputError(f"{option} {text} is no choice", fix=f"give {', '.join(get_args(Quality))}")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user asked of inference besides the scans.

    formats: of results (none: NIfTI, and SEG for DICOM). series: rules that select DICOM series. codes: own codes of
    structures. options: how scans are read. overwrite: finished cases are done again. part: which of the scans.
    The rest changes results: quality; structures that are kept (none: all), one file a structure (`split`);
    post-processing as it is typed (min_volume, largest, fill); structures whose separate parts are numbered
    (instances); maps of probabilities and of uncertainty.
    """

    formats: tuple[str, ...] = ()
    series: tuple[str, ...] = ()
    codes: Mapping[str, Code] = field(default_factory=dict)
    options: ReadOptions = field(default_factory=ReadOptions)
    overwrite: bool = False
    part: Part = WHOLE
    quality: Quality = "standard"
    structures: tuple[str, ...] = ()
    split: bool = False
    min_volume: tuple[str, ...] = ()
    largest: tuple[str, ...] = ()
    fill: tuple[str, ...] = ()
    instances: tuple[str, ...] = ()
    probabilities: bool = False
    uncertainty: bool = False

    def formats_of(self, scan: Scan) -> tuple[str, ...]:
        """The formats that this scan's results are written in: only DICOM scans can have DICOM results."""
        if not self.formats:
            return ("nifti", "seg") if scan.is_dicom else ("nifti",)
        return tuple(name for name in self.formats if scan.is_dicom or not FORMATS[name].needs_dicom)

    def told_of(self, scan: Scan) -> str:
        """All that a result depends on besides the scan's bytes and the model, as one text."""
        parts = [
            (c.component, [(c.paths.index(f.path), f.index) for f in c.dicom.frames] if c.dicom else [])
            for c in scan.channels
        ]
        output = (self.quality, self.structures, self.split, self.min_volume, self.largest, self.fill)
        more = (self.instances, self.probabilities, self.uncertainty)
        read = self.options.model_dump()
        return repr([self.formats_of(scan), read, sorted(map(repr, self.codes.items())), parts, output, more])


def checked(asked: Asked, plan: Plan) -> Asked:
    """The same, each format once, names as the model spells them, and PET read in the unit that it was trained in.

    Raises:
        InputError: a format or structure is not known.
    """
    known = named_values(plan)
    return replace(
        asked,
        formats=check_formats(asked.formats) if asked.formats else (),
        options=asked.options.model_copy(update={"suv": plan.request.options.suv}),
        structures=tuple(known_name(name, known, "--structures") for name in words_of(asked.structures, known)),
        instances=tuple(known_name(name, known, "--instances") for name in words_of(asked.instances, known)),
    )


def cleaning_of(asked: Asked, chosen: Sequence[Cleaning], plan: Plan) -> tuple[Cleaning, ...]:
    """The steps of post-processing: those chosen in training, but for what is asked instead.

    Raises:
        InputError: a structure is not known, or a volume is no number.
    """
    return overridden(chosen, plan, min_volume=asked.min_volume, largest=asked.largest, fill=asked.fill)
