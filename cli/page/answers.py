"""The part of the page that shows queries: a text, its ranks, and the films that heads found.

Which queries is decided in ``examples``; knows nothing of how a film became a picture.
"""

from collections.abc import Mapping

from muse.cli.page.content import MAX_AXES, ExampleGroup, HeadResult, PageContent
from muse.cli.page.drawing import Role
from muse.cli.page.examples import Example, Kind
from muse.cli.page.film_strips import Strips, strip_element
from muse.cli.page.markup import Markup, element, rank_text, section
from muse.cli.page.numbers import heads_of, names_of

Responses = Mapping[tuple[int, int], Markup]
"""By (caption, video) of `muse.cli.page.content.shown_pairs`, what is shown below an example."""

_TITLES: dict[Kind, str] = {
    "improved": "Improved",
    "worsened": "Worsened",
    "missed": "Furthest from its answer",
    "drawn": "Drawn at random",
}
_ABOUT_TWO = (
    "The queries that improved most and worsened most between the two heads, and the one furthest "
    "from its answer. Chosen by rank: they show what gains and losses look like, not how common "
    "they are."
)
_ABOUT_ONE = (
    "The queries furthest from their answers, and some drawn at random, the same ones for the same "
    "store."
)


def examples(content: PageContent, strips: Strips, responses: Responses) -> Markup:
    """Queries of each axis with what was found; nothing where there is no query to show."""
    groups = [group for group in content.groups if group.examples]
    if not groups:
        return Markup("")
    num_axes = len(content.head.report.by_axis)
    words = (
        f"{_ABOUT_ONE if content.against is None else _ABOUT_TWO} Below each text the first videos "
        "that it finds, best first; the right one has a frame and is named."
    )
    if num_axes > MAX_AXES:
        words += f" The first {MAX_AXES} of {num_axes} axes are shown."
    parts = [_group(group, content, strips, responses) for group in groups]
    return section("Examples", element("p", words), *parts)


def _group(
    group: ExampleGroup, content: PageContent, strips: Strips, responses: Responses
) -> Markup:
    heading = [element("h3", group.axis)] if group.axis else []
    level = "h4" if group.axis else "h3"
    queries = [_query(one, content, strips, responses, level=level) for one in group.examples]
    return element("div", *heading, *queries)


def _query(
    example: Example, content: PageContent, strips: Strips, responses: Responses, *, level: str
) -> Markup:
    query, right = example.query, int(content.video_of_caption_Q[example.query])
    lists = [
        _found_by(role, result, example, content, strips) for role, result in heads_of(content)
    ]
    return element(
        "article",
        element(level, f"{_TITLES[example.kind]}: {_ranks(example, content)}"),
        element("blockquote", content.captions_Q[query].text),
        *lists,
        responses.get((query, right), Markup("")),
        class_="query",
    )


def _ranks(example: Example, content: PageContent) -> str:
    """``rank 40 under mean-pool, 3 under run, of 670 videos``: before, then after."""
    names = names_of(content)
    texts = [
        f"{rank_text(float(result.rank_Q[example.query]))} under {names[role]}"
        for role, result in reversed([*heads_of(content)])
    ]
    return f"rank {', '.join(texts)}, of {len(content.videos_V)} videos"


def _found_by(
    role: Role, result: HeadResult, example: Example, content: PageContent, strips: Strips
) -> Markup:
    """The first videos of one head, and the right one where it is not among them."""
    right = int(content.video_of_caption_Q[example.query])
    places = result.top_Qk[example.query].tolist()
    answers = [
        _answer(place, f"{order}.", content, strips, is_right=place == right)
        for order, place in enumerate(places, start=1)
    ]
    if right not in places:
        rank = rank_text(float(result.rank_Q[example.query]))
        answers.append(_answer(right, f"{rank}.", content, strips, is_right=True))
    words = f"Found by {names_of(content)[role]}"
    found = element("ol", *answers, class_="answers", aria_label=words)
    return element("div", element("p", words, class_=f"finder {role}"), found)


def _answer(
    place: int, order: str, content: PageContent, strips: Strips, *, is_right: bool
) -> Markup:
    video_id = content.videos_V[place].video_id
    words = (
        element("span", f"{order}{' right' if is_right else ''}", class_="place"),
        " ",
        video_id,
    )
    strip = strip_element(video_id, strips)
    return element("li", strip, *words, class_="right" if is_right else None)
