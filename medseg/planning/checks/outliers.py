"""Cases that differ from the others in a number: spacing, size of the scan, volume of a structure, stray voxels.

Numbers are compared by their logarithm with median and MAD, which a few odd cases do not move, and a difference must be
large in itself as well. What a tenth of the cases or more have in common is how the data set is, and no finding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from medseg.imaging.finding import Finding
from medseg.planning.fingerprint import CaseFingerprint, Piece, Structure
from medseg.planning.plan import AXES

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

FEWEST = 5  # cases that tell what is usual
RARE = 0.1
TIMES = 5.0  # robust standard deviations
FEW, FEW_LESIONS = 3.0, 8.0  # the fewer cases, the more of them: the spread of few is often found too small
SPACING_FACTOR, SIZE_FACTOR, VOLUME_FACTOR = 2.0, 2.0, 3.0
STRAY_SHARE = 0.01  # of the structure's voxels: a larger piece is no accident
STRAY_AWAY = 0.25  # of the structure's width, the cubic root of its volume
STRAY_VOXELS = 3.0  # and this many voxels away


def spacing_outliers(cases: Sequence[CaseFingerprint]) -> Iterator[Finding]:
    """Voxels at least twice as large or small along an axis as those of the other cases.

    Where a header is wrong, the scan is too large or small by as much; other voxels in a scan of usual size are noted.
    """
    spacings = np.array([c.spacing_mm for c in cases])
    odd, usual = _odd(np.log(spacings), SPACING_FACTOR, rare=2 * RARE), np.median(spacings, axis=0)
    sizes = spacings * np.array([c.shape for c in cases])
    as_large = np.abs(np.log(sizes / np.median(sizes, axis=0))) < 0.5 * np.abs(np.log(spacings / usual))
    for case, axes, fits in zip(cases, odd, as_large, strict=True):
        if axes.any():
            right = bool(fits[axes].all())
            what = f"its voxels are {_mm(case.spacing_mm)} mm large, those of the others {_mm(usual)} mm (median)"
            if case.spacing_mm == (1, 1, 1):
                what += "; 1 mm is what headers say that have lost the size"
            yield Finding(
                case=case.case,
                code="spacing",
                what=what,
                how_bad="note" if right else "suspect",
                todo="check the voxel size in its header; if it is right, nothing needs to be done",
            )


def size_outliers(cases: Sequence[CaseFingerprint], names: Mapping[int, str]) -> Iterator[Finding]:
    """Scans at least twice as large or small along an axis, structures with a third or three times the volume."""
    sizes = np.array([c.shape for c in cases]) * np.array([c.spacing_mm for c in cases])
    odd, usual = _odd(np.log(sizes), SIZE_FACTOR), np.median(sizes, axis=0)
    for case, axes, size in zip(cases, odd, sizes, strict=True):
        if axes.any():
            told = ", ".join(f"{size[a]:.0f} mm {AXES[a]} (others {usual[a]:.0f})" for a in np.flatnonzero(axes))
            yield Finding(
                case=case.case,
                code="size",
                what=f"the scan measures {told}",
                how_bad="suspect",
                todo="check that it shows the same part of the body, and its header the right voxel size",
            )
    yield from _odd_volumes(cases, names)


def _odd_volumes(cases: Sequence[CaseFingerprint], names: Mapping[int, str]) -> Iterator[Finding]:
    told: dict[str, list[str]] = {}
    cut: dict[str, bool] = {}
    every = by_value(cases)
    for name, holding in ((names[value], every[value]) for value in names if value in every):
        volumes = np.array([s.volume_ml for _, s in holding])
        reaching = np.array([bool(s.touches) for _, s in holding])
        few = FEW_LESIONS if _varies([s.pieces for _, s in holding]) else FEW
        for k in np.flatnonzero(_odd(np.log(volumes)[:, None], VOLUME_FACTOR, few=few)[:, 0]):
            case, structure = holding[k]
            told.setdefault(case.case, []).append(
                f"{name} has {volumes[k]:.3g} ml (others {np.median(volumes):.3g}){_border(structure)}"
            )
            is_cut = reaching[k] and reaching.mean() < 0.5 and volumes[k] < np.median(volumes)
            cut[case.case] = cut.get(case.case, True) and bool(is_cut)
    for name_of_case, what in told.items():
        yield Finding(
            case=name_of_case,
            code="size",
            what="; ".join(what),
            how_bad="note" if cut[name_of_case] else "suspect",
            todo="check that the whole structure, and nothing else, is labelled",
        )


def _border(structure: Structure) -> str:
    return ", and reaches the border of the scan" if structure.touches else ""


def stray_voxels(cases: Sequence[CaseFingerprint], names: Mapping[int, str]) -> Iterator[Finding]:
    """Few voxels far from the rest of their structure, where the others have no such and are no scatter of parts."""
    told: dict[str, list[str]] = {}
    every = by_value(cases)
    for name, holding in ((names[value], every[value]) for value in names if value in every):
        found = [(case.case, s, [p for p in s.small if _is_stray(p, s, case)]) for case, s in holding]
        hit = [one for one in found if one[2]]
        parts = [s.pieces for _, s, stray in found if not stray]
        if len(hit) > max(1, 2 * RARE * len(holding)) or _varies(parts):
            continue  # a structure of many parts, such as lesions
        for case, structure, stray in hit:
            pieces = ", ".join(f"{p.voxels} voxel(s) {p.away_mm:.3g} mm" for p in stray)
            told.setdefault(case, []).append(f"{name} has {pieces} away from the rest of its {structure.voxels}")
    for case, what in told.items():
        yield Finding(
            case=case,
            code="stray",
            what="; ".join(what),
            how_bad="suspect",
            todo="erase them if they were drawn by accident",
        )


def _varies(parts: Sequence[int]) -> bool:
    """True if the number of parts is one's own of each case: that of lesions, not that of kidneys."""
    return bool(parts) and float(np.mean(np.array(parts) > np.median(parts))) > RARE


