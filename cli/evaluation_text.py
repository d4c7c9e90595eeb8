"""The numbers of one head as ``muse evaluate`` prints them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from muse.cli.report import print_line, print_table

if TYPE_CHECKING:
    from rich.table import Table

    from muse.head.evaluate import RetrievalReport
    from muse.head.retrieval_intervals import DirectionIntervals, RetrievalIntervals

DIRECTIONS = (("text to video", "text_to_video"), ("video to text", "video_to_text"))


def print_evaluation(report: "RetrievalReport", intervals: "RetrievalIntervals | None") -> None:
    """A line of what it is about, a table of both directions, and one by axis where there are."""
    from rich.table import Table

    from muse.cli.evaluation_extras import interval_text
    from muse.head.metrics import TIE_RULE, V2T_RULE

    print_line(
        f"{report.protocol}, split {report.split}: {report.num_videos} of "
        f"{report.num_videos_listed} videos, {report.num_captions} of "
        f"{report.num_captions_listed} captions; head {report.head}"
    )
    table = Table("direction", *report.text_to_video.as_json())
    for title, field in DIRECTIONS:
        numbers = getattr(report, field).as_json()
        around = getattr(intervals.numbers, field) if intervals else {}
        table.add_row(
            title,
            *(f"{value:.1f}{interval_text(around.get(name))}" for name, value in numbers.items()),
        )
    print_table(table)
    if (report.tie_rule, report.v2t_rule) != (TIE_RULE, V2T_RULE):
        print_line(f"ties: {report.tie_rule}; video to text: {report.v2t_rule}")
    if report.by_axis:
        print_table(_axis_table(report, intervals.by_axis if intervals else {}))


def _axis_table(
    report: "RetrievalReport", intervals: "Mapping[str, DirectionIntervals]"
) -> "Table":
    """By what the captions ask for; chance is of a text's video being first of all V."""
    from rich.table import Table
    from rich.text import Text

    from muse.cli.evaluation_extras import interval_text

    to_video, to_text = (field for _, field in DIRECTIONS)
    columns = ((to_video, "R@1"), (to_video, "R@5"), (to_video, "MdR"), (to_text, "R@1"))
    table = Table("axis", "captions", "t2v R@1", "R@5", "MdR", "v2t R@1", "chance")
    chance = f"{100 / report.num_videos:.2f}"
    for axis, found in report.by_axis.items():
        around = intervals.get(axis)
        cells = (
            f"{getattr(found, field).as_json()[name]:.1f}"
            f"{interval_text(getattr(around, field)[name] if around else None)}"
            for field, name in columns
        )
        # A name of a caption file is no markup, and moves no cursor, whatever is in it.
        table.add_row(Text(_one_line(axis)), str(found.num_captions), *cells, chance)
    return table


def _one_line(name: str) -> str:
    """With a mark for each character that a terminal would not print."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in name)
