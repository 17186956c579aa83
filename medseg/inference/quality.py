"""How thoroughly a scan is predicted: what a quality changes, and what that costs.

fast      tiles three quarters of a patch apart, no mirroring, the first fold alone
standard  as planned: half a patch apart, all folds
max       mirrored along every axis that the network was trained to see mirrored, all folds
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from medseg.inference.tiles import tile_count
from medseg.planning.plan import Configuration

Quality = Literal["fast", "standard", "max"]

FAST_STEP = 0.75


def with_quality(configuration: Configuration, quality: Quality) -> Configuration:
    """The configuration with the window of a quality."""
    planned = configuration.window
    windows = {
        "fast": planned.model_copy(update={"step": max(FAST_STEP, planned.step), "mirror_axes": ()}),
        "standard": planned,
        "max": planned.model_copy(update={"mirror_axes": configuration.schedule.mirror_axes or planned.mirror_axes}),
    }
    return configuration.model_copy(update={"window": windows[quality]})


def folds_of(quality: Quality) -> int | None:
    """How many folds are used at most; None is all."""
    return 1 if quality == "fast" else None


def work_of(configuration: Configuration) -> int:
    """Forward passes of one network for the median scan."""
    passes: int = tile_count(configuration.median_shape, configuration) * 2 ** len(configuration.window.mirror_axes)
    return passes


def quality_told(configuration: Configuration, quality: Quality, dice: Mapping[Quality, float] | None = None) -> str:
    """What a quality costs beside the standard one, of the median scan, and what it gains, by the Dice of held-out
    cases at each, if it was measured.
    """
    here = with_quality(configuration, quality)
    ratio = work_of(here) / work_of(configuration)
    if quality == "max" and here.window == configuration.window:
        mirrored = "it is mirrored as planned already" if here.window.mirror_axes else None
        return f"quality max is the standard one: {mirrored or 'the network was not trained to see mirrored scans'}"
    folds = " and one fold alone" if folds_of(quality) == 1 else ""
    told = f"quality {quality}: {ratio:.2g} times the network's work of the standard one{folds}"
    if dice and quality in dice and "standard" in dice:
        told += f"; Dice of held-out cases, one network each, {dice[quality]:.3f} for {dice['standard']:.3f}"
    return told
