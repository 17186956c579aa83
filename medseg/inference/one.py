"""One scan from end to end in whichever process: a worker loads the model once, and keeps it for the cases that follow.

Where one process does all scans, their stages overlap (see `overlap`); this is for processes that each do some.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from medseg.compute import choose_device
from medseg.errors import ResourceError, RunError
from medseg.imaging.scans import Scan
from medseg.inference.asked import Asked, cleaning_of
from medseg.inference.case import Look, Segmenter
from medseg.inference.manifests import Cases
from medseg.inference.overlap import Ended
from medseg.inference.predictor import load_predictor
from medseg.inference.preflight import Expected
from medseg.inference.quality import folds_of
from medseg.inference.records import Prediction
from medseg.inference.work import Work, reason_of
from medseg.parallel import Done, Where, Workers, over_cases


@dataclass(frozen=True, slots=True)
class OneScan:
    """A scan to predict, and all that its result depends on; paths are absolute, and the same for every process.

    model: the digest of the weights that the model at `run` must have. device: as it is asked for, where the work is
    done. threads: that may be used; None for what its process was started with.
    """

    scan: Scan
    run: Path
    out: Path
    asked: Asked
    model: str
    device: str
    threads: int | None


_kept: dict[tuple[str, str], Work] = {}  # of this process: the work of the model that was used last


def predict_one(job: OneScan) -> Ended[None, Prediction]:
    """Predict a scan and write its results, unless they stand; what is wrong with it is told, not raised.

    Raises:
        ResourceError: the disk is full.
        RunError: the model is not the one that was to be used.
    """
    work = _work(job)
    if work.stands(job.scan, time.time()):  # done meanwhile: its worker died before it could say so
        return Ended(None)
    try:
        loaded = work.load(job.scan)
        return Ended(None) if loaded is None else Ended(None, work.write(work.compute(loaded)))
    except ResourceError:
        raise
    except Exception as error:  # as `overlapped`: whatever is wrong with one, the others go on
        return Ended(None, reason=reason_of(error))


def _work(job: OneScan) -> Work:
    asked = (job.model, repr((job.run, job.out, job.asked, job.device)))
    if asked not in _kept:
        _kept.clear()
        threads = torch.get_num_threads()  # as whoever started this process wants it: others may share its cores
        device = choose_device(job.device)
        torch.set_num_threads(job.threads or threads)
        predictor = load_predictor(job.run, device, folds_of(job.asked.quality))
        predictor = replace(predictor, cleaning=cleaning_of(job.asked, predictor.cleaning, predictor.plan))
        if predictor.key != job.model:
            raise RunError("holds another model than when this command began", job.run, "run the same command again")
        look = Look(job.asked.quality, job.asked.probabilities, job.asked.uncertainty)
        _kept[asked] = Work(Segmenter(predictor, device, look), Cases(job.out), job.asked)
    return _kept[asked]


def by_workers(
    scans: Sequence[Scan], work: Work, run: Path, device: str, expected: Expected, workers: Workers
) -> Iterator[Ended[Scan, Prediction]]:
    """Predict scans by several processes, the largest first; yield each as it ends, in the order of ending."""
    jobs = [
        OneScan(scan, run, work.cases.out, work.asked, work.model, device, workers.threads)
        for scan in sorted(scans, key=lambda scan: -expected.bytes_of(scan.name))
    ]
    for result in over_cases(predict_one, jobs, workers.executor, workers.in_flight):
        scan = result.case.scan
        if isinstance(result, Done):
            yield Ended(scan, result.record.result, result.record.reason)
        else:
            yield Ended(scan, reason=result.reason)


def workers_for(scans: Sequence[Scan], expected: Expected, where: Where, device: str) -> Workers:
    """Workers that have the memory for each of these scans, and GPUs unless a CPU is asked for."""
    known = [need.peak_bytes for scan in scans if (need := expected.needs[scan.name]) is not None]
    case_bytes = max(known, default=0.0) + expected.network_bytes
    return where.workers(len(scans), expected.seconds or 0.0, case_bytes, gpu=device != "cpu")
