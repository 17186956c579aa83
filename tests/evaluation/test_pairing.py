from __future__ import annotations

import json
import re

import numpy as np
import pytest

from medseg.errors import InputError
from medseg.evaluation.pairing import pair_up
from medseg.imaging.naming import dicom_name
from tests.imaging.build import ROOT_UID, some_series
from tests.imaging.dicom.test_seg import made_seg, saved


@pytest.fixture
def folders(tmp_path):
    predictions, references = tmp_path / "out", tmp_path / "labels"
    predictions.mkdir()
    references.mkdir()
    return predictions, references


def touch(folder, *names):
    for name in names:
        (folder / name).touch()


def paired(predictions, references):
    return {
        pair.case: (pair.reference.name, pair.prediction and pair.prediction.name)
        for pair in pair_up(predictions, references).pairs
    }


def test_pairs_by_case_name(folders):
    touch(folders[0], "a.nii.gz", "b.nii", "lone.nii.gz", "statistics.csv", "predictions.json", "._a.nii.gz")
    touch(folders[1], "a_0000.nii.gz", "b.nii.gz", "c.nii.gz", "dataset.json", "notes.html")
    (folders[0] / "cases").mkdir()
    (folders[0] / "predictions.json").write_text("{}")
    assert paired(*folders) == {
        "a": ("a_0000.nii.gz", "a.nii.gz"),
        "b": ("b.nii.gz", "b.nii"),
        "c": ("c.nii.gz", None),
    }
    assert pair_up(*folders).unpaired_predictions == ("lone",)


def test_a_case_map_leads_from_a_source_to_its_case(folders):
    touch(folders[0], "case-1234abcd.nii.gz")
    touch(folders[1], "Head CT.nii.gz", "Neck.nii.gz")
    cases = {"case-1234abcd": {"names": ["series", "Head CT"]}, "case-00000000": {"names": ["Neck"], "path": "x"}}
    (folders[0] / "case_map.json").write_text(json.dumps({"version": 1, "cases": cases}))
    assert paired(*folders) == {
        "case-00000000": ("Neck.nii.gz", None),
        "case-1234abcd": ("Head CT.nii.gz", "case-1234abcd.nii.gz"),
    }


def test_single_files(folders):
    touch(folders[0], "a.nii.gz", "b.nii.gz")
    touch(folders[1], "a.nii.gz", "b.nii.gz", "other.nii.gz")
    one, other = folders[0] / "a.nii.gz", folders[1] / "other.nii.gz"
    assert paired(one, folders[1]) == {"a": ("a.nii.gz", "a.nii.gz")}
    assert paired(folders[0], folders[1] / "b.nii.gz") == {"b": ("b.nii.gz", "b.nii.gz")}
    assert pair_up(folders[0], folders[1] / "b.nii.gz").unpaired_predictions == ()
    assert paired(one, other) == {"a": ("other.nii.gz", "a.nii.gz")}


def test_what_is_missing_is_said_in_one_line(folders, tmp_path):
    with pytest.raises(InputError, match=r"no such file or folder; give the folder \(or file\) of the predictions"):
        pair_up(tmp_path / "nowhere", folders[1])
    touch(folders[0], "a.nii.gz")
    with pytest.raises(InputError, match="holds no reference") as caught:
        pair_up(*folders)
    assert str(folders[1]) in str(caught.value)
    assert "\n" not in str(caught.value)
    touch(folders[1], "z.nii.gz")
    with pytest.raises(InputError, match="for example a and z"):
        pair_up(*folders)


def test_two_files_of_one_case(folders):
    touch(folders[0], "a.nii.gz", "a_0000.nii.gz")
    touch(folders[1], "a.nii.gz")
    with pytest.raises(InputError, match=r"a\.nii\.gz and a_0000\.nii\.gz are the same case"):
        pair_up(*folders)


@pytest.mark.parametrize("text", ["{", "[]", '{"cases": {"case-1": []}}', '{"cases": 3}'])
def test_a_damaged_case_map(folders, text):
    touch(folders[0], "a.nii.gz")
    touch(folders[1], "a.nii.gz")
    (folders[0] / "case_map.json").write_text(text)
    with pytest.raises(InputError, match=r"case_map\.json"):
        pair_up(*folders)


def labels(path, series="1", at=1):
    """A SEG of one slice of the series."""
    path.parent.mkdir(parents=True, exist_ok=True)
    built = some_series(4, series=series)
    array = np.zeros(built.stored.shape, np.uint8)
    array[at, 1:3, 1:3] = 1
    return saved(path, made_seg(built, array, names=["liver"]))


