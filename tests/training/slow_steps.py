"""Training whose steps take long enough to be hit, and that saves a checkpoint after each, in every process it starts.

Python runs a `sitecustomize` of its path before anything else, also in processes on other nodes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open

SITE = """
import sys
given = sys.orig_argv
if "-m" in given[:-1] and given[given.index("-m") + 1] == {module!r}:
    import time
    from medseg.training import course, fold, looks
    course.SAVE_EVERY_S, looks.LOOKS = {every_s}, 1
    fit = fold.fit

    def slow(*given):
        for done in fit(*given):
            time.sleep({step_s})
            yield done

    fold.fit = slow
"""


def slow_steps(folder: Path, module: str, step_s: float = 0.1, every_s: float = -1.0) -> dict[str, str]:
    """The environment in which `python -m <module>` trains so; `folder` is made for it.
    every_s: between checkpoints.
    """
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SITE.format(module=module, step_s=step_s, every_s=every_s))
    root = Path(__file__).parents[2]
    return {"PYTHONPATH": os.pathsep.join((str(folder), str(root), os.environ.get("PYTHONPATH", "")))}


def step_of(run: Path, fold: str = "0") -> int:
    """The step of the checkpoint of a fold; 0 where there is none."""
    try:
        with safe_open(run / "folds/3d" / fold / "checkpoint.safetensors", "pt") as file:
            return int(json.loads(file.metadata()["progress"])["step"])
    except (SafetensorError, OSError):
        return 0
