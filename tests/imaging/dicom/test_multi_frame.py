from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import FileDataset
from pydicom.uid import CTImageStorage, MRImageStorage
from scipy.spatial.transform import Rotation

from medseg.imaging.dicom import frames
from tests.imaging.build import change, enhanced, group, some_series
from tests.imaging.dicom.scanning import only, scan, verdicts


def test_an_enhanced_object_equals_its_single_images(tmp_path: Path) -> None:
    for sop_class in (CTImageStorage, MRImageStorage):
        turn = Rotation.from_euler("xyz", (10, 20, 30), degrees=True).as_matrix()
        built = some_series(5, sop_class=sop_class, row=turn[:, 0], column=turn[:, 1])
        whole = enhanced(built, [{"z": z, "Dimensions": [1, z + 1]} for z in (3, 1, 0, 2, 4)])
        volume = only(scan([whole], tmp_path / f"{sop_class}e"))
        single = only(scan(built.datasets(), tmp_path / f"{sop_class}s"))
        assert str(volume.verdict) == "OK"
        assert [frame.index for frame in volume.frames] == [2, 1, 3, 0, 4]
        assert volume.modality == single.modality
        assert volume.grid is not None
        assert single.grid is not None
        assert volume.grid.deviation_mm(single.grid) < 1e-6


FRAMES: dict[str, tuple[list[Mapping[str, Any]], list[str]]] = {
    "echoes": ([{"EchoTime": 4.6}, {"EchoTime": 9.2}], ["EchoTime 4.6", "EchoTime 9.2"]),
    "b-values": ([{"BValue": 0.0}, {"BValue": 1000.0}], ["DiffusionBValue 0", "DiffusionBValue 1000"]),
    "kinds": (
        [{"FrameType": ["ORIGINAL", "PRIMARY", kind, "NONE"]} for kind in ("M_FFE", "B0 MAP")],
        ["ImageType ORIGINAL/PRIMARY/B0 MAP/NONE", "ImageType ORIGINAL/PRIMARY/M_FFE/NONE"],
    ),
    "stacks": ([{"StackID": "1"}, {"StackID": "2"}], ["StackID 1", "StackID 2"]),
    "phases": (
        [{"TemporalPositionIndex": 1}, {"TemporalPositionIndex": 2}],
        ["TemporalPositionIdentifier 1", "TemporalPositionIdentifier 2"],
    ),
    "moments": ([{"Moment": "20200101101500.5"}, {"Moment": "20200101101530"}], ["time 1 of 2", "time 2 of 2"]),
    "frame numbers": ([{}, {}], ["time 1 of 2", "time 2 of 2"]),
}


@pytest.mark.parametrize("name", FRAMES)
def test_frames_of_several_volumes_are_split(tmp_path: Path, name: str) -> None:
    each, expected = FRAMES[name]
    built = some_series(5, sop_class=MRImageStorage)
    found = scan([enhanced(built, [{"z": z, **said} for said in each for z in range(5)])], tmp_path)
    assert verdicts(found) == ["CHOOSE(MULTI_VOLUME)"] * 2
    assert [volume.differs for volume in found.volumes] == expected
    assert {len(volume.frames) for volume in found.volumes} == {5}
    assert sorted(frame.index for volume in found.volumes for frame in volume.frames) == list(range(10))


def test_dimension_indices_split_what_nothing_else_does(tmp_path: Path) -> None:
    each = [{"z": z, "Dimensions": [z + 1, k]} for z in range(5) for k in (2, 1)]
    found = scan([enhanced(some_series(5, sop_class=MRImageStorage), each)], tmp_path)
    assert [volume.differs for volume in found.volumes] == ["dimension 2 (1 of 2)", "dimension 2 (2 of 2)"]
    assert [frame.index for frame in found.volumes[0].frames] == [1, 3, 5, 7, 9]