def _is_stray(piece: Piece, structure: Structure, case: CaseFingerprint) -> bool:
    width_mm = (1000 * structure.volume_ml) ** (1 / 3)
    least_mm = max(STRAY_AWAY * width_mm, STRAY_VOXELS * max(case.spacing_mm))
    return piece.voxels <= max(1, STRAY_SHARE * structure.voxels) and piece.away_mm >= least_mm


def by_value(cases: Sequence[CaseFingerprint]) -> dict[int, list[tuple[CaseFingerprint, Structure]]]:
    """The cases that hold each structure, with it."""
    found: dict[int, list[tuple[CaseFingerprint, Structure]]] = {}
    for case in cases:
        for structure in case.structures:
            found.setdefault(structure.value, []).append((case, structure))
    return found


def far_off(values: Floats, least: float, few: float = FEW) -> Bools:
    """Which values (n, k) lie far from the median of their column, by `least` or more; none of fewer than 5 cases."""
    if len(values) < FEWEST:
        return np.zeros(values.shape, np.bool_)
    away = np.abs(values - np.median(values, axis=0))
    times = TIMES * (1 + few / len(values))
    return np.asarray(away >= np.maximum(least, times * 1.4826 * np.median(away, axis=0)))


def _odd(logs: Floats, factor: float, rare: float = RARE, few: float = FEW) -> Bools:
    """Values (n, k) that are off by a factor, in columns where that is rare."""
    odd = far_off(logs, float(np.log(factor)) - 1e-9, few)
    return np.asarray(odd & (odd.sum(axis=0) <= max(1, rare * len(logs))))


def _mm(numbers: Sequence[float] | Floats) -> str:
    return " x ".join(f"{n:.3g}" for n in numbers)
