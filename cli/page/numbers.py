"""What the parts with numbers share: what heads are called, their numbers, and how one is written.

Knows nothing of stores or pictures.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

from muse.cli.page.content import HeadResult, PageContent
from muse.cli.page.drawing import Names, Role
from muse.cli.page.markup import Markup, element, joined, number
from muse.head.bootstrap import Interval
from muse.head.metrics import RECALL_AT, DirectionNumbers

Direction = Literal["text_to_video", "video_to_text"]
DIRECTIONS: tuple[tuple[str, Direction], ...] = (
    ("text to video", "text_to_video"),
    ("video to text", "video_to_text"),
)
COLUMNS = (*(f"R@{k}" for k in RECALL_AT), "MdR", "MnR", "Rsum")


def names_of(content: PageContent) -> Names:
    """What the head, the other and chance are called; a head against itself is told apart."""
    head = content.head.report.head
    names: dict[Role, str] = {"head": head}
    if content.against is not None:
        other = content.against.report.head
        names["against"] = other if other != head else f"{other} (again)"
    return {**names, "chance": "chance"}


def chance_numbers(num_answers: int) -> DirectionNumbers:
    """What a shuffled list of answers scores on average; the median is of the rank itself."""
    middle = (num_answers + 1) / 2
    return DirectionNumbers(
        recall_at={k: 100 * min(1.0, k / num_answers) for k in RECALL_AT},
        median_rank=middle,
        mean_rank=middle,
    )


def heads_of(content: PageContent) -> Iterator[tuple[Role, HeadResult]]:
    """The head, and the other where there is one."""
    yield "head", content.head
    if content.against is not None:
        yield "against", content.against


def numbers_by_role(
    content: PageContent, field: Direction, *, axis: str | None = None
) -> dict[Role, DirectionNumbers]:
    """The numbers of one direction, of the split or of one of its axes."""
    found: dict[Role, DirectionNumbers] = {}
    for role, result in heads_of(content):
        of = result.report if axis is None else result.report.by_axis.get(axis)
        if of is not None:
            is_to_video = field == "text_to_video"
            found[role] = of.text_to_video if is_to_video else of.video_to_text
    return {**found, "chance": chance_numbers(content.head.report.num_videos)}


def recall_1(
    content: PageContent, field: Direction, *, axis: str | None = None
) -> dict[Role, float]:
    """R@1 of each role."""
    by_role = numbers_by_role(content, field, axis=axis)
    return {role: numbers.recall_at[1] for role, numbers in by_role.items()}


def intervals_of(
    content: PageContent, role: Role, field: Direction, *, axis: str | None = None
) -> Mapping[str, Interval]:
    """Of a role's numbers by their names; chance has none."""
    result = dict(heads_of(content)).get(role)
    if result is None:
        return {}
    return result.uncertainty.of(to_video=field == "text_to_video", axis=axis)


def with_interval(value: float, interval: Interval | None) -> Markup:
    """``43.2 [40.1, 46.3]``, the interval smaller and below."""
    if interval is None:
        return joined([number(value)])
    text = f"[{number(interval.low)}, {number(interval.high)}]"
    return joined([number(value), " ", element("span", text, class_="interval")])


def level_text(content: PageContent) -> str:
    """How intervals were taken, a sentence."""
    of = content.resampling
    return (
        f"In brackets: {100 * of.level:g} % bootstrap intervals, {of.draws:,} draws of videos with "
        "all their captions. They say how far a number would move with other videos, not with "
        "another training; of ten videos or fewer they are too narrow."
    )
