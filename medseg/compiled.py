"""numba's compiler, with what it made kept on disk for the next time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numba


def compiled(signature: str | None = None, fastmath: Any = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function that lets other threads run meanwhile; without a `signature`, for what it is called with.

    What was made is kept beside the file or in the user's cache, if there is a folder to write to.
    """
    compiler: Any = partial(numba.njit, signature, nogil=True, fastmath=fastmath)

    def make(function: Callable[..., Any]) -> Callable[..., Any]:
        made: Callable[..., Any]
        try:
            made = compiler(cache=True)(function)
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
            made = compiler()(function)
        return made

    return make
