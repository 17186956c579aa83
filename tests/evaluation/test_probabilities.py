from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from medseg.errors import GeometryError, InputError
from medseg.evaluation.probabilities import structure_probabilities
from medseg.imaging.grid import Grid
from medseg.imaging.nifti import read_grid, read_volumes, write_shares
from medseg.imaging.nifti_header import read_header
from medseg.inference.asked import Asked
from medseg.inference.folder import infer_folder
from tests.imaging.build import write_nifti
from tests.tiny import CPU, blobs, last, untrained_run

STEPS = 65535
SHAPE = (5, 6, 7)
AFFINE = np.array([[0, -0.8, 0, 10], [0, 0, 0.9, -20], [2.5, 0, 0, 5], [0, 0, 0, 1]])
GRID = Grid(SHAPE, AFFINE)
NAMES = ("background", "liver", "left kidney")


def shares(n=3):
    made = np.random.default_rng(0).integers(0, STEPS + 1, (*SHAPE, n)).astype(np.uint16)
    made[0, 0, 0], made[0, 0, 1] = 0, STEPS
    return made


def predicted(folder, maps, outputs=NAMES, **said):
    write_shares(folder / "a.probabilities.nii.gz", maps, GRID)
    cases = [{"case": "b", "probabilities_of": []}, {"case": "a", "probabilities_of": outputs}]
    (folder / "predictions.json").write_text(json.dumps({"cases": cases, **said}))
    return folder


def read(folder, *structures, grid=GRID, case="a"):
    return dict(structure_probabilities(folder, case, structures, grid))


def test_each_structure_has_its_own_map(tmp_path):
    maps = shares()
    found = read(predicted(tmp_path, maps), "Left_Kidney", "liver", "spleen")
    assert list(found) == ["liver", "Left_Kidney"]
    for name, k in (("liver", 1), ("Left_Kidney", 2)):
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], maps[..., k] / STEPS, atol=1e-7)
        assert found[name].max() == 1


def test_of_a_run(tmp_path):
    """What `infer --probabilities` writes is what is read, on the scan's own grid."""
    run = untrained_run(tmp_path)
    scan = write_nifti(tmp_path / "scans" / "scan0_0000.nii.gz", blobs(0)[0], np.diag([-1.0, 1.1, 1.2, 1.0]))
    done = last(infer_folder(run, tmp_path / "scans", tmp_path / "out", CPU, Asked(probabilities=True)))
    (case,) = done.predictions.cases
    names = case.probabilities_of
    found = read(tmp_path / "out", *names, grid=read_grid(scan), case="scan0")
    assert tuple(found) == names
    np.testing.assert_allclose(sum(found.values()), 1, atol=1e-4)
    assert any(0.01 < one.mean() < 0.99 for one in found.values())


def test_a_reference_may_be_stored_in_another_direction(tmp_path):
    maps = shares()
    predicted(tmp_path, maps)
    for order, flips in (((2, 0, 1), (1, 1, 1)), ((1, 2, 0), (1, -1, -1)), ((0, 1, 2), (-1, 1, -1))):
        turn = np.zeros((4, 4))
        turn[3, 3] = 1
        for new, (old, step) in enumerate(zip(order, flips, strict=True)):
            turn[old, new] = step
            turn[old, 3] = SHAPE[old] - 1 if step < 0 else 0
        grid = Grid(tuple(SHAPE[axis] for axis in order), AFFINE @ turn)
        expected = maps[..., 1].transpose(order)[tuple(slice(None, None, step) for step in flips)]
        np.testing.assert_allclose(read(tmp_path, "liver", grid=grid)["liver"], expected / STEPS, atol=1e-7)


def test_a_region_of_one_value_is_called_as_that_value_too(tmp_path):
    said = {"labels": {"1": "oedema", "2": "tumour"}, "regions": {"whole": [1, 2], "core": [2]}}
    predicted(tmp_path, shares(2), ("whole", "core"), **said)
    assert list(read(tmp_path, "tumour", "whole", "oedema")) == ["whole", "tumour"]
    assert list(read(tmp_path, "core")) == ["core"]


def test_no_probabilities_were_asked_for(tmp_path):
    assert read(tmp_path, "liver") == {}
    folder = predicted(tmp_path, shares())
    assert read(folder, "liver", case="b") == {}
    assert read(folder, "liver", case="c") == {}
    (folder / "a.probabilities.nii.gz").unlink()
    assert read(folder, "liver") == {}


def test_refuses_what_is_not_as_it_is_said(tmp_path):
    predicted(tmp_path, shares(), NAMES[:2])
    with pytest.raises(InputError, match=r"holds 3 maps, and predictions\.json says 2"):
        read(tmp_path, "liver")
    predicted(tmp_path, shares())
    for other in (Grid((5, 6, 8), AFFINE), Grid(SHAPE, np.diag([1.0, 1, 1, 1]))):
        with pytest.raises(GeometryError, match="not those of the reference"):
            read(tmp_path, "liver", grid=other)
    write_nifti(tmp_path / "a.probabilities.nii.gz", np.full((*SHAPE, 3), 1.5, np.float32), AFFINE)
    with pytest.raises(InputError, match="outside of 0 to 1"):
        read(tmp_path, "liver")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("piece", [1, 1 << 17])
def test_volumes_in_turn(tmp_path, monkeypatch, suffix, piece):
    monkeypatch.setattr("medseg.imaging.nifti._PIECE", 100 * piece)
    path, maps = tmp_path / f"a{suffix}", shares(5)
    write_shares(path, maps, GRID)
    found = dict(read_volumes(path, read_header(path), {3, 0}))
    assert list(found) == [0, 3]
    for k, one in found.items():
        np.testing.assert_allclose(one, maps[..., k] / STEPS, atol=1e-7)


def test_a_damaged_file_is_found_out(tmp_path):
    path, plain = tmp_path / "a.nii.gz", tmp_path / "a.nii"
    write_shares(path, shares(), GRID)
    header, whole = read_header(path), path.read_bytes()
    plain.write_bytes(gzip.decompress(whole)[:-1])
    for packed in (whole[:-9], whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:]):
        path.write_bytes(packed)
        with pytest.raises(InputError, match="DAMAGED"):
            dict(read_volumes(path, header, {1}))
    with pytest.raises(InputError, match="TRUNCATED"):
        dict(read_volumes(plain, read_header(plain), {1}))
