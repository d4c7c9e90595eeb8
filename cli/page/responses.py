"""The frames of a video as columns, and below each what it and its parts add to a caption's score.

The paper's Figure 1 for one caption and one video: a row for CLIP's patches, one for the class
tokens and one for each scale of the head. Cells are pixels of a small picture for each row, blue
where they raise the score and orange where they lower it, the stronger the less transparent; so
they lie over pictures of the frames where there are any. Every number is in a table too. Knows
nothing of how a response is computed.
"""

# Legend: T frames, n frames shown, G cells along a side.

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from muse.cli.page.map_pictures import LOWERS, RAISES, map_uri, strip_uri
from muse.cli.page.markup import Markup, element, joined, number, table
from muse.head.responses import Responses, ScaleResponse

MAX_FRAMES = 12  # as many as the paper reads of a video; they fill the width of a page
SHEET = Markup(
    """
svg.responses { display: block; image-rendering: pixelated; }
svg.responses .under { opacity: .42; filter: grayscale(1); image-rendering: auto; }
svg.responses .shown { image-rendering: auto; }
svg.responses .ground { fill: var(--tile); fill-opacity: .45; }
svg.responses .gap { stroke: var(--card); stroke-width: 3; }
svg.responses .strongest { fill: none; stroke: var(--ink); stroke-width: 2; }
svg.responses .halo { fill: none; stroke: var(--card); stroke-width: 4; }
svg.responses text.label { font-weight: 600; }
"""
)
"""For the page's style, behind its own."""

_LEFT = 150  # of the names of the rows
_SIDE = 64  # of a frame
_BAND = 20  # height of a row of one cell a frame
_LINE = 17
_GAP = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """A map of each frame, side by side."""

    name: str
    remark: str
    """Below the name: the range of the row's values."""
    values_nGG: NDArray[np.float64]
    """Signed; 0 is transparent."""
    is_marked: bool
    """Whether the strongest cell has a frame."""

    @property
    def height(self) -> int:
        """In the drawing."""
        return _BAND if self.values_nGG.shape[1] == 1 else _SIDE


def response_figure(
    found: Responses,
    *,
    key: str,
    name: str,
    pts_seconds_T: NDArray[np.float64],
    pictures: Sequence[NDArray[np.uint8]] = (),
) -> Markup:
    """The maps of one caption and one video, with a legend and a table of the numbers.

    Args:
        found: Of `muse.head.responses.responses`.
        key: Of no other figure on the page; an id.
        name: Likewise, for readers: what responds to what.
        pts_seconds_T: (T,) when each frame is shown, such as `ClipTokens.pts_seconds_T`.
        pictures: (H, W, 3) of each valid frame, in order, whole or cropped to a square;
            none for maps on a plain ground. With a wrong number of them it is plain too.
    """
    shown_n = _shown_frames(found)
    rows = _rows(found, shown_n)
    strip = ""
    if len(pictures) == int(found.valid_T.sum()) > 0:
        rank_T = np.cumsum(found.valid_T) - 1
        strip = strip_uri([pictures[rank] for rank in rank_T[shown_n]])
    drawing = _drawing(found, rows, shown_n, pts_seconds_T, strip, key=key)
    return element(
        "figure",
        element("p", element("strong", name)),
        _legend(),
        element("div", drawing, class_="scroll", tabindex=0, role="region", aria_label=name),
        element("figcaption", _words_below(found, len(shown_n))),
        element("details", element("summary", "Numbers"), _numbers(found, pts_seconds_T)),
    )


def summary(found: Responses, pts_seconds_T: NDArray[np.float64]) -> str:
    """What the maps show, in words: the strongest frame, and the strongest cell of each scale."""
    by_frame_T = np.where(found.valid_T, found.by_frame_T, -np.inf)
    frame = int(by_frame_T.argmax())
    parts = [
        f"Score {_cosine(found.score)}",
        f"strongest frame {_frame_name(frame, pts_seconds_T)}, {_milli(by_frame_T[frame])}",
    ]
    for scale in found.by_scale:
        name = f"strongest of scale {_scale_name(scale)}"
        if scale.values_TGG.max() <= 0:
            parts.append(f"{name}: none, no cell raises the score")
            continue
        parts.append(f"{name}: {_cell_text(scale, scale.strongest, pts_seconds_T)}")
    return "; ".join(parts) + ". Numbers are thousandths of a cosine."


def _shown_frames(found: Responses) -> NDArray[np.intp]:
    """(n,) in their order; of too many those with the largest responses of either sign."""
    valid = np.flatnonzero(found.valid_T)
    order = np.argsort(-np.abs(found.by_frame_T[valid]), kind="stable")
    return np.sort(valid[order[:MAX_FRAMES]])


