"""What was done stands as long as all that it was made from, and no longer."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from medseg.errors import InputError
from medseg.files import Record
from medseg.kept import Ended, Kept, PartDone, Share, Subject, digest_of, joining, shared_key
from medseg.parts import Part


class Found(Record):
    n: int
    why: str = ""


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    path = tmp_path / "scan"
    path.write_text("voxels")
    return Subject("a", (path,), "said")


def kept(tmp_path: Path, asked: str = "this") -> Kept[Found]:
    return Kept(tmp_path / "cases", Found, asked)


def age(path: Path) -> None:
    """As if it had been written a minute ago, as far as a program can say so."""
    os.utime(path, (time.time() - 60, time.time() - 60))


def never() -> Found:
    raise AssertionError("made again")


def test_what_stands_is_not_made_again(tmp_path: Path, subject: Subject) -> None:
    found = kept(tmp_path)
    assert found.done(subject) is None
    assert found.made(subject, lambda: Found(n=3)) == Found(n=3)
    assert found.made(subject, never) == found.done(subject) == Found(n=3)
    age(subject.files[0])  # other times, the same bytes
    assert found.done(subject) == Found(n=3)


def test_changed_bytes_words_or_settings_do_not_stand(tmp_path: Path, subject: Subject) -> None:
    found = kept(tmp_path)
    found.made(subject, lambda: Found(n=3))
    assert kept(tmp_path, "that").done(subject) is None
    assert found.done(Subject("a", subject.files, "else")) is None
    subject.files[0].write_text("VOXELS")
    assert found.done(subject) is None
    assert found.made(subject, lambda: Found(n=4)) == Found(n=4)
    subject.files[0].unlink()
    assert found.done(subject) is None


@pytest.mark.parametrize("damage", ["", "{", "\0" * 40, '{"version": 2}', "half"])
def test_a_damaged_record_is_none(tmp_path: Path, subject: Subject, damage: str) -> None:
    found = kept(tmp_path)
    found.made(subject, lambda: Found(n=3))
    path = tmp_path / "cases" / "a.json"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2] if damage == "half" else damage)
    assert found.made(subject, lambda: Found(n=5)) == Found(n=5)
    path.write_text(whole.replace('"n":3', '"n":"three"'))
    assert found.done(subject) is None


def test_a_failed_case_is_tried_again_and_others_learn_of_it(tmp_path: Path, subject: Subject) -> None:
    found = kept(tmp_path)

    def bad() -> Found:
        raise InputError("is cut short")

    with pytest.raises(InputError):
        found.made(subject, bad)
    assert found.ended(subject) is None
    found.fail(subject, "is cut short")
    assert (found.done(subject), found.ended(subject)) == (None, Ended(None, "is cut short"))
    again = found.made(subject, lambda: Found(n=1, why="odd"), lambda one: one.why)
    assert (found.done(subject), found.ended(subject)) == (None, Ended(again, "odd"))
    assert found.made(subject, lambda: Found(n=2)) == found.done(subject)


def test_parts_take_up_what_others_did(tmp_path: Path) -> None:
    subjects = [Subject(name, ()) for name in "abcdefgh"]
    shares = [Share(kept(tmp_path), Part(number, 2), subjects) for number in range(2)]
    (tmp_path / "cases").mkdir()
    for share in shares:
        share.look()
        assert 0 < len(share.mine) < 8
        for one in share.mine:
            assert share.is_todo(one.name)
            assert share.kept is not None
            share.done[one.name] = share.kept.made(one, lambda: Found(n=1))
    first, second = shares
    second.done.popitem()  # it fails
    failed = next(one for one in second.mine if one.name not in second.done)
    missing = first.mine[0].name
    (tmp_path / "cases" / f"{missing}.json").unlink()
    second.fail(failed, "bad")
    with joining(tmp_path / "cases"):
        assert second.join() == PartDone(Part(1, 2), 1, {failed.name: "bad"})
    assert "1 case(s) of other parts" in PartDone(Part(1, 2), 1).words
    assert first.join() is None
    assert len(first.done) == 7
    assert first.failed == {failed.name: "bad"}
    again = Share(kept(tmp_path), Part(1, 2), subjects)
    again.look()
    assert again.told == f"{len(again.mine) - 1} of {len(again.mine)} already done"


def test_the_key_is_the_same_for_all(tmp_path: Path) -> None:
    key = shared_key(tmp_path)
    assert len(bytes.fromhex(key)) == 16
    assert shared_key(tmp_path) == key
    if os.name == "posix":
        assert (tmp_path / ".key").stat().st_mode & 0o777 == 0o600


def test_the_digest_is_of_values() -> None:
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1}) != digest_of({"a": 1}, {"b": 2})
