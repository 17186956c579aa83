"""The compiled engine has the values of the plain one, whichever way through it is taken."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.evaluation.case import score_case
from medseg.evaluation.engine import compiled
from medseg.evaluation.engine.compiled import CompiledEngine
from medseg.evaluation.engine.plain import PlainEngine
from medseg.evaluation.settings import Settings, SurfaceMode
from medseg.imaging.grid import Grid
from medseg.imaging.volume import LabelMap

MODES: tuple[SurfaceMode, ...] = ("surfel", "voxel", "mesh")


@st.composite
def maps(draw: st.DrawFn) -> tuple[LabelMap, LabelMap]:
    """Two label maps of one grid: any shape, single slices too; noise, or one that differs little; any values."""
    shape = draw(st.tuples(*[st.integers(1, 12)] * 3))
    rng = np.random.default_rng(draw(st.integers(0, 100_000)))
    kind = draw(st.sampled_from([np.uint8, np.uint16]))
    values = np.array([0, 0, 0, 1, 2, 255 if kind is np.uint8 else 65535], kind)[: draw(st.integers(4, 6))]
    r, p = (rng.choice(values, shape) for _ in range(2))
    if draw(st.booleans()):
        p = np.where(rng.random(shape) < 0.1, p, r)
    if draw(st.booleans()):
        p = np.asfortranarray(p)
    spacing = draw(st.tuples(*[st.sampled_from([0.5, 0.8, 1.0, 2.5, 5.0])] * 3))
    grid = Grid(shape, np.diag([*spacing, 1.0]))
    return LabelMap(r, grid, {}), LabelMap(p, grid, {})


def rows(pair: tuple[LabelMap, LabelMap], mode: SurfaceMode, by: Any, threads: int = 1, **options: Any) -> list[Any]:
    scores = score_case("case", *pair, Settings(surface=mode, **options), threads, by)
    return [{k: v for k, v in score if k not in ("case", "structure", "status")} for score in scores]


def agree(ours: list[Any], theirs: list[Any]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if value is None or other[name] is None:
                assert value is other[name], name
            else:
                assert value == pytest.approx(other[name], rel=1e-9, abs=1e-9), name


few = settings(max_examples=60, deadline=None)


@pytest.mark.parametrize("mode", MODES)
@few
@given(maps(), st.sampled_from(["count", "exclude"]), st.sampled_from([0.4, 2.0]))
def test_both_engines_agree(mode: SurfaceMode, pair: Any, fov_faces: str, depth_mm: float) -> None:
    asked = {"fov_faces": fov_faces, "boundary_iou_mm": depth_mm}
    agree(rows(pair, mode, CompiledEngine(), **asked), rows(pair, mode, PlainEngine(), **asked))


@pytest.mark.parametrize("by_rows", [True, False])
@few
@given(pair=maps())
def test_every_way_to_what_is_far(by_rows: bool, pair: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "ROWS", 1)
        patch.setattr(compiled, "_by_rows", lambda *_: by_rows)
        compiled._around.cache_clear()
        agree(rows(pair, "surfel", CompiledEngine()), rows(pair, "surfel", PlainEngine()))
    compiled._around.cache_clear()


@few
@given(maps())
def test_threads_change_nothing(pair: Any) -> None:
    assert rows(pair, "surfel", CompiledEngine(), 3) == rows(pair, "surfel", CompiledEngine(), 1)


@few
@given(maps(), st.integers(0, 1000))
def test_percentiles(pair: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    distances = rng.choice([0.0, 0.5, 1.0, 1.5, 7.0], 50) * rng.choice([1.0, rng.random()])
    sizes = rng.choice([0.25, 1.0], 50)
    for share in (0.05, 0.5, 0.95, 1.0):
        exact = PlainEngine().percentile_mm(distances, sizes, share)
        assert CompiledEngine().percentile_mm(distances, sizes, share) == exact


def test_labels_of_sixteen_bits_that_are_many() -> None:
    array = np.arange(8000, dtype=np.uint16).reshape(20, 20, 20)
    found = CompiledEngine().overlaps(array, array)
    assert found == PlainEngine().overlaps(array, array)
    assert len(found) == 7999


def test_without_numba_the_plain_engine_is_taken() -> None:
    blocked = "import sys; sys.modules['numba'] = None; from medseg.evaluation.engine.choice import engine; "
    done = subprocess.run(
        [sys.executable, "-c", f"{blocked}print(engine().name)"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "plain\n"
