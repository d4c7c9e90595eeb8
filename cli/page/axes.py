"""The part of the page about axes: what captions ask for, and how well each is answered.

Knows nothing of stores or pictures.
"""

import math

from muse.cli.page.charts import Dots, dot_chart
from muse.cli.page.content import PageContent
from muse.cli.page.markup import Markup, element, section, table
from muse.cli.page.numbers import (
    COLUMNS,
    DIRECTIONS,
    intervals_of,
    level_text,
    names_of,
    numbers_by_role,
    recall_1,
    with_interval,
)


def axes(content: PageContent) -> Markup:
    """R@1 of each axis in both directions, and all its numbers; nothing where there is no axis."""
    by_axis = content.head.report.by_axis
    if not by_axis:
        return Markup("")
    names = names_of(content)
    charts = []
    for title, field in DIRECTIONS:
        rows = [Dots(label=axis, values=recall_1(content, field, axis=axis)) for axis in by_axis]
        key = f"axes-{field.replace('_', '-')}"
        charts.append(dot_chart(rows, key=key, title=f"{title}, R@1 by axis", names=names))
    words = (
        "What a caption asks for, as its benchmark says. Every query is ranked among all "
        f"{content.head.report.num_videos} videos of the split, whatever its axis. "
        f"{level_text(content)}"
    )
    return section(
        "By axis", element("p", words), _axis_table(content), *charts, _all_of_axes(content)
    )


def _axis_table(content: PageContent) -> Markup:
    names = names_of(content)
    heads = ["axis", "captions", "videos"]
    heads += [f"{title}: {name}" for title, _ in DIRECTIONS for name in names.values()]
    rows = []
    for axis, found in content.head.report.by_axis.items():
        cells = [axis, str(found.num_captions), str(found.num_videos)]
        for _, field in DIRECTIONS:
            values = recall_1(content, field, axis=axis)
            for role in names:
                interval = intervals_of(content, role, field, axis=axis).get("R@1")
                cells.append(with_interval(values.get(role, math.nan), interval))
        rows.append(cells)
    return table("R@1 by axis, percent.", heads, rows)


def _all_of_axes(content: PageContent) -> Markup:
    rows = []
    for axis in content.head.report.by_axis:
        for title, field in DIRECTIONS:
            for role, numbers in numbers_by_role(content, field, axis=axis).items():
                if role != "chance":
                    around = intervals_of(content, role, field, axis=axis)
                    values = numbers.as_json().items()
                    cells = [with_interval(value, around.get(name)) for name, value in values]
                    rows.append([axis, title, names_of(content)[role], *cells])
    whole = table("Both directions of each axis.", ["axis", "direction", "head", *COLUMNS], rows)
    return element("details", element("summary", "All numbers by axis"), whole)
