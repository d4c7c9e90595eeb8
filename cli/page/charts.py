"""Charts as inline SVG: dots on a line for each row, and curves over a plain or logarithmic axis.

Knows nothing of retrieval beyond the three roles that are compared: the head that is looked at,
the one it is held against, and chance. Lengths are units of the drawing, a pixel at its full size.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from muse.cli.page.markup import Markup, element, joined, number

Role = Literal["head", "against", "chance"]
ROLES: tuple[Role, ...] = ("head", "against", "chance")
Names = Mapping[Role, str]
"""What each role that is there is called, in the order of `ROLES`."""

_ROW = 34
_TOP = 26
_BOTTOM = 30
_LETTER = 6.6  # a wide letter of 12 px
_MOST_LETTERS = 30
_VALUE = 52  # a column of values at the right


@dataclass(frozen=True, kw_only=True, slots=True)
class Dots:
    """A row of a dot chart."""

    label: str
    values: Mapping[Role, float]
    """Percent; what is not finite is not drawn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """A line of a chart."""

    role: Role
    points: Sequence[tuple[float, float]]
    """(x, y) in the order of x; a point that is not finite is left out."""


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


def dot_chart(rows: Sequence[Dots], *, key: str, title: str, names: Names) -> Markup:
    """A row of marks for each thing, percent from left to right, with the values at the right.

    Args:
        rows: From top to bottom.
        key: Of no other chart on the page.
        title: Read out and shown above.
        names: Of the roles that the rows have.
    """
    shown: list[Role] = [role for role in ROLES if role in names and role != "chance"]
    height = _TOP + _ROW * len(rows) + _BOTTOM
    letters = max((min(len(row.label), _MOST_LETTERS) for row in rows), default=0)
    frame = Frame(
        left=letters * _LETTER + 16,
        right=720 - _VALUE * len(shown) - 12,
        top=_TOP,
        bottom=height - _BOTTOM,
        x_range=(0.0, _end_of([v for row in rows for v in row.values.values()])),
        y_range=(0.0, 1.0),
    )
    drawn = [_x_axis(frame, _ticks(frame.x_range[1]), unit="%")]
    for place, role in enumerate(shown):
        drawn.append(_mark(role, frame.right + _VALUE * (place + 0.75), 12))
    for place, row in enumerate(rows):
        drawn.append(_dots(row, frame, _TOP + _ROW * (place + 0.5), shown))
    words = "; ".join(f"{row.label}: {_in_words(row.values, names)}" for row in rows)
    svg = _drawing(720, height, drawn, key=key, title=title, words=words)
    return _figure(title, legend(names, is_line=False), svg)


def _dots(row: Dots, frame: Frame, y: float, shown: Sequence[Role]) -> Markup:
    finite = {role: value for role, value in row.values.items() if math.isfinite(value)}
    label = row.label
    if len(label) > _MOST_LETTERS:
        label = label[: _MOST_LETTERS - 1] + "…"
    parts = [
        element("text", label, x=0, y=y + 4, class_="label"),
        _line(frame.left, y, frame.right, y, "grid"),
    ]
    if len(finite) > 1:
        ends = (frame.x(min(finite.values())), frame.x(max(finite.values())))
        parts.append(_line(ends[0], y, ends[1], y, "track"))
    parts += [_mark(role, frame.x(finite[role]), y) for role in reversed(ROLES) if role in finite]
    for place, role in enumerate(shown):
        x = frame.right + _VALUE * (place + 1)
        text = number(row.values.get(role, math.nan))
        parts.append(element("text", text, x=x, y=y + 4, text_anchor="end", class_="value"))
    return element("g", element("title", row.label), *parts)


