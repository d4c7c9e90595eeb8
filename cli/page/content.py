"""What a page tells, as values: gathered from a store and one or two heads.

Knows nothing of HTML. What is shown is in NumPy's arrays and lists; torch ends here.
"""

# Legend: Q captions, V videos, k answers kept.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from muse.cli.page.examples import Example, examples_among
from muse.cli.page.rank_bins import RankBin, rank_bins
from muse.cli.page.uncertainty import Uncertainty, uncertainty
from muse.errors import StoreError
from muse.head import metrics
from muse.head.bootstrap import Resampling
from muse.head.comparison import Comparison, HeadRanks, compare_heads
from muse.head.embeddings import SplitEmbeddings
from muse.head.evaluate import MEAN_POOL, RetrievalReport
from muse.head.ledger import curve_places, recall_curve, text_to_video_ledger
from muse.head.ranks import Ranks, RetrievalRanks
from muse.head.run_log import read_log
from muse.pipeline.header import StoreHeader
from muse.pipeline.records import Caption, Failure, VideoRef
from muse.pipeline.store import FeatureStore, StoreCounts
from muse.pipeline.store_zarr import ZarrStore

NUM_ANSWERS = 3  # shown of each query
MAX_AXES = 12  # with examples of their own
NUM_OF_AN_AXIS = 2  # examples of each kind
NUM_OF_A_SPLIT = 5  # where there is no axis
RecallCurve = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadResult:
    """One head on the split."""

    report: RetrievalReport
    ranks: HeadRanks
    """To be compared with another head's."""
    uncertainty: Uncertainty
    rank_Q: NDArray[np.float64]
    """(Q,) of each caption's video among all videos, from 1."""
    top_Qk: NDArray[np.intp]
    """(Q, k) places of each caption's first videos."""
    text_to_video_curve: RecallCurve
    """(k, percent of queries whose answer is among the first k)."""
    video_to_text_curve: RecallCurve
    text_to_video_bins: Sequence[RankBin]
    video_to_text_bins: Sequence[RankBin]
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
    comparison: Comparison | None
    """Of the two; None where there is one, or one video."""
    resampling: Resampling
    captions_Q: Sequence[Caption]
    videos_V: Sequence[VideoRef]
    """With the file that the listing named, where it did."""
    video_of_caption_Q: NDArray[np.intp]
    groups: Sequence[ExampleGroup]
    remarks: Sequence[str]
    """What changes how the numbers are to be read."""


def head_result(
    store: FeatureStore,
    report: RetrievalReport,
    embedded: SplitEmbeddings,
    *,
    resampling: Resampling | None = None,
    source_sha256: str = "",
) -> HeadResult:
    """What one head made of a split.

    Args:
        store: What ``embedded`` was made from.
        report: Of `muse.head.evaluate.report_of`.
        embedded: What it was made of.
        resampling: Of the intervals; the usual one if None.
        source_sha256: Root of the store that ``store`` was encoded from; empty: from none.

    Raises:
        MetricError: If an embedding is NaN or infinite.
    """
    retrieval = (embedded.text_QD, embedded.video_VD, embedded.video_of_caption_Q)
    ledger = text_to_video_ledger(*retrieval, k=NUM_ANSWERS)
    ranks = _on_cpu(metrics.retrieval_ranks(*retrieval))
    selection, num_videos = embedded.selection, len(embedded.video_VD)
    head_ranks = HeadRanks(
        head=report.head,
        protocol=report.protocol,
        store_sha256=source_sha256 or store.root_sha256,
        selection=selection,
        text_to_video=ranks.text_to_video,
        video_to_text=ranks.video_to_text,
    )
    axes = [store.captions[row].axis for row in selection.caption_rows_Q]
    places = curve_places(num_videos)
    return HeadResult(
        report=report,
        ranks=head_ranks,
        uncertainty=uncertainty(head_ranks, axes, resampling=resampling or Resampling()),
        rank_Q=ledger.ranks.expected().numpy(),
        top_Qk=ledger.top_Qk.numpy(),
        text_to_video_curve=recall_curve(ranks.text_to_video, places),
        video_to_text_curve=recall_curve(ranks.video_to_text, places),
        text_to_video_bins=rank_bins(ranks.text_to_video, num_videos),
        video_to_text_bins=rank_bins(ranks.video_to_text, len(ranks.video_to_text.num_better)),
        log=[] if report.head == MEAN_POOL else read_log(Path(report.head)),
    )


def page_content(
    store: FeatureStore,
    embedded: SplitEmbeddings,
    *,
    head: HeadResult,
    against: HeadResult | None,
    remarks: Sequence[str] = (),
    resampling: Resampling | None = None,
) -> PageContent:
    """What there is to tell of a head, or of two on the same split of the same store.

    Args:
        store: What ``embedded`` was made from.
        embedded: Of ``head``.
        head: Of `head_result`.
        against: Of `head_result` too; None for one head alone.
        remarks: What changes how the numbers are to be read.
        resampling: That of the heads' intervals.

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
    resampling = resampling or Resampling()
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
        comparison=_comparison(head, against, resampling),
        resampling=resampling,
        captions_Q=captions,
        videos_V=_videos(store, selection.video_rows_V),
        video_of_caption_Q=selection.video_of_caption_Q,
        groups=_groups(
            captions, selection.video_of_caption_Q, head, against, seed_of=store.root_sha256
        ),
        remarks=remarks,
    )


def shown_videos(content: PageContent) -> list[VideoRef]:
    """The videos that the examples show, the first answers first; some come twice."""
    queries = [query for query, _ in shown_pairs(content)]
    right = [video for _, video in shown_pairs(content)]
    heads = [head for head in (content.head, content.against) if head is not None]
    answers = [head.top_Qk[queries].T.reshape(-1).tolist() for head in heads] if queries else []
    return [content.videos_V[place] for places in (right, *answers) for place in places]


def shown_pairs(content: PageContent) -> list[tuple[int, int]]:
    """(caption, its video) of each example, as places among all; each once."""
    queries = dict.fromkeys(example.query for group in content.groups for example in group.examples)
    return [(query, int(content.video_of_caption_Q[query])) for query in queries]


def mapped_pairs(content: PageContent, num_pairs: int) -> list[tuple[int, int]]:
    """Of `shown_pairs` the first so many, an example of each group before a second one of any."""
    rounds = zip_longest(*([one.query for one in group.examples] for group in content.groups))
    queries = dict.fromkeys(query for one in rounds for query in one if query is not None)
    pairs = [(query, int(content.video_of_caption_Q[query])) for query in queries]
    return pairs[:num_pairs]


def _comparison(
    head: HeadResult, against: HeadResult | None, resampling: Resampling
) -> Comparison | None:
    if against is None or head.report.num_videos < 2:
        return None
    return compare_heads(head.ranks, against.ranks, resampling=resampling)


def _on_cpu(ranks: RetrievalRanks) -> RetrievalRanks:
    to_video, to_text = (
        Ranks(num_better=found.num_better.cpu(), num_equal=found.num_equal.cpu())
        for found in (ranks.text_to_video, ranks.video_to_text)
    )
    return RetrievalRanks(text_to_video=to_video, video_to_text=to_text)


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
    *,
    seed_of: str,
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
                num_each=NUM_OF_AN_AXIS if axes else NUM_OF_A_SPLIT,
                seed_of=f"{seed_of} {axis}",
            ),
        )
        for axis in axes or [""]
    ]
