from __future__ import annotations

from pathlib import Path

from medseg.imaging.channels import case_name, group_channels


def grouped(*names: str, whole: tuple[str, ...] = ()) -> dict[str, tuple[str, ...]]:
    cases = group_channels([Path(n) for n in names], whole).cases
    return {name: tuple(p.name for p in paths) for name, paths in cases.items()}


def test_case_name() -> None:
    names = ["x.nii.gz", "x_0000.nii.gz", "x_0001.nii", "_0000.nii"]
    assert [case_name(Path(n)) for n in names] == ["x", "x", "x_0001", "_0000"]


def test_channels_are_brought_together_in_order() -> None:
    assert grouped("b_0001.nii.gz", "b_0000.nii.gz", "a.nii") == {
        "a": ("a.nii",),
        "b": ("b_0000.nii.gz", "b_0001.nii.gz"),
    }


def test_numbers_of_cases_are_no_channels() -> None:
    assert grouped("x_0017.nii", "x_0018.nii") == {"x_0017": ("x_0017.nii",), "x_0018": ("x_0018.nii",)}
    assert len(grouped(*[f"x_{i:04d}.nii" for i in range(20)])) == 20
    assert set(grouped("x_0000.nii", "x_0001.nii", whole=("x_0000", "x_0001"))) == {"x_0000", "x_0001"}


def test_two_files_for_one_place_are_both_left() -> None:
    for names in (["x.nii", "x.nii.gz"], ["x.nii", "x_0000.nii"], ["x_0000.nii", "x_0000.nii.gz", "x_0001.nii"]):
        found = group_channels([Path(n) for n in names])
        assert found.cases == {}
        assert [remark.where for remark in found.left] == names
        assert "keep one" in found.left[0].reason
