"""Keeping pydicom quiet is a setting of the whole process, which several threads ask for at once."""

from __future__ import annotations

import threading
import warnings

from pydicom.config import IGNORE, settings

from medseg.imaging.dicom.headers import quiet


def test_two_threads_leave_things_as_they_were() -> None:
    """The one that came first leaves first: it must neither wake the other nor restore too much."""
    mode, filters = settings.reading_validation_mode, list(warnings.filters)
    inside, first_left, seen = threading.Event(), threading.Event(), []

    def second() -> None:
        with quiet():
            inside.set()
            assert first_left.wait(30)
            seen.append(settings.reading_validation_mode)
            warnings.warn("a value that may name a patient", UserWarning, stacklevel=1)

    with quiet():
        thread = threading.Thread(target=second)
        thread.start()
        assert inside.wait(30)
    first_left.set()
    thread.join(30)
    assert seen == [IGNORE]  # its warning would have been an error here, and ended it before
    assert settings.reading_validation_mode == mode
    assert list(warnings.filters) == filters