def test_volumes_in_several_multi_frame_files(tmp_path: Path) -> None:
    built = some_series(5, sop_class=MRImageStorage)
    files = [enhanced(built, [{"z": z, "EchoTime": float(k)} for z in range(5)], number=k) for k in (1, 2)]
    found = scan(files, tmp_path / "echoes")
    assert [(len(v.frames), v.differs) for v in found.volumes] == [(5, "EchoTime 1"), (5, "EchoTime 2")]
    again = [change(enhanced(built, [{"z": z} for z in range(5)], number=k), InstanceNumber=k) for k in (2, 1)]
    in_time = scan(again, tmp_path / "time").volumes
    assert [volume.differs for volume in in_time] == ["time 1 of 2", "time 2 of 2"]
    assert [{frame.uid[-1] for frame in volume.frames} for volume in in_time] == [{"1"}, {"2"}]
    halves = [enhanced(built, [{"z": z} for z in part], number=k) for k, part in enumerate([(0, 1), (2, 3, 4)])]
    whole = only(scan(halves, tmp_path / "halves"))
    assert str(whole.verdict) == "OK"
    assert [frame.index for frame in whole.frames] == [0, 1, 0, 1, 2]


def test_a_multi_frame_file_sent_twice_is_used_once(tmp_path: Path) -> None:
    one = enhanced(some_series(5), [{"z": z} for z in range(5)])
    volume = only(scan([one, one], tmp_path))
    assert str(volume.verdict) == "FIXED(REPEATS)"
    assert sorted(copy.index for copy in volume.repeats) == list(range(5))


def lose(ds: FileDataset, name: str) -> FileDataset:
    """Take from a multi-frame object one of the things that it should hold."""
    if name == "all groups":
        del ds.PerFrameFunctionalGroupsSequence, ds.SharedFunctionalGroupsSequence
    elif name == "a position":
        del ds.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence
    elif name == "positions, empty":
        for item in ds.PerFrameFunctionalGroupsSequence:
            item.PlanePositionSequence = []
    elif name == "orientation":
        del ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence
    elif name == "frames":
        change(ds, NumberOfFrames=7, PixelData=ds.PixelData * 2)
    return ds


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("all groups", "MULTI_FRAME"),
        ("frames", "MULTI_FRAME"),
        ("a position", "NO_GEOMETRY"),
        ("positions, empty", "NO_GEOMETRY"),
        ("orientation", "NO_GEOMETRY"),
    ],
)
def test_what_a_multi_frame_object_does_not_say_is_missed(tmp_path: Path, name: str, code: str) -> None:
    whole = lose(enhanced(some_series(5), [{"z": z} for z in range(5)]), name)
    assert verdicts(scan([whole], tmp_path)) == [f"REFUSED({code})"]


def test_values_may_stand_in_either_group_or_in_the_header(tmp_path: Path) -> None:
    whole = enhanced(some_series(5), [{"z": z} for z in range(5)])
    shared = whole.SharedFunctionalGroupsSequence[0]
    for item in whole.PerFrameFunctionalGroupsSequence:
        item.PlaneOrientationSequence = shared.PlaneOrientationSequence
        del item.FrameContentSequence
    whole.PixelSpacing = shared.PixelMeasuresSequence[0].PixelSpacing
    del whole.SharedFunctionalGroupsSequence, whole.DimensionIndexSequence
    assert verdicts(scan([whole], tmp_path)) == ["OK"]


def test_converted_values_of_single_images_count(tmp_path: Path) -> None:
    whole = enhanced(some_series(5), [{"z": z} for _ in range(2) for z in range(5)])
    for i, item in enumerate(whole.PerFrameFunctionalGroupsSequence):
        kept = {"ConvolutionKernel": "B30f" if i < 5 else "B70f"}
        item.update(group(UnassignedPerFrameConvertedAttributesSequence=kept))
    found = scan([whole], tmp_path)
    assert [volume.differs for volume in found.volumes] == ["ConvolutionKernel B30f", "ConvolutionKernel B70f"]


def test_the_largest_file_is_bounded_before_its_frames_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = enhanced(some_series(5), [{"z": z} for z in range(5)])
    change(whole, Rows=65535, Columns=65535, NumberOfFrames=2**31 - 1)
    monkeypatch.setattr(frames, "_enhanced", lambda _: pytest.fail("frames were looked at"))
    assert verdicts(scan([whole], tmp_path)) == ["REFUSED(TOO_LARGE)"]
