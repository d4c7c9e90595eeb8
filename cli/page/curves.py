"""The parts of the page that are charts: recall over k, ranks in bins, and the training.

Knows nothing of stores or pictures.
"""

from collections.abc import Sequence

import numpy as np

from muse.cli.page.charts import Bars, Curve, bar_chart, curve_chart
from muse.cli.page.content import HeadResult, PageContent, RecallCurve
from muse.cli.page.drawing import Role
from muse.cli.page.markup import Markup, element, joined, number, section
from muse.cli.page.numbers import DIRECTIONS, Direction, heads_of, names_of, numbers_by_role
from muse.cli.page.rank_bins import RankBin

_MAX_STEPS = 300  # of a training curve: more can't be told apart on a screen


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
        Curve(role=role, points=_recall_curve(result, field)) for role, result in heads_of(content)
    ]
    num = content.head.report.num_videos
    chance = [(k, 100 * k / num) for k, _ in _recall_curve(content.head, field)]
    return [*found, Curve(role="chance", points=chance)]


def _curve_words(content: PageContent, field: Direction) -> str:
    names = names_of(content)
    parts = []
    for role, numbers in numbers_by_role(content, field).items():
        recalls = ", ".join(f"R@{k} {number(value)}" for k, value in numbers.recall_at.items())
        parts.append(f"{names[role]}: {recalls}")
    return "; ".join(parts)


def _recall_curve(result: HeadResult, field: Direction) -> RecallCurve:
    is_to_video = field == "text_to_video"
    return result.text_to_video_curve if is_to_video else result.video_to_text_curve


def rank_histograms(content: PageContent) -> Markup:
    """The percent of queries whose answer is at rank 1, at 2, at 3 to 5 and so on."""
    charts = [
        bar_chart(
            _bars(content, field),
            key=f"ranks-{field.replace('_', '-')}",
            title=f"{title}: rank of the right answer",
            names=names_of(content),
            x_title="rank, in bins that widen",
        )
        for title, field in DIRECTIONS
    ]
    words = (
        "Percent of queries whose answer has such a rank. Later bins hold more ranks, so that a "
        "shuffled list fills them more."
    )
    return section("Ranks", element("p", words), element("div", *charts, class_="pair"))


def _bars(content: PageContent, field: Direction) -> list[Bars]:
    by_role: dict[Role, Sequence[RankBin]] = {
        role: result.text_to_video_bins if field == "text_to_video" else result.video_to_text_bins
        for role, result in heads_of(content)
    }
    bars = []
    for place, one in enumerate(by_role["head"]):
        values: dict[Role, float] = {role: bins[place].share for role, bins in by_role.items()}
        bars.append(Bars(label=one.label, values={**values, "chance": one.chance}))
    return bars


def training(content: PageContent) -> Markup:
    """Loss and learning rate of each head that was trained; nothing where none was."""
    parts = [_of_run(role, result) for role, result in heads_of(content) if result.log]
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
