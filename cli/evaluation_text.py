"""The numbers of one head as ``muse evaluate`` prints them."""

from typing import TYPE_CHECKING

from muse.cli.report import print_line, print_table

if TYPE_CHECKING:
    from rich.table import Table

    from muse.head.bootstrap import RetrievalIntervals
    from muse.head.evaluate import RetrievalReport

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
        around = getattr(intervals, field) if intervals else {}
        table.add_row(
            title,
            *(f"{value:.1f}{interval_text(around.get(name))}" for name, value in numbers.items()),
        )
    print_table(table)
    if (report.tie_rule, report.v2t_rule) != (TIE_RULE, V2T_RULE):
        print_line(f"ties: {report.tie_rule}; video to text: {report.v2t_rule}")
    if report.by_axis:
        print_table(_axis_table(report))


def _axis_table(report: "RetrievalReport") -> "Table":
    """By what the captions ask for; chance is of a text's video being first of all V."""
    from rich.table import Table
    from rich.text import Text

    table = Table("axis", "captions", "t2v R@1", "R@5", "MdR", "v2t R@1", "chance")
    chance = f"{100 / report.num_videos:.2f}"
    for axis, found in report.by_axis.items():
        to_video, to_text = found.text_to_video.as_json(), found.video_to_text.as_json()
        numbers = (*(to_video[name] for name in ("R@1", "R@5", "MdR")), to_text["R@1"])
        columns = (f"{number:.1f}" for number in numbers)
        # A name of a caption file is no markup, and moves no cursor, whatever is in it.
        table.add_row(Text(_one_line(axis)), str(found.num_captions), *columns, chance)
    return table


def _one_line(name: str) -> str:
    """With a mark for each character that a terminal would not print."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in name)