def curve_chart(
    curves: Sequence[Curve],
    *,
    key: str,
    title: str,
    names: Names,
    x_title: str,
    y_range: tuple[float, float] | None = None,
    is_log: bool = False,
    unit: str = "",
    words: str = "",
) -> Markup:
    """Curves in one frame; a chart without a point is empty markup.

    Args:
        curves: The first is drawn on top.
        key: Of no other chart on the page.
        title: What the upright axis shows.
        names: Of the roles; one alone needs no legend.
        x_title: Below the level axis.
        y_range: From the values, and from 0, without.
        is_log: Whether x, from 1 on, is on a log scale.
        unit: Behind the numbers of the upright axis.
        words: What the chart shows, to be read out.
    """
    curves = [Curve(role=c.role, points=_finite(c.points)) for c in curves]
    points = [point for curve in curves for point in curve.points]
    if not points:
        return Markup("")
    low, high = y_range or (0.0, _end_of([y for _, y in points], most=math.inf))
    xs = [x for x, _ in points]
    frame = Frame(
        left=52,
        right=444,
        top=12,
        bottom=232,
        x_range=(min(xs), max(xs)),
        y_range=(low, high),
        is_log=is_log,
    )
    ticks = _log_ticks(max(xs)) if is_log else _ticks(max(xs), low=min(xs))
    drawn = [_x_axis(frame, ticks), _y_axis(frame, _ticks(high), unit=unit)]
    drawn.append(element("text", x_title, x=248, y=268, text_anchor="middle"))
    drawn += [_path(curve, frame) for curve in reversed(curves)]
    svg = _drawing(460, 276, drawn, key=key, title=title, words=words)
    return _figure(title, legend(names, is_line=True) if len(names) > 1 else Markup(""), svg)


def legend(names: Names, *, is_line: bool) -> Markup:
    """The roles with their mark or their line."""
    entries = []
    for role, name in names.items():
        drawn = _line(1, 6, 29, 6, f"curve {role}") if is_line else _mark(role, 15, 6)
        picture = element("svg", drawn, viewBox="0 -4 30 20", aria_hidden="true")
        entries.append(element("li", picture, name))
    return element("ul", *entries, class_="legend")


def _figure(title: str, key_of_marks: Markup, svg: Markup) -> Markup:
    return element(
        "figure", element("h3", title), key_of_marks, element("div", svg, class_="scroll")
    )


def _drawing(
    width: float, height: float, parts: Sequence[Markup], *, key: str, title: str, words: str
) -> Markup:
    return element(
        "svg",
        element("title", title, id=f"{key}-title"),
        element("desc", words, id=f"{key}-desc"),
        *parts,
        viewBox=f"0 0 {width:g} {height:g}",
        class_="chart wide" if width > 500 else "chart",
        role="img",
        aria_labelledby=f"{key}-title {key}-desc",
    )


def _mark(role: Role, x: float, y: float) -> Markup:
    """Filled for the head, hollow for the other, an upright stroke for chance."""
    if role == "chance":
        return _line(x, y - 6, x, y + 6, f"mark {role}")
    radius = 4.5 if role == "head" else 7.5  # both show where both are equal
    return element("circle", cx=round(x, 1), cy=round(y, 1), r=radius, class_=f"mark {role}")


def _path(curve: Curve, frame: Frame) -> Markup:
    places = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in curve.points)
    return element("polyline", points=places, class_=f"curve {curve.role}")


def _x_axis(frame: Frame, ticks: Sequence[float], *, unit: str = "") -> Markup:
    parts = []
    for tick in ticks:
        x = frame.x(tick)
        parts.append(_line(x, frame.top, x, frame.bottom, "grid"))
        text = f"{tick:g}{unit}"
        parts.append(element("text", text, x=x, y=frame.bottom + 17, text_anchor="middle"))
    parts.append(_line(frame.left, frame.bottom, frame.right, frame.bottom, "axis"))
    return joined(parts)


def _y_axis(frame: Frame, ticks: Sequence[float], *, unit: str) -> Markup:
    parts = []
    for tick in ticks:
        y = frame.y(tick)
        parts.append(_line(frame.left, y, frame.right, y, "grid"))
        text = f"{tick:g}{unit}"
        parts.append(element("text", text, x=frame.left - 7, y=y + 4, text_anchor="end"))
    return joined(parts)


def _line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    x1, y1, x2, y2 = (round(place, 1) for place in (x1, y1, x2, y2))
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def _finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _in_words(values: Mapping[Role, float], names: Names) -> str:
    return ", ".join(f"{names[role]} {number(values[role])}" for role in names if role in values)


def _end_of(values: Sequence[float], *, most: float = 100.0) -> float:
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


def _ticks(high: float, *, low: float = 0.0) -> list[float]:
    step = _step(high)
    first = math.ceil(low / step)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(high: float) -> list[float]:
    """1, 2, 5, 10 … up to ``high``, or powers of ten alone where those are too many."""
    factors = (1, 2, 5) if high <= 1000 else (1,)
    powers = range(math.floor(math.log10(high)) + 1)
    return [float(f * 10**p) for p in powers for f in factors if f * 10**p <= high]
