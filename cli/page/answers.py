"""The part of the page that shows queries: a text, its ranks, and the films it found.

Which queries is decided in ``examples``; knows nothing of how a film became a picture.
"""

from muse.cli.page.content import MAX_AXES, ExampleGroup, PageContent
from muse.cli.page.examples import Example, Kind
from muse.cli.page.film_strips import Strips, strip_element
from muse.cli.page.markup import Markup, element, rank_text, section
from muse.cli.page.numbers import names_of

_TITLES: dict[Kind, str] = {
    "found": "Found at once",
    "improved": "Improved most",
    "worsened": "Worsened most",
    "missed": "Missed",
}


def examples(content: PageContent, strips: Strips) -> Markup:
    """Queries of each axis with what was found; nothing where there is no query to show."""
    groups = [group for group in content.groups if group.examples]
    if not groups:
        return Markup("")
    num_axes = len(content.head.report.by_axis)
    words = (
        "The first videos that a text finds, best first; the right one has a frame. "
        "Chosen by rank alone: they show what gains and losses look like, not how common they are."
    )
    if num_axes > MAX_AXES:
        words += f" The first {MAX_AXES} of {num_axes} axes are shown."
    parts = [_group(group, content, strips) for group in groups]
    return section("Examples", element("p", words), *parts)


def _group(group: ExampleGroup, content: PageContent, strips: Strips) -> Markup:
    heading = [element("h3", group.axis)] if group.axis else []
    queries = [_query(example, content, strips) for example in group.examples]
    return element("div", *heading, *queries)


def _query(example: Example, content: PageContent, strips: Strips) -> Markup:
    caption = content.captions_Q[example.query]
    right = int(content.video_of_caption_Q[example.query])
    places = content.head.top_Qk[example.query].tolist()
    answers = [
        _answer(place, f"{order}.", content, strips, is_right=place == right)
        for order, place in enumerate(places, start=1)
    ]
    if right not in places:
        rank = rank_text(float(content.head.rank_Q[example.query]))
        answers.append(_answer(right, f"{rank}.", content, strips, is_right=True))
    return element(
        "article",
        element("h4", _TITLES[example.kind]),
        element("blockquote", caption.text),
        element("p", _ranks(example, content), class_="muted"),
        element("ol", *answers, class_="answers"),
        class_="query",
    )


def _ranks(example: Example, content: PageContent) -> str:
    """``rank 3 under run, 40 under mean-pool, of 670 videos``."""
    names = names_of(content)
    ranks = [f"rank {rank_text(float(content.head.rank_Q[example.query]))} under {names['head']}"]
    if content.against is not None:
        other = rank_text(float(content.against.rank_Q[example.query]))
        ranks.append(f"{other} under {names['against']}")
    return f"{', '.join(ranks)}, of {len(content.videos_V)} videos"


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
