"""The records of a whole output folder: the private map of where its cases came from, and `predictions.json`, which any
run on the folder, or on a part of it, rebuilds from the manifests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from medseg.errors import InputError
from medseg.files import outputs_stand, read_record, write_record
from medseg.imaging.naming import CaseMap, MappedCase, read_case_map, shown_path
from medseg.imaging.scans import Found
from medseg.inference.claims import records_alone
from medseg.inference.manifests import Cases
from medseg.inference.measuring.table import write_statistics
from medseg.inference.predictor import Predictor
from medseg.inference.records import Effort, Predictions, Unread, in_order_of_concern


def remember(out: Path, secret: CaseMap, found: Found) -> CaseMap | None:
    """Add where the scans came from to the private map, and every name that a reference of theirs may have.

    None, and nothing is written, where another run began the map meanwhile with a key of its own: the scans that
    `found` names by the key of `secret` must be named anew.
    """
    with records_alone(out):
        known = read_case_map(out)
        if known.cases and known.key != secret.key:
            return None
        cases = dict(known.cases)
        for scan in found.scans:
            volume = scan.channels[0].dicom
            folder = shown_path(scan.paths[0].parent.name)
            names = (scan.name,) if volume is None else (folder, volume.series_uid, volume.frame_of_reference)
            cases[scan.name] = MappedCase(paths=tuple(map(found.origin, scan.paths)), names=names)
        for name, paths in found.unused:  # a case that failed must be found as well
            cases[name] = MappedCase(paths=tuple(map(found.origin, paths)), names=())
        case_map = CaseMap(key=secret.key, cases=cases)
        write_record(out / "case_map.json", case_map, private=True)
        return case_map


def write_predictions(
    out: Path,
    predictor: Predictor,
    device: str,
    left: Sequence[Unread],
    scans: Sequence[str],
    efforts: Mapping[str, Effort] | None = None,
) -> tuple[Predictions, int]:
    """Rebuild `predictions.json` from the manifests of this model; also the number of cases of other models.

    left: what could not even be found whole. scans: names of those that were found, in all parts: older failures of
    others are not listed. efforts: of this run, by part; those of other parts of the same number of parts are kept.
    """
    with records_alone(out):
        done, failed = Cases(out).every()
        found = [one for one in done if one.model == predictor.key]
        standing = in_order_of_concern(p for p in found if outputs_stand(out, p.outputs))
        predictions = Predictions(
            labels={str(value): name for value, name in predictor.plan.names.items()},
            regions={region.name: region.values for region in predictor.plan.regions},
            configurations=predictor.members,
            folds=predictor.folds,
            postprocessing=tuple(step.words for step in predictor.cleaning),
            device=device,
            cases=tuple(case.model_copy(update={"statistics": ()}) for case in standing),
            failed=(*(one for one in failed if one.model == predictor.key and one.case in scans), *left),
            machine=_with_others(out, efforts or {}),
        )
        write_record(out / "predictions.json", predictions)
        by_name = sorted(standing, key=lambda case: case.case)
        write_statistics(out / "statistics.csv", ((one.case, one.statistics, one.trust) for one in by_name))
        return predictions, len(done) - len(found)


def _with_others(out: Path, efforts: Mapping[str, Effort]) -> dict[str, Effort]:
    try:
        before = read_record(out / "predictions.json", Predictions).machine
    except InputError:  # there is none yet, or it is of another version: it is rebuilt
        before = {}
    of = {words.partition("/")[2] for words in efforts}
    kept = {words: one for words, one in before.items() if not of or words.partition("/")[2] in of}
    return dict(sorted({**kept, **efforts}.items()))
