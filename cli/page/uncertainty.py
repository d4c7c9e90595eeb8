"""How far the page's numbers would move with other queries: of the split, and of each axis.

Knows nothing of HTML or of how a bootstrap is drawn (`muse.head.bootstrap`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from muse.head.bootstrap import Interval, Resampling, RetrievalIntervals, retrieval_intervals
from muse.head.comparison import HeadRanks
from muse.head.tiles import groups_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Uncertainty:
    """Intervals of one head's numbers."""

    split: RetrievalIntervals | None
    """None where there is one video only, of which no interval can be drawn."""
    by_axis: Mapping[str, RetrievalIntervals] = field(default_factory=dict)
    """By name; an axis of one video is not there."""

    def of(self, *, to_video: bool, axis: str | None = None) -> Mapping[str, Interval]:
        """Of each number of a direction by its name; empty where there is none."""
        found = self.split if axis is None else self.by_axis.get(axis)
        if found is None:
            return {}
        return found.text_to_video if to_video else found.video_to_text


def uncertainty(
    ranks: HeadRanks, axis_of_caption_Q: Sequence[str], *, resampling: Resampling
) -> Uncertainty:
    """Intervals of a split and of its axes: videos are drawn, each with all captions in question.

    Args:
        ranks: Of Q captions.
        axis_of_caption_Q: Q names; captions under the empty one are in no axis.
        resampling: How many draws, and which.
    """
    group_of_caption_Q = groups_of(torch.from_numpy(ranks.selection.video_of_caption_Q))[1]
    by_axis = {}
    for axis in sorted({*axis_of_caption_Q} - {""}):
        is_of_axis_Q = torch.tensor([name == axis for name in axis_of_caption_Q])
        found = _intervals(ranks, group_of_caption_Q, is_of_axis_Q, resampling)
        if found is not None:
            by_axis[axis] = found
    every_Q = torch.ones(len(axis_of_caption_Q), dtype=torch.bool)
    return Uncertainty(
        split=_intervals(ranks, group_of_caption_Q, every_Q, resampling), by_axis=by_axis
    )


def _intervals(
    ranks: HeadRanks, group_of_caption_Q: torch.Tensor, chosen_Q: torch.Tensor, of: Resampling
) -> RetrievalIntervals | None:
    """Of the chosen captions, and of the videos that they belong to."""
    group_of_chosen = group_of_caption_Q[chosen_Q]
    videos = groups_of(group_of_chosen)[0]
    if len(videos) < 2:
        return None
    return retrieval_intervals(
        ranks.text_to_video.of(chosen_Q),
        ranks.video_to_text.of(videos),
        video_of_caption_Q=group_of_chosen,
        resampling=of,
    )
