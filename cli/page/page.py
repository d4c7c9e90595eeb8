"""The whole page: what was evaluated, how well, and what is not in the numbers.

One file that needs nothing beside it: no script, no font, no address. Knows nothing of how its
content was computed.
"""

import datetime
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import muse
from muse.cli.page.answers import Responses, examples
from muse.cli.page.axes import axes
from muse.cli.page.content import PageContent
from muse.cli.page.curves import rank_histograms, recall_curves, training
from muse.cli.page.film_strips import Strips
from muse.cli.page.headline import headline
from muse.cli.page.markup import Markup, element, joined, section, table
from muse.cli.page.responses import SHEET as RESPONSES_SHEET
from muse.cli.page.style import SHEET
from muse.errors import UsageError
from muse.pipeline.header import Sampling
from muse.pipeline.records import Failure

_IDS_NAMED = 5  # of the videos that failed for one reason
_HASH_LETTERS = 12


def page_of(
    content: PageContent, strips: Strips, *, on: datetime.date, responses: Responses | None = None
) -> str:
    """The page as HTML, from its doctype on.

    Args:
        content: What it tells.
        strips: Pictures of videos; one that has none is a grey tile.
        on: The day it says it was made.
        responses: What is shown below the example of a caption and its video; nothing without.
    """
    report = content.head.report
    title = f"{report.protocol}, split {report.split}: {report.head}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", joined([SHEET, RESPONSES_SHEET] if responses else [SHEET])),
    )
    body = element(
        "main",
        _header(content, on),
        headline(content),
        axes(content),
        recall_curves(content),
        rank_histograms(content),
        examples(content, strips, responses or {}),
        training(content),
        _left_out(content),
        _rules(content),
    )
    return f"<!doctype html>\n{element('html', head, element('body', body), lang='en')}\n"


def write_page(file: Path, page: str) -> None:
    """Writes the page, its folder too.

    Raises:
        UsageError: If the file can't be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--html {file}: can't be written ({error.strerror}).") from error


def _header(content: PageContent, on: datetime.date) -> Markup:
    report, header = content.head.report, content.store.header
    against = content.against.report.head if content.against else None
    facts = {
        "Split": report.split,
        "Videos": f"{report.num_videos} of {report.num_videos_listed} listed are in the numbers",
        "Captions": f"{report.num_captions} of {report.num_captions_listed} listed",
        "Head": report.head,
        "Held against": against or "nothing",
        "Encoder": joined(
            [
                f"{header.encoder.spec}, {header.encoder.precision}, weights ",
                element("code", header.encoder.weights_sha256[:_HASH_LETTERS]),
            ]
        ),
        "Sampling": _sampling_text(header.sampling),
        "Store": joined(
            [f"{content.store.location}, root ", element("code", _root(content))],
        ),
        "Made": f"by muse {muse.__version__} on {on.isoformat()}",
    }
    entries = [part for name, fact in facts.items() for part in _entry(name, fact)]
    return element(
        "header",
        element("h1", report.protocol),
        element("p", "Text-video retrieval, both directions", class_="muted"),
        element("dl", *entries),
        *(element("p", remark, class_="note", role="note") for remark in content.remarks),
    )


def _entry(name: str, fact: str) -> tuple[Markup, Markup]:
    return element("dt", name), element("dd", fact)


def _root(content: PageContent) -> str:
    return content.store.root_sha256[:_HASH_LETTERS]


def _sampling_text(sampling: Sampling) -> str:
    rate = f" at {sampling.fps:g} fps" if sampling.kind == "fps" else ""
    return f"{sampling.kind}{rate}, at most {sampling.num_frames} frames a video"


def _left_out(content: PageContent) -> Markup:
    """What the store lists and has no features of, by reason."""
    counts, report = content.store.counts, content.head.report
    words = (
        f"Of the split, {report.num_videos_listed - report.num_videos} videos and "
        f"{report.num_captions_listed - report.num_captions} captions have no features and are in "
        f"no number. The whole store: listed {counts.listed} = ok {counts.ok} + failed "
        f"{counts.failed} + skipped {counts.skipped} + pending {counts.pending}."
    )
    parts = [element("p", words)]
    if content.store.failures:
        caption = "Videos of the whole store without features; `muse store errors` has them all."
        rows = _failure_rows(content.store.failures)
        parts.append(table(caption, ["reason", "videos", "which"], rows, class_="words"))
    return section("What is not in the numbers", *parts)


def _failure_rows(failures: Sequence[Failure]) -> list[list[str]]:
    """The commonest reason first."""
    rows = []
    for reason, count in Counter(failure.reason for failure in failures).most_common():
        ids = [failure.video_id for failure in failures if failure.reason == reason]
        more = f" and {count - _IDS_NAMED} more" if count > _IDS_NAMED else ""
        rows.append([reason, str(count), ", ".join(ids[:_IDS_NAMED]) + more])
    return rows


def _rules(content: PageContent) -> Markup:
    report = content.head.report.as_json()
    words = (
        f"Ties: {report['tie_rule']}, the mean over all orders of equal scores. Video to text: "
        f"{report['v2t_rule']}. R@k: percent of queries whose answer is among the first k. MdR, "
        "MnR: median and mean rank of the answer, from 1; lower is better. Rsum: R@1 + R@5 + R@10. "
        "Chance: a shuffled list."
    )
    return element("footer", element("p", words, class_="muted"))
