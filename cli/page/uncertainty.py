"""How far the page's numbers would move with other queries: of the split, and of each axis.

Knows nothing of HTML or of how a bootstrap is drawn (`muse.head.retrieval_intervals`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from muse.head.bootstrap import Interval, Resampling
from muse.head.comparison import HeadRanks
from muse.head.ranks import RetrievalRanks
from muse.head.retrieval_intervals import RetrievalIntervals, retrieval_intervals


@dataclass(frozen=True, kw_only=True, slots=True)
class Uncertainty:
    """Intervals of one head's numbers."""

    intervals: RetrievalIntervals | None
    """None where there is one video only, of which no interval can be drawn."""

    def of(self, *, to_video: bool, axis: str | None = None) -> Mapping[str, Interval]:
        """Of each number of a direction by its name; empty where there is none."""
        if self.intervals is None:
            return {}
        whole = self.intervals.numbers
        found = whole if axis is None else self.intervals.by_axis.get(axis)
        if found is None:
            return {}
        return found.text_to_video if to_video else found.video_to_text


def uncertainty(
    ranks: HeadRanks, axis_of_caption_Q: Sequence[str], *, resampling: Resampling
) -> Uncertainty:
    """Intervals of a split and of its axes.

    Args:
        ranks: Of Q captions.
        axis_of_caption_Q: Q names; captions under the empty one are in no axis.
        resampling: How many draws, and which.
    """
    if len(ranks.video_to_text.num_better) < 2:
        return Uncertainty(intervals=None)
    found = retrieval_intervals(
        [RetrievalRanks(text_to_video=ranks.text_to_video, video_to_text=ranks.video_to_text)],
        video_of_caption_Q=torch.from_numpy(ranks.selection.video_of_caption_Q),
        resampling=resampling,
        axis_of_caption_Q=axis_of_caption_Q,
    )
    return Uncertainty(intervals=found)
