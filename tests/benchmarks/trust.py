"""How far trust can be trusted, on the hippocampus set: predicted Dice, its intervals, and scans that are unlike.

    python -m tests.benchmarks.trust RUN [--real-data DIR] [--out FILE]

RUN is a run on the hippocampus set, best with `--folds 3`, whose folds are trained. Everything is cross-fitted. What a
fold's held-out cases are predicted by is learned from the other folds alone; of a single fold, from two thirds of its
cases for the rest. Whether a scan is unlike the training scans is learned from those that its fold was trained on, and
tried on the held-out ones: as they are, and damaged in each of the ways below.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.evaluation.records import Scores
from medseg.evaluation.score import StructureScore
from medseg.files import read_record
from medseg.imaging.grid import Grid
from medseg.imaging.nifti import read_volume
from medseg.imaging.volume import Volume
from medseg.inference.held_out import validation_folds
from medseg.inference.model import run_plan, run_splits
from medseg.inference.trust.assess import assess
from medseg.inference.trust.calibration import AS_IT_IS, TEMPERATURES, calibration_error
from medseg.inference.trust.familiar import fit_familiar
from medseg.inference.trust.fit import fit_trust
from medseg.inference.trust.records import CaseTrust
from medseg.inference.trust.unfamiliar import unfamiliar
from medseg.preprocessing.prepare import Prepared, prepare
from medseg.preprocessing.settings import PreprocessingSettings

Image = NDArray[np.float64]
Damage = Callable[[Image, np.random.Generator], tuple[Image, tuple[float, float, float]]]
SIDES = ("left-right", "front-back", "head-foot")
ONE = (1.0, 1.0, 1.0)  # the voxels are as large as the header says


def main() -> None:
    parser = argparse.ArgumentParser(description="How far trust can be trusted, on the hippocampus set.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--real-data", type=Path, default=Path(__file__).parents[2] / "../shared/data")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "trust.json")
    asked = parser.parse_args()
    plan = run_plan(asked.run)
    groups = parts_of(asked.run)
    predicted = predicted_dice(groups)
    say(json.dumps(predicted, indent=1))
    scans = asked.real_data / "hippocampus" / "imagesTr"
    unlike = told_apart(asked.run, [part.names for part in groups], scans, plan.configuration.preprocessing)
    for name, row in unlike.items():
        say(f"{name:28} {row['flagged']:6.1%}  {row['by']}")
    found = {
        "command": f"python -m tests.benchmarks.trust {asked.run.name}",
        "date": datetime.now(UTC).date().isoformat(),
        "cases": sum(len(part.names) for part in groups),
        "groups": len(groups),
        "predicted": predicted,
        "unlike": unlike,
    }
    asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


# --- predicted Dice --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """Held-out cases that are predicted by what the other parts taught."""

    names: tuple[str, ...]
    cases: Mapping[str, CaseTrust]
    scores: Sequence[StructureScore]


def parts_of(run: Path) -> list[Part]:
    """The finished folds of a run; a single one in three parts."""
    folds = []
    for folder, names in validation_folds(run, run_plan(run).chosen):
        if (folder / "model.json").is_file():
            cases = {n: read_record(folder / "held_out" / f"{n}.trust.json", CaseTrust) for n in names}
            folds.append(Part(names, cases, read_record(folder / "validation" / "scores.json", Scores).scores))
    if len(folds) > 1:
        return folds
    (one,) = folds
    return [Part(names, {n: one.cases[n] for n in names}, one.scores) for names in (one.names[k::3] for k in range(3))]


def predicted_dice(parts: Sequence[Part]) -> dict[str, Any]:
    """Each part predicted by the others: errors of Dice, how often intervals hold, and calibration."""
    errors: dict[str, list[float]] = {}
    plain: list[float] = []
    holds: dict[str, list[bool]] = {"dice": [], "volume": []}
    widths, before, after, temperatures = [], [], [], []
    for k, part in enumerate(parts):
        others = [other for n, other in enumerate(parts) if n != k]
        cases = {name: case for other in others for name, case in other.cases.items()}
        rows = [row for other in others for row in other.scores]
        trust = fit_trust(cases, rows)
        means = {fit.structure: fit.dice for fit in trust.structures}
        temperatures.append(trust.temperature)
        reliability = [case.reliability for case in part.cases.values() if case.reliability is not None]
        before.append(calibration_error(reliability, AS_IT_IS))
        after.append(calibration_error(reliability, TEMPERATURES.index(trust.temperature)))
        for row in part.scores:
            if row.case not in part.cases or row.dice is None or not row.volume_pred_ml:
                continue
            told = assess(trust, part.cases[row.case], {row.structure: row.volume_pred_ml})
            (found,) = (one for one in told if one.structure == row.structure)
            if None in (found.predicted_dice, found.dice_low, found.volume_low_ml, means[row.structure]):
                raise SystemExit("too few cases: nothing can be predicted")
            errors.setdefault(row.structure, []).append(abs(found.predicted_dice - row.dice))
            plain.append(abs(means[row.structure] - row.dice))
            holds["dice"].append(found.dice_low <= row.dice <= found.dice_high)
            holds["volume"].append(found.volume_low_ml <= row.volume_ref_ml <= found.volume_high_ml)
            widths.append(found.dice_high - found.dice_low)
    every = [error for of in errors.values() for error in of]
    return {
        "mean_absolute_error": round(float(np.mean(every)), 4),
        "by_structure": {name: round(float(np.mean(of)), 4) for name, of in errors.items()},
        "error_of_the_mean_dice": round(float(np.mean(plain)), 4),
        "dice_interval_holds": round(float(np.mean(holds["dice"])), 3),
        "dice_interval_width": round(float(np.mean(widths)), 3),
        "volume_interval_holds": round(float(np.mean(holds["volume"])), 3),
        "temperature": [round(t, 3) for t in temperatures],
        "ece_before": round(float(np.mean([e for e in before if e is not None])), 4),
        "ece_after": round(float(np.mean([e for e in after if e is not None])), 4),
    }


# --- scans that are unlike -------------------------------------------------------------------------------------------


def told_apart(
    run: Path, groups: Sequence[Sequence[str]], scans: Path, settings: PreprocessingSettings
) -> dict[str, dict[str, Any]]:
    """For each damage the share of held-out scans that are found unlike the training scans, and by which checks."""
    every = sorted({name for fold in run_splits(run).folds for name in (*fold.train, *fold.validation)})
    images = {name: read_volume(scans / f"{name}.nii.gz") for name in every}
    flagged: dict[str, list[bool]] = {}
    checks: dict[str, dict[str, int]] = {}
    for names in groups:
        training = [name for fold in run_splits(run).folds if set(names) <= set(fold.validation) for name in fold.train]
        familiar = fit_familiar([prepare([images[name]], settings) for name in training], settings)
        for number, name in enumerate(names):
            for damage, scan in damaged(images[name], number, settings):
                odd = unfamiliar(familiar, scan)
                flagged.setdefault(damage, []).append(bool(odd))
                for one in odd:
                    found = checks.setdefault(damage, {})
                    found[one.code] = found.get(one.code, 0) + 1
    return {
        damage: {"flagged": round(float(np.mean(of)), 4), "scans": len(of), "by": checks.get(damage, {})}
        for damage, of in flagged.items()
    }


def damaged(volume: Volume, seed: int, settings: PreprocessingSettings) -> Iterator[tuple[str, Prepared]]:
    """The scan as it is, and in every way that it may be damaged; headers are what is wrong of spacings alone."""
    image = np.asarray(volume.array, np.float64)
    for name, damage in DAMAGES.items():
        array, times = damage(image, np.random.default_rng(seed))
        affine = volume.grid.affine @ np.diag([*times, 1.0])
        yield name, prepare([Volume(array.astype(np.float32), Grid(array.shape, affine))], settings)


def noisy(sd: float) -> Damage:
    return lambda image, rng: (image + rng.normal(0, sd * image.std(), image.shape), ONE)


def spaced(x: float, y: float, z: float) -> Damage:
    return lambda image, _: (image, (x, y, z))


def gamma(power: float) -> Damage:
    return lambda image, _: (((image - image.min()) / np.ptp(image)) ** power * 1000, ONE)


def flipped(axis: int) -> Damage:
    return lambda image, _: (np.flip(image, axis), ONE)


def shuffled(axis: int) -> Damage:
    return lambda image, rng: (image.take(rng.permutation(image.shape[axis]), axis), ONE)


DAMAGES: dict[str, Damage] = {
    "clean": lambda image, _: (image, ONE),
    **{f"noise of {sd} SD": noisy(sd) for sd in (0.1, 0.2, 0.3, 0.5, 1.0)},
    "spacing x 1.5": spaced(1.5, 1.5, 1.5),
    "spacing x 0.7": spaced(0.7, 0.7, 0.7),
    **{
        f"spacing x {by} {SIDES[k]}": spaced(*(by if a == k else 1.0 for a in range(3)))
        for k in range(3)
        for by in (1.5, 0.7)
    },
    "inverted": lambda image, _: (image.max() + image.min() - image, ONE),
    **{f"gamma {power}": gamma(power) for power in (0.3, 0.5, 0.7, 1.5, 2.0, 3.0)},
    **{f"flipped {SIDES[k]}": flipped(k) for k in range(3)},
    **{f"shuffled {SIDES[k]}": shuffled(k) for k in range(3)},
}


if __name__ == "__main__":
    main()
