from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from pydicom.uid import MRImageStorage
from scipy.spatial.transform import Rotation

from medseg.imaging.dicom.split import _alike
from medseg.imaging.dicom.volumes import SubVolume
from tests.imaging.build import FRAME_OF_REFERENCE, PATIENT, ROOT_UID, phases, some_series
from tests.imaging.dicom.scanning import scan, verdicts


def of(volume: SubVolume) -> tuple[int, str]:
    return len(volume.frames), volume.differs


def test_several_series_are_told_apart_in_any_folder(tmp_path: Path) -> None:
    first = some_series(4, series="1", tags={"SeriesNumber": 9}).datasets()
    second = some_series(3, series="2", tags={"SeriesNumber": 5}).datasets()
    found = scan([*first, *second], tmp_path)
    assert [(len(v.frames), v.shown["SeriesNumber"], v.of) for v in found.volumes] == [(3, "5", 1), (4, "9", 1)]
    assert verdicts(found) == ["OK", "OK"]


def test_two_orientations_are_two_volumes(tmp_path: Path) -> None:
    turned = some_series(5, row=np.array([0.0, 1, 0]), column=np.array([0.0, 0, -1]), first=20).datasets()
    found = scan([*some_series(4).datasets(), *turned], tmp_path)
    assert verdicts(found) == ["CHOOSE(MULTI_VOLUME)"] * 2
    assert sorted(map(of, found.volumes)) == [(4, "AXIAL"), (5, "SAGITTAL")]
    assert {(v.number, v.of) for v in found.volumes} == {(1, 2), (2, 2)}


def test_two_near_orientations_are_told_by_number(tmp_path: Path) -> None:
    turn = Rotation.from_euler("x", 5, degrees=True).as_matrix()
    turned = some_series(4, row=turn[:, 0], column=turn[:, 1], first=20).datasets()
    found = scan([*some_series(4).datasets(), *turned], tmp_path)
    assert sorted(volume.differs for volume in found.volumes) == ["AXIAL (1 of 2)", "AXIAL (2 of 2)"]


def test_two_sizes_and_two_spacings_are_volumes_of_their_own(tmp_path: Path) -> None:
    wide = some_series(4, first=20, between_rows_mm=1.6)
    large = replace(some_series(4, first=40), stored=np.zeros((4, 7, 9), np.int16))
    found = scan([*some_series(4).datasets(), *wide.datasets(), *large.datasets()], tmp_path)
    assert verdicts(found) == ["CHOOSE(MULTI_VOLUME)"] * 3
    assert {volume.differs for volume in found.volumes} == {
        "6 x 5 pixels, pixels of 0.7 x 0.8 mm",
        "6 x 5 pixels, pixels of 0.7 x 1.6 mm",
        "9 x 7 pixels, pixels of 0.7 x 0.8 mm",
    }


def test_a_slice_of_another_size_does_not_spoil_the_volume(tmp_path: Path) -> None:
    odd = replace(some_series(1, first=20), stored=np.zeros((1, 7, 9), np.int16)).datasets()
    found = scan([*some_series(4).datasets(), *odd], tmp_path)
    assert sorted(verdicts(found)) == ["OK", "REFUSED(TOO_FEW)"]


Said = Callable[[int, int], Mapping[str, Any]]

