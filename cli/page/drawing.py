"""What charts are drawn with: a frame, axes, marks, a legend, and the SVG around them.

Knows nothing of retrieval beyond the three roles that are compared: the head that is looked at,
the one it is held against, and chance. Lengths are units of the drawing, a pixel at its full size.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from muse.cli.page.markup import Markup, element, joined, scroller

Role = Literal["head", "against", "chance"]
ROLES: tuple[Role, ...] = ("head", "against", "chance")
Names = Mapping[Role, str]
"""What each role that is there is called, in the order of `ROLES`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """Where values of two axes lie in a drawing."""

    left: float
    right: float
    top: float
    bottom: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    is_log: bool = False
    """Of x."""

    def x(self, value: float) -> float:
        """The place of a value from left to right."""
        low, high = (self._scaled(end) for end in self.x_range)
        part = (self._scaled(value) - low) / ((high - low) or 1.0)
        return self.left + part * (self.right - self.left)

    def y(self, value: float) -> float:
        """The place of a value from top to bottom."""
        low, high = self.y_range
        return self.bottom - (value - low) / ((high - low) or 1.0) * (self.bottom - self.top)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.is_log else value


def legend(names: Names, kind: Literal["mark", "line", "bar"]) -> Markup:
    """The roles with their mark, their line or their bar; chance has a line among bars."""
    entries = []
    for role, name in names.items():
        if kind == "line" or (kind == "bar" and role == "chance"):
            drawn = line(1, 6, 29, 6, f"curve {role}")
        else:
            drawn = mark(role, 15, 6) if kind == "mark" else box(role, 8, -1, 14, 14)
        picture = element("svg", drawn, viewBox="0 -4 30 20", aria_hidden="true")
        entries.append(element("li", picture, name))
    return element("ul", *entries, class_="legend")


def figure(title: str, key_of_marks: Markup, svg: Markup) -> Markup:
    """A chart under its title, moved sideways where the screen is narrow."""
    return element("figure", element("h3", title), key_of_marks, scroller(f"{title}, chart", svg))


def svg_picture(
    width: float, height: float, parts: Sequence[Markup], *, key: str, title: str, words: str
) -> Markup:
    """One image to who can't see it: its name is ``title``, and ``words`` say what it shows."""
    return element(
        "svg",
        element("title", title, id=f"{key}-title"),
        element("desc", words, id=f"{key}-desc"),
        *parts,
        viewBox=f"0 0 {width:g} {height:g}",
        class_="chart wide" if width > 500 else "chart",
        role="img",
        aria_labelledby=f"{key}-title",
        aria_describedby=f"{key}-desc",
    )


def mark(role: Role, x: float, y: float) -> Markup:
    """Filled for the head, hollow for the other, an upright stroke for chance."""
    if role == "chance":
        return line(x, y - 6, x, y + 6, f"mark {role}")
    radius = 4.5 if role == "head" else 7.5  # both show where both are equal
    return element("circle", cx=round(x, 1), cy=round(y, 1), r=radius, class_=f"mark {role}")


def box(role: Role, x: float, y: float, width: float, height: float) -> Markup:
    """A bar: filled for the head, hollow for the other."""
    places = {"x": round(x, 1), "y": round(y, 1)}
    size = {"width": round(width, 1), "height": round(height, 1)}
    return element("rect", **places, **size, class_=f"mark {role}")


def x_axis(frame: Frame, ticks: Sequence[float], *, unit: str = "") -> Markup:
    """The level axis, a line up from each tick, and its number below."""
    parts = []
    for tick in ticks:
        x = frame.x(tick)
        parts.append(line(x, frame.top, x, frame.bottom, "grid"))
        text = f"{tick:g}{unit}"
        parts.append(element("text", text, x=x, y=frame.bottom + 17, text_anchor="middle"))
    parts.append(line(frame.left, frame.bottom, frame.right, frame.bottom, "axis"))
    return joined(parts)


def y_axis(frame: Frame, ticks: Sequence[float], *, unit: str) -> Markup:
    """A level line at each tick of the upright axis, and its number at the left."""
    parts = []
    for tick in ticks:
        y = frame.y(tick)
        parts.append(line(frame.left, y, frame.right, y, "grid"))
        text = f"{tick:g}{unit}"
        parts.append(element("text", text, x=frame.left - 7, y=y + 4, text_anchor="end"))
    return joined(parts)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A straight line that looks as its class does."""
    x1, y1, x2, y2 = (round(place, 1) for place in (x1, y1, x2, y2))
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def end_of(values: Sequence[float], *, most: float = 100.0) -> float:
    """The first round number that no value exceeds."""
    high = max((value for value in values if math.isfinite(value)), default=0.0)
    step = _step(high)
    return min(most, max(1, math.ceil(high / step)) * step)


def _step(high: float) -> float:
    """1, 2 or 5 times a power of ten: at most six of them reach to ``high``."""
    if high <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(high / 6))
    return next(factor * power for factor in (1, 2, 5, 10, 20) if factor * power * 6 >= high)


def round_ticks(high: float, *, low: float = 0.0) -> list[float]:
    """Round numbers from ``low`` to ``high``, at most seven."""
    step = _step(high)
    first = math.ceil(low / step)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(high: float) -> list[float]:
    """1, 2, 5, 10 … up to ``high``, or powers of ten alone where those are too many."""
    factors = (1, 2, 5) if high <= 1000 else (1,)
    powers = range(math.floor(math.log10(high)) + 1)
    return [float(f * 10**p) for p in powers for f in factors if f * 10**p <= high]
