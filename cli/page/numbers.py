"""The parts of the page that hold numbers: the headline, the axes, the curves, the training.

Knows nothing of stores or pictures.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from muse.cli.page.charts import Curve, Dots, Names, Role, curve_chart, dot_chart
from muse.cli.page.content import HeadResult, PageContent, RecallCurve
from muse.cli.page.markup import Markup, element, joined, number, section, table
from muse.head.metrics import RECALL_AT, DirectionNumbers

Direction = Literal["text_to_video", "video_to_text"]
DIRECTIONS: tuple[tuple[str, Direction], ...] = (
    ("text to video", "text_to_video"),
    ("video to text", "video_to_text"),
)
_COLUMNS = (*(f"R@{k}" for k in RECALL_AT), "MdR", "MnR", "Rsum")
_MAX_STEPS = 300  # of a training curve: more can't be told apart on a screen


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


def headline(content: PageContent) -> Markup:
    """Both directions for each head and for chance, as a table and as dots."""
    names = names_of(content)
    groups = [_direction_rows(content, title, field) for title, field in DIRECTIONS]
    head = element("tr", *(element("th", text, scope="col") for text in ("", *_COLUMNS)))
    words = (
        f"Percent of queries whose answer is among the first 1, 5, 10 and 50 of "
        f"{content.head.report.num_videos}, the median and mean rank of the answer, "
        "and the sum of the first three."
    )
    whole = element("table", element("caption", words), element("thead", head), *groups)
    rows = [Dots(label=title, values=_recall_1(content, field)) for title, field in DIRECTIONS]
    chart = dot_chart(rows, key="headline", title="R@1, percent", names=names)
    return section("Numbers", element("div", whole, class_="scroll"), chart)


def _direction_rows(content: PageContent, title: str, field: Direction) -> Markup:
    numbers = _by_role(content, field)
    names = names_of(content)
    columns = len(_COLUMNS) + 1
    rows = [
        element("tr", element("th", title, scope="rowgroup", colspan=columns), class_="group"),
        *(_number_row(names[role], role, numbers) for role in names),
    ]
    return element("tbody", *rows)


def _number_row(name: str, role: Role, numbers: Mapping[Role, DirectionNumbers]) -> Markup:
    """The row of a head or of chance; what is better than the other head's is bold."""
    values = numbers[role].as_json()
    other: Role = "against" if role == "head" else "head"
    cells = []
    for column in _COLUMNS:
        rivals = numbers[other].as_json() if role != "chance" and other in numbers else None
        is_best = rivals is not None and _is_better(column, values[column], rivals[column])
        cells.append(element("td", number(values[column]), class_="best" if is_best else None))
    return element("tr", element("th", name, scope="row"), *cells, class_=f"{role} system")


def _is_better(column: str, value: float, rival: float) -> bool:
    return value > rival if column.startswith("R") else value < rival