SPLITS: dict[str, tuple[Said, list[str]]] = {
    "echoes": (lambda k, _: {"EchoTime": (4.6, 9.2)[k % 2]}, ["EchoTime 4.6", "EchoTime 9.2"]),
    "b-values": (lambda k, _: {"DiffusionBValue": (1000.0, 0.0)[k]}, ["DiffusionBValue 0", "DiffusionBValue 1000"]),
    "kernels": (
        lambda k, _: {"ConvolutionKernel": ("B70f", "B30f")[k]},
        ["ConvolutionKernel B30f", "ConvolutionKernel B70f"],
    ),
    "magnitude and phase": (
        lambda k, _: {"ImageType": ["ORIGINAL", "PRIMARY", "MP"[k]]},
        ["ImageType ORIGINAL/PRIMARY/M", "ImageType ORIGINAL/PRIMARY/P"],
    ),
    "phases": (
        lambda k, _: {"TemporalPositionIdentifier": 2 - k},
        ["TemporalPositionIdentifier 1", "TemporalPositionIdentifier 2"],
    ),
    "acquisitions": (lambda k, _: {"AcquisitionNumber": k}, ["AcquisitionNumber 0", "AcquisitionNumber 1"]),
    "triggers": (lambda k, _: {"TriggerTime": 40.5 * k}, ["TriggerTime 0", "TriggerTime 40.5"]),
    "stacks with a name": (lambda k, _: {"StackID": PATIENT if k else "A"}, ["StackID (1 of 2)", "StackID (2 of 2)"]),
    "numbers, phase by phase": (lambda *_: {}, ["time 1 of 2", "time 2 of 2"]),
    "numbers, slice by slice": (lambda k, z: {"InstanceNumber": 2 * z + k}, ["time 1 of 2", "time 2 of 2"]),
    "times of each slice": (
        lambda k, z: {"AcquisitionTime": f"1015{z:02}.{k}", "InstanceNumber": 1},
        ["time 1 of 2", "time 2 of 2"],
    ),
    "triggers of each slice": (lambda k, z: {"TriggerTime": 10 * z + 400 * k}, ["time 1 of 2", "time 2 of 2"]),
    "acquisitions of two slices": (lambda k, z: {"AcquisitionNumber": 4 * k + z // 2}, ["time 1 of 2", "time 2 of 2"]),
}


@pytest.mark.parametrize("name", SPLITS)
def test_what_repeats_at_every_position_is_split(tmp_path: Path, name: str) -> None:
    tags_of, expected = SPLITS[name]
    found = scan(phases(2, 6, tags_of, sop_class=MRImageStorage), tmp_path)
    assert verdicts(found) == ["CHOOSE(MULTI_VOLUME)"] * 2
    assert [volume.differs for volume in found.volumes] == expected
    assert [len(volume.frames) for volume in found.volumes] == [6, 6]
    assert {volume.grid.spacing_mm[2] for volume in found.volumes if volume.grid} == {2.5}


def test_each_phase_holds_its_own_images(tmp_path: Path) -> None:
    found = scan(phases(3, 4), tmp_path)
    uids = [[frame.uid for frame in volume.frames] for volume in found.volumes]
    assert uids == [[f"{ROOT_UID}.1.{1 + 4 * k + z}" for z in range(4)] for k in range(3)]


@pytest.mark.parametrize("vendor", ["SIEMENS", "GE"])
def test_b_values_are_found_where_vendors_kept_them(tmp_path: Path, vendor: str) -> None:
    images = phases(2, 6, sop_class=MRImageStorage)
    for i, ds in enumerate(images):
        if vendor == "SIEMENS":
            ds.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "IS", 1000 * (i // 6))
        else:
            ds.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x39, "IS", [10**9 + 700 * (i // 6), 8, 0, 0])
    expected = ["DiffusionBValue 0", f"DiffusionBValue {1000 if vendor == 'SIEMENS' else 700}"]
    assert [volume.differs for volume in scan(images, tmp_path).volumes] == expected


def test_echoes_over_time_are_split_twice(tmp_path: Path) -> None:
    found = scan(phases(6, 4, lambda k, _: {"EchoTime": 3.0 * (k % 2 + 1)}), tmp_path)
    assert len(found.volumes) == 6
    assert found.volumes[5].differs == "EchoTime 6, time 3 of 3"


def test_directions_of_diffusion_are_a_course_of_time(tmp_path: Path) -> None:
    found = scan(phases(4, 4, lambda k, _: {"DiffusionBValue": 0.0 if k == 0 else 800.0}), tmp_path)
    assert [v.differs for v in found.volumes][:2] == ["DiffusionBValue 0", "DiffusionBValue 800, time 1 of 3"]


@pytest.mark.parametrize(
    "tags_of",
    [
        lambda z: {"AcquisitionNumber": z},
        lambda z: {"AcquisitionNumber": z // 2},
        lambda z: {"TriggerTime": 17.5 * z, "AcquisitionTime": f"1015{z:02}"},
        lambda z: {"EchoTime": 4.6 + 0.001 * z},
        lambda z: {"StackID": str(z % 2), "TemporalPositionIdentifier": z},
        lambda z: {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", f"{z}"]},
    ],
)
def test_what_changes_from_slice_to_slice_splits_nothing(
    tmp_path: Path, tags_of: Callable[[int], Mapping[str, Any]]
) -> None:
    assert verdicts(scan(some_series(12, tags_of=tags_of).datasets(), tmp_path)) == ["OK"]


@pytest.mark.parametrize(
    "tags_of",
    [lambda z: {"AcquisitionNumber": z // 4}, lambda z: {"AcquisitionNumber": z % 2}, lambda z: {"TriggerTime": z % 3}],
)
@pytest.mark.parametrize("missing", [1, 4, 7])
def test_no_header_value_explains_a_missing_slice_away(
    tmp_path: Path, tags_of: Callable[[int], Mapping[str, Any]], missing: int
) -> None:
    datasets = some_series(12, tags_of=tags_of).datasets()
    del datasets[missing]
    assert verdicts(scan(datasets, tmp_path)) == ["REFUSED(GAP)"]


def test_a_phase_with_a_missing_slice_is_refused_alone(tmp_path: Path) -> None:
    images = phases(3, 6, lambda k, _: {"TemporalPositionIdentifier": k + 1})
    del images[6 + 2]
    found = scan(images, tmp_path)
    assert verdicts(found) == ["CHOOSE(MULTI_VOLUME)", "REFUSED(GAP)", "CHOOSE(MULTI_VOLUME)"]
    assert "one of 2 volumes" in found.volumes[0].verdict.said


def test_stacks_one_behind_the_other_are_told_by_their_name(tmp_path: Path) -> None:
    far = some_series(4, first=20, first_mm=np.array([-20.0, -30, 140]), tags={"StackID": "2"}).datasets()
    found = scan([*some_series(4, tags={"StackID": "1"}).datasets(), *far], tmp_path)
    assert list(map(of, found.volumes)) == [(4, "StackID 1"), (4, "StackID 2")]


def test_stations_that_overlap_are_told_apart(tmp_path: Path) -> None:
    below = some_series(6, tags={"AcquisitionNumber": 1}).datasets()
    above = some_series(6, first=20, first_mm=np.array([-20.0, -30, 52.5]), tags={"AcquisitionNumber": 2}).datasets()
    found = scan([*below, *above], tmp_path)
    assert list(map(of, found.volumes)) == [(6, "AcquisitionNumber 1"), (6, "AcquisitionNumber 2")]


def test_slices_of_two_reconstructions_are_untangled(tmp_path: Path) -> None:
    soft = some_series(6, step_mm=3.0, tags={"ConvolutionKernel": "B30f"}).datasets()
    hard = some_series(
        7, step_mm=3.0, first=20, first_mm=np.array([-20.0, -30, 41]), tags={"ConvolutionKernel": "B70f"}
    ).datasets()
    found = scan([*soft, *hard], tmp_path)
    assert list(map(of, found.volumes)) == [(6, "ConvolutionKernel B30f"), (7, "ConvolutionKernel B70f")]


def test_frames_of_reference_are_never_mixed(tmp_path: Path) -> None:
    other = some_series(4, first=20, frame_of_reference="1.2.3", first_mm=np.array([-20.0, -30, 50])).datasets()
    found = scan([*some_series(4).datasets(), *other], tmp_path)
    assert verdicts(found) == ["CHOOSE(MULTI_VOLUME)"] * 2
    assert {volume.frame_of_reference for volume in found.volumes} == {"1.2.3", FRAME_OF_REFERENCE}


# --- what is not split, but told ---

TWO: dict[str, tuple[Any, Any]] = {
    "EchoTime": (4.6, 9.2),
    "FlipAngle": (5, 30),
    "DiffusionBValue": (0.0, 800.0),
    "ConvolutionKernel": ("B30f", "B70f"),
}


@pytest.mark.parametrize("keyword", TWO)
@pytest.mark.parametrize("second", [lambda z: z % 2, lambda z: z // 4], ids=["in turns", "behind each other"])
def test_two_contrasts_in_one_stack_are_told(tmp_path: Path, keyword: str, second: Callable[[int], int]) -> None:
    built = some_series(8, tags_of=lambda z: {keyword: TWO[keyword][second(z)]}, sop_class=MRImageStorage)
    (volume,) = scan(built.datasets(), tmp_path).volumes
    assert str(volume.verdict) == "OK(MIXED_VALUES)"
    assert volume.verdict.said == f"its images have 2 values of {keyword}"


def test_two_contrasts_are_told_beside_what_was_mended(tmp_path: Path) -> None:
    built = some_series(12, tags_of=lambda z: {"EchoTime": (1, 2, 3)[z % 3], "FlipAngle": 5 + 25 * (z > 5)})
    (volume,) = scan(built.datasets(), tmp_path / "a").volumes
    assert volume.verdict.said == "its images have 3 values of EchoTime and 2 values of FlipAngle"
    built = replace(built, frame_of_reference="")
    (volume,) = scan(built.datasets(), tmp_path / "b").volumes
    assert str(volume.verdict) == "FIXED(NO_FRAME_OF_REFERENCE, MIXED_VALUES)"


@pytest.mark.parametrize(
    "tags_of",
    [
        lambda z: {"EchoTime": 4.6 + z},
        lambda z: {"EchoTime": 4.6 + (z in (3, 4, 8))},  # no even stacks
        lambda z: {"EchoTime": 4.6 + (z < 3)},  # too few
        lambda z: {"EchoTime": ("4.6", "4.60")[z % 2]},
        lambda z: {"DiffusionBValue": 800.0} if z % 2 else {},
        lambda z: {"TriggerTime": 10.5 * (z % 2), "AcquisitionTime": f"1015{z % 2:02}", "KVP": 100 + 20 * (z % 2)},
        lambda z: {"RepetitionTime": 500 + z % 2, "SliceThickness": 2 + z % 2, "AcquisitionNumber": z // 6},
    ],
)
def test_values_that_make_no_stacks_of_their_own_are_not_told(
    tmp_path: Path, tags_of: Callable[[int], Mapping[str, Any]]
) -> None:
    assert verdicts(scan(some_series(12, tags_of=tags_of).datasets(), tmp_path)) == ["OK"]


# --- very many of them ---


def many_planes(n: int) -> list[tuple[float, ...]]:
    """Directions that all share their rows, as of radial slices: nothing tells them apart by one number."""
    angles = np.linspace(0, np.pi, n, endpoint=False)
    return [(1.0, 0.0, 0.0, 0.0, float(np.cos(angle)), float(np.sin(angle))) for angle in angles]


def test_very_many_directions_take_no_time() -> None:
    values = many_planes(20_000)
    start = perf_counter()
    assert len(set(_alike(values, lambda _: 1e-5))) == 20_000
    assert perf_counter() - start < 5


@pytest.mark.parametrize("seed", range(5))
def test_values_are_alike_if_the_first_of_them_is_near(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = [tuple(map(float, rng.integers(0, 6, 2) / 10)) for _ in range(60)]
    reach = 0.1 + 0.05 * rng.random()
    first: list[tuple[float, ...]] = []
    expected = []
    for value in values:
        near = [k for k, one in enumerate(first) if max(abs(np.subtract(one, value))) <= reach * max(one)]
        expected.append(near[0] if near else len(first))
        if not near:
            first.append(value)
    assert _alike(values, lambda one: reach * max(one)) == expected
    assert _alike([], lambda _: 1.0) == []
