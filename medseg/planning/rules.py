"""The rules of planning: numbers in, a decision and its reason out. nnU-Net's rules unless a comment says otherwise.

Source: Isensee et al., Nature Methods 2021, and the planner of nnU-Net v2 as described in its documentation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from medseg.errors import InputError
from medseg.networks.topology import NetworkSettings, stage_shapes
from medseg.planning.fingerprint import Fingerprint, centres, pooled
from medseg.planning.plan import AXES, Reason, Structure
from medseg.preprocessing.prepare import resampled_shape
from medseg.preprocessing.settings import Normalisation

Numbers = tuple[float, float, float]
Shape = tuple[int, int, int]

ANISOTROPIC = 3.0
MOST_VOXELS = 4.0  # an isotropic target may give the median case at most this many times its stored voxels
CROPPED_AWAY = 0.75  # normalise by nonzero voxels alone where crops keep less than this share of a scan
SMALLEST_MAP = 4
START_VOLUME = {2: 2048**2, 3: 256**3}
BASE_FEATURES = 32
MOST_FEATURES = {2: 512, 3: 320}
REFERENCE_GB = 8.0
REFERENCE_ACTIVATIONS = {2: 8.5e7, 3: 5.6e8}  # at REFERENCE_GB and REFERENCE_BATCH
REFERENCE_BATCH = {2: 12, 3: 2}
DATASET_SHARE = 0.05  # a batch sees at most this share of the data set's voxels
SIDED_SD = 2.0  # a structure's place is fixed along an axis if it is this many SDs off the middle, or off another's


# --- spacing ---------------------------------------------------------------------------------------------------------


def check_spacing(asked: str) -> float | None:
    """The number of mm that was asked for; None for `isotropic` and `median`.

    Raises:
        InputError: `asked` is none of these.
    """
    if asked in ("isotropic", "median"):
        return None
    try:
        mm = float(asked)
    except ValueError:
        mm = math.nan
    if not 0.01 <= mm <= 100:
        raise InputError(f"--spacing {asked} is no spacing", fix="give isotropic, median, or mm between 0.01 and 100")
    return mm


def target_spacing(fingerprint: Fingerprint, asked: str, axes: Sequence[int] = (0, 1, 2)) -> tuple[Numbers, Reason]:
    """The spacing (R, A, S) in mm that scans are resampled to, for `isotropic`, `median`, or a number of mm.

    A 2D network resamples within slices alone: then only `axes` count, and the third number is of no use.

    Raises:
        InputError: `asked` is none of these.
    """
    spacing, reason = _target(fingerprint, asked, axes)
    if len(axes) < 3:
        within = " x ".join(f"{spacing[a]:.3g}" for a in axes)
        reason = reason.model_copy(update={"choice": f"{within} mm within each slice; slices as stored"})
    return spacing, reason


def _target(fingerprint: Fingerprint, asked: str, axes: Sequence[int]) -> tuple[Numbers, Reason]:
    mm = check_spacing(asked)
    if mm is None:
        return _median(fingerprint) if asked == "median" else _isotropic(fingerprint, axes)
    return (mm, mm, mm), Reason(topic="spacing", choice=f"{mm:g} mm isotropic", why="as asked")


def _isotropic(fingerprint: Fingerprint, axes: Sequence[int]) -> tuple[Numbers, Reason]:
    spacings = np.array([c.spacing_mm for c in fingerprint.cases])[:, axes]
    finest = float(np.median(spacings.min(axis=1)))
    coarser = (float(np.median(spacings.prod(axis=1))) / MOST_VOXELS) ** (1 / len(axes))
    mm = float(f"{max(finest, coarser):.4g}")
    stored = np.median(spacings, axis=0)
    change = ", ".join(f"{AXES[a]} {s:.3g} -> {mm:.3g}" for a, s in zip(axes, stored, strict=True))
    why = f"the finest axis of the median case is {finest:.3g} mm"
    if coarser > finest:
        why += f"; coarsened, since more than {MOST_VOXELS:g} times the stored voxels add cost but no detail"
    why += f"; median spacing in mm: {change}"
    return (mm, mm, mm), Reason(topic="spacing", choice=f"{mm:.3g} mm isotropic", why=why)


def _median(fingerprint: Fingerprint) -> tuple[Numbers, Reason]:
    spacings = np.array([c.spacing_mm for c in fingerprint.cases])
    shapes = np.median([c.cropped for c in fingerprint.cases], axis=0)
    target = np.median(spacings, axis=0)
    coarse = int(target.argmax())
    others = [a for a in range(3) if a != coarse]
    why = "the median of the data set along each axis (nnU-Net's rule)"
    if target[coarse] > ANISOTROPIC * target[others].max() and shapes[coarse] * ANISOTROPIC < shapes[others].min():
        tenth = float(np.percentile(spacings[:, coarse], 10))
        target[coarse] = max(tenth, float(target[others].max()) + 1e-5)
        why += f"; {AXES[coarse]} takes its 10th percentile, since slices are more than {ANISOTROPIC:g} times as thick"
    x, y, z = (float(t) for t in target)
    return (x, y, z), Reason(topic="spacing", choice=f"{x:.3g} x {y:.3g} x {z:.3g} mm", why=why)


def median_shape(fingerprint: Fingerprint, spacing_mm: Sequence[float | None]) -> Shape:
    """Median shape of the cropped cases after resampling."""
    shapes = [resampled_shape(c.cropped, c.spacing_mm, spacing_mm) for c in fingerprint.cases]
    x, y, z = (round(float(np.median([s[a] for s in shapes]))) for a in range(3))
    return x, y, z


def coarsest_axis(fingerprint: Fingerprint) -> int:
    """The axis (R, A, S) along which most cases are sliced: of a single voxel, else of the largest spacing.

    Head-foot where all axes are alike.
    """
    thick = [np.where(np.array(c.shape) == 1, np.inf, np.round(c.spacing_mm, 4)) for c in fingerprint.cases]
    votes = [int(np.argmax(t[::-1])) for t in thick]
    return 2 - int(np.bincount(votes, minlength=3).argmax())


# --- intensities -----------------------------------------------------------------------------------------------------


def normalisation(fingerprint: Fingerprint, channel: int, name: str) -> tuple[Normalisation, Reason]:
    """How one channel is normalised, by its modality: CT by the data set's labelled voxels, all else scan by scan."""
    unnamed = name.isdecimal()  # two folders without dataset.json: nothing says what was scanned
    topic = f"intensities of channel {name}" if unnamed else f"intensities of {name}"
    if name.upper() == "CT":
        sketch = pooled(fingerprint, channel)
        if not sketch.voxels:
            raise InputError("no labelled voxel in the whole data set", fix="check the label maps")
        low, high = sketch.quantiles[1], sketch.quantiles[-2]
        how = Normalisation(kind="ct", lower=low, upper=high, mean=sketch.mean, sd=sketch.sd)
        why = f"0.5 to 99.5 % of {sketch.voxels} labelled voxels; Hounsfield units mean the same in every scan"
        choice = f"clip {round(low)} to {round(high)} HU, then by the data set's mean"
        return how, Reason(topic=topic, choice=choice, why=why)
    kept = float(np.median([math.prod(c.cropped) / math.prod(c.shape) for c in fingerprint.cases]))
    nonzero = kept < CROPPED_AWAY
    how = Normalisation(kind="zscore", nonzero_only=nonzero)
    why = f"{name} has no unit that holds from scan to scan"
    if unnamed:
        why = "its modality is not known; say CT in a dataset.json if it holds Hounsfield units"
    if nonzero:
        why += f"; by nonzero voxels alone, since the median scan is {100 * (1 - kept):.0f} % empty"
    return how, Reason(topic=topic, choice="each scan by its own mean and SD", why=why)