def axes(content: PageContent) -> Markup:
    """R@1 of each axis in both directions, and all its numbers; nothing where there is no axis."""
    by_axis = content.head.report.by_axis
    if not by_axis:
        return Markup("")
    names = names_of(content)
    charts = []
    for title, field in DIRECTIONS:
        rows = [Dots(label=axis, values=_recall_1(content, field, axis=axis)) for axis in by_axis]
        key = f"axes-{field.replace('_', '-')}"
        charts.append(dot_chart(rows, key=key, title=f"{title}, R@1, percent", names=names))
    words = (
        "What a caption asks for, as its benchmark says. Every query is ranked among all "
        f"{content.head.report.num_videos} videos of the split, whatever its axis."
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
            values = _recall_1(content, field, axis=axis)
            cells += [number(values.get(role, np.nan)) for role in names]
        rows.append(cells)
    return table("R@1 by axis, percent.", heads, rows)


def _all_of_axes(content: PageContent) -> Markup:
    rows = [
        [axis, title, names_of(content)[role], *map(number, numbers.as_json().values())]
        for axis in content.head.report.by_axis
        for title, field in DIRECTIONS
        for role, numbers in _by_role(content, field, axis=axis).items()
        if role != "chance"
    ]
    whole = table("Both directions of each axis.", ["axis", "direction", "head", *_COLUMNS], rows)
    return element("details", element("summary", "All numbers by axis"), whole)


def recall_curves(content: PageContent) -> Markup:
    """The percent of queries that are answered within k places, over k, in both directions."""
    charts = [
        curve_chart(
            _curves(content, field),
            key=f"curve-{field.replace('_', '-')}",
            title=f"{title}: answered within k places",
            names=names_of(content),
            x_title="k, logarithmic",
            y_range=(0.0, 100.0),
            is_log=True,
            unit="%",
            words=_curve_words(content, field),
        )
        for title, field in DIRECTIONS
    ]
    words = "How far down the list the right answer is: a curve that rises earlier is better."
    return section("Recall over k", element("p", words), element("div", *charts, class_="pair"))


def _curves(content: PageContent, field: Direction) -> list[Curve]:
    found = [
        Curve(role=role, points=_recall_curve(result, field)) for role, result in _heads(content)
    ]
    num = content.head.report.num_videos
    chance = [(k, 100 * k / num) for k, _ in _recall_curve(content.head, field)]
    return [*found, Curve(role="chance", points=chance)]


def _curve_words(content: PageContent, field: Direction) -> str:
    names = names_of(content)
    parts = []
    for role, numbers in _by_role(content, field).items():
        recalls = ", ".join(f"R@{k} {number(value)}" for k, value in numbers.recall_at.items())
        parts.append(f"{names[role]}: {recalls}")
    return "; ".join(parts)


def _recall_curve(result: HeadResult, field: Direction) -> RecallCurve:
    is_to_video = field == "text_to_video"
    return result.text_to_video_curve if is_to_video else result.video_to_text_curve


def training(content: PageContent) -> Markup:
    """Loss and learning rate of each head that was trained; nothing where none was."""
    parts = [_of_run(role, result) for role, result in _heads(content) if result.log]
    return section("Training", *parts) if parts else Markup("")


def _of_run(role: Role, result: HeadResult) -> Markup:
    charts = []
    for field, title in (("loss", "Loss"), ("lr", "Learning rate")):
        values = [(line["step"], line.get(field, np.nan)) for line in result.log]
        points = _thinned([(step, value) for step, value in values if np.isfinite(value)])
        words = f"{title} from {points[0][1]:.4g} to {points[-1][1]:.4g}" if points else ""
        chart = curve_chart(
            [Curve(role=role, points=points)],
            key=f"training-{role}-{field}",
            title=title,
            names={role: result.report.head},
            x_title="step",
            words=words,
        )
        charts.append(chart)
    steps = f"{result.report.head}: {len(result.log)} steps."
    return joined([element("p", steps), element("div", *charts, class_="pair")])


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `_MAX_STEPS` points, each the mean of its neighbours."""
    parts = np.array_split(np.asarray(points, dtype=np.float64), min(_MAX_STEPS, len(points) or 1))
    means = [part.mean(axis=0) for part in parts if len(part)]
    return [(float(x), float(y)) for x, y in means]


def _heads(content: PageContent) -> Iterator[tuple[Role, HeadResult]]:
    yield "head", content.head
    if content.against is not None:
        yield "against", content.against


def _by_role(
    content: PageContent, field: Direction, *, axis: str | None = None
) -> dict[Role, DirectionNumbers]:
    """The numbers of one direction, of the split or of one of its axes."""
    found: dict[Role, DirectionNumbers] = {}
    for role, result in _heads(content):
        of = result.report if axis is None else result.report.by_axis.get(axis)
        if of is not None:
            is_to_video = field == "text_to_video"
            found[role] = of.text_to_video if is_to_video else of.video_to_text
    return {**found, "chance": chance_numbers(content.head.report.num_videos)}


def _recall_1(
    content: PageContent, field: Direction, *, axis: str | None = None
) -> dict[Role, float]:
    by_role = _by_role(content, field, axis=axis)
    return {role: numbers.recall_at[1] for role, numbers in by_role.items()}
