"""The plots of a report: each an SVG, with words for those who do not see it and a table of its numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from medseg.report.svg import COLOURS, Drawing, Scale, key, label, shortened, widened

WIDTH: Final = 420.0  # of plots that stand three in a row
WIDE: Final = 560.0
COMPACT_ABOVE: Final = 12  # structures: then rows are low, and only outliers are points
MANY: Final = 60  # points in a row, which are then small and pale
MOST_POINTS: Final = 300  # in a row; then only outliers are points
MOST_IN_SCATTER: Final = 4000
SHOWN: Final = 0.98  # of the distances are within the axis of a histogram
_NAMES, _RIGHT = 112.0, 14.0


@dataclass(frozen=True, slots=True)
class Dot:
    """One value of one case; `anchor` is its address on the page."""

    value: float
    case: str
    anchor: str


@dataclass(frozen=True, slots=True)
class Spot:
    """A pair of values of one case."""

    x: float
    y: float
    case: str
    anchor: str


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot with its title, what it shows, a legend, and its numbers (headings, rows)."""

    title: str
    says: str
    svg: Markup
    legend: tuple[Markup, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    wide: bool = False


def strips(
    title: str,
    says: str,
    groups: Mapping[str, Sequence[Dot]],
    unit: str = "",
    within: tuple[float, float] | None = None,
) -> Figure:
    """A row for each structure: the box from the first to the third quartile, the median, and every case.

    Values that are infinite stand at the end, beyond the scale.
    """
    finite = [dot.value for dots in groups.values() for dot in dots if math.isfinite(dot.value)]
    beyond = any(math.isinf(dot.value) for dots in groups.values() for dot in dots)
    compact = len(groups) > COMPACT_ABOVE
    step = 21.0 if compact else 40.0
    top, bottom = 8.0, 36.0
    drawing = Drawing(WIDTH, top + step * max(1, len(groups)) + bottom)
    end = WIDTH - _RIGHT - (30 if beyond else 0)
    scale = Scale(*_range(finite, within), _NAMES, end)
    floor = drawing.height - bottom
    _x_axis(drawing, scale, top, floor, unit)
    if beyond:
        drawing.text(WIDTH - _RIGHT, floor + 16, "\u221e", "end")
    rows = []
    for n, (name, dots) in enumerate(groups.items()):
        middle = top + step * (n + 0.5)
        drawing.text(_NAMES - 10, middle + 4, shortened(name, 16), "end", "name")
        _strip(drawing, dots, scale, middle, step, unit)
        rows.append((name, *_told([dot.value for dot in dots])))
    columns = ("structure", "cases", "lowest", "quartile", "median", "quartile", "highest", "infinite")
    return Figure(title, says, drawing.svg(f"{title}. {says}"), (), columns, tuple(rows))


def _range(values: Sequence[float], within: tuple[float, float] | None) -> tuple[float, float]:
    low, high = widened(values, 0.03)
    if within is None:
        return min(0.0, low) if low < 0 else 0.0, high
    span = max(within[1] - low, 0.1)
    return max(within[0], math.floor((within[1] - span) * 20) / 20), within[1]


def _strip(drawing: Drawing, dots: Sequence[Dot], scale: Scale, middle: float, step: float, unit: str) -> None:
    finite = sorted(dot.value for dot in dots if math.isfinite(dot.value))
    half = min(11.0, step * 0.3)
    low, mid, high = np.quantile(finite, (0.25, 0.5, 0.75)) if finite else (math.nan,) * 3
    if len(finite) > 2:
        drawing.box(scale(low), middle - half, scale(high) - scale(low), 2 * half, "box")
    few = step < 30 or len(dots) > MOST_POINTS
    many = len(dots) > MANY
    if many:
        drawing.parts.append(Markup('<g class="many">'))
    reach = 1.5 * (high - low)
    for n, dot in enumerate(sorted(dots, key=lambda dot: dot.value)):
        infinite = math.isinf(dot.value)
        if few and not infinite and low - reach <= dot.value <= high + reach and len(finite) > 2:
            continue
        x = WIDTH - _RIGHT - 4 if infinite else scale(dot.value)
        y = middle + ((n * 0.618034) % 1 - 0.5) * 2 * (half - 2)  # spread evenly, the same each time
        drawing.point(x, y, _title(dot, unit), dot.anchor, "s0", 2.6 if few or many else 3.5)
    if many:
        drawing.parts.append(Markup("</g>"))
    if finite:
        drawing.line(scale(mid), middle - half, scale(mid), middle + half, "median")


def _title(dot: Dot, unit: str) -> str:
    return f"{dot.case}: {'infinite' if math.isinf(dot.value) else label(dot.value)}{f' {unit}' if unit else ''}"


def _told(values: Sequence[float]) -> tuple[str, ...]:
    finite = [value for value in values if math.isfinite(value)]
    five = np.quantile(finite, (0, 0.25, 0.5, 0.75, 1)) if finite else ()
    said = [f"{value:.3f}" for value in five] or ["-"] * 5
    return str(len(values)), *said, str(len(values) - len(finite))


def _x_axis(drawing: Drawing, scale: Scale, top: float, floor: float, name: str) -> None:
    for value in scale.ticks():
        drawing.line(scale(value), top, scale(value), floor, "grid")
        drawing.text(scale(value), floor + 16, label(value), "middle")
    drawing.line(scale.start, floor, scale.end, floor, "axis")
    if name:
        drawing.text((scale.start + scale.end) / 2, floor + 32, name, "middle")


def _y_axis(drawing: Drawing, scale: Scale, left: float, right: float, name: str) -> None:
    for value in scale.ticks():
        drawing.line(left, scale(value), right, scale(value), "grid")
        drawing.text(left - 6, scale(value) + 4, label(value), "end")
    drawing.text(left - 44, scale.end - 8, name, "start")


def coloured(names: Sequence[str]) -> dict[str, int]:
    """A colour for each of the first structures; all others share the last."""
    return {name: min(n, COLOURS - 1) for n, name in enumerate(names)}


def _legend(names: Sequence[str]) -> tuple[Markup, ...]:
    if len(names) <= COLOURS:
        return tuple(key(name, n) for n, name in enumerate(names))
    others = f"{len(names) - COLOURS + 1} other structures"
    return (*(key(name, n) for n, name in enumerate(names[: COLOURS - 1])), key(others, COLOURS - 1))


@dataclass(frozen=True, slots=True)
class Level:
    """A horizontal line in a plot, with words at its end."""

    y: float
    words: str
    style: str = "limit"


def scatter(
    title: str,
    says: str,
    series: Mapping[str, Sequence[Spot]],
    x: str,
    y: str,
    log_x: bool = False,
    levels: Sequence[Level] = (),
    y_within: tuple[float, float] | None = None,
) -> Figure:
    """A point for each case and structure; `levels` are drawn behind."""
    spots = [spot for one in series.values() for spot in one]
    left, right, top, bottom = 58.0, WIDE - (92.0 if levels else 14.0), 26.0, 40.0
    drawing = Drawing(WIDE, 330.0)
    xs = [spot.x for spot in spots]
    across = (min(xs, default=1.0) / 1.25, max(xs, default=10.0) * 1.25) if log_x else widened(xs)
    ys = [spot.y for spot in spots] + [level.y for level in levels]
    up = _range(ys, y_within) if y_within else widened(ys)
    x_scale, y_scale = Scale(*across, left, right, log_x), Scale(*up, drawing.height - bottom, top)
    _x_axis(drawing, x_scale, top, drawing.height - bottom, x)
    _y_axis(drawing, y_scale, left, right, y)
    for level in levels:
        drawing.line(left, y_scale(level.y), right, y_scale(level.y), level.style)
        if level.words:
            drawing.text(right + 6, y_scale(level.y) + 4, level.words)
    colours = coloured(list(series))
    for name, one in series.items():
        for spot in one if len(spots) <= MOST_IN_SCATTER else _thinned(one, MOST_IN_SCATTER * len(one) // len(spots)):
            told = f"{spot.case}, {name}: {label(spot.y)} at {label(spot.x)}"
            drawing.point(x_scale(spot.x), y_scale(spot.y), told, spot.anchor, f"s{colours[name]}")
    rows = tuple((s.case, name, label(s.x), label(s.y)) for name, one in series.items() for s in one)
    legend = _legend(list(series)) if len(series) > 1 else ()
    return Figure(title, says, drawing.svg(f"{title}. {says}"), legend, ("case", "structure", x, y), rows[:2000])


def _thinned(spots: Sequence[Spot], most: int) -> list[Spot]:
    """The extreme ones, and evenly many of the others."""
    ordered = sorted(spots, key=lambda spot: spot.y)
    step = max(1, len(ordered) // max(1, most))
    return ordered[:20] + ordered[20:-20:step] + ordered[-20:]


def curves(
    title: str,
    says: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    x: str,
    y: str,
    y_within: tuple[float, float] | None = None,
) -> Figure:
    """A line for each name through its points."""
    left, right, top, bottom = 58.0, WIDTH - 14.0, 26.0, 40.0
    drawing = Drawing(WIDTH, 300.0)
    points = [point for one in series.values() for point in one]
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    x_scale = Scale(*widened(xs, 0.03), left, right)
    y_scale = Scale(*(_range(ys, y_within) if y_within else widened(ys)), drawing.height - bottom, top)
    _x_axis(drawing, x_scale, top, drawing.height - bottom, x)
    _y_axis(drawing, y_scale, left, right, y)
    colours = coloured(list(series))
    for name, one in series.items():
        placed = [(x_scale(a), y_scale(b)) for a, b in one]
        if len(placed) > 1:
            pale = " pale" if len(series) > COLOURS and colours[name] == COLOURS - 1 else ""
            drawing.path(placed, f"line l{colours[name]}{pale}")
        if len(placed) < 40 and len(series) <= COLOURS:
            for px, py in placed:
                drawing.parts.append(
                    Markup('<circle class="s{}" cx="{}" cy="{}" r="3"/>').format(colours[name], px, py)
                )
    rows = tuple((name, label(a), label(b)) for name, one in series.items() for a, b in one)
    legend = _legend(list(series)) if len(series) > 1 else ()
    return Figure(title, says, drawing.svg(f"{title}. {says}"), legend, ("", x, y), rows[:2000])


@dataclass(frozen=True, slots=True)
class Spread:
    """How the surfaces of a structure lie apart: what both share (`same`), and the rest by signed distance."""

    same: float
    counts: npt.NDArray[np.float64]
    tolerance_mm: float

    def parts(self, edges: npt.NDArray[np.float64]) -> tuple[float, float, float]:
        """Shares that fall short by more than the tolerance, lie within it, and reach beyond."""
        middles = (edges[:-1] + edges[1:]) / 2
        total = (self.same + self.counts.sum()) or 1.0
        limit = self.tolerance_mm + 1e-6
        short, over = self.counts[middles < -limit].sum() / total, self.counts[middles > limit].sum() / total
        return float(short), float(1 - short - over), float(over)


def signed_histograms(
    title: str, says: str, edges_mm: npt.NDArray[np.float64], spreads: Mapping[str, Spread]
) -> Figure:
    """A row for each structure: how much of its surfaces lies at which signed distance from the other.

    Blue where the prediction falls short by more than the tolerance, orange where it reaches beyond. What both surfaces
    share is left out: it would hide the rest.
    """
    limit = _reach(edges_mm, spreads)
    step, top, bottom = (30.0 if len(spreads) > COMPACT_ABOVE else 46.0), 8.0, 40.0
    drawing = Drawing(WIDTH, top + step * max(1, len(spreads)) + bottom)
    scale = Scale(-limit, limit, _NAMES, WIDTH - 84)
    floor = drawing.height - bottom
    _x_axis(drawing, scale, top, floor, "signed distance in mm")
    drawing.line(scale(0), top, scale(0), floor, "grid")
    rows = []
    for n, (name, spread) in enumerate(spreads.items()):
        base = top + step * (n + 1) - 4
        drawing.text(_NAMES - 10, base - 6, shortened(name, 16), "end", "name")
        shares = spread.parts(edges_mm)
        _bars(drawing, edges_mm, spread, scale, base, step - 10)
        drawing.text(WIDTH - 2, base - 6, f"{100 * shares[1]:.0f} % within", "end")
        rows.append((name, *(f"{100 * share:.1f} %" for share in shares)))
    columns = ("structure", "falls short", "within the tolerance", "reaches beyond")
    return Figure(title, says, drawing.svg(f"{title}. {says}"), (), columns, tuple(rows))


def _reach(edges: npt.NDArray[np.float64], spreads: Mapping[str, Spread]) -> float:
    """How far the axis goes: `SHOWN` of what disagrees lies within."""
    total = np.sum([one.counts for one in spreads.values()], axis=0) if spreads else np.zeros(len(edges) - 1)
    least = max((2 * one.tolerance_mm for one in spreads.values()), default=2.0)
    if not total.sum():
        return least
    middles = np.abs(edges[:-1] + edges[1:]) / 2
    order = np.argsort(middles)
    share = np.cumsum(total[order]) / total.sum()
    return float(max(least, math.ceil(middles[order][int(np.searchsorted(share, SHOWN))])))


def _bars(
    drawing: Drawing, edges: npt.NDArray[np.float64], spread: Spread, scale: Scale, base: float, height: float
) -> None:
    per = max(1, round(2 * scale.high / (edges[1] - edges[0]) / 80)) // 2 * 2 + 1  # bins drawn as one: odd, one amid 0
    first = (len(spread.counts) // 2 - per // 2) % per
    starts = range(first, len(spread.counts) - per + 1, per)
    bars = [(edges[k], edges[k + per], float(spread.counts[k : k + per].sum())) for k in starts]
    bars = [bar for bar in bars if bar[2] and abs(bar[0] + bar[1]) / 2 <= scale.high]
    most = max((count for _, _, count in bars), default=1.0)
    for low, high, count in bars:
        far = (low + high) / 2
        style = "within" if abs(far) <= spread.tolerance_mm + 1e-6 else "s0" if far < 0 else "s1"
        tall = height * count / most
        drawing.box(scale(low) + 0.3, base - tall, scale(high) - scale(low) - 0.6, tall, style)
    drawing.line(scale.start, base, scale.end, base, "zero")
