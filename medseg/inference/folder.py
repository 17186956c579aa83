"""Front door of inference: a folder of scans in, labels on each scan's own grid out.

OUT/<case>.nii.gz             labels; <case>.seg.dcm and others by the formats asked for
    cases/<case>.done.json    manifest of a finished case, written last
    predictions.json          rebuilt from the manifests
    case_map.json             mode 0600: the only file that knows paths and real series ids
"""

from __future__ import annotations

import hashlib
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from medseg.errors import InputError, MedsegError, ResourceError, explained
from medseg.events import Advanced, Event, Note, Stage
from medseg.files import output_folder, output_of, outputs_stand, read_record, sha256, write_record
from medseg.imaging.formats import with_data
from medseg.imaging.naming import CaseMap, MappedCase, read_case_map, shown_path
from medseg.imaging.scans import Found, Scan, Wanted, find_scans, read_scan
from medseg.imaging.source import ReadOptions
from medseg.imaging.volume import Volume
from medseg.imaging.writing.codes import Code, code_of
from medseg.imaging.writing.result import Algorithm, Result
from medseg.imaging.writing.table import FORMATS, check_formats, write_all
from medseg.inference.case import predict, volumes_ml
from medseg.inference.predictor import Predictor, load_predictor
from medseg.inference.records import Prediction, Predictions, Unread
from medseg.planning.plan import Plan

SMALL_FIELD = 0.5  # a scan whose longest side is shorter than this share of the training scans' is remarked on


@dataclass(frozen=True)
class Inferred:
    """The end of inference: what is written where, and what failed."""

    out: Path
    predictions: Predictions
    skipped: int

    @property
    def failed(self) -> dict[str, str]:
        """Failed cases with the reason."""
        return {f.case: f.reason for f in self.predictions.failed}


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user asked of inference besides the scans: formats of results (none: NIfTI, and SEG for DICOM), rules
    that select series, own codes of structures, and how scans are read.
    """

    formats: tuple[str, ...] = ()
    series: tuple[str, ...] = ()
    codes: Mapping[str, Code] = field(default_factory=dict)
    options: ReadOptions = field(default_factory=ReadOptions)

    def formats_of(self, scan: Scan) -> tuple[str, ...]:
        """The formats that this scan's results are written in: only DICOM scans can have DICOM results."""
        if not self.formats:
            return ("nifti", "seg") if scan.is_dicom else ("nifti",)
        return tuple(name for name in self.formats if scan.is_dicom or not FORMATS[name].needs_dicom)


def infer_folder(
    run: Path, scans: Path, out: Path, device: torch.device, asked: Asked | None = None
) -> Iterator[Event | Inferred]:
    """Predict every scan under `scans` with all finished folds of `run`; finished cases are skipped.

    With what `medseg select` chose where it was run, else with the configuration that was planned. A scan that cannot
    be read
    is named and set aside; the others go on.

    Raises:
        RunError: `run` holds no finished fold.
        InputError: nothing to read under `scans`, `out` lies among them, or what was asked cannot be done.
        ResourceError: `out` cannot be written to.
    """
    asked = asked or Asked()
    if asked.formats:
        asked = replace(asked, formats=check_formats(asked.formats))
    _refuse_mixing(scans, out)
    predictor = load_predictor(run, device)
    plan = predictor.plan
    asked = replace(asked, options=asked.options.model_copy(update={"suv": plan.request.options.suv}))
    case_map = read_case_map(out)
    wanted = Wanted(plan.channels, asked.series or plan.request.series, asked.options)
    done: list[str] = []
    with TemporaryDirectory(prefix="medseg-") as scratch:
        found = find_scans(scans, case_map.secret, wanted, Path(scratch))
        if not any(asked.formats_of(scan) for scan in found.scans):
            said = f"{', '.join(asked.formats)} can be written for DICOM scans only, and there are none"
            raise InputError(said, scans, "add nifti or nrrd to --format")
        output_folder(out)
        _remember(out, case_map, found)
        yield from (Note(text, warning=bad) for text, bad in predictor.told)
        yield from _told(plan, found, asked)
        yield Stage("infer", len(found.scans), f"{len(found.scans)} scan(s), {len(predictor.folds)} fold(s)")
        failed = [Unread(case=left.where, reason=left.reason) for left in found.left if left.broken]
        for n, scan in enumerate(found.scans, 1):
            for event in _case(scan, predictor, out, device, asked):
                if isinstance(event, Unread):
                    failed.append(event)
                    yield Note(f"{scan.name} failed: {event.reason}", warning=True)
                elif isinstance(event, Skipped):
                    done.append(event.case)
                else:
                    yield event
            yield Advanced(n, scan.name)
    if done:
        yield Note(f"{len(done)} of {len(found.scans)} already done")
    predictions, others = write_predictions(out, predictor, device, failed)
    if others:
        yield Note(f"{others} case(s) in {out} were predicted by another model and are not listed", warning=True)
    yield Inferred(out, predictions, len(done))


