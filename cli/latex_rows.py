r"""Results as rows of a LaTeX table with booktabs, for tables that hold several heads.

A row is a name, then R@1, R@5, R@10, MdR and MnR of text to video, then the same of video to text.
A number is plain, or has its interval as ``$43.2^{+3.1}_{-2.9}$``, or its standard deviation over
seeds as ``$43.2 \pm 0.4$``. Comments before the rows say what they are of. Knows nothing of heads
and stores: it is given the content of results files (docs/results.md).
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

NUMBERS = ("R@1", "R@5", "R@10", "MdR", "MnR")
DIRECTIONS = ("text_to_video", "video_to_text")
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",  # LaTeX's own closing quotes; \textquotedbl needs another font encoding
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}


def latex_rows(contents: Sequence[Mapping[str, Any]]) -> str:
    """The rows of some results, each on a line, with comments where what they are of changes.

    Args:
        contents: Of results files, of one head or of a folder of seeds.
    """
    lines, before = [_columns()], ""
    for content in contents:
        about = _about(content)
        lines += [f"% {about}"] if about != before else []
        lines += _rows(content)
        before = about
    return "\n".join(lines) + "\n"


def escaped(name: str) -> str:
    """A name as LaTeX prints it, on one line."""
    printable = "".join(letter if letter.isprintable() else " " for letter in name)
    return "".join(_SPECIAL.get(letter, letter) for letter in printable)


def _columns() -> str:
    names = [f"{name} {way}" for way in ("t2v", "v2t") for name in NUMBERS]
    return "% columns: " + ", ".join(["name", *names])


def _about(content: Mapping[str, Any]) -> str:
    """The protocol, how much of it, and the rules, on one line: it stands in a comment."""
    report = content["seeds"][0]["report"] if "seeds" in content else content
    level = content.get("intervals", {}).get("level")
    words = (
        f"{report['protocol']}, split {report['split']}: {report['num_videos']} of "
        f"{report['num_videos_listed']} videos, {report['num_captions']} of "
        f"{report['num_captions_listed']} captions; ties: {report['tie_rule']}; video to text: "
        f"{report['v2t_rule']}"
    )
    if "seeds" in content:
        words += f"; mean and standard deviation of {len(content['seeds'])} seeds"
    elif level is not None:
        words += f"; intervals of {100 * level:g} %"
    return "".join(letter if letter.isprintable() else " " for letter in words)


def _rows(content: Mapping[str, Any]) -> Iterator[str]:
    if "seeds" in content:
        name = str(Path(content["seeds"][0]["report"]["head"]).parent)  # the folder of the seeds
        cells = (content["spread"][way][number] for way in DIRECTIONS for number in NUMBERS)
        yield _row(name, [_spread(cell["mean"], cell["sd"]) for cell in cells])
        return
    yield _row(content["head"], _plain(content, content.get("intervals")))
    for name, changed in content.get("post_processed", {}).items():
        yield _row(f"{content['head']} ({name})", _plain(changed, None))


def _row(name: str, cells: Sequence[str]) -> str:
    return " & ".join([escaped(name), *cells]) + r" \\"


def _plain(numbers: Mapping[str, Any], intervals: Mapping[str, Any] | None) -> list[str]:
    return [
        _around(numbers[way][name], intervals[way][name])
        if intervals
        else _text(numbers[way][name])
        for way in DIRECTIONS
        for name in NUMBERS
    ]


def _around(value: float, interval: Sequence[float]) -> str:
    """The ends of an interval as what they are away from the value."""
    low, high = interval
    above, below = _signed(high - value, zero="+"), _signed(low - value, zero="-")
    return f"${_text(value)}^{{{above}}}_{{{below}}}$"


def _signed(difference: float, *, zero: str) -> str:
    text = f"{abs(difference):.1f}"
    return (zero if text == "0.0" else "+" if difference > 0 else "-") + text


def _spread(mean: float, deviation: float | None) -> str:
    return _text(mean) if deviation is None else rf"${_text(mean)} \pm {_text(deviation)}$"


def _text(value: float) -> str:
    return f"{value:.1f}"
