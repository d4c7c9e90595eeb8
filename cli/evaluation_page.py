"""``muse evaluate --html``: from evaluated heads to the page of `muse.cli.page`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from muse.cli.head_history import remarks

if TYPE_CHECKING:
    from muse.cli.evaluated import Evaluated
    from muse.head.bootstrap import Resampling

_FILM_TIMEOUT_SECONDS = 60.0  # to decode a video for a picture of it


def write_evaluation_page(
    file: Path, evaluated: "Sequence[Evaluated]", *, resampling: "Resampling | None"
) -> None:
    """The page of one head, or of one against another.

    Args:
        file: Appears whole.
        evaluated: One head, or two on the same split.
        resampling: Of the intervals; the usual one if None.

    Raises:
        UsageError: If the file can't be written.
    """
    import datetime

    from muse.cli.page.content import head_result, page_content, shown_videos
    from muse.cli.page.film_strips import film_strips, stored_thumbnails
    from muse.cli.page.page import page_of, write_page
    from muse.pipeline.decoding.decoder import DecodeLimits, IsolatedDecoder

    first = evaluated[0]
    results = [
        head_result(one.store, one.report, one.embedded, resampling=resampling) for one in evaluated
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
    decoder = IsolatedDecoder(DecodeLimits(timeout_seconds=_FILM_TIMEOUT_SECONDS))
    try:
        strips = film_strips(
            shown_videos(content),
            sampling=first.store.header.sampling,
            decode=decoder,
            thumbnails=stored_thumbnails(first.store),
        )
    finally:
        decoder.close()
    write_page(file, page_of(content, strips, on=datetime.datetime.now(datetime.UTC).date()))
