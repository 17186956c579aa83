from __future__ import annotations

import json

import numpy as np
import pytest

from medseg.errors import InputError
from medseg.evaluation.names import structures_of, unambiguous, unknown_names
from medseg.evaluation.pairing import Pair, Pairing
from medseg.imaging.structures import Structures
from tests.imaging.build import some_label
from tests.imaging.test_itk import seg_nrrd

NOTHING = Pairing((), ())


@pytest.fixture
def folders(tmp_path):
    predictions, references = tmp_path / "out", tmp_path / "labels"
    predictions.mkdir()
    references.mkdir()
    return predictions, references


def named(path, *names):
    """A .seg.nrrd with these (value, name)."""
    array = np.zeros(some_label().shape, np.uint8)
    for x, (value, _) in enumerate(names):
        array[x] = value
    said = [{"Name": name, "LabelValue": str(value), "Layer": "0"} for value, name in names]
    return seg_nrrd(path, array, *said)


def test_names_come_from_the_predictions_then_from_the_dataset(folders, tmp_path):
    assert structures_of(*folders, NOTHING) == (None, "")
    (tmp_path / "dataset.json").write_text('{"labels": {"0": "background", "1": "Anterior", "2": "Posterior"}}')
    assert structures_of(*folders, NOTHING)[0].labels == {1: "Anterior", 2: "Posterior"}
    (folders[1] / "dataset.json").write_text('{"labels": {"background": 0, "front": 1}}')
    assert structures_of(*folders, NOTHING)[0].labels == {1: "front"}
    (folders[0] / "predictions.json").write_text('{"version": 1}')
    assert structures_of(*folders, NOTHING)[0].labels == {1: "front"}
    (folders[0] / "predictions.json").write_text('{"labels": {"1": "liver"}}')
    assert structures_of(*folders, NOTHING)[0].labels == {1: "liver"}


def test_the_two_sides_number_structures_alike(folders):
    (folders[0] / "predictions.json").write_text('{"labels": {"1": "liver"}}')
    (folders[1] / "dataset.json").write_text('{"labels": {"background": 0, "Liver": 2}}')
    with pytest.raises(InputError, match="liver is label 1 in the predictions and 2 in the references"):
        structures_of(*folders, NOTHING)
    (folders[1] / "dataset.json").write_text('{"labels": {"background": 0, "spleen": 2, "ignore": 1}}')
    with pytest.raises(InputError, match="liver is label 1 in the predictions, which the references ignore"):
        structures_of(*folders, NOTHING)


@pytest.mark.parametrize("labels", ['["liver"]', '{"liver": "one"}', '{"1": "a", "2": "a"}'])
def test_names_that_cannot_be_used(folders, labels):
    (folders[1] / "dataset.json").write_text(f'{{"labels": {labels}}}')
    with pytest.raises(InputError, match=r"dataset\.json"):
        structures_of(*folders, NOTHING)
    (folders[0] / "predictions.json").write_text('{"labels": {"1": "liver"}}')
    known, aside = structures_of(*folders, NOTHING)
    assert known == Structures({1: "liver"})
    assert aside.startswith("the dataset.json of the references cannot be understood")


def test_regions_and_a_value_to_ignore(folders):
    said = {"labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}, "regions_class_order": [1, 2]}
    (folders[1] / "dataset.json").write_text(json.dumps(said))
    found, _ = structures_of(*folders, NOTHING)
    assert (found.regions["whole"], found.ignore) == ((1, 2), 3)
    (folders[0] / "predictions.json").write_text('{"labels": {"1": "edema", "2": "core"}}')
    found, _ = structures_of(*folders, NOTHING)
    assert (found.labels, found.regions["whole"], found.ignore) == ({1: "edema", 2: "core"}, (1, 2), 3)


def test_names_in_the_files(folders):
    one = named(folders[0] / "a.seg.nrrd", (1, "spleen"), (2, "liver"))
    other = named(folders[1] / "a.seg.nrrd", (1, "Liver"), (2, "colon"))
    pairing = Pairing((Pair("a", other, one),), ())
    assert {v: n.casefold() for v, n in structures_of(*folders, pairing)[0].labels.items()} == {
        1: "colon",
        2: "liver",
        3: "spleen",
    }


def test_files_without_names_take_the_numbers_of_the_others(folders):
    one = named(folders[0] / "a.seg.nrrd", (1, "spleen"), (2, "liver"))
    (folders[1] / "a.nii.gz").touch()
    pairs = [Pair("a", folders[1] / "a.nii.gz", one)]
    assert structures_of(*folders, Pairing(tuple(pairs), ()))[0].labels == {1: "spleen", 2: "liver"}
    pairs.append(Pair("b", folders[1] / "a.nii.gz", named(folders[0] / "b.seg.nrrd", (2, "spleen"), (1, "liver"))))
    with pytest.raises(InputError, match=r"say what the values mean in a dataset\.json"):
        structures_of(*folders, Pairing(tuple(pairs), ()))


def test_structures_that_only_references_know(folders):
    one = named(folders[1] / "a.seg.nrrd", (1, "hepar"), (2, "Left_Kidney"))
    (folders[0] / "a.nii.gz").touch()
    pairing = Pairing((Pair("a", one, folders[0] / "a.nii.gz"),), ())
    assert unknown_names(pairing, Structures({1: "liver", 2: "left kidney"})) == ("hepar",)
    assert unknown_names(pairing, None) == ()


def test_unambiguous():
    assert unambiguous({0: "background", 1: "a"}) == {1: "a"}
    with pytest.raises(InputError, match="several label values are called 'a'"):
        unambiguous({1: "a", 2: "a"})
