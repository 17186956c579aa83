"""Is a scan like those that a model learned from? Learned from the training scans; no case can be known again by it.

Each check gives a score, and each score is compared with those that the training scans get from the others (left out).
The limits of all checks are set together, so that few training scans exceed any of them: false alarms do not grow with
the number of checks. Distances are Mahalanobis', as in Lee et al. 2018 for features of a network; here they are those
of the scan, so that words can say what is odd.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from medseg.files import Record
from medseg.inference.trust.features import (
    CELLS,
    TEXTURE,
    Features,
    Floats,
    Frame,
    Seen,
    Triple,
    features_of,
    is_larger,
    size_mm,
    unit,
)
from medseg.inference.trust.likeness import (
    Cloud,
    Shape,
    Usual,
    array_of,
    correlation,
    correlations_left_out,
    distances_left_out,
    kept,
    shape_from,
    shape_of,
    side,
    sides,
)
from medseg.preprocessing.settings import PreprocessingSettings

VERSION = 1
FEWEST = 8  # scans that tell what is usual
ALARMS = 0.05  # of the training scans, over all checks
FEW = 10.0  # limits are 1 + FEW / scans times as wide: few scans never show how different scans are
CLOUDS = ("intensities", "texture", "slices")
NOISE = "noise"
SIDES = ("side 0", "side 1", "side 2")
LEAST_SD = 0.05  # of numbers of a cloud
TAIL, LEAST_TAIL = 0.9, 0.02


class Learned(Record):
    """What scans that belong together have in common: a cloud for each of `CLOUDS`, the mean coarse image, the weights
    that tell which way round an image is, along each axis (float32 in base64), and the scores that are usual.
    """

    clouds: dict[str, Cloud]
    template: str
    sides: tuple[str, str, str]
    usual: dict[str, Usual]


class Familiar(Record):
    """What the training scans look like, in the axes of the network. learned: None of fewer than `FEWEST` scans.

    spacing: of the scans as they are stored, smallest and largest; size: smallest; tilt: largest. box: the usual size
    of the network's input. absolute, nonzero: for each channel whether values are comparable between scans, and whether
    only voxels count that are not zero.
    """

    version: int = VERSION
    scans: int
    absolute: tuple[bool, ...]
    nonzero: tuple[bool, ...]
    spacing_low_mm: Triple
    spacing_high_mm: Triple
    size_low_mm: Triple
    tilt_high_deg: float
    box_mm: Triple
    learned: Learned | None

    @property
    def frame(self) -> Frame:
        """How scans are looked at."""
        template = None if self.learned is None else template_of(self.learned, len(self.absolute))
        return Frame(self.box_mm, template, self.absolute, self.nonzero)


def fit_familiar(scans: Sequence[Seen], settings: PreprocessingSettings) -> Familiar:
    """Learn what prepared scans look like, one after the other; twice where some are much larger than others."""
    box = np.median([size_mm(scan) for scan in scans], axis=0)
    absolute = tuple(how.kind in ("ct", "rgb", "none") for how in settings.channels)
    nonzero = tuple(how.nonzero_only for how in settings.channels)
    frame = Frame(_triple(box), None, absolute, nonzero)
    seen = [features_of(scan, frame) for scan in scans]
    if any(is_larger(scan, frame) for scan in scans):  # look again, not at their middle but where they are most alike
        template = unit(np.mean([one.coarse_CXYZ for one in seen], axis=0))
        seen = [features_of(scan, Frame(frame.box_mm, template, absolute, nonzero)) for scan in scans]
    spacings, sizes = (np.array([getattr(one, name) for one in seen]) for name in ("spacing_mm", "size_mm"))
    return Familiar(
        scans=len(scans),
        absolute=absolute,
        nonzero=nonzero,
        spacing_low_mm=_triple(spacings.min(axis=0)),
        spacing_high_mm=_triple(spacings.max(axis=0)),
        size_low_mm=_triple(sizes.min(axis=0)),
        tilt_high_deg=max(one.tilt_deg for one in seen),
        box_mm=frame.box_mm,
        learned=_learned(seen) if len(seen) >= FEWEST else None,
    )


def template_of(learned: Learned, channels: int) -> Floats:
    """The mean coarse image (C, 10, 10, 10)."""
    return array_of(learned.template).reshape(channels, CELLS, CELLS, CELLS)


def clouds_of(learned: Learned) -> dict[str, Shape]:
    """The clouds as arrays."""
    return {name: shape_of(cloud) for name, cloud in learned.clouds.items()}


def scores_of(learned: Learned, seen: Features) -> dict[str, float]:
    """What each check says of a scan; the more the odder."""
    found = {name: shape.distance(getattr(seen, name)) for name, shape in clouds_of(learned).items()}
    found[NOISE] = noise_of(seen)
    found["anatomy"] = -math.atanh(0.999 * correlation(seen.coarse_CXYZ, template_of(learned, len(seen.coarse_CXYZ))))
    for axis, (name, weights) in enumerate(zip(SIDES, learned.sides, strict=True)):
        found[name] = -side(seen.coarse_CXYZ, array_of(weights), axis)
    return found


def _learned(seen: Sequence[Features]) -> Learned:
    clouds, scores = dict[str, Cloud](), dict[str, Floats]()
    for name in CLOUDS:
        numbers = np.array([getattr(one, name) for one in seen])
        clouds[name] = shape_from(numbers, LEAST_SD).kept()
        scores[name] = distances_left_out(numbers, LEAST_SD)
    scores[NOISE] = np.array([noise_of(one) for one in seen])
    coarse = np.array([one.coarse_CXYZ for one in seen])
    scores["anatomy"] = -np.arctanh(0.999 * correlations_left_out(coarse))
    weights = []
    for axis, name in enumerate(SIDES):
        of_axis, said = sides(coarse, axis)
        weights.append(kept(of_axis))
        scores[name] = -said
    return Learned(
        clouds=clouds,
        template=kept(unit(coarse.mean(axis=0))),
        sides=(weights[0], weights[1], weights[2]),
        usual=_usual(scores),
    )


def noise_of(seen: Features) -> float:
    """The log of the noise, of the noisiest channel; of scans without depth in any axis 0."""
    return float(np.nan_to_num(seen.texture[::TEXTURE]).max())


def counts(name: str, score: Floats | float) -> npt.NDArray[np.bool_]:
    """Which way round a scan is counts only where it looks more like its mirror image."""
    return np.asarray(score) > (0 if name in SIDES else -np.inf)


def _usual(scores: Mapping[str, Floats]) -> dict[str, Usual]:
    """Limits as many times the width of the upper tail in each check as `ALARMS` of the scans exceed in any check, but
    none beyond all scans, with room for what few do not show.

    A tail is from the middle to the highest tenth: some odd scans do not widen it, but count when limits are set.
    """
    middles = {name: float(np.median(values)) for name, values in scores.items()}
    tails = {name: max(float(np.quantile(v, TAIL)) - middles[name], LEAST_TAIL) for name, v in scores.items()}
    away = {name: np.where(counts(name, v), (v - middles[name]) / tails[name], 0.0) for name, v in scores.items()}
    highest = np.sort(np.max(list(away.values()), axis=0))
    n = len(highest)
    rank = min(math.ceil((1 - ALARMS) * (n + 1)), n)
    times = {name: max(min(float(highest[rank - 1]), float(of_one.max())), 1.0) for name, of_one in away.items()}
    return {
        name: Usual(middle=middles[name], limit=middles[name] + (1 + FEW / n) * times[name] * tails[name])
        for name in scores
    }


def _triple(values: Floats) -> Triple:
    x, y, z = (float(f"{v:.6g}") for v in values)
    return x, y, z
