"""The first part of the page: the numbers, how sure they are, and what papers report.

Knows nothing of stores or pictures.
"""

import math
from collections.abc import Mapping

from muse.cli.compare import p_text, queries_text
from muse.cli.page.charts import Dots, dot_chart
from muse.cli.page.content import PageContent
from muse.cli.page.drawing import Role
from muse.cli.page.markup import Markup, caption_of, element, number, scroller, section, table
from muse.cli.page.numbers import (
    COLUMNS,
    DIRECTIONS,
    Direction,
    intervals_of,
    level_text,
    names_of,
    numbers_by_role,
    recall_1,
    with_interval,
)
from muse.head.comparison import Comparison, Difference
from muse.head.metrics import DirectionNumbers
from muse.head.published_rows import (
    SETTING,
    PublishedProtocol,
    PublishedRow,
    published_protocol,
)


def headline(content: PageContent) -> Markup:
    """Both directions for each head, for chance and for papers, and whether the heads differ."""
    report = content.head.report
    published = published_protocol(report.protocol, report.split)
    rows = [Dots(label=title, values=recall_1(content, field)) for title, field in DIRECTIONS]
    return section(
        "Numbers",
        *_in_words(content),
        _number_table(content, published),
        element("p", level_text(content), class_="muted"),
        *_about_published(content, published),
        dot_chart(rows, key="headline", title="R@1, percent", names=names_of(content)),
        _differences(content),
    )


def _in_words(content: PageContent) -> list[Markup]:
    """A sentence for each direction: R@1, and against the other head whether chance explains it."""
    sentences = []
    for title, field in DIRECTIONS:
        numbers = numbers_by_role(content, field)["head"]
        sentence = f"{title.capitalize()}: R@1 {number(numbers.recall_at[1])}"
        around = intervals_of(content, "head", field).get("R@1")
        if content.comparison is not None:
            sentence += _against_in_words(content, content.comparison, field)
        elif around is not None:
            level = f"{100 * content.resampling.level:g} %"
            sentence += f" ({level} interval {number(around.low)} to {number(around.high)})"
        sentences.append(element("p", f"{sentence}.", class_="finding"))
    return sentences


def _against_in_words(content: PageContent, comparison: Comparison, field: Direction) -> str:
    names = names_of(content)
    is_to_video = field == "text_to_video"
    one = (comparison.text_to_video if is_to_video else comparison.video_to_text)[0]
    level = 100 * comparison.resampling.level
    p_value = p_text(one.p_value, comparison.num_permutations)
    return (
        f" under {names['head']}, {number(one.second)} under {names['against']}: a difference of "
        f"{one.difference:+.1f} ({level:g} % interval {one.interval.low:+.1f} to "
        f"{one.interval.high:+.1f}), p {'' if p_value.startswith('<') else '= '}{p_value} in a "
        f"paired permutation test. {_meaning(content, comparison, one, field)}"
    )


def _meaning(
    content: PageContent, comparison: Comparison, one: Difference, field: Direction
) -> str:
    """What a p value says, with the number of queries that it is of."""
    num_videos = comparison.num_videos
    num_queries = comparison.num_captions if field == "text_to_video" else num_videos
    queries = queries_text(num_queries, num_videos)
    if one.verdict == "no difference":
        return f"That is no difference that {queries} can show"
    better: Role = "head" if one.verdict == "better" else "against"
    return f"{names_of(content)[better]} is better, by more than chance explains, on {queries}"


def _number_table(content: PageContent, published: PublishedProtocol | None) -> Markup:
    caption = (
        f"Percent of queries whose answer is among the first 1, 5, 10 and 50 of "
        f"{content.head.report.num_videos}, the median and mean rank of the answer, "
        "and Rsum, which is R@1 + R@5 + R@10."
    )
    heads = (element("th", text, scope="col") for text in ("videos", *COLUMNS))
    head = element("tr", element("td", ""), *heads)
    groups = [_direction_rows(content, title, field, published) for title, field in DIRECTIONS]
    whole = element("table", caption_of(caption), element("thead", head), *groups)
    return scroller("Numbers, table", whole)


