"""Which engine there is: the compiled one wherever numba is."""

from __future__ import annotations

from functools import cache

from medseg.evaluation.engine.values import Engine


@cache
def engine() -> Engine:
    """The compiled engine; the plain one, whose values are the same, where numba cannot be imported."""
    try:
        from medseg.evaluation.engine.compiled import CompiledEngine
    except ImportError as error:
        if error.name not in ("numba", "llvmlite"):
            raise
        from medseg.evaluation.engine.plain import PlainEngine

        return PlainEngine()
    return CompiledEngine()
