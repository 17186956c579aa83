"""The Python interface: a model is loaded once and predicts scan after scan; what it finds is a value, saved on demand.

Nothing is printed and nothing written but by `save`. Research use only.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch

from medseg.compute import choose_device
from medseg.errors import CasesFailed, GeometryError, InputError, ResourceError, by_name
from medseg.files import output_folder
from medseg.imaging.grid import Stored
from medseg.imaging.scans import Found, Scan, Wanted, find_scans, read_scan
from medseg.imaging.source import Reading, ReadOptions
from medseg.imaging.volume import LabelMap
from medseg.imaging.voxels import checked_grid, finished
from medseg.imaging.writing.codes import Code
from medseg.imaging.writing.result import Algorithm, Result
from medseg.imaging.writing.table import write_all
from medseg.inference.asked import quality_from
from medseg.inference.case import CasePrediction, Look, Segmenter, volumes_ml
from medseg.inference.predictor import Predictor, load_predictor
from medseg.inference.quality import Quality, folds_of
from medseg.inference.trust.assess import assess
from medseg.inference.trust.records import StructureTrust
from medseg.inference.work import notes_of, reason_of

__all__ = ["LoadedModel", "Prediction", "load"]


class _Scratch:
    """A folder that zip files are unpacked into: it goes when no prediction needs it any more."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="medseg-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What was found in one scan.

    name: of the scan, safe to show: that of its file, or of a DICOM volume `case-` and 8 hex digits, which change with
    every `load`. found: labels on the scan's own grid, and what else is known of them. volumes_ml: by structure, or by
    region where the model has regions. trust: confidence, predicted Dice and intervals, structure by structure, as far
    as held-out cases taught them. warnings: what is odd about the scan, and what was mended on reading it.
    """

    name: str
    found: CasePrediction
    volumes_ml: Mapping[str, float]
    trust: tuple[StructureTrust, ...]
    warnings: tuple[str, ...]
    seconds: float
    _readings: tuple[Reading, ...] = field(repr=False)
    _scan: Scan | None = field(repr=False)
    _algorithm: Algorithm = field(repr=False)
    _scratch: _Scratch | None = field(repr=False, default=None)

    @property
    def labels(self) -> LabelMap:
        """Label values (X, Y, Z) in `array`, their `grid` and `names`."""
        return self.found.labels

    @property
    def confidence(self) -> dict[str, float | None]:
        """The mean calibrated probability of each structure's voxels, 0 to 1; None where it was not found."""
        return {one.structure: one.confidence for one in self.trust}

    def save(
        self,
        folder: str | Path,
        formats: Sequence[str] = (),
        name: str = "",
        codes: Mapping[str, Code] | None = None,
    ) -> tuple[Path, ...]:
        """Write the labels as `folder/<name>.nii.gz` and the like, each read back by other code; the paths.

        formats: of nifti, nrrd, seg, labelmap, rtstruct, sr; unless given NIfTI, and SEG for a DICOM scan. name: of the
        files, the scan's own unless given. codes: your own, by structure name (`imaging.writing.codes.read_codes`).

        Raises:
            InputError: a format is not known, or needs a DICOM scan where there was none, or the name is a path.
            GeometryError: a file read back is not what was to be written; it does not appear.
            ResourceError: the disk is full or the folder cannot be written to.
        """
        case = name or self.name
        if Path(case).name != case or case.startswith("."):
            raise InputError(f"{case!r} is no name of a file", fix="give it without a folder")
        dicom = self._scan.channels[0].dicom if self._scan is not None else None
        wanted = tuple(formats) or (("nifti", "seg") if dicom is not None else ("nifti",))
        first = self._readings[0]
        result = Result(self.labels, first.own, dicom, self._algorithm, first.volume, codes or {})
        return tuple(one.path for one in write_all(output_folder(Path(folder)), case, wanted, result))