# --- network and patch -----------------------------------------------------------------------------------------------


def topology(spacing: Sequence[float], patch: Sequence[int]) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Kernels and strides of each stage: halve the axes whose voxels are within twice the finest, down to 4 voxels."""
    n = len(patch)
    spacing, size = list(spacing), list(patch)
    kernel = [1] * n
    kernels: list[tuple[int, ...]] = []
    strides: list[tuple[int, ...]] = [(1,) * n]
    while True:
        poolable = [a for a in range(n) if size[a] >= 2 * SMALLEST_MAP]
        kept = [a for a in poolable if spacing[a] / min(spacing[b] for b in poolable) < 2]
        if not kept or (len(kept) == 1 and size[kept[0]] < 3 * SMALLEST_MAP):
            break
        kernel = [3 if spacing[a] / min(spacing) < 2 else kernel[a] for a in range(n)]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if a in kept else 1 for a in range(n)))
        for a in kept:
            spacing[a] *= 2
            size[a] = math.ceil(size[a] / 2)
    kernels.append((3,) * n)
    return kernels, strides


def divisors(strides: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """What each axis of the patch must be divisible by."""
    return tuple(math.prod(stride[a] for stride in strides) for a in range(len(strides[0])))


def padded(patch: Sequence[int], by: Sequence[int]) -> tuple[int, ...]:
    """The patch rounded up to multiples."""
    return tuple(math.ceil(n / d) * d for n, d in zip(patch, by, strict=True))


def unet(
    spacing: Sequence[float], patch: Sequence[int], channels: int, classes: int, base: int = BASE_FEATURES
) -> tuple[NetworkSettings, tuple[int, ...]]:
    """The plain U-Net for a patch, and the patch padded so that the network can halve it."""
    kernels, strides = topology(spacing, patch)
    dims: Literal[2, 3] = 2 if len(patch) == 2 else 3
    stages = len(kernels)
    network = NetworkSettings(
        kind="unet",
        dims=dims,
        in_channels=channels,
        classes=classes,
        features=tuple(min(base * 2**s, MOST_FEATURES[dims]) for s in range(stages)),
        kernels=tuple(kernels),
        strides=tuple(strides),
        convs_encoder=(2,) * stages,
        convs_decoder=(2,) * (stages - 1),
    )
    return network, padded(patch, divisors(strides))


def activations(network: NetworkSettings, patch: tuple[int, ...]) -> float:
    """nnU-Net's proxy for memory: values that all convolutions put out for one patch."""
    voxels = [math.prod(s) for s in stage_shapes(patch, network.strides)]
    f = network.features
    encoder = sum(n * c * v for n, c, v in zip(network.convs_encoder, f, voxels, strict=True))
    decoder = sum((n + 1) * c * v for n, c, v in zip(network.convs_decoder, f[:-1], voxels[:-1], strict=True))
    return float(encoder + decoder + network.classes * voxels[0])


