from __future__ import annotations

import pytest

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("verb", ["plan", "train", "infer", "evaluate", "export", "run", "inspect", "doctor"])
def test_the_readme_names_every_verb(verb: str) -> None:
    assert f"medseg {verb}" in README


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "pipelines").glob("*.yaml")))
def test_the_readme_names_every_recipe(name: str) -> None:
    assert f"pipelines/{name}" in README


def test_the_readme_says_what_it_is_for_and_how_it_ends() -> None:
    assert "Research use only" in README
    for word in ("0 done", "2 wrong use", "130 interrupted"):
        assert word in README
