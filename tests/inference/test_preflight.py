"""What is expected before the work begins, and what is refused because it cannot fit."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medseg.errors import ResourceError
from medseg.imaging.scans import Found, find_scans
from medseg.inference import preflight
from medseg.inference.asked import Asked
from medseg.inference.case import Segmenter
from medseg.inference.predictor import load_predictor
from medseg.inference.preflight import Expected, expect
from medseg.inference.rehearsal import Timed, timed
from tests.imaging.build import save_all, some_series, write_nifti
from tests.tiny import CPU, blobs, configuration, untrained_run


def found_in(folder: Path) -> Found:
    return find_scans(folder, b"key")


def some_scans(folder: Path, n: int = 3, side: int = 24) -> Path:
    for k in range(n):
        write_nifti(folder / f"scan{k}.nii.gz", blobs(k, (side, side, side))[0])
    return folder


def a_second(*_: Any) -> Timed:
    return Timed(1.0, None)


@pytest.fixture
def segmenter(tmp_path: Path) -> Segmenter:
    return Segmenter(load_predictor(untrained_run(tmp_path), CPU), CPU)


def expected_of(segmenter: Segmenter, scans: Path, out: Path, rehearse: Any = a_second) -> Expected:
    out.mkdir(exist_ok=True)
    return expect(found_in(scans).scans, segmenter, Asked(), out, rehearse)


def free(monkeypatch: pytest.MonkeyPatch, n_bytes: float) -> None:
    monkeypatch.setattr(preflight, "available_memory_bytes", lambda: int(n_bytes))


def test_time_is_that_of_the_tiles(tmp_path: Path, segmenter: Segmenter) -> None:
    expected = expected_of(segmenter, some_scans(tmp_path / "scans"), tmp_path / "out")
    assert [need.tiles["3d"] for need in expected.needs.values() if need] == [5**3] * 3
    assert expected.seconds == pytest.approx(3 * 5**3, rel=0.01)
    assert "about 6 min" in expected.words
    assert "375 tiles, 1000 ms each as timed here" in expected.words
    assert len(expected.words.splitlines()) == 1
    assert expected.at_a_time == 3
    assert not expected.refused


def test_a_pass_is_timed_on_this_device(tmp_path: Path, segmenter: Segmenter) -> None:
    network, made = segmenter.predictor.models["3d"][0].network, segmenter.configuration("3d")
    sizes = []
    network.register_forward_pre_hook(lambda _, given: sizes.append(tuple(given[0].shape)))
    found = timed(network, made, CPU, 5)
    assert 0 < found.seconds < 10
    assert found.gpu_bytes is None
    assert set(sizes) == {(5, 1, 8, 8, 8)}  # no more than a scan has
    flat = Segmenter(load_predictor(untrained_run(tmp_path / "flat", configuration(dims=2)), CPU), CPU)
    assert timed(flat.predictor.models["2d"][0].network, flat.configuration("2d"), CPU, 3).seconds > 0


def test_fewer_tiles_are_timed_where_memory_gives_out(segmenter: Segmenter) -> None:
    network, sizes = segmenter.predictor.models["3d"][0].network, list[int]()

    def hungry(_: torch.nn.Module, given: tuple[torch.Tensor]) -> None:
        sizes.append(len(given[0]))
        if len(given[0]) > 2:
            raise torch.OutOfMemoryError("out of memory")

    hook = network.register_forward_pre_hook(hungry)
    timed(network, segmenter.configuration("3d"), CPU, 9)
    assert sizes[:3] == [9, 4, 2]
    hook.remove()


def test_where_not_even_a_tile_fits_the_time_is_not_known(tmp_path: Path, segmenter: Segmenter) -> None:
    def out_of_memory(*_: Any) -> Timed:
        raise torch.OutOfMemoryError("out of memory")

    expected = expected_of(segmenter, some_scans(tmp_path / "scans"), tmp_path / "out", out_of_memory)
    assert expected.seconds is None
    assert "time unknown" in expected.words
    assert "memory gave out at the trial" in expected.words

    def broken(*_: Any) -> Timed:
        raise RuntimeError("another error")

    with pytest.raises(RuntimeError, match="another error"):
        expected_of(segmenter, tmp_path / "scans", tmp_path / "out", broken)


def test_what_memory_holds_decides_how_many_overlap(
    tmp_path: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans, out = some_scans(tmp_path / "scans"), tmp_path / "out"
    roomy = expected_of(segmenter, scans, out)
    (need, *_) = (need for need in roomy.needs.values() if need)
    network = preflight.forward_bytes(segmenter.configuration("3d"), "cpu")
    held = []
    for n in (1, 2, 3):
        free(monkeypatch, (n * need.peak_bytes + 1 + network) / preflight.MEMORY_SHARE)
        expected = expected_of(segmenter, scans, out)
        assert expected.at_a_time == n
        assert ("memory holds one scan at a time" in expected.words) == (n == 1)
        held.append(expected.ram_bytes)
    assert None in held or held[0] < held[1] < held[2]


def test_a_scan_that_cannot_fit_is_refused_with_what_would(
    tmp_path: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = some_scans(tmp_path / "scans", 1)
    write_nifti(scans / "large.nii.gz", np.zeros((24, 24, 4000), np.int8))
    roomy = expected_of(segmenter, scans, tmp_path / "out")
    assert not roomy.refused
    small, large = roomy.needs["scan0"], roomy.needs["large"]
    assert small is not None
    assert large is not None
    network = preflight.forward_bytes(segmenter.configuration("3d"), "cpu")
    free(monkeypatch, network + large.least_bytes / 2)
    expected = expected_of(segmenter, scans, tmp_path / "out")
    assert list(expected.refused) == ["large"]
    said = expected.refused["large"]
    assert said.startswith("[TOO_LARGE] it needs about")
    assert "about 2000 of its 4000 slices head to foot would fit" in said or "about 1999 of its 4000" in said
    assert expected.seconds == pytest.approx(5**3, rel=0.01)
    free(monkeypatch, 0)
    assert "slices would fit" not in expected_of(segmenter, scans, tmp_path / "out").refused["large"]


def test_a_disk_that_is_too_small_is_refused(
    tmp_path: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = some_scans(tmp_path / "scans", 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]
    with pytest.raises(ResourceError, match="the results will take about 1 MB, and its disk has 1 MB left"):
        expected_of(segmenter, scans, tmp_path / "out")


def test_headers_that_do_not_tell(tmp_path: Path, segmenter: Segmenter) -> None:
    scans = some_scans(tmp_path / "scans", 2)
    (scans / "broken.nii.gz").write_bytes(b"no scan")
    expected = expected_of(segmenter, scans, tmp_path / "out")
    assert expected.needs["broken"] is None
    assert expected.bytes_of("broken") == float("inf")
    assert expected.seconds is None
    assert "without 1 scan(s) whose headers do not tell" in expected.words


def test_dicom_needs_no_pixels(tmp_path: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    save_all(some_series(12).datasets(), tmp_path / "scans")

    def never(*_: Any) -> None:
        raise AssertionError("pixels were read")

    monkeypatch.setattr("medseg.imaging.dicom.pixels.read_frames", never)
    (need,) = expected_of(segmenter, tmp_path / "scans", tmp_path / "out").needs.values()
    assert need is not None
    assert need.voxels == 6 * 5 * 12


def test_several_configurations_and_mirroring_count(tmp_path: Path) -> None:
    made = configuration(window_mirror=(0, 1))
    run = untrained_run(tmp_path, made)
    segmenter = Segmenter(load_predictor(run, CPU), CPU)
    segmenter.predictor = replace(segmenter.predictor, models={"3d": [segmenter.predictor.models["3d"][0]] * 3})
    expected = expected_of(segmenter, some_scans(tmp_path / "scans", 1), tmp_path / "out")
    assert expected.seconds == pytest.approx(5**3 * 3 * 4, rel=0.01)
