"""Front door of inference: a folder of scans in, labels on each scan's own grid out.

OUT/<case>.nii.gz             labels
    cases/<case>.done.json    manifest of a finished case, written last
    predictions.json          rebuilt from the manifests
    case_map.json             mode 0600: the only file that knows paths and real series ids
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from medseg.errors import InputError, MedsegError, ResourceError, explained
from medseg.events import Advanced, Event, Note, Stage
from medseg.files import output_folder, output_of, outputs_stand, read_record, sha256, write_record
from medseg.imaging.nifti import write_labels
from medseg.imaging.scans import Found, Scan, find_scans, read_scan
from medseg.imaging.volume import Volume
from medseg.inference.case import predict, volumes_ml
from medseg.inference.model import Model, finished_folds, load_model
from medseg.inference.records import CaseMap, MappedCase, Prediction, Predictions, Unread
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


def infer_folder(run: Path, scans: Path, out: Path, device: torch.device) -> Iterator[Event | Inferred]:
    """Predict every scan under `scans` with the mean of all finished folds of `run`; finished cases are skipped.

    A scan that cannot be read is named and set aside; the others go on.

    Raises:
        RunError: `run` holds no finished fold.
        InputError: nothing to read under `scans`, or `out` lies among them.
        ResourceError: `out` cannot be written to.
    """
    folds = finished_folds(run)
    _refuse_mixing(scans, out)
    models = [load_model(fold, device) for fold in folds]
    plan = models[0].card.plan
    key = model_key(models)
    key_of_names = _case_map(out).key
    found = find_scans(scans, bytes.fromhex(key_of_names), len(plan.channels))
    output_folder(out)
    _remember(out, key_of_names, found)
    failed = [Unread(case=left.where, reason=left.reason) for left in found.left if left.broken]
    for left in found.left:
        yield Note(f"not used: {left.where}: {left.reason}", warning=left.broken)
    yield Stage("infer", len(found.scans), f"{len(found.scans)} scan(s), {len(folds)} fold(s)")
    skipped = 0
    for n, scan in enumerate(found.scans, 1):
        try:
            manifest = out / "cases" / f"{scan.name}.done.json"
            if _stands(manifest, out, done_key := scan_key(scan, key)):
                skipped += 1
            else:
                _forget(manifest, out / f"{scan.name}.nii.gz")
                write_record(manifest, _predict_scan(scan, models, out, device, (done_key, key)))
        except ResourceError:
            raise
        except (MedsegError, MemoryError, RuntimeError) as error:
            failed.append(Unread(case=scan.name, reason=_reason(error)))
            yield Note(f"{scan.name} failed: {failed[-1].reason}", warning=True)
        yield Advanced(n, scan.name)
    if skipped:
        yield Note(f"{skipped} of {len(found.scans)} already done")
    predictions, others = write_predictions(out, plan, folds, device, failed, key)
    if others:
        yield Note(f"{others} case(s) in {out} were predicted by another model and are not listed", warning=True)
    yield Inferred(out, predictions, skipped)


def _predict_scan(
    scan: Scan, models: Sequence[Model], out: Path, device: torch.device, keys: tuple[str, str]
) -> Prediction:
    began = time.monotonic()
    channels = read_scan(scan)
    labels = predict(models, channels, device)
    path = out / f"{scan.name}.nii.gz"
    write_labels(path, labels)
    return Prediction(
        case=scan.name,
        input=scan.source,
        output=path.name,
        seconds=round(time.monotonic() - began, 3),
        volumes_ml=volumes_ml(labels),
        warnings=warnings_of(channels[0], models[0].card.plan),
        key=keys[0],
        model=keys[1],
        outputs=(output_of(path),),
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


def model_key(models: Sequence[Model]) -> str:
    """Changes whenever a fold is added or trained anew."""
    return hashlib.sha256("".join(m.card.weights_sha256 for m in models).encode()).hexdigest()


def scan_key(scan: Scan, model: str) -> str:
    """A digest of the scan's bytes and the model: equal means that a finished case need not be done again.

    Raises:
        InputError: a file went away or cannot be read.
    """
    return hashlib.sha256((sha256(scan.paths, scan.name) + model).encode()).hexdigest()


def _reason(error: MedsegError | MemoryError | RuntimeError) -> str:
    """Without `where`: it may be a path that names a patient.

    Raises:
        RuntimeError: one that is not torch's way of telling that memory ran out.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return "is too large for the memory of the GPU; use --device cpu for it"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
        return "is too large for the memory of this machine"
    if isinstance(error, RuntimeError):
        raise error
    return f"{error.what}; {error.fix}" if error.fix else error.what


def _refuse_mixing(scans: Path, out: Path) -> None:
    """Labels have the names of their scans: among them they would replace them, or be taken for scans next time."""
    folder = (scans if scans.is_dir() else scans.parent).resolve()
    if folder in (out.resolve(), *(out.resolve().parents if scans.is_dir() else ())):
        raise InputError("lies within the scans", out, "name a folder outside of them")


def _forget(manifest: Path, labels: Path) -> None:
    """From here on the case counts as not done; its older labels go too, as they are not of this scan and model."""
    with explained(labels):
        manifest.unlink(missing_ok=True)
        labels.unlink(missing_ok=True)


def _manifest(path: Path) -> Prediction | None:
    """A finished case, or None where it is missing, damaged, or of another version."""
    try:
        return read_record(path, Prediction)
    except InputError:
        return None


def _stands(manifest: Path, out: Path, key: str) -> bool:
    record = _manifest(manifest)
    return record is not None and record.key == key and outputs_stand(out, record.outputs)


def _case_map(out: Path) -> CaseMap:
    """The folder's private map, or an empty one with a key of its own."""
    path = out / "case_map.json"
    return read_record(path, CaseMap) if path.is_file() else CaseMap(key=secrets.token_hex(16), cases={})


def _remember(out: Path, key: str, found: Found) -> None:
    """Add where the scans came from to the private map."""
    cases = dict(_case_map(out).cases)
    for scan in found.scans:
        name = scan.paths[0].parent.name if scan.kind == "dicom" else scan.name
        cases[scan.name] = MappedCase(paths=tuple(str(p.resolve()) for p in scan.paths), names=(name,))
    write_record(out / "case_map.json", CaseMap(key=key, cases=cases), private=True)


def write_predictions(
    out: Path, plan: Plan, folds: Sequence[Path], device: torch.device, failed: Sequence[Unread], model: str
) -> tuple[Predictions, int]:
    """Rebuild `predictions.json` from the manifests of this model; also the number of cases of other models."""
    every = [m for p in sorted((out / "cases").glob("[!.]*.done.json")) if (m := _manifest(p)) is not None]
    found = [m for m in every if m.model == model]
    predictions = Predictions(
        labels={str(value): name for value, name in plan.names.items()},
        folds=tuple(fold.name for fold in folds),
        device=device.type,
        cases=tuple(p for p in found if outputs_stand(out, p.outputs)),
        failed=tuple(failed),
    )
    write_record(out / "predictions.json", predictions)
    return predictions, len(every) - len(found)
