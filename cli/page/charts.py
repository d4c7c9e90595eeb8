"""Charts as inline SVG: dots on a line for each row, curves, and bars over groups of ranks.

Knows nothing of retrieval beyond the roles that are compared (`muse.cli.page.drawing`). Each chart
has its numbers in words, for who can't see it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from muse.cli.page.drawing import (
    ROLES,
    Frame,
    Names,
    Role,
    box,
    end_of,
    figure,
    legend,
    line,
    log_ticks,
    mark,
    round_ticks,
    svg_picture,
    x_axis,
    y_axis,
)
from muse.cli.page.markup import Markup, element, joined, number

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
class Bars:
    """The bars of one group of a bar chart."""

    label: str
    values: Mapping[Role, float]
    """Percent; what is not finite is not drawn. Chance is a stroke across the others' bars."""


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
        x_range=(0.0, end_of([v for row in rows for v in row.values.values()])),
        y_range=(0.0, 1.0),
    )
    drawn = [x_axis(frame, round_ticks(frame.x_range[1]), unit="%")]
    for place, role in enumerate(shown):
        drawn.append(mark(role, frame.right + _VALUE * (place + 0.75), 12))
    for place, row in enumerate(rows):
        drawn.append(_dots(row, frame, _TOP + _ROW * (place + 0.5), shown))
    words = "; ".join(f"{row.label}: {_in_words(row.values, names)}" for row in rows)
    svg = svg_picture(720, height, drawn, key=key, title=title, words=words)
    return figure(title, legend(names, "mark"), svg)


def _dots(row: Dots, frame: Frame, y: float, shown: Sequence[Role]) -> Markup:
    finite = {role: value for role, value in row.values.items() if math.isfinite(value)}
    label = row.label
    if len(label) > _MOST_LETTERS:
        label = label[: _MOST_LETTERS - 1] + "…"
    parts = [
        element("text", label, x=0, y=y + 4, class_="label"),
        line(frame.left, y, frame.right, y, "grid"),
    ]
    if len(finite) > 1:
        ends = (frame.x(min(finite.values())), frame.x(max(finite.values())))
        parts.append(line(ends[0], y, ends[1], y, "track"))
    parts += [mark(role, frame.x(finite[role]), y) for role in reversed(ROLES) if role in finite]
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
    low, high = y_range or (0.0, end_of([y for _, y in points], most=math.inf))
    xs = [x for x, _ in points]
    frame = _small_frame((min(xs), max(xs)), (low, high), is_log=is_log)
    ticks = log_ticks(max(xs)) if is_log else round_ticks(max(xs), low=min(xs))
    drawn = [x_axis(frame, ticks), y_axis(frame, round_ticks(high), unit=unit)]
    drawn.append(element("text", x_title, x=248, y=268, text_anchor="middle"))
    drawn += [_path(curve, frame) for curve in reversed(curves)]
    svg = svg_picture(460, 276, drawn, key=key, title=title, words=words)
    return figure(title, legend(names, "line") if len(names) > 1 else Markup(""), svg)


def bar_chart(
    groups: Sequence[Bars], *, key: str, title: str, names: Names, x_title: str
) -> Markup:
    """A bar for each head in each group, percent upwards, with the percent above each.

    Args:
        groups: From left to right.
        key: Of no other chart on the page.
        title: What the upright axis shows.
        names: Of the roles that the groups have.
        x_title: Below the level axis.
    """
    highest = end_of([value for group in groups for value in group.values.values()])
    frame = _small_frame((0.0, float(len(groups))), (0.0, highest))
    shown: list[Role] = [role for role in ROLES if role in names and role != "chance"]
    drawn = [x_axis(frame, []), y_axis(frame, round_ticks(highest), unit="%")]
    drawn += [_bars(group, frame, place, shown) for place, group in enumerate(groups)]
    drawn.append(element("text", x_title, x=248, y=268, text_anchor="middle"))
    words = "; ".join(f"{group.label}: {_in_words(group.values, names)}" for group in groups)
    svg = svg_picture(460, 276, drawn, key=key, title=title, words=words)
    return figure(title, legend(names, "bar"), svg)


def _bars(group: Bars, frame: Frame, place: int, shown: Sequence[Role]) -> Markup:
    """Filled for the head, hollow for the other, side by side in the middle of the group."""
    left, right = frame.x(place), frame.x(place + 1)
    width = (right - left) * 0.72 / len(shown)
    start = (left + right - width * len(shown)) / 2
    middle = (left + right) / 2
    parts = [element("text", group.label, x=middle, y=frame.bottom + 17, text_anchor="middle")]
    for order, role in enumerate(shown):
        value = group.values.get(role, math.nan)
        if math.isfinite(value):
            parts.append(_bar(role, start + width * order, width, value, frame))
    chance = group.values.get("chance", math.nan)
    if math.isfinite(chance):
        y = frame.y(chance)
        parts.append(line(left + 2, y, right - 2, y, "curve chance"))
    return element("g", element("title", group.label), *parts)


def _bar(role: Role, x: float, width: float, value: float, frame: Frame) -> Markup:
    y = frame.y(value)
    bar = box(role, x + 1.5, y, width - 3, frame.bottom - y)
    text = number(value, digits=0)
    above = element("text", text, x=x + width / 2, y=y - 4, text_anchor="middle", class_="value")
    return joined([bar, above])


def _path(curve: Curve, frame: Frame) -> Markup:
    places = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in curve.points)
    return element("polyline", points=places, class_=f"curve {curve.role}")


def _small_frame(
    x_range: tuple[float, float], y_range: tuple[float, float], *, is_log: bool = False
) -> Frame:
    """Of one of two charts side by side."""
    return Frame(
        left=52, right=444, top=20, bottom=232, x_range=x_range, y_range=y_range, is_log=is_log
    )


def _finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _in_words(values: Mapping[Role, float], names: Names) -> str:
    return ", ".join(f"{names[role]} {number(values[role])}" for role in names if role in values)