class LoadedModel:
    """A model on its device. Not to be used by several threads at once."""

    def __init__(self, predictor: Predictor, device: torch.device, quality: Quality = "standard") -> None:
        self.predictor, self.device = predictor, device
        self._segmenter = Segmenter(predictor, device, Look(quality))
        self._secret = secrets.token_bytes(16)

    @property
    def names(self) -> dict[int, str]:
        """Label value -> structure."""
        return self.predictor.plan.names

    @property
    def channels(self) -> tuple[str, ...]:
        """What it reads, in order: `CT`, or several such as `T1`, `T2`."""
        return self.predictor.plan.channels

    @overload
    def predict(
        self, scan: str | Path, *, series: Sequence[str] = (), options: ReadOptions | None = None
    ) -> Prediction: ...

    @overload
    def predict(self, scan: npt.NDArray[Any], affine: npt.NDArray[Any]) -> Prediction: ...

    def predict(
        self,
        scan: str | Path | npt.NDArray[Any],
        affine: npt.NDArray[Any] | None = None,
        *,
        series: Sequence[str] = (),
        options: ReadOptions | None = None,
    ) -> Prediction:
        """Segment one scan.

        scan: a file (NIfTI, NRRD, MHA), the folder of a DICOM series or a zip of it, a folder that holds one scan; or
        an array (X, Y, Z), or (C, X, Y, Z) of several channels, with `affine` (4 x 4, voxel to RAS+ mm). series: rules
        that choose a DICOM series, as of `--series`. options: how it is read.

        Raises:
            InputError: there is no scan, or there are several: `predict_all` takes them.
            GeometryError: its channels are not the model's, or do not lie on each other.
        """
        if isinstance(scan, (str, Path)):
            if affine is not None:
                raise InputError("an affine is given for a file, which has its own", scan, "leave it out")
            return self._predict_path(Path(scan), series, options)
        if affine is None:
            raise InputError("an array alone does not say where its voxels lie", fix="give affine as well")
        return self._predicted("array", _readings(np.asarray(scan), np.asarray(affine, np.float64)), None, None, ())

    def predict_all(
        self, folder: str | Path, *, series: Sequence[str] = (), options: ReadOptions | None = None
    ) -> Iterator[Prediction]:
        """Segment every scan at a path, one after the other, in the order of their names.

        A scan that fails does not hold up the others: all failures are told at the end.

        Raises:
            InputError: there is no scan.
            CasesFailed: some failed; the others were yielded before.
            ResourceError: memory or disk gave out.
        """
        found, read, scratch = self._found(Path(folder), series, options)
        failed = [(left.where, left.reason) for left in found.left if left.broken]
        for scan in found.scans:
            try:
                prediction = self._predicted(scan.name, read_scan(scan, read), scan, scratch, ())
            except ResourceError:
                raise
            except Exception as error:  # whatever is wrong with one scan, the others go on
                failed.append((scan.name, reason_of(error)))
                continue
            yield prediction
        if failed:
            raise CasesFailed(by_name(failed))

    def _predict_path(self, path: Path, series: Sequence[str], options: ReadOptions | None) -> Prediction:
        found, read, scratch = self._found(path, series, options)
        if len(found.scans) > 1:
            told = ", ".join(scan.name for scan in found.scans[:3]) + (", ..." if len(found.scans) > 3 else "")
            raise InputError(f"{len(found.scans)} scans are there ({told})", fix="use predict_all, or name one of them")
        (scan,) = found.scans
        left = [f"not used: {one.where}: {one.reason}" for one in found.left if one.broken]
        return self._predicted(scan.name, read_scan(scan, read), scan, scratch, (*found.notes, *left))

    def _found(
        self, path: Path, series: Sequence[str], options: ReadOptions | None
    ) -> tuple[Found, ReadOptions, _Scratch]:
        plan, scratch = self.predictor.plan, _Scratch()
        read = (options or ReadOptions()).model_copy(update={"suv": plan.request.options.suv})
        wanted = Wanted(plan.channels, tuple(series) or plan.request.series, read)
        return find_scans(path, self._secret, wanted, scratch.path), read, scratch

    def _predicted(
        self,
        name: str,
        readings: Sequence[Reading],
        scan: Scan | None,
        scratch: _Scratch | None,
        noted: Sequence[str],
    ) -> Prediction:
        began = time.monotonic()
        predictor = self.predictor
        found = self._segmenter.predict(self._segmenter.ready([reading.volume for reading in readings]))
        volumes = volumes_ml(found.labels, predictor.plan)
        notes = [*noted, *(one.what for one in found.odd), *notes_of(readings, found, predictor)]
        card = predictor.models[predictor.members[0]][0].card
        return Prediction(
            name=name,
            found=found,
            volumes_ml=volumes,
            trust=assess(predictor.trust, found.trust, volumes, found.agreement, found.odd),
            warnings=tuple(dict.fromkeys(notes)),
            seconds=time.monotonic() - began,
            _readings=tuple(readings),
            _scan=scan,
            _algorithm=Algorithm("medseg", card.medseg, predictor.key),
            _scratch=scratch,
        )


def load(
    path: str | Path, device: str = "auto", quality: str = "standard", folds: int | Sequence[str] | None = None
) -> LoadedModel:
    """See `medseg.load`."""
    known = quality_from(quality, "quality")
    where = choose_device(device)
    return LoadedModel(load_predictor(Path(path), where, folds_of(known) if folds is None else folds), where, known)


def _readings(array: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> tuple[Reading, ...]:
    """An array (X, Y, Z) or (C, X, Y, Z) as channels."""
    if array.ndim not in (3, 4) or array.dtype.kind not in "iuf":
        raise InputError(f"an array {array.shape} of {array.dtype} is no scan", fix="give numbers (X, Y, Z)")
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise GeometryError("the affine does not place the voxels", fix="give 4 x 4 numbers, voxel to RAS+ mm")
    if not np.isfinite(array).all():
        raise InputError("the array holds what is no number", fix="replace NaN and infinity first")
    channels = array[None] if array.ndim == 3 else array
    x, y, z = channels.shape[1:]
    grid = checked_grid((x, y, z), affine, Stored(), "the array")
    return tuple(finished(np.asarray(channel, np.float32), grid, (), "the array") for channel in channels)
