"""Made-up fingerprints, told by what a test is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medseg.planning.fingerprint import VERSION, CaseFingerprint, Fingerprint, Sketch, Structure

Numbers = tuple[float, float, float]
Shape = tuple[int, int, int]

MIDDLE: Mapping[int, Numbers] = {1: (0.5, 0.5, 0.5)}


def sketch(low: float = -100, high: float = 300, voxels: int = 1000) -> Sketch:
    """Evenly spread intensities."""
    quantiles = tuple(float(q) for q in np.linspace(low, high, 201))
    return Sketch(voxels=voxels, mean=(low + high) / 2, sd=(high - low) / 12**0.5, quantiles=quantiles)


def looked_at(
    name: str = "a",
    spacing: Numbers = (1, 1, 1),
    shape: Shape = (40, 40, 40),
    cropped: Shape | None = None,
    centres: Mapping[int, Numbers] = MIDDLE,
    channels: Sequence[Sketch] = (),
) -> CaseFingerprint:
    return CaseFingerprint(
        version=VERSION,
        case=name,
        key=f"key of {name}",
        orientation="RAS",
        spacing_mm=spacing,
        shape=shape,
        cropped=cropped or shape,
        channels=tuple(channels or (sketch(),)),
        structures=tuple(Structure(value=v, voxels=9, volume_ml=0.1, centre=c) for v, c in centres.items()),
    )


def alike(n: int = 10, **what: object) -> Fingerprint:
    """`n` cases that are the same."""
    return Fingerprint(cases=tuple(looked_at(f"case{i:03d}", **what) for i in range(n)))  # type: ignore[arg-type]


def by_spacing(spacings: Sequence[Numbers], shape: Shape = (40, 40, 40)) -> Fingerprint:
    return Fingerprint(cases=tuple(looked_at(f"case{i:03d}", s, shape) for i, s in enumerate(spacings)))


def placed(centres: Sequence[Mapping[int, Numbers]]) -> Fingerprint:
    return Fingerprint(cases=tuple(looked_at(f"case{i:03d}", centres=c) for i, c in enumerate(centres)))
