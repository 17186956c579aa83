"""Arrays on disk that are larger than memory may be, mapped into it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medseg.errors import explained


def mapped_zeros(
    path: Path, kind: npt.DTypeLike, shape: Sequence[int], order: Literal["C", "F"] = "C"
) -> np.memmap[Any, Any]:
    """Zeros in a new file, mapped.

    Its room on disk is taken at once: where a file without it is written to and the disk is full, the system ends the
    process.

    Raises:
        ResourceError: there is no room on disk.
    """
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize
    with explained(path), path.open("wb") as file:
        if hasattr(os, "posix_fallocate") and size:
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
    return np.memmap(path, kind, "r+", shape=tuple(shape), order=order)
