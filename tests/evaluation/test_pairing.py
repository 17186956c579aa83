from __future__ import annotations

import json

import pytest

from medseg.errors import InputError
from medseg.evaluation.pairing import names_of_structures, pair_up, unambiguous


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


def test_names_come_from_the_predictions_then_from_the_dataset(folders, tmp_path):
    assert names_of_structures(*folders) is None
    (tmp_path / "dataset.json").write_text('{"labels": {"0": "background", "1": "Anterior", "2": "Posterior"}}')
    assert names_of_structures(*folders) == {1: "Anterior", 2: "Posterior"}
    (folders[1] / "dataset.json").write_text('{"labels": {"background": 0, "front": 1}}')
    assert names_of_structures(*folders) == {1: "front"}
    (folders[0] / "predictions.json").write_text('{"version": 1}')
    assert names_of_structures(*folders) == {1: "front"}
    (folders[0] / "predictions.json").write_text('{"labels": {"1": "liver"}}')
    assert names_of_structures(*folders) == {1: "liver"}


@pytest.mark.parametrize("labels", ['{"tumour": [1, 2]}', '["liver"]', '{"liver": "one"}', '{"1": "a", "2": "a"}'])
def test_names_that_cannot_be_used(folders, labels):
    (folders[1] / "dataset.json").write_text(f'{{"labels": {labels}}}')
    with pytest.raises(InputError, match=r"dataset\.json"):
        names_of_structures(*folders)


def test_unambiguous():
    assert unambiguous({0: "background", 1: "a"}) == {1: "a"}
    with pytest.raises(InputError, match="several label values are called 'a'"):
        unambiguous({1: "a", 2: "a"})
