"""How unlike the others one case is: distance in a cloud of numbers, correlation with a mean image, which way round."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medseg.files import Record

Floats = npt.NDArray[np.float64]

LEAST_SHRUNK = 0.1
RIDGE = 0.1  # of the mean squared norm


class Cloud(Record):
    """Where the numbers of the others lie: mean, SD, and the inverse of their shrunk correlation (base64 float32)."""

    mean: str
    sd: str
    inverse: str


class Usual(Record):
    """Of the scores of cases that belong together: the median, and from where on a score is odd."""

    middle: float
    limit: float

    def times(self, score: float) -> float:
        """How far a score is above the middle, in times of what is still usual."""
        return (score - self.middle) / (self.limit - self.middle)


@dataclass(frozen=True, eq=False)
class Shape:
    """A cloud as arrays: mean and SD (p,), inverse correlation (p, p)."""

    mean: Floats
    sd: Floats
    inverse: Floats

    def distance(self, numbers: Floats) -> float:
        """Mahalanobis distance per number; a number that is not known counts as the mean."""
        z = self.scaled(numbers)
        return math.sqrt(max(float(z @ self.inverse @ z), 0.0) / len(z))

    def scaled(self, numbers: Floats) -> Floats:
        """Each number by itself, in SDs from the mean."""
        return np.nan_to_num((numbers - self.mean) / self.sd)

    def kept(self) -> Cloud:
        """As a record."""
        return Cloud(mean=kept(self.mean), sd=kept(self.sd), inverse=kept(self.inverse))


def shape_of(cloud: Cloud) -> Shape:
    """A record as arrays."""
    mean = array_of(cloud.mean)
    return Shape(mean, array_of(cloud.sd), array_of(cloud.inverse).reshape(len(mean), len(mean)))


def shape_from(numbers_NP: npt.NDArray[np.float64], least_sd: float) -> Shape:
    """The cloud of N cases with P numbers; correlations are shrunk towards none, the more the fewer cases there are.

    least_sd: of each number, so that one which never differed does not count without bounds once it does.
    """
    n, p = numbers_NP.shape
    known = ~np.isnan(numbers_NP)
    counts = np.maximum(known.astype(np.float64).sum(axis=0), 1.0)
    mean = np.where(known, numbers_NP, 0.0).sum(axis=0) / counts
    away = np.where(known, numbers_NP - mean, 0.0)
    sd = np.maximum(np.sqrt((away**2).sum(axis=0) / np.maximum(counts - 1, 1)), least_sd)
    z = away / sd
    correlation = z.T @ z / max(n - 1, 1)
    np.fill_diagonal(correlation, 1.0)
    shrunk = max(LEAST_SHRUNK, p / (n + p))
    return Shape(mean, sd, np.linalg.inv((1 - shrunk) * correlation + shrunk * np.eye(p)))


def distances_left_out(numbers_NP: Floats, least_sd: float) -> Floats:
    """The distance of each case in the cloud of the others (N,)."""
    return np.array(
        [shape_from(np.delete(numbers_NP, k, axis=0), least_sd).distance(numbers_NP[k]) for k in range(len(numbers_NP))]
    )


def correlations_left_out(coarse_NCXYZ: Floats) -> Floats:
    """Of each image with the mean of the others, the mean over channels (N,)."""
    total = coarse_NCXYZ.sum(axis=0)
    return np.array([correlation(one, total - one) for one in coarse_NCXYZ])


def correlation(coarse_CXYZ: Floats, template_CXYZ: Floats) -> float:
    """The mean over channels; images have mean 0 and norm 1, or all of them are 0."""
    norms = np.sqrt((template_CXYZ**2).sum(axis=(1, 2, 3)))
    return float(((coarse_CXYZ * template_CXYZ).sum(axis=(1, 2, 3)) / np.maximum(norms, 1e-9)).mean())


def sides(coarse_NCXYZ: Floats, axis: int) -> tuple[Floats, Floats]:
    """Weights by which an image tells which way round it is along an axis, and what each case says by those of the
    others: about 1 as the others, about -1 mirrored, about 0 where the data set knows no side.

    Ridge regression of 1 on the part of the images that changes its sign when mirrored; left out in closed form.
    """
    parts = np.array([_odd(one, axis).reshape(-1) for one in coarse_NCXYZ])
    products = parts @ parts.T
    n = len(parts)
    inverse = np.linalg.inv(products + (RIDGE * np.trace(products) / n + 1e-12) * np.eye(n))
    weights = parts.T @ (inverse @ np.ones(n))
    hat = products @ inverse
    said = 1 - (1 - hat @ np.ones(n)) / (1 - np.diag(hat))
    return weights, said


def side(coarse_CXYZ: Floats, weights: Floats, axis: int) -> float:
    """Which way round an image is: see `sides`."""
    return float(_odd(coarse_CXYZ, axis).reshape(-1) @ weights)


def _odd(coarse_CXYZ: Floats, axis: int) -> Floats:
    return (coarse_CXYZ - np.flip(coarse_CXYZ, axis + 1)) / 2


def kept(array: Floats) -> str:
    """An array as text: float32 in base64."""
    return base64.b64encode(array.astype("<f4").tobytes()).decode()


def array_of(text: str) -> Floats:
    """The inverse of `kept`, flat."""
    return np.frombuffer(base64.b64decode(text), "<f4").astype(np.float64)
