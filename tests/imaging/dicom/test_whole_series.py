"""A series from its files to a volume, whole: scanned, read, in its place."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medseg.imaging.dicom.headers import quiet
from medseg.imaging.dicom.reading import read_dicom
from medseg.imaging.dicom.scanner import scan_dicom
from medseg.imaging.source import ReadOptions
from medseg.imaging.volume import Volume
from tests.imaging.build import PATIENT, save_all, some_series


def read(paths: list[Path]) -> Volume:
    (volume,) = scan_dicom(paths).volumes
    return read_dicom(volume, "case-1", ReadOptions()).volume


@settings(max_examples=40, deadline=None)
@given(
    angle=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 6.0)] * 3),
    first=st.tuples(*[st.floats(-400, 400)] * 3),
    slopes=st.lists(st.floats(0.001, 10), min_size=1, max_size=4),
    intercepts=st.lists(st.floats(-2000, 2000), min_size=1, max_size=3),
    n=st.integers(2, 7),
    seed=st.integers(0, 999),
)
def test_places_and_values_are_exact_for_any_series(
    tmp_path_factory: pytest.TempPathFactory,
    angle: tuple[float, float, float],
    spacing: tuple[float, float, float],
    first: tuple[float, float, float],
    slopes: list[float],
    intercepts: list[float],
    n: int,
    seed: int,
) -> None:
    turn = Rotation.from_euler("xyz", angle, degrees=True).as_matrix()
    built = some_series(
        n,
        seed,
        row=turn[:, 0],
        column=turn[:, 1],
        first_mm=np.array(first),
        between_rows_mm=spacing[0],
        between_columns_mm=spacing[1],
        step_mm=spacing[2],
        slopes=slopes,
        intercepts=intercepts,
    )
    order = random.Random(seed).sample(range(n), n)  # noqa: S311
    volume = read(save_all(built.datasets(), tmp_path_factory.mktemp("series"), order))
    assert volume.array.dtype == np.float32
    assert volume.array.shape == (6, 5, n)
    assert volume.grid.stored.format == "dicom"
    for z in range(n):
        assert np.array_equal(volume.array[:, :, z], built.values(z))
    for x, y, z in [(0, 0, 0), (5, 0, 0), (0, 4, 0), (5, 4, n - 1), (2, 3, n // 2)]:
        world = (volume.grid.affine @ [x, y, z, 1])[:3]
        assert np.linalg.norm(world - built.world_ras(x, y, z)) < 0.01


def test_pydicom_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    datasets = some_series(3).datasets()
    for ds in datasets:
        with quiet():
            ds.StudyDate, ds.PatientName = "no date", PATIENT
    paths = save_all(datasets, tmp_path)
    capfd.readouterr()
    read(paths)
    assert capfd.readouterr() == ("", "")
