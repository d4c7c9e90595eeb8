"""``muse evaluate --html``: from evaluated heads to the page of `muse.cli.page`."""

from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from muse.cli.head_history import remarks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from muse.cli.evaluated import Evaluated
    from muse.cli.page.markup import Markup
    from muse.head.bootstrap import Resampling

_FILM_TIMEOUT_SECONDS = 60.0  # to decode a video for a picture of it
_STEPS_OF_MAPS = 16  # of `muse.head.responses`; 32 take twice as long and look the same


def write_evaluation_page(
    file: Path,
    evaluated: "Sequence[Evaluated]",
    *,
    resampling: "Resampling",
    num_maps: int,
) -> None:
    """The page of one head, or of one against another.

    Args:
        file: Appears whole.
        evaluated: One head, or two on the same split.
        resampling: Of the intervals.
        num_maps: So many examples show what responds in the first head.

    Raises:
        UsageError: If the file can't be written.
    """
    import datetime

    from muse.cli.page.content import head_result, mapped_pairs, page_content, shown_videos
    from muse.cli.page.film_strips import film_strips, frames_of, stored_thumbnails
    from muse.cli.page.page import page_of, write_page
    from muse.pipeline.decoding.decoder import DecodeLimits, IsolatedDecoder

    first = evaluated[0]
    results = [
        head_result(
            one.store,
            one.report,
            one.embedded,
            resampling=resampling,
            source_sha256=one.opened.source_sha256,
        )
        for one in evaluated
    ]
    content = page_content(
        first.store,
        first.embedded,
        head=results[0],
        against=results[1] if len(results) > 1 else None,
        remarks=[
            f"{one.report.head}: {remark}"
            for one in evaluated
            for remark in remarks(one.report.head, one.report.split)
        ],
        resampling=resampling,
    )
    with closing(IsolatedDecoder(DecodeLimits(timeout_seconds=_FILM_TIMEOUT_SECONDS))) as decoder:
        sampling, thumbnails = first.store.header.sampling, stored_thumbnails(first.store)
        strips = film_strips(
            shown_videos(content), sampling=sampling, decode=decoder, thumbnails=thumbnails
        )
        frames = partial(frames_of, sampling=sampling, decode=decoder, thumbnails=thumbnails)
        maps = {
            (query, video): _map(first, query, video, frames(content.videos_V[video]))
            for query, video in mapped_pairs(content, num_maps)
        }
    today = datetime.datetime.now(datetime.UTC).date()
    write_page(file, page_of(content, strips, on=today, responses=maps))


def _map(
    evaluated: "Evaluated", query: int, video: int, pictures: "Sequence[NDArray[np.uint8]]"
) -> "Markup":
    """What responds in a video to its caption: places among those that were evaluated."""
    from muse.cli.page.responses import response_figure
    from muse.head.responses import responses

    embedded, opened = evaluated.embedded, evaluated.opened
    clip = opened.store.read_clip(int(embedded.selection.video_rows_V[video]))
    found = responses(
        opened.head,
        clip,
        embedded.text_QD[query].cpu().numpy(),
        device=opened.device,
        num_steps=_STEPS_OF_MAPS,
    )
    return response_figure(
        found,
        key=f"map-{query}",
        name=f"What responds to it in video {clip.video_id}, under {opened.name}",
        pts_seconds_T=clip.pts_seconds_T,
        pictures=pictures,
    )