@dataclass(frozen=True, slots=True)
class Skipped:
    """A case that is done already."""

    case: str


def _case(
    scan: Scan, predictor: Predictor, out: Path, device: torch.device, asked: Asked
) -> Iterator[Note | Unread | Skipped]:
    """Predict one scan unless that is done already; a case that fails ends in the reason."""
    manifest = out / "cases" / f"{scan.name}.done.json"
    try:
        if _stands(manifest, out, done_key := scan_key(scan, predictor.key, asked)):
            yield Skipped(scan.name)
            return
        _forget(manifest, out, scan.name)
        prediction = _predict_scan(scan, predictor, out, device, asked, done_key)
        write_record(manifest, prediction)
    except ResourceError:
        raise
    except Exception as error:  # whatever is wrong with one scan, the others go on and the exit code tells
        _forget(manifest, out, scan.name)  # a case is whole, or nothing of it is there
        yield Unread(case=scan.name, reason=_reason(error))
        return
    for text in prediction.warnings:
        yield Note(f"{scan.name}: {text}", warning=True)


def _told(plan: Plan, found: Found, asked: Asked) -> Iterator[Note]:
    """What was chosen, what was left, and which structures have no code."""
    for text in found.notes:
        yield Note(text, warning=True)
    for left in found.left:
        yield Note(f"not used: {left.where}: {left.reason}", warning=left.broken)
    files = [scan.name for scan in found.scans if asked.formats and not scan.is_dicom]
    dicom = [name for name in asked.formats if FORMATS[name].needs_dicom]
    if files and dicom:
        yield Note(f"{len(files)} scan(s) are no DICOM and get no {', '.join(dicom)}", warning=True)
    for text in _code_warnings(plan, found, asked):
        yield Note(text, warning=True)


def _code_warnings(plan: Plan, found: Found, asked: Asked) -> list[str]:
    """Structures that DICOM results can only call a tissue, since no code of theirs is known."""
    if not any(FORMATS[name].needs_dicom for scan in found.scans for name in asked.formats_of(scan)):
        return []
    return [warning for name in plan.names.values() if (warning := code_of(name, asked.codes)[1])]


def _predict_scan(
    scan: Scan, predictor: Predictor, out: Path, device: torch.device, asked: Asked, key: str
) -> Prediction:
    began = time.monotonic()
    readings = read_scan(scan, asked.options)
    labels = predict(predictor, [reading.volume for reading in readings], device)
    card = predictor.models[predictor.members[0]][0].card
    result = Result(
        labels=labels,
        own=readings[0].own,
        scan=scan.channels[0].dicom,
        algorithm=Algorithm("medseg", card.medseg, predictor.key),
        image=readings[0].volume,
        codes=asked.codes,
    )
    formats = asked.formats_of(scan)
    if not formats:
        raise InputError(f"is no DICOM: {', '.join(asked.formats)} cannot be written for it", scan.name)
    written = write_all(out, scan.name, formats, result)
    notes = [note for reading in readings for note in reading.notes]
    return Prediction(
        case=scan.name,
        input=scan.source,
        seconds=round(time.monotonic() - began, 3),
        volumes_ml=volumes_ml(labels, card.plan),
        warnings=tuple(dict.fromkeys([*notes, *warnings_of(readings[0].volume, card.plan)])),
        deviation_mm=round(max(one.deviation_mm for one in written), 6),
        key=key,
        model=predictor.key,
        outputs=tuple(output_of(one.path) for one in written),
    )


