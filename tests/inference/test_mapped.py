from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from medseg.errors import ResourceError
from medseg.inference.mapped import mapped_zeros


def test_zeros_are_on_disk_from_the_beginning(tmp_path: Path) -> None:
    found = mapped_zeros(tmp_path / "a", np.uint16, (30, 20, 10), order="F")
    assert found.shape == (30, 20, 10)
    assert found.flags.f_contiguous
    assert not found.any()
    found[1, 2, 3] = 7
    assert mapped_zeros(tmp_path / "b", np.float32, (0, 3)).size == 0
    told = (tmp_path / "a").stat()
    assert told.st_size == 12000
    if hasattr(told, "st_blocks"):
        assert told.st_blocks * 512 >= 12000


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot take room beforehand")
def test_a_disk_without_room_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ResourceError, match="no space left"):
        mapped_zeros(tmp_path / "a", np.float32, (4, 4))
