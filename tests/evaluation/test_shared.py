"""An evaluation goes on where it was ended, and parts of it fill one folder."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from medseg.cli.app import run_command
from medseg.errors import InputError, ResourceError
from medseg.evaluation import scoring
from medseg.evaluation.folders import Evaluation, evaluate_folders
from medseg.evaluation.settings import Settings
from medseg.events import Note
from medseg.kept import PartDone
from medseg.parts import Part, claimed
from tests.evaluation.test_folders import write
from tests.imaging.build import some_series
from tests.imaging.dicom.test_seg import made_seg, saved
from tests.places import Alone, Two

CASES = "abcdef"
RESULTS = ("scores.csv", "scores.json", "methods.txt")


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    for number, case in enumerate(CASES):
        write(tmp_path / "labels" / f"{case}.nii.gz")
        write(tmp_path / "out" / f"{case}.nii.gz", number % 4)
    (tmp_path / "out" / "c.nii.gz").write_bytes(b"nothing")
    (tmp_path / "labels" / "f.nii.gz").write_bytes(b"nothing")
    return tmp_path / "out", tmp_path / "labels"


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cases that were scored, in their order."""
    names: list[str] = []

    def noted(pair, *rest):
        names.append(pair.case)
        return score(pair, *rest)

    score = scoring.score_pair
    monkeypatch.setattr(scoring, "score_pair", noted)
    return names


def digests(out: Path) -> list[str]:
    return [sha256((out / name).read_bytes()).hexdigest() for name in RESULTS]


def last(*arguments, **options):
    return [*evaluate_folders(*arguments, **options)][-1]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_parts_give_what_the_whole_gives(sides, tmp_path, order) -> None:
    whole = last(*sides, tmp_path / "whole")
    assert sorted(whole.failed) == ["c", "f"]
    first = last(*sides, tmp_path / "parts", part=Part(order[0], 2))
    assert isinstance(first, PartDone)
    assert first.left > 0
    assert not (tmp_path / "parts" / "scores.json").exists()
    second = last(*sides, tmp_path / "parts", part=Part(order[1], 2))
    assert isinstance(second, Evaluation)
    assert second.scores == whole.scores
    assert digests(tmp_path / "parts") == digests(tmp_path / "whole")


def test_in_two_processes_it_gives_the_same(sides, tmp_path) -> None:
    last(*sides, tmp_path / "one", where=Alone())
    *events, _ = evaluate_folders(*sides, tmp_path / "two", where=Two())
    assert Note("two work") in events
    assert any("(2 at work)" in getattr(event, "what", "") for event in events)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_what_was_ended_goes_on(sides, tmp_path, tried, monkeypatch) -> None:
    out = tmp_path / "scores"
    last(*sides, tmp_path / "whole")
    tried.clear()
    events = evaluate_folders(*sides, out)
    while len(tried) < 3:
        next(events)
    events.close()
    seen = len(tried)
    *told, end = evaluate_folders(*sides, out)
    assert isinstance(end, Evaluation)
    again = set(tried[:seen]) & set(tried[seen:])
    assert again <= {"c", tried[seen - 1]}
    assert any(re.fullmatch(r"\d of 6 already done", event.text) for event in told if isinstance(event, Note))
    assert digests(out) == digests(tmp_path / "whole")
    tried.clear()
    last(*sides, out)
    assert tried == ["c", "f"]  # which failed
    assert digests(out) == digests(tmp_path / "whole")


def test_what_changed_is_scored_anew(sides, tmp_path, tried) -> None:
    out = tmp_path / "scores"
    last(*sides, out)
    tried.clear()
    write(sides[0] / "b.nii.gz", 4)
    (out / "cases" / "e.json").write_text("{")
    (sides[0] / "d.nii.gz").unlink()
    last(*sides, out)
    assert tried == ["b", "c", "d", "e", "f"]
    last(*sides, tmp_path / "fresh")
    assert digests(out) == digests(tmp_path / "fresh")
    tried.clear()
    last(*sides, out, Settings(tolerances_mm=(2.0,)))
    assert tried == list(CASES)


def test_nobody_else_may_work_on_it(sides, tmp_path) -> None:
    out = tmp_path / "scores"
    with claimed(out, Part(0, 2)):
        with pytest.raises(InputError, match="part 0/2 of it"):
            last(*sides, out, part=Part(0, 2))
        with pytest.raises(InputError, match="part 0/2 of it"):
            last(*sides, out)
        assert isinstance(last(*sides, out, part=Part(1, 2)), PartDone)


def test_a_full_disk_ends_it_and_what_is_done_stays(sides, tmp_path, tried, monkeypatch) -> None:
    def full(pair, *rest):
        if pair.case == "d":
            raise ResourceError("no space left on device")
        return noted(pair, *rest)

    noted = scoring.score_pair
    with monkeypatch.context() as patch:
        patch.setattr(scoring, "score_pair", full)
        with pytest.raises(ResourceError):
            last(*sides, tmp_path / "scores")
    tried.clear()
    last(*sides, tmp_path / "scores")
    assert tried == ["c", "d", "e", "f"]


def test_names_of_dicom_are_the_same_in_all_parts(tmp_path) -> None:
    predictions, references = tmp_path / "out", tmp_path / "labels"
    write(predictions / "a.nii.gz")
    write(references / "a.nii.gz")
    built = some_series(4)
    array = np.zeros(built.stored.shape, np.uint8)
    array[1, 1:3, 1:3] = 1
    for number in range(3):
        (references / f"{number}").mkdir(parents=True)
        saved(references / f"{number}" / f"Mueller {number}.dcm", made_seg(built, array, names=["liver"]))
    (references / "dataset.json").write_text('{"labels": {"background": 0, "liver": 1}}')
    ends = [last(predictions, references, tmp_path / "scores", part=Part(number, 2)) for number in (0, 1)]
    assert isinstance(ends[1], Evaluation)
    assert len(ends[1].missing_predictions) == 3
    assert {row.case for row in ends[1].scores.scores} == {"a", *ends[1].missing_predictions}
    assert "Mueller" not in "".join(path.read_text() for path in (tmp_path / "scores").rglob("*") if path.is_file())


def test_the_command(sides, tmp_path, capsys) -> None:
    (sides[1] / "f.nii.gz").write_bytes((sides[1] / "a.nii.gz").read_bytes())
    (sides[0] / "c.nii.gz").write_bytes((sides[0] / "a.nii.gz").read_bytes())
    told = ["evaluate", *map(str, sides), "-o", str(tmp_path / "scores"), "--part"]
    assert run_command([*told, "0/2"]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "part 0/2 is done; the result is written when" in said.err
    assert not (tmp_path / "scores" / "report.html").exists()
    assert run_command([*told, "1/2"]) == 0
    assert (tmp_path / "scores" / "report.html").is_file()
    assert (tmp_path / "scores" / "scores.json").is_file()
