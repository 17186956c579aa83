"""Made-up cases for the check of a data set: all alike, but for what a test is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.planning.fingerprint import CaseFingerprint, Sketch, Structure, Whole
from medseg.planning.scan_values import look_at_values
from tests.planning.build import looked_at, sketch

Three = tuple[float, float, float]


def structure(value: int = 1, at: Three = (0.5, 0.5, 0.5), ml: float = 100.0, **more: Any) -> Structure:
    return Structure(value=value, voxels=more.pop("voxels", 1000), volume_ml=ml, centre=at, **more)


def whole(low: float = -1024, high: float = 1500, tissue: float = 40, digest: str = "", seed: int = 0) -> Whole:
    """A CT of air and tissue, whose thumbnail is that of noise of its own."""
    air = low if low < tissue else tissue
    percentiles = (air, air, air + 20, tissue, tissue + 20, tissue + 60, tissue + 300)
    noise = np.random.default_rng(seed).normal(size=(8, 8, 8)).astype(np.float32)
    thumbnail = seen(noise).thumbnail
    return Whole(low=low, high=high, percentiles=percentiles, digest=digest or f"d{seed}", thumbnail=thumbnail)


def seen(image_XYZ: NDArray[Any]) -> Whole:
    """What is kept of all voxels of an image without labels."""
    return look_at_values(image_XYZ, np.zeros(image_XYZ.shape, np.uint8), 0)[1]


def case(name: str, seed: int = 0, **what: Any) -> CaseFingerprint:
    """A case; keyword arguments replace what it would hold."""
    usual = {
        "structures": (structure(),),
        "modalities": ("CT",),
        "channels": (sketch(-50, 150),),
        "whole": (whole(seed=seed),),
        "labels": f"label of {name}",
        "patient": name,
    }
    return looked_at(name).model_copy(update={**usual, **what})


def cases(n: int = 10, each: Mapping[int, Mapping[str, Any]] | None = None, **what: Any) -> list[CaseFingerprint]:
    """`n` cases, of which those in `each` differ."""
    return [case(f"c{k:02d}", seed=k, **{**what, **(each or {}).get(k, {})}) for k in range(n)]


def sketches(low: float, high: float) -> tuple[Sketch, ...]:
    return (sketch(low, high),)


def of_structures(places: Sequence[Three]) -> tuple[Structure, ...]:
    return tuple(structure(value, at) for value, at in enumerate(places, start=1))