def start_patch(spacing: Sequence[float], shape: Sequence[int], volume: float | None = None) -> tuple[int, ...]:
    """A patch of equal mm along each axis and of about `volume` voxels, no larger than the median shape."""
    n = len(shape)
    inverse = np.array([1 / s for s in spacing])
    scale = ((volume or START_VOLUME[n]) / inverse.prod()) ** (1 / n)
    return tuple(min(max(1, round(float(i * scale))), m) for i, m in zip(inverse, shape, strict=True))


def fit_to_memory(
    spacing: Sequence[float], shape: Sequence[int], channels: int, classes: int, memory_gb: float
) -> tuple[NetworkSettings, tuple[int, ...]]:
    """The largest patch and its network that fit `memory_gb` by nnU-Net's rule (batch 2 in 3D, 12 in 2D)."""
    dims = len(shape)
    reference = REFERENCE_ACTIVATIONS[dims] * memory_gb / REFERENCE_GB
    network, patch = unet(spacing, start_patch(spacing, shape), channels, classes)
    while activations(network, patch) / REFERENCE_BATCH[dims] * 2 > reference:
        smaller = _shrunk(spacing, patch, shape, divisors(network.strides))
        if smaller is None:
            break
        network, patch = unet(spacing, smaller, channels, classes)
    return network, patch


def _shrunk(
    spacing: Sequence[float], patch: Sequence[int], shape: Sequence[int], by: Sequence[int]
) -> tuple[int, ...] | None:
    """The patch with its relatively longest axis shorter by that axis' divisor, re-derived on the reduced size."""
    axes = sorted(range(len(patch)), key=lambda a: patch[a] / shape[a], reverse=True)
    for axis in axes:
        if patch[axis] > by[axis] and patch[axis] > SMALLEST_MAP:
            trial = list(patch)
            trial[axis] -= by[axis]
            step = divisors(topology(spacing, trial)[1])[axis]
            trial[axis] = patch[axis] - min(step, patch[axis] - 1)
            return tuple(trial)
    return None