def _rows(found: Responses, shown_n: NDArray[np.intp]) -> list[_Row]:
    rows = []
    if found.clip_patches_TGG is not None:
        patches_nGG = found.clip_patches_TGG[shown_n]
        grid = patches_nGG.shape[1]
        rows.append(
            _Row(
                name=f"CLIP's {grid} × {grid} patches",
                remark=f"cosine {_cosine(patches_nGG.min())} to {_cosine(patches_nGG.max())}",
                values_nGG=patches_nGG - np.nanmean(found.clip_patches_TGG),
                is_marked=grid > 1,
            )
        )
    for scale in (found.class_tokens, *found.by_scale):
        name = "Class tokens" if scale is found.class_tokens else f"Scale {_scale_name(scale)}"
        values_nGG = scale.values_TGG[shown_n]
        low, high = (_milli(end) for end in (values_nGG.min(), values_nGG.max()))
        rows.append(
            _Row(
                name=name,
                remark=f"{low} to {high}",
                values_nGG=values_nGG,
                is_marked=scale is not found.class_tokens and values_nGG.max() > 0,
            )
        )
    return rows


def _drawing(
    found: Responses,
    rows: Sequence[_Row],
    shown_n: NDArray[np.intp],
    pts_seconds_T: NDArray[np.float64],
    strip: str,
    *,
    key: str,
) -> Markup:
    """The rows one below the other, each part at its height."""
    num, y = len(shown_n), 0
    parts: list[Markup] = []
    for name, texts in _lines_of_text(found, shown_n, pts_seconds_T):
        y += _LINE
        parts.append(_text_line(name, texts, y - 4))
    y += _GAP
    if strip:
        whole = element(
            "image", href=strip, x=_LEFT, width=_SIDE * num, height=_SIDE, id=f"{key}-frames"
        )
        parts += [element("defs", whole), _used(f"{key}-frames", y, "shown"), _gaps(num, y, _SIDE)]
        y += _SIDE + _GAP
    for row in rows:
        under = _used(f"{key}-frames", y, "under") if strip and row.height == _SIDE else Markup("")
        parts.append(_row(row, y, under))
        y += row.height + _GAP
    return element(
        "svg",
        element("title", "Responses of frames and cells", id=f"{key}-title"),
        element("desc", summary(found, pts_seconds_T), id=f"{key}-desc"),
        *parts,
        viewBox=f"0 0 {_LEFT + _SIDE * num} {y}",
        width=_LEFT + _SIDE * num,
        height=y,
        class_="responses",
        role="img",
        aria_labelledby=f"{key}-title {key}-desc",
    )


def _lines_of_text(
    found: Responses, shown_n: NDArray[np.intp], pts_seconds_T: NDArray[np.float64]
) -> Iterator[tuple[str, list[str]]]:
    """The lines above the maps."""
    yield "Time", [f"{number(float(pts_seconds_T[frame]))} s" for frame in shown_n]
    yield "CLIP's cosine", [_cosine(value) for value in found.clip_frames_T[shown_n]]
    yield "Response", [_milli(value) for value in found.by_frame_T[shown_n]]


def _text_line(name: str, texts: Sequence[str], y: float) -> Markup:
    cells = (
        element("text", text, x=_LEFT + _SIDE * (place + 0.5), y=y, text_anchor="middle")
        for place, text in enumerate(texts)
    )
    return joined([element("text", name, x=0, y=y, class_="label"), *cells])


def _row(row: _Row, y: float, under: Markup) -> Markup:
    """A name, a ground or the frames' pictures, the map over it, and where it is strongest."""
    num, height = len(row.values_nGG), row.height
    place = {"x": _LEFT, "y": y, "width": _SIDE * num, "height": height}
    parts = [
        element("text", row.name, x=0, y=y + height / 2 - 2, class_="label"),
        element("text", row.remark, x=0, y=y + height / 2 + 13),
        under or element("rect", **place, class_="ground"),
        element("image", href=map_uri(row.values_nGG), **place, preserveAspectRatio="none"),
        _gaps(num, y, height),
    ]
    if row.is_marked:
        parts.append(_mark(row, y))
    return joined(parts)


def _mark(row: _Row, y: float) -> Markup:
    """A frame around the strongest cell, seen on any colour."""
    grid = row.values_nGG.shape[1]
    frame, line, column = np.unravel_index(row.values_nGG.argmax(), row.values_nGG.shape)
    cell = _SIDE / grid
    box = {
        "x": round(_LEFT + _SIDE * int(frame) + cell * int(column), 2),
        "y": round(y + cell * int(line), 2),
        "width": round(cell, 2),
        "height": round(cell, 2),
    }
    return joined([element("rect", **box, class_=name) for name in ("halo", "strongest")])


