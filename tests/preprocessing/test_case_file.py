from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from medseg.errors import ResourceError
from medseg.preprocessing import case_file
from medseg.preprocessing.case_file import Part, read_case_file, write_case_file

KINDS = ("<f4", "<f2", "<i8", "<u4", "<u2", "|u1")


def part(values: np.ndarray, kind: str = "") -> Part:
    return Part(values, np.dtype(kind or values.dtype))


def written(path: Path) -> Path:
    write_case_file(path, "told", {"a": part(np.arange(6, dtype=np.float32).reshape(2, 3))})
    return path


@settings(deadline=None, max_examples=60, database=None)
@given(
    shapes=st.lists(st.tuples(st.sampled_from(KINDS), st.lists(st.integers(0, 5), max_size=4)), max_size=6),
    seed=st.integers(0, 99),
    piece=st.sampled_from([1, 7, 1 << 20]),
)
def test_arrays_come_back_for_us_and_for_any_safetensors_reader(tmp_path_factory, shapes, seed, piece):
    path = tmp_path_factory.mktemp("file") / "case.safetensors"
    rng = np.random.default_rng(seed)
    given_ = {f"array {k}": rng.integers(0, 200, shape).astype(kind) for k, (kind, shape) in enumerate(shapes)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(case_file, "_PIECE", piece)
        write_case_file(path, 'a "record"\n', {name: part(array) for name, array in given_.items()})
    found = read_case_file(path)
    assert found is not None
    assert found.record == 'a "record"\n'
    arrays, theirs = found.arrays(), load_file(path)
    assert set(arrays) == set(theirs) == set(given_)
    for name, array in given_.items():
        assert arrays[name].dtype == theirs[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array, strict=True)
        np.testing.assert_array_equal(theirs[name], array, strict=True)
        assert arrays[name].flags.aligned
        assert not arrays[name].flags.writeable


def test_values_are_converted_on_the_way_and_arrays_of_any_order_are_kept(tmp_path):
    image = np.asfortranarray(np.arange(24.0, dtype=np.float32).reshape(2, 3, 4))
    write_case_file(tmp_path / "x", "", {"image": part(image, "<f2"), "where": part(np.arange(3), "<u4")})
    arrays = read_case_file(tmp_path / "x").arrays()
    assert (arrays["image"].dtype, arrays["where"].dtype) == (np.float16, np.uint32)
    np.testing.assert_array_equal(arrays["image"], image)
    assert isinstance(arrays["image"], np.memmap)


def test_what_is_not_whole_is_none(tmp_path):
    assert read_case_file(tmp_path / "none") is None
    raw = written(tmp_path / "x").read_bytes()
    for end in range(len(raw)):
        (tmp_path / "x").write_bytes(raw[:end])
        assert read_case_file(tmp_path / "x") is None
    (tmp_path / "x").write_bytes(raw + b"\0")
    assert read_case_file(tmp_path / "x") is None


@pytest.mark.parametrize(
    "header",
    [
        [],
        1,
        {},
        {"__metadata__": {}},
        {"__metadata__": {"medseg": ""}, "a": 1},
        {"__metadata__": {"medseg": ""}, "a": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}},
        {"__metadata__": {"medseg": ""}, "a": {"dtype": "U8", "shape": 1, "data_offsets": [0, 1]}},
        {"__metadata__": {"medseg": ""}, "a": {"dtype": "U8", "shape": ["x"], "data_offsets": [0, 1]}},
        {"__metadata__": {"medseg": ""}, "a": {"dtype": "U8", "shape": [9], "data_offsets": [0, 1]}},
        {"__metadata__": {"medseg": ""}, "a": {"dtype": "U8", "shape": [1], "data_offsets": []}},
        {"__metadata__": {"medseg": ""}, "a": {"dtype": "U8", "shape": [1], "data_offsets": ["x", 1]}},
        {"__metadata__": {"medseg": ""}, "a": {"dtype": "U8", "shape": [1], "data_offsets": [-900, 1]}},
        {"__metadata__": {"medseg": ""}, "a": {"dtype": "U8", "shape": [-1, -1], "data_offsets": [0, 1]}},
    ],
)
def test_a_header_of_another_kind_is_none(tmp_path, header):
    told = json.dumps(header).encode()
    (tmp_path / "x").write_bytes(len(told).to_bytes(8, "little") + told + b"\0")
    assert read_case_file(tmp_path / "x") is None


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told(tmp_path):
    written(tmp_path / "x").chmod(0)
    with pytest.raises(ResourceError, match="permission"):
        read_case_file(tmp_path / "x")


def test_a_folder_in_its_place_is_told(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(ResourceError, match="directory"):
        read_case_file(tmp_path / "x")


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    raw = written(tmp_path / "x").read_bytes()
    with pytest.raises(KeyError):
        write_case_file(tmp_path / "x", "", {"a": part(np.zeros(3), "<c16")})
    assert (tmp_path / "x").read_bytes() == raw
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
