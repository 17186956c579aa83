"""Every metric against DeepMind's surface-distance, and those of both surface modes against MONAI."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy import ndimage

from medseg.evaluation.case import score_case
from medseg.evaluation.cells import surfel_sizes
from medseg.evaluation.settings import Settings
from medseg.imaging.grid import Grid
from medseg.imaging.nifti import read_labels
from medseg.imaging.volume import LabelMap

SPACINGS = [(1.0, 1.0, 1.0), (0.8, 0.8, 2.5), (3.0, 2.0, 1.0), (0.5, 5.0, 0.7)]
TOLERANCE_MM = 1.1  # no sum of the spacings' multiples: the oracle compares without a margin for rounding
SETTINGS = Settings(tolerances_mm=(TOLERANCE_MM,))


@pytest.fixture(scope="module")
def oracle():
    """The released package still speaks the names that NumPy 2 and SciPy took away."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        patch.setattr(np, "Inf", math.inf, raising=False)
        patch.setattr(np, "NaN", math.nan, raising=False)
        import surface_distance

        yield surface_distance


def random_pair(seed):
    """Blobs of all sizes with noise, some single-slice, some with empty structures, on any spacing."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(6, 20, 3))
    if seed % 5 == 4:
        shape = (*shape[:2], 1)
    field = ndimage.gaussian_filter(rng.standard_normal(shape), 1.5)
    moved = field + 0.5 * field.std() * ndimage.gaussian_filter(rng.standard_normal(shape), 0.7)
    edges = np.quantile(field, [0.4, 0.7, 0.95])
    reference, prediction = (np.digitize(f, edges).astype(np.uint8) for f in (field, moved))
    if seed % 4 == 3:
        prediction[prediction == 2] = 0
        reference[reference == 3] = 0
    return reference, prediction, SPACINGS[seed % 4]


def perturbed(labels, seed):
    """What a network gets wrong: moved, swollen, shrunk, ragged, or with far islands."""
    rng = np.random.default_rng(seed)
    match seed % 5:
        case 0:
            return np.roll(labels, rng.integers(-2, 3, 3), (0, 1, 2))
        case 1:
            return ndimage.grey_dilation(labels, (3, 3, 3))
        case 2:
            return ndimage.grey_erosion(labels, (3, 3, 1))
        case 3:
            return np.where(rng.random(labels.shape) < 0.05, rng.integers(0, 3, labels.shape), labels).astype(
                labels.dtype
            )
        case _:
            return np.where(rng.random(labels.shape) < 0.0005, np.uint8(2), labels).astype(labels.dtype)


def expected(oracle, r, p, spacing):
    """One row as surface-distance computes it."""
    single = r.shape[2] == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SciPy's old names, and means over nothing
        found = oracle.compute_surface_distances(
            *(mask[..., 0] if single else mask for mask in (r, p)), spacing[:2] if single else spacing
        )
        there, back = oracle.compute_average_surface_distance(found)
        recall, precision = oracle.compute_surface_overlap_at_tolerance(found, TOLERANCE_MM)
    size_r, size_p = found["surfel_areas_gt"].sum(), found["surfel_areas_pred"].sum()
    both = r.any() and p.any()
    dice = oracle.compute_dice_coefficient(r, p)
    return {
        "dice": dice,
        "iou": dice / (2 - dice),
        "hd_mm": oracle.compute_robust_hausdorff(found, 100),
        "hd95_mm": oracle.compute_robust_hausdorff(found, 95),
        "mean_ref_to_pred_mm": there if both else math.inf,
        "mean_pred_to_ref_mm": back if both else math.inf,
        "assd_mm": (there * size_r + back * size_p) / (size_r + size_p) if both else math.inf,
        "nsd": oracle.compute_surface_dice_at_tolerance(found, TOLERANCE_MM),
        "boundary_recall": recall if both else 0.0,
        "boundary_precision": precision if both else 0.0,
        "boundary_f1": 2 * recall * precision / (recall + precision) if both and recall + precision else 0.0,
        "volume_ref_ml": r.sum() * math.prod(spacing) / 1000,
        "volume_pred_ml": p.sum() * math.prod(spacing) / 1000,
    }


def compare(oracle, reference, prediction):
    """Hold every column of every structure against the oracle; returns how many structures there were."""
    spacing = reference.grid.spacing_mm
    scores = score_case("case", reference, prediction, SETTINGS)
    for score in scores:
        masks = (labels.array == int(score.structure) for labels in (reference, prediction))
        for column, value in expected(oracle, *masks, spacing).items():
            assert getattr(score, column) == pytest.approx(value, rel=1e-9, abs=1e-9), (score.structure, column)
    return len(scores)


def label_maps(reference, prediction, spacing):
    grid = Grid(reference.shape, np.diag([*spacing, 1.0]))
    return LabelMap(reference, grid, {}), LabelMap(prediction, grid, {})


def real_pairs(real_data):
    files = sorted((real_data / "hippocampus" / "labelsTr").glob("*.nii.gz"))[:20]
    if not files:
        pytest.skip("no hippocampus labels among the real data")
    for seed, file in enumerate(files):
        reference = read_labels(file)
        yield reference, LabelMap(perturbed(reference.array, seed), reference.grid, {})


@pytest.mark.parametrize("spacing", [*SPACINGS, (0.3, 7.0, 2.0)])
def test_the_area_tables_are_equal(oracle, spacing):
    tables = oracle.metrics.lookup_tables
    solid = tables.create_table_neighbour_code_to_surface_area(spacing)
    flat = tables.create_table_neighbour_code_to_contour_length(spacing[:2])
    np.testing.assert_allclose(surfel_sizes(spacing), solid, rtol=1e-13)
    np.testing.assert_allclose(surfel_sizes(spacing[:2]), flat, rtol=1e-13)


@pytest.mark.parametrize("seed", range(20))
def test_random_labels(oracle, seed):
    assert compare(oracle, *label_maps(*random_pair(seed))) == 3


def test_a_thousand_structures(oracle):
    """Of every size from a voxel on, with noise, islands and empty ones, in 2D and 3D."""
    assert sum(compare(oracle, *label_maps(*random_pair(1000 + seed))) for seed in range(340)) >= 1000


def test_real_labels(oracle, real_data):
    assert sum(compare(oracle, *pair) for pair in real_pairs(real_data)) >= 40


MEASURES = ("dice", "iou", "hd_mm", "hd95_mm", "assd_mm", "nsd")


def monai_rows(reference, prediction, spacing, structures, surfels):
    """The metrics of every structure as MONAI computes them; distances are those of border voxels, NSD as asked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MONAI's own imports
        import torch
        from monai import metrics

        one_hot = [torch.from_numpy(np.stack([a == s for s in structures])[None]) for a in (prediction, reference)]
        placed = {"include_background": True, "spacing": spacing}
        limits = [TOLERANCE_MM] * len(structures)
        found = (
            metrics.compute_dice(*one_hot, include_background=True),
            metrics.compute_iou(*one_hot, include_background=True),
            metrics.compute_hausdorff_distance(*one_hot, **placed),
            metrics.compute_hausdorff_distance(*one_hot, percentile=95, **placed),
            metrics.compute_average_surface_distance(*one_hot, symmetric=True, **placed),
            metrics.compute_surface_dice(*one_hot, limits, use_subvoxels=surfels, **placed),
        )
    return np.stack([values[0].numpy() for values in found], axis=1)


def compare_with_monai(reference, prediction, mode):
    asked = SETTINGS.model_copy(update={"surface": mode})
    scores = [s for s in score_case("case", reference, prediction, asked) if s.status == "scored"]
    structures = [int(score.structure) for score in scores]
    surfels = mode == "surfel"
    rows = monai_rows(reference.array, prediction.array, reference.grid.spacing_mm, structures, surfels)
    for score, row in zip(scores, rows, strict=True):
        for metric, value in zip(MEASURES, row, strict=True):
            if not surfels or metric in ("dice", "iou", "nsd"):
                assert score.value(metric) == pytest.approx(value, abs=2e-5, rel=2e-5), (score.structure, metric)


@pytest.mark.parametrize("mode", ["surfel", "voxel"])
@pytest.mark.parametrize("seed", [seed for seed in range(40) if seed % 5 != 4])  # not the single slices
def test_random_labels_with_monai(seed, mode):
    compare_with_monai(*label_maps(*random_pair(seed)), mode)


@pytest.mark.parametrize("mode", ["surfel", "voxel"])
def test_real_labels_with_monai(real_data, mode):
    for pair in real_pairs(real_data):
        compare_with_monai(*pair, mode)
