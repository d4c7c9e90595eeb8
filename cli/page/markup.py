"""HTML elements from values: whatever is not markup already is escaped.

Knows nothing of retrieval. There is one way from a text to a page, `element`, and a text becomes
`Markup` in it only escaped; so no caption, id or path can end a tag.
"""

import html
import math
from collections.abc import Iterable, Sequence

# Elements that have no end tag.
_VOID = frozenset({"img", "meta"})
_CONTROL_CHARACTERS = dict.fromkeys((*range(9), 11, 12, *range(14, 32), 127), "\ufffd")


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(name: str, /, *children: str, **attributes: str | float | None) -> Markup:
    """``<name attributes>children</name>``; children that are no `Markup` are escaped.

    Args:
        name: Of the element.
        *children: What is in it, in order.
        **attributes: An underscore in a name is a hyphen, one at its end is dropped (``class_``);
            what is None is left out.
    """
    start = f"<{name}" + "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"{start}>")
    return Markup(f"{start}>{joined(children)}</{name}>")


def joined(parts: Iterable[str], separator: str = "") -> Markup:
    """The parts one after the other; those that are no `Markup` are escaped."""
    return Markup(
        separator.join(part if isinstance(part, Markup) else _text(part) for part in parts)
    )


def _text(value: str | float) -> str:
    """As HTML: what no parser takes, and what is no Unicode, is replaced."""
    if isinstance(value, Markup):  # in an attribute markup is text too
        value = str(value)
    text = value if isinstance(value, str) else f"{value:.6g}"
    text = text.translate(_CONTROL_CHARACTERS).encode("utf-8", "replace").decode("utf-8")
    return html.escape(text)


def table(
    caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]], *, class_: str | None = None
) -> Markup:
    """A table whose rows begin with their own heading.

    Args:
        caption: Says what it shows.
        heads: Of the columns.
        rows: As many cells each as there are heads.
        class_: For the style.
    """
    head = element("tr", *(element("th", text, scope="col") for text in heads))
    body = (
        element(
            "tr",
            element("th", cells[0], scope="row"),
            *(element("td", cell) for cell in cells[1:]),
        )
        for cells in rows
    )
    inner = (caption_of(caption), element("thead", head), element("tbody", *body))
    return scroller(f"{caption} Table", element("table", *inner, class_=class_))


def caption_of(text: str) -> Markup:
    """What a table shows; it stays in sight where the table is moved sideways."""
    return element("caption", element("span", text))


def scroller(label: str, *parts: str) -> Markup:
    """A box that moves its parts sideways where they are too wide, by keys too.

    Args:
        label: Read out when a reader comes to it with the keyboard.
        *parts: Such as a table.
    """
    return element("div", *parts, class_="scroll", tabindex=0, role="group", aria_label=label)


def section(title: str, *parts: str) -> Markup:
    """A part of the page under its heading."""
    return element("section", element("h2", title), *parts)


def number(value: float, *, digits: int = 1) -> str:
    """With a fixed number of decimals; a dash for what is no number."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def rank_text(rank: float) -> str:
    """``12``, or ``3.5`` where scores tie; a dash for what is no number."""
    return number(rank, digits=0 if rank == round_or_nan(rank) else 1)


def round_or_nan(value: float) -> float:
    """The nearest whole number, or the value itself where it is not finite."""
    return float(round(value)) if math.isfinite(value) else value