def batch_size(network: NetworkSettings, patch: tuple[int, ...], memory_gb: float, dataset_voxels: float) -> int:
    """nnU-Net's batch: what memory holds, at most 5 % of the data set's voxels, at least 2."""
    dims = network.dims
    reference = REFERENCE_ACTIVATIONS[dims] * memory_gb / REFERENCE_GB
    fits = round(reference / activations(network, patch) * REFERENCE_BATCH[dims])
    share = round(DATASET_SHARE * dataset_voxels / math.prod(patch))
    return max(2, min(fits, share))


# --- mirroring -------------------------------------------------------------------------------------------------------


def mirror_axes(fingerprint: Fingerprint, structures: Sequence[Structure]) -> tuple[tuple[int, ...], Reason]:
    """The axes along which training may mirror: those on which no structure has a place of its own.

    nnU-Net mirrors all axes and so teaches that left is right; here an axis is mirrored only where it is harmless.
    """
    kept: list[int] = []
    against: list[str] = []
    for axis in range(3):
        why = _sided(fingerprint, structures, axis)
        if why:
            against.append(f"not {AXES[axis]} ({why})")
        else:
            kept.append(axis)
    choice = " and ".join(AXES[a] for a in kept) if kept else "none"
    why = "; ".join(against) if against else "no structure has a place of its own along these axes"
    return tuple(kept), Reason(topic="mirroring", choice=choice, why=why)


def _sided(fingerprint: Fingerprint, structures: Sequence[Structure], axis: int) -> str:
    """Why `axis` must not be mirrored, or an empty text."""
    spaced = " ".join(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", s.name) for s in structures)  # KidneyLeft: kidney, left
    words = set(re.findall(r"[a-z0-9]+", spaced.lower()))  # vertebra L1 is no side
    if axis == 0 and words & {"left", "right", "l", "r", "lh", "rh"}:
        return "names tell left from right"
    places = {s.name: centres(fingerprint, s.value)[:, axis] for s in structures}
    for name, place in places.items():
        if place.size and abs(float(place.mean()) - 0.5) > _sure(place, axis):
            return f"{name} lies at {100 * place.mean():.0f} +- {100 * place.std():.0f} % of the way"
    for first, second in ((a, b) for a in structures for b in structures if a.value < b.value):
        both = _paired(fingerprint, first.value, second.value, axis)
        if both.size and abs(float(both.mean())) > _sure(both, axis):
            return f"{first.name} and {second.name} keep their order"
    return ""


def _sure(places: npt.NDArray[np.float64], axis: int) -> float:
    """How far off the middle is more than chance: left-right for the mean of the cases, else for each of them.

    Left and right are never to be confused, so there a small but certain offset of the mean is enough.
    """
    spread = float(places.std()) / (math.sqrt(places.size) if axis == 0 else 1.0)
    return max(SIDED_SD * spread, 0.02)


def _paired(
    fingerprint: Fingerprint, first: int, second: int, axis: int
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Difference of the two structures' centres along `axis`, in the cases that hold both."""
    differences = []
    for case in fingerprint.cases:
        found = {s.value: s.centre[axis] for s in case.structures}
        if first in found and second in found:
            differences.append(found[first] - found[second])
    return np.array(differences, dtype=np.float64)


# --- splits ----------------------------------------------------------------------------------------------------------


def split_folds(names: Sequence[str], folds: int, seed: int) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """(train, validation) of each fold: sorted names, shuffled by the seed, dealt out; fewer folds for few cases."""
    ordered = sorted(names)
    folds = min(folds, len(ordered))
    if folds < 2:
        return []
    shuffled = list(np.random.default_rng(seed).permutation(len(ordered)))
    parts = [sorted(ordered[i] for i in shuffled[k::folds]) for k in range(folds)]
    return [(tuple(sorted(set(ordered) - set(part))), tuple(part)) for part in parts]
