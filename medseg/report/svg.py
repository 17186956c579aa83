"""Drawing plots as inline SVG that a strict content-security policy allows: classes for style, attributes for place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from markupsafe import Markup, escape

MINUS: Final = "\u2212"
COLOURS: Final = 7  # classes s0 to s6 of the style


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to places on the paper, straight or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value; those outside stand at the end."""
        low, high, at = (math.log10(n) if self.log else n for n in (self.low, self.high, max(value, self._least)))
        share = (at - low) / (high - low) if high > low else 0.5
        return round(self.start + (self.end - self.start) * min(1.0, max(0.0, share)), 1)

    @property
    def _least(self) -> float:
        return self.low if self.log else -math.inf

    def ticks(self, n: int = 5) -> list[float]:
        """Round numbers along the scale."""
        return log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high, n)


def ticks(low: float, high: float, n: int = 5) -> list[float]:
    """About n round numbers (1, 2, 2.5 or 5 times a power of ten apart) from low to high."""
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    rough = span / n
    power = 10 ** math.floor(math.log10(rough))
    step = next(k * power for k in (1, 2, 2.5, 5, 10) if k * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within a range, with 2 and 5 times them where these are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        found = [k * 10.0**power for power in powers for k in factors if low <= k * 10.0**power <= high]
        if len(found) >= 3:
            return found
    return found


def widened(values: Sequence[float], share: float = 0.06) -> tuple[float, float]:
    """A range that holds all values with a little room; that of nothing is 0 to 1."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    room = (high - low) * share or abs(high) * share or 1.0
    return low - room, high + room


def label(value: float) -> str:
    """A number for an axis or a title, with a true minus."""
    text = f"{value:.4g}" if abs(value) < 1e4 else f"{value:.3g}"
    return text.replace("-", MINUS)


@dataclass(slots=True)
class Drawing:
    """Parts of a plot on paper of this size; everything written into it is escaped."""

    width: float
    height: float
    parts: list[Markup] = field(default_factory=list)

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        """A straight line."""
        self.parts.append(Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(style, x1, y1, x2, y2))

    def box(self, x: float, y: float, width: float, height: float, style: str) -> None:
        """A rectangle."""
        made = Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>')
        self.parts.append(made.format(style, *(round(n, 1) for n in (x, y, max(width, 0), max(height, 0)))))

    def path(self, points: Sequence[tuple[float, float]], style: str, closed: bool = False) -> None:
        """A line through points, or the area within."""
        way = "M" + "L".join(f"{x:g} {y:g}" for x, y in points) + ("Z" if closed else "")
        self.parts.append(Markup('<path class="{}" d="{}"/>').format(style, way))

    def text(self, x: float, y: float, words: str, anchor: str = "start", style: str = "") -> None:
        """Words at a place; `anchor`: start, middle or end."""
        made = Markup('<text x="{}" y="{}" text-anchor="{}"{}>{}</text>')
        self.parts.append(made.format(x, y, anchor, Markup(' class="{}"').format(style) if style else "", words))

    def point(self, x: float, y: float, title: str, anchor: str, style: str, size: float = 3.5) -> None:
        """A point with a title that leads to its case."""
        made = Markup(
            '<a class="pt" href="#{}" tabindex="-1"><title>{}</title><circle class="{}" cx="{}" cy="{}" r="{}"/></a>'
        )
        self.parts.append(made.format(anchor, title, style, round(x, 1), round(y, 1), size))

    def svg(self, what: str) -> Markup:
        """The whole plot; `what` tells it to those who do not see it."""
        made = Markup('<svg class="plot" viewBox="0 0 {} {}" role="group" aria-label="{}">{}</svg>')
        return made.format(round(self.width), round(self.height), what, Markup("").join(self.parts))


def shortened(name: str, most: int = 20) -> str:
    """A name that fits on paper."""
    return name if len(name) <= most else name[: most - 1] + "\u2026"


def key(name: str, n: int) -> Markup:
    """An entry of a legend."""
    mark = Markup(
        '<svg class="plot" viewBox="0 0 16 12" aria-hidden="true"><circle class="s{}" cx="8" cy="6" r="5"/></svg>'
    )
    return mark.format(n) + escape(name)