def _direction_rows(
    content: PageContent, title: str, field: Direction, published: PublishedProtocol | None
) -> Markup:
    names = names_of(content)
    heading = element("th", title, scope="rowgroup", colspan=len(COLUMNS) + 2)
    rows = [_number_row(content, role, field) for role in names]
    if published is not None:
        rows += [_published_row(row, field, published) for row in published.rows]
    return element("tbody", element("tr", heading, class_="group"), *rows)


def _number_row(content: PageContent, role: Role, field: Direction) -> Markup:
    """The row of a head or of chance; what is better than the other head's is bold."""
    numbers = numbers_by_role(content, field)
    around = intervals_of(content, role, field)
    values = numbers[role].as_json()
    cells = [
        element(
            "td",
            with_interval(values[column], around.get(column)),
            class_="best" if _is_best(column, role, numbers) else None,
        )
        for column in COLUMNS
    ]
    num_videos = element("td", str(content.head.report.num_videos))
    name = element("th", names_of(content)[role], scope="row")
    return element("tr", name, num_videos, *cells, class_=f"{role} system")


def _is_best(column: str, role: Role, numbers: Mapping[Role, DirectionNumbers]) -> bool:
    other: Role = "against" if role == "head" else "head"
    if role == "chance" or other not in numbers:
        return False
    value, rival = (round(numbers[one].as_json()[column], 1) for one in (role, other))
    return value > rival if column.startswith("R") else value < rival


def _published_row(row: PublishedRow, field: Direction, of: PublishedProtocol) -> Markup:
    values = row.text_to_video if field == "text_to_video" else row.video_to_text
    cells = [element("td", number(values.get(column, math.nan))) for column in COLUMNS]
    name = element("th", f"{row.method} (published)", scope="row")
    return element("tr", name, element("td", str(of.num_videos)), *cells, class_="published")


def _about_published(content: PageContent, published: PublishedProtocol | None) -> list[Markup]:
    """What published rows are, and whether they can be compared; or that there are none."""
    report = content.head.report
    if published is None:
        words = (
            f"muse knows no published numbers of the protocol {report.protocol}, split "
            f"{report.split}: nothing stands beside these."
        )
        return [element("p", words, class_="muted")]
    parts = []
    if not published.is_of_size(num_videos=report.num_videos, num_captions=report.num_captions):
        parts.append(element("p", _size_words(content, published), class_="note", role="note"))
    sources = "; ".join(f"{row.method}: {row.source}" for row in published.rows)
    words = " ".join(filter(None, (SETTING, f"{sources}.", published.remark)))
    return [*parts, element("p", words, class_="muted")]


def _size_words(content: PageContent, published: PublishedProtocol) -> str:
    report = content.head.report
    return (
        f"Not comparable with the published rows: these are of {report.num_videos:,} videos and "
        f"{report.num_captions:,} captions, the published ones of {published.num_videos:,} and "
        f"{published.num_captions:,}. The fewer the videos, the easier the retrieval."
    )


def _differences(content: PageContent) -> Markup:
    """Every number that the heads are compared by; nothing where there is one head."""
    found = content.comparison
    if found is None:
        return Markup("")
    names, level = names_of(content), 100 * found.resampling.level
    rows = [
        [
            title,
            one.name,
            number(one.first),
            number(one.second),
            f"{one.difference:+.1f} [{one.interval.low:+.1f}, {one.interval.high:+.1f}]",
            p_text(one.p_value, found.num_permutations),
            _meaning(content, found, one, field),
        ]
        for title, field in DIRECTIONS
        for one in (found.text_to_video if field == "text_to_video" else found.video_to_text)
    ]
    caption = (
        f"Differences with {level:g} % intervals of the same draws for both, and two-sided p "
        f"values of {found.num_permutations:,} sign flips, a video's captions together. Each p "
        "value is of one number alone."
    )
    heads = ["direction", "number", names["head"], names["against"], "difference", "p", "in words"]
    return element(
        "details",
        element("summary", "All differences between the two heads"),
        table(caption, heads, rows),
    )