def _gaps(num_frames: int, y: float, height: float) -> Markup:
    """Lines of the ground's colour between the frames."""
    places = (_LEFT + _SIDE * frame for frame in range(1, num_frames))
    return joined(element("line", x1=x, y1=y, x2=x, y2=y + height, class_="gap") for x in places)


def _used(picture_id: str, y: float, class_: str) -> Markup:
    return element("use", href=f"#{picture_id}", y=y, class_=class_)


def _legend() -> Markup:
    entries = [
        (_ramp(RAISES), "raises the score"),
        (_ramp(LOWERS), "lowers it"),
        (element("rect", x=8, y=-1, width=14, height=14, class_="strongest"), "strongest of a row"),
    ]
    items = (
        element(
            "li",
            element("svg", mark, viewBox="0 -4 30 20", aria_hidden="true", class_="responses"),
            words,
        )
        for mark, words in entries
    )
    return element("ul", *items, class_="legend")


def _ramp(colour: tuple[int, int, int]) -> Markup:
    """From hardly to fully."""
    fill = "#{:02x}{:02x}{:02x}".format(*colour)
    return joined(
        element("rect", x=10 * n, y=0, width=10, height=12, fill=fill, fill_opacity=(n + 1) / 3)
        for n in range(3)
    )


def _words_below(found: Responses, num_shown: int) -> str:
    num_valid = int(found.valid_T.sum())
    words = (
        f"Score {_cosine(found.score)}; with all class tokens alike, and all cells of "
        f"each scale, {_cosine(found.score_of_alike)}. Responses are parts of that "
        "difference, in thousandths of a cosine; each row has colours of its own range. CLIP's "
        "patches: more or less like the text than their mean."
    )
    num_valid = int(found.valid_T.sum())
    if num_shown == num_valid:
        return words
    return f"{words} {num_shown} of {num_valid} frames, those that respond most."


def _numbers(found: Responses, pts_seconds_T: NDArray[np.float64]) -> Markup:
    """A row for each valid frame and one for the sums."""
    names = [f"scale {_scale_name(scale)}" for scale in found.by_scale]
    heads = ["frame", "CLIP's cosine", "response", "class token", *names]
    rows = [
        [
            _frame_name(frame, pts_seconds_T),
            _cosine(found.clip_frames_T[frame]),
            _milli(found.by_frame_T[frame]),
            _milli(found.class_tokens.values_TGG[frame].sum()),
            *(_frame_cell(scale, frame) for scale in found.by_scale),
        ]
        for frame in np.flatnonzero(found.valid_T).tolist()
    ]
    totals = (found.class_tokens.total, *(scale.total for scale in found.by_scale))
    rows.append(["all", "", _milli(found.by_frame_T.sum()), *(_milli(total) for total in totals)])
    caption = (
        "Responses in thousandths of a cosine: of a scale the sum over a frame, and where in it "
        f"the strongest cell is. The integral misses {_milli(found.remainder)}."
    )
    return table(caption, heads, rows)


def _frame_cell(scale: ScaleResponse, frame: int) -> str:
    """``+1.20, row 4, column 9: +0.31``; the sum alone of one cell, or where none is positive."""
    values_GG = scale.values_TGG[frame]
    text = _milli(values_GG.sum())
    if scale.grid == 1 or values_GG.max() <= 0:
        return text
    row, column = np.unravel_index(values_GG.argmax(), values_GG.shape)
    return f"{text}, row {row + 1}, column {column + 1}: {_milli(values_GG.max())}"


def _cell_text(
    scale: ScaleResponse, cell: tuple[int, int, int], pts_seconds_T: NDArray[np.float64]
) -> str:
    frame, row, column = cell
    place = f"frame {_frame_name(frame, pts_seconds_T)}, row {row + 1}, column {column + 1}"
    return f"{place}, {_milli(scale.values_TGG[cell])}"


def _frame_name(frame: int, pts_seconds_T: NDArray[np.float64]) -> str:
    """``5 at 2.3 s``, counted from 1."""
    return f"{frame + 1} at {number(float(pts_seconds_T[frame]))} s"


def _scale_name(scale: ScaleResponse) -> str:
    return f"{scale.grid} × {scale.grid}"


def _cosine(value: float) -> str:
    return number(float(value), digits=3).replace("-", "−")


def _milli(value: float) -> str:
    """Thousandths with a sign, which a zero has none of."""
    text = f"{1000 * value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text.replace("-", "−")
