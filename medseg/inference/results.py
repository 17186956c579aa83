"""What was found in one scan becomes files beside each other, and all that its manifest says of it.

<case>.nii.gz                          labels, and in the other formats asked for
<case>.<structure>.nii.gz              --split: one file a structure instead
<case>.<structure>.instances.nii.gz    --instances: separate parts of a structure, numbered from the largest
<case>.probabilities.nii.gz            --probabilities: of every structure, along a fourth axis
<case>.uncertainty.nii.gz              --uncertainty
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medseg.files import Output, output_of
from medseg.imaging.grid import Grid
from medseg.imaging.nifti import write_shares
from medseg.imaging.scans import Scan
from medseg.imaging.source import Reading
from medseg.imaging.volume import LabelMap
from medseg.imaging.writing.files import write_nifti
from medseg.imaging.writing.result import Algorithm, Result, Written
from medseg.imaging.writing.table import write_all
from medseg.inference.asked import Asked
from medseg.inference.case import CasePrediction
from medseg.inference.instances import numbered_instances
from medseg.inference.maps import Maps
from medseg.inference.measuring.record import StructureStatistics
from medseg.inference.measuring.structures import measure, measure_instances, unit_of
from medseg.inference.named import file_names, kept, known_name, named_values, split
from medseg.inference.predictor import Predictor
from medseg.inference.trust.assess import assess
from medseg.inference.trust.records import StructureTrust
from medseg.planning.plan import Plan


@dataclass(frozen=True)
class Results:
    """The files of a case, the largest error of place in them, and what is known of each structure in it."""

    outputs: tuple[Output, ...]
    deviation_mm: float
    statistics: tuple[StructureStatistics, ...]
    trust: tuple[StructureTrust, ...]


def write_results(
    out: Path, scan: Scan, readings: Sequence[Reading], found: CasePrediction, predictor: Predictor, asked: Asked
) -> Results:
    """Write all files of a case that were asked for, each label map read back, and measure its structures.

    Raises:
        GeometryError: a file read back is not what was to be written.
        InputError: intensities are no numbers, or there are more instances than can be numbered.
        ResourceError: the disk is full.
    """
    plan = predictor.plan
    named = wanted_values(plan, asked.structures)
    labels = kept(found.labels, tuple(named), named) if asked.structures else found.labels
    result = Result(
        labels=labels,
        own=readings[0].own,
        scan=scan.channels[0].dicom,
        algorithm=Algorithm("medseg", predictor.models[predictor.members[0]][0].card.medseg, predictor.key),
        image=readings[0].volume,
        codes=asked.codes,
    )
    written = list(_labels(out, scan, result, asked, named))
    unit = _unit(scan, readings, plan)
    statistics = list(measure(labels, result.image or readings[0].volume, named, unit))
    for path, instances, name in _instances(out, scan.name, found.labels, plan, asked):
        written.append(write_nifti(path, replace(result, labels=instances)))
        statistics += measure_instances(instances, readings[0].volume, name, unit)
    paths = [*(one.path for one in written), *_maps(out, scan.name, found.maps)]
    volumes = {row.structure: row.volume_ml for row in statistics if row.instance is None}
    trust = assess(predictor.trust, found.trust, volumes, found.agreement, found.odd)
    return Results(
        outputs=tuple(map(output_of, paths)),
        deviation_mm=round(max(one.deviation_mm for one in written), 6),
        statistics=tuple(statistics),
        trust=tuple(one for one in trust if one.structure in named),
    )


def wanted_values(plan: Plan, structures: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The label values of what is reported, by name: the regions of a plan that has any, else its structures; of these
    or of both alone those that are asked for.

    Raises:
        InputError: a name is not known.
    """
    every = named_values(plan)
    if structures:
        names = [known_name(asked, every, "--structures") for asked in structures]
        return {name: every[name] for name in dict.fromkeys(names)}
    return {one.name: every[one.name] for one in plan.regions or plan.structures}


def _labels(
    out: Path, scan: Scan, result: Result, asked: Asked, named: dict[str, tuple[int, ...]]
) -> tuple[Written, ...]:
    """Label maps in all formats; of NIfTI, if it is so asked, one a structure."""
    formats = asked.formats_of(scan)
    if not asked.split or "nifti" not in formats:
        return write_all(out, scan.name, formats, result)
    others = tuple(name for name in formats if name != "nifti")
    written = write_all(out, scan.name, others, result) if others else ()
    alone = (
        write_nifti(out / f"{scan.name}.{safe}.nii.gz", replace(result, labels=labels))
        for safe, labels in split(result.labels, named)
    )
    return (*written, *alone)


def _instances(
    out: Path, case: str, labels: LabelMap, plan: Plan, asked: Asked
) -> Iterator[tuple[Path, LabelMap, str]]:
    every = named_values(plan)
    safe = file_names(every)
    for name in dict.fromkeys(known_name(asked_for, every, "--instances") for asked_for in asked.instances):
        yield out / f"{case}.{safe[name]}.instances.nii.gz", numbered_instances(labels, name, every[name]), name


def _maps(out: Path, case: str, maps: Maps | None) -> Iterator[Path]:
    if maps is None:
        return
    grid: Grid = maps.grid
    for name, shares in (("probabilities", maps.probabilities), ("uncertainty", maps.uncertainty)):
        if shares is not None:
            path = out / f"{case}.{name}.nii.gz"
            write_shares(path, shares, grid)
            yield path


def _unit(scan: Scan, readings: Sequence[Reading], plan: Plan) -> str | None:
    dicom = scan.channels[0].dicom
    return unit_of(plan.channels[0], dicom.modality if dicom is not None else "", readings[0].notes)