def warnings_of(scan: Volume, plan: Plan) -> tuple[str, ...]:
    """What about this scan is unlike the training cases."""
    configuration = plan.configuration
    target = configuration.preprocessing.spacing_mm
    spacing, shape = scan.grid.spacing_mm, scan.grid.shape
    found = []
    known = [t for t in target if t is not None]
    if known and max(spacing) > 4 * max(known):
        found.append(f"its voxels are up to {max(spacing):.3g} mm, the model works at {max(known):.3g} mm")
    if min(shape) == 1 and min(configuration.median_shape) > 1:
        found.append("it is a single slice, the model was trained on volumes")
    extent = [s * n for s, n in zip(spacing, shape, strict=True)]
    trained = [t * n for t, n in zip(target, configuration.median_shape, strict=True) if t is not None]
    if trained and max(extent) < SMALL_FIELD * max(trained):
        found.append(f"its field of view of {max(extent):.0f} mm is less than half of the training scans'")
    return tuple(found)


def scan_key(scan: Scan, model: str, asked: Asked) -> str:
    """A digest of the scan's bytes, the model and what was asked: equal means that the finished case stands.

    Raises:
        InputError: a file went away or cannot be read.
    """
    parts = [
        (c.component, [(c.paths.index(f.path), f.index) for f in c.dicom.frames] if c.dicom else [])
        for c in scan.channels
    ]
    told = [asked.formats_of(scan), asked.options.model_dump(), sorted(map(repr, asked.codes.items())), parts]
    return hashlib.sha256(f"{sha256(with_data(scan.paths), scan.name)} {model} {told}".encode()).hexdigest()


def _reason(error: Exception) -> str:
    """Without `where`: it may be a path that names a patient. Of an error that nobody foresaw only its kind, since its
    text may hold anything.
    """
    if isinstance(error, MedsegError):
        return f"{error.what}; {error.fix}" if error.fix else error.what
    if isinstance(error, torch.OutOfMemoryError):
        return "is too large for the memory of the GPU; use --device cpu for it"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
        return "is too large for the memory of this machine"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"[UNEXPECTED] {type(error).__name__} in {Path(last.filename).name}, line {last.lineno}: please report it"


def _refuse_mixing(scans: Path, out: Path) -> None:
    """Labels have the names of their scans: among them they would replace them, or be taken for scans next time."""
    folder = (scans if scans.is_dir() else scans.parent).resolve()
    if folder in (out.resolve(), *(out.resolve().parents if scans.is_dir() else ())):
        raise InputError("lies within the scans", out, "name a folder outside of them")


def _forget(manifest: Path, out: Path, case: str) -> None:
    """From here on the case counts as not done; its older labels go too, as they are not of this scan and model."""
    with explained(out):
        manifest.unlink(missing_ok=True)
        for form in FORMATS.values():
            (out / f"{case}{form.suffix}").unlink(missing_ok=True)


def _manifest(path: Path) -> Prediction | None:
    """A finished case, or None where it is missing, damaged, or of another version."""
    try:
        return read_record(path, Prediction)
    except InputError:
        return None


def _stands(manifest: Path, out: Path, key: str) -> bool:
    record = _manifest(manifest)
    return record is not None and record.key == key and outputs_stand(out, record.outputs)


def _remember(out: Path, case_map: CaseMap, found: Found) -> None:
    """Add where the scans came from to the private map, and every name that a reference of theirs may have."""
    cases = dict(case_map.cases)
    for scan in found.scans:
        volume = scan.channels[0].dicom
        folder = shown_path(scan.paths[0].parent.name)
        names = (scan.name,) if volume is None else (folder, volume.series_uid, volume.frame_of_reference)
        cases[scan.name] = MappedCase(paths=tuple(map(found.origin, scan.paths)), names=names)
    for name, paths in found.unused:  # a case that failed must be found as well
        cases[name] = MappedCase(paths=tuple(map(found.origin, paths)), names=())
    write_record(out / "case_map.json", CaseMap(key=case_map.key, cases=cases), private=True)


def write_predictions(
    out: Path, predictor: Predictor, device: torch.device, failed: Sequence[Unread]
) -> tuple[Predictions, int]:
    """Rebuild `predictions.json` from the manifests of this model; also the number of cases of other models."""
    every = [m for p in sorted((out / "cases").glob("[!.]*.done.json")) if (m := _manifest(p)) is not None]
    found = [m for m in every if m.model == predictor.key]
    predictions = Predictions(
        labels={str(value): name for value, name in predictor.plan.names.items()},
        regions={region.name: region.values for region in predictor.plan.regions},
        configurations=predictor.members,
        folds=predictor.folds,
        postprocessing=tuple(step.words for step in predictor.cleaning),
        device=device.type,
        cases=tuple(p for p in found if outputs_stand(out, p.outputs)),
        failed=tuple(failed),
    )
    write_record(out / "predictions.json", predictions)
    return predictions, len(every) - len(found)