def test_a_folder_that_is_called_like_a_case_is_none(folders):
    seg = labels(folders[1] / "case-controls" / "a.dcm")
    touch(folders[0], "a.nii.gz")
    assert [(pair.case, pair.reference) for pair in pair_up(*folders).pairs] == [("a", seg)]


def test_the_folder_of_a_prediction_is_no_case(folders):
    (folders[0] / "case_map.json").write_text(json.dumps({"cases": {"case-1234abcd": {"names": ["sub"]}}}))
    seg = labels(folders[0] / "sub" / "b.dcm")
    touch(folders[1], "b.nii.gz")
    assert [(pair.case, pair.prediction) for pair in pair_up(*folders).pairs] == [("b", seg)]


def test_dicom_objects_of_one_series_are_a_pair(folders):
    for side in folders:
        for patient, series in (("Mueller", "1"), ("Schmidt", "2")):
            labels(side / patient / "seg.dcm", series)
    pairing = pair_up(*folders)
    assert [pair.reference.parent.name == pair.prediction.parent.name for pair in pairing.pairs] == [True, True]
    assert all(re.fullmatch("seg-[0-9a-f]{8}", pair.case) for pair in pairing.pairs)


def test_names_of_dicom_files_are_never_told(folders):
    labels(folders[0] / "Mueller 1.dcm", "1")
    labels(folders[1] / "Schmidt" / "Schmidt 2.dcm", "2")
    with pytest.raises(InputError) as caught:
        pair_up(*folders)
    assert re.search("example seg-[0-9a-f]{8} and seg-[0-9a-f]{8}", str(caught.value))
    for one, other in (
        (folders[0] / "Mueller 1.dcm", folders[1]),
        (folders[0], folders[1] / "Schmidt" / "Schmidt 2.dcm"),
    ):
        with pytest.raises(InputError) as caught:
            pair_up(one, other)
        assert "Mueller" not in str(caught.value)
        assert "Schmidt" not in str(caught.value)
    labels(folders[0] / "x" / "Mueller 1.dcm", "3")
    with pytest.raises(
        InputError, match=r"a DICOM object \(seg-\w+\) and a DICOM object \(seg-\w+\) are the same"
    ) as caught:
        pair_up(*folders)
    assert "Mueller" not in str(caught.value)


def test_the_key_of_the_case_map_names_what_it_does_not_know(folders):
    touch(folders[0], "case-1234abcd.nii.gz")
    (folders[0] / "predictions.json").write_text("{}")
    cases = {"case-1234abcd": {"names": [f"{ROOT_UID}.1"]}}
    (folders[0] / "case_map.json").write_text(json.dumps({"key": "ab" * 16, "cases": cases}))
    labels(folders[1] / "A.dcm", "1")
    labels(folders[1] / "B.dcm", "2")
    one, other = pair_up(*folders).pairs
    assert (one.case, one.reference.name) == ("case-1234abcd", "A.dcm")
    assert other.case == dicom_name(bytes.fromhex("ab" * 16), "reference B.dcm", "seg")
    assert pair_up(*folders).pairs[1] == other


def test_a_file_at_the_top_does_not_hide_dicom_below(folders):
    touch(folders[0], "a.nii.gz", "b.nii.gz")
    touch(folders[1], "a.nii.gz")
    labels(folders[1] / "below" / "b.dcm")
    assert paired(*folders) == {"a": ("a.nii.gz", "a.nii.gz"), "b": ("b.dcm", "b.nii.gz")}


def test_a_damaged_object_does_not_end_the_pairing(folders):
    labels(folders[1] / "a.dcm")
    whole = (folders[1] / "a.dcm").read_bytes()
    (folders[1] / "a.dcm").write_bytes(whole[:700])
    touch(folders[0], "a.nii.gz")
    assert paired(*folders) == {"a": ("a.dcm", "a.nii.gz")}


def test_what_is_written_of_a_case_beside_its_labels_is_no_prediction(folders):
    touch(
        folders[0],
        "a.nii.gz",
        "a.probabilities.nii.gz",
        "a.uncertainty.nii.gz",
        "a.lesion.instances.nii.gz",
        "a.b.nii.gz",
    )
    touch(folders[1], "a.nii.gz", "a.b.nii.gz")
    (folders[0] / "predictions.json").write_text(json.dumps({"cases": [{"case": "a"}, {"case": "a.b"}]}))
    assert paired(*folders) == {"a": ("a.nii.gz", "a.nii.gz"), "a.b": ("a.b.nii.gz", "a.b.nii.gz")}
    assert pair_up(*folders).unpaired_predictions == ()
