"""What a page tells, as values: gathered from a store and one or two heads.

Knows nothing of HTML. Arrays are NumPy's and lists; torch ends here.
"""

# Legend: Q captions, V videos, k answers kept.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from muse.cli.page.examples import Example, examples_among
from muse.errors import StoreError
from muse.head import metrics
from muse.head.evaluate import MEAN_POOL, RetrievalReport, SplitEmbeddings
from muse.head.ledger import curve_places, recall_curve, text_to_video_ledger
from muse.head.run_log import read_log
from muse.pipeline.header import StoreHeader
from muse.pipeline.records import Caption, Failure, VideoRef
from muse.pipeline.store import FeatureStore, StoreCounts
from muse.pipeline.store_zarr import ZarrStore

NUM_ANSWERS = 3  # shown of each query
MAX_AXES = 12  # with examples of their own
RecallCurve = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadResult:
    """One head on the split."""

    report: RetrievalReport
    rank_Q: NDArray[np.float64]
    """(Q,) of each caption's video among all videos, from 1."""
    top_Qk: NDArray[np.intp]
    """(Q, k) places of each caption's first videos."""
    text_to_video_curve: RecallCurve
    """(k, percent of queries whose answer is among the first k)."""
    video_to_text_curve: RecallCurve
    log: Sequence[Mapping[str, float]]
    """Of its training, a line a step; empty for a head without a run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreFacts:
    """What is said of the store."""

    location: str
    header: StoreHeader
    root_sha256: str
    counts: StoreCounts
    failures: Sequence[Failure]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExampleGroup:
    """The queries shown of one axis, or of the whole split."""

    axis: str
    """Empty for the whole split."""
    examples: Sequence[Example]


@dataclass(frozen=True, kw_only=True, slots=True)
class PageContent:
    """All that a page is made of but its pictures."""

    store: StoreFacts
    head: HeadResult
    against: HeadResult | None
    captions_Q: Sequence[Caption]
    videos_V: Sequence[VideoRef]
    """With the file that the listing named, where it did."""
    video_of_caption_Q: NDArray[np.intp]
    groups: Sequence[ExampleGroup]
    remarks: Sequence[str]
    """What changes how the numbers are to be read."""


def head_result(report: RetrievalReport, embedded: SplitEmbeddings) -> HeadResult:
    """What one head made of a split.

    Args:
        report: Of `muse.head.evaluate.report_of`.
        embedded: What it was made of.

    Raises:
        MetricError: If an embedding is NaN or infinite.
    """
    retrieval = (embedded.text_QD, embedded.video_VD, embedded.video_of_caption_Q)
    ledger = text_to_video_ledger(*retrieval, k=NUM_ANSWERS)
    places = curve_places(len(embedded.video_VD))
    return HeadResult(
        report=report,
        rank_Q=ledger.ranks.expected().numpy(),
        top_Qk=ledger.top_Qk.numpy(),
        text_to_video_curve=recall_curve(ledger.ranks, places),
        video_to_text_curve=recall_curve(metrics.video_to_text_ranks(*retrieval), places),
        log=[] if report.head == MEAN_POOL else read_log(Path(report.head)),
    )


def page_content(
    store: FeatureStore,
    embedded: SplitEmbeddings,
    *,
    head: HeadResult,
    against: HeadResult | None,
    remarks: Sequence[str] = (),
) -> PageContent:
    """What there is to tell of a head, or of two on the same split of the same store.

    Raises:
        StoreError: If the two did not see the same captions and videos.
    """
    if against is not None and len(against.rank_Q) != len(head.rank_Q):
        raise StoreError(
            f"{store.location}: {len(head.rank_Q)} captions for one head and "
            f"{len(against.rank_Q)} for the other: the store grew meanwhile. Evaluate again."
        )
    selection = embedded.selection
    captions = [store.captions[row] for row in selection.caption_rows_Q]
    return PageContent(
        store=StoreFacts(
            location=store.location,
            header=store.header,
            root_sha256=store.root_sha256,
            counts=store.counts(),
            failures=store.failures,
        ),
        head=head,
        against=against,
        captions_Q=captions,
        videos_V=_videos(store, selection.video_rows_V),
        video_of_caption_Q=selection.video_of_caption_Q,
        groups=_groups(captions, selection.video_of_caption_Q, head, against),
        remarks=remarks,
    )


def shown_videos(content: PageContent) -> list[VideoRef]:
    """The videos that the examples show, the first answers first; some come twice."""
    queries = [example.query for group in content.groups for example in group.examples]
    right = [int(content.video_of_caption_Q[query]) for query in queries]
    answers = content.head.top_Qk[queries].T.reshape(-1).tolist() if queries else []
    return [content.videos_V[place] for place in [*right, *answers]]


def _videos(store: FeatureStore, rows_V: NDArray[np.intp]) -> list[VideoRef]:
    """An exported file does not say where videos lay; a store does."""
    paths = store.video_paths if isinstance(store, ZarrStore) else ("",) * len(store.video_ids)
    windows = store.windows if isinstance(store, ZarrStore) else (None,) * len(store.video_ids)
    return [
        VideoRef(
            video_id=store.video_ids[row],
            path=Path(paths[row]) if paths[row] else None,
            window=windows[row],
        )
        for row in rows_V.tolist()
    ]


def _groups(
    captions_Q: Sequence[Caption],
    video_of_caption_Q: NDArray[np.intp],
    head: HeadResult,
    against: HeadResult | None,
) -> list[ExampleGroup]:
    axes = [*head.report.by_axis][:MAX_AXES]
    return [
        ExampleGroup(
            axis=axis,
            examples=examples_among(
                [q for q, caption in enumerate(captions_Q) if not axes or caption.axis == axis],
                rank_Q=head.rank_Q,
                against_Q=None if against is None else against.rank_Q,
                video_of_query_Q=video_of_caption_Q,
            ),
        )
        for axis in axes or [""]
    ]
