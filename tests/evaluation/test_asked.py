from __future__ import annotations

from pathlib import Path

import pytest

from medseg.errors import InputError
from medseg.evaluation.asked import settings_from
from medseg.evaluation.settings import DEFAULT, Settings, checked
from medseg.imaging.structures import Structures


def test_nothing_asked() -> None:
    assert settings_from() == DEFAULT


def test_numbers() -> None:
    assert settings_from("2,0.5").tolerances_mm == (2.0, 0.5)


@pytest.mark.parametrize(
    "text", ["liver: 3\nvessel: [0.5, 1]\ndefault: 2\n", '{"liver": 3, "vessel": [0.5, 1], "default": [2]}']
)
def test_a_file_of_tolerances(tmp_path: Path, text: str) -> None:
    (tmp_path / "t").write_text(text)
    found = settings_from(str(tmp_path / "t"))
    assert found.tolerances_mm == (2.0,)
    assert found.tolerances_of == {"liver": (3.0,), "vessel": (0.5, 1.0)}
    assert found.tolerances("vessel") == (0.5, 1.0)
    assert found.tolerances("spleen") == (2.0,)


@pytest.mark.parametrize(
    ("text", "said"),
    [("liver: far", "tolerance of liver"), ("- 1", "names no"), ("{", "neither"), ("a: []", "of a is")],
)
def test_files_that_cannot_be_understood(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "t").write_text(text)
    with pytest.raises(InputError, match=said):
        settings_from(str(tmp_path / "t"))


def test_neither_numbers_nor_a_file() -> None:
    with pytest.raises(InputError, match="neither numbers nor a file"):
        settings_from("1,two")


@pytest.mark.parametrize("wrong", [{"surface": "voxels"}, {"fov_faces": "no"}, {"both_empty": "1"}])
def test_no_such_choice(wrong: dict[str, str]) -> None:
    with pytest.raises(InputError, match="is no choice"):
        settings_from(**wrong)  # type: ignore[arg-type]


def test_names_are_those_of_the_structures() -> None:
    known = Structures({1: "Left kidney", 2: "Aorta"}, {"kidneys": (1,)})
    asked = settings_from(tubular=["aorta"], instances=["left kidney, kidneys"])
    found = checked(asked, known)
    assert (found.tubular, found.instances) == (("Aorta",), ("Left kidney", "kidneys"))
    with pytest.raises(InputError, match="no structure is called liver"):
        checked(settings_from(tubular=["liver"]), known)


@pytest.mark.parametrize(
    "wrong",
    [
        Settings(tolerances_mm=()),
        Settings(tolerances_mm=(-1,)),
        Settings(tolerances_of={"a": (float("inf"),)}),
        Settings(boundary_iou_mm=float("nan")),
        Settings(min_lesion_mm3=-1),
        Settings(lesion_iou=1.0),
    ],
)
def test_numbers_that_cannot_be_used(wrong: Settings) -> None:
    with pytest.raises(InputError):
        checked(wrong, None)
