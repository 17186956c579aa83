from __future__ import annotations

import pytest

from medseg.errors import InputError
from medseg.planning.fingerprint import Sketch
from medseg.planning.intensities import normalisation
from tests.planning.build import alike, sketch


def test_ct_by_the_labelled_voxels_of_the_data_set():
    how, reason = normalisation(alike(channels=(sketch(-100, 300),)), 0, "ct")
    assert how.kind == "ct"
    assert (how.lower, how.upper) == pytest.approx((-98, 298))
    assert how.mean == pytest.approx(100)
    assert how.sd == pytest.approx(400 / 12**0.5)
    assert "-98 to 298 HU" in reason.choice
    assert reason.fields == ("preprocessing.channels",)
    assert (reason.numbers["lowest, HU"], reason.numbers["mean, HU"]) == (how.lower, how.mean)
    _, reason = normalisation(alike(channels=(sketch(-0.6, 100),)), 0, "CT")
    assert "clip 0 to" in reason.choice


def test_several_channels_of_ct_are_all_ct():
    assert [normalisation(alike(), 0, name)[0].kind for name in ("CT 0", "CT 1", "CTA")] == ["ct", "ct", "zscore"]


@pytest.mark.parametrize("name", ["MR", "T1", "US", "0", "PET"])
def test_all_else_scan_by_scan(name):
    how, reason = normalisation(alike(), 0, name)
    assert (how.kind, how.nonzero_only) == ("zscore", False)
    assert reason.why
    assert ("dataset.json" in reason.why) == (name == "0")


def test_by_nonzero_voxels_where_much_is_cropped():
    for cropped, nonzero in (((30, 40, 40), False), ((29, 40, 40), True)):
        how, reason = normalisation(alike(shape=(40, 40, 40), cropped=cropped), 0, "MR")
        assert reason.numbers["share of the median scan that crops keep"] == cropped[0] / 40
        assert how.nonzero_only is nonzero


def test_ct_without_labelled_voxels_is_refused():
    empty = Sketch(voxels=0, mean=0, sd=0, quantiles=())
    with pytest.raises(InputError, match="labelled"):
        normalisation(alike(channels=(empty,)), 0, "CT")
