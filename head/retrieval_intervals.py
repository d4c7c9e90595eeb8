"""Bootstrap intervals of a whole retrieval: both directions, each axis, one head or several seeds'.

Of several heads it is the interval of the mean of their numbers: a draw of videos is the same for
all of them, and their numbers are averaged draw by draw. What is drawn is in `muse.head.bootstrap`.
Knows nothing of stores.
"""

# Legend: Q captions.

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from muse.head.bootstrap import Interval, Resampling, intervals
from muse.head.metrics import TIE_RULE, axis_queries
from muse.head.ranks import RetrievalRanks, TieRule


@dataclass(frozen=True, kw_only=True, slots=True)
class DirectionIntervals:
    """Of each number of both directions, by its name."""

    text_to_video: dict[str, Interval]
    video_to_text: dict[str, Interval]

    def as_json(self) -> dict[str, Any]:
        """``[low, high]`` of each number."""
        return {
            "text_to_video": {name: one.as_json() for name, one in self.text_to_video.items()},
            "video_to_text": {name: one.as_json() for name, one in self.video_to_text.items()},
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrievalIntervals:
    """Of a retrieval's numbers, and of each axis' as far as it has them."""

    resampling: Resampling
    numbers: DirectionIntervals
    by_axis: dict[str, DirectionIntervals] = field(default_factory=dict)
    """By the axis' name; an axis with captions of one video only has none."""
    tie_rule: TieRule = TIE_RULE
    num_seeds: int = 1
    """Heads whose numbers were averaged draw by draw."""

    def as_json(self) -> dict[str, Any]:
        """``[low, high]`` of each number, and how they were taken."""
        content = {
            **self.resampling.as_json(),
            "tie_rule": self.tie_rule,
            "num_seeds": self.num_seeds,
            **self.numbers.as_json(),
        }
        if self.by_axis:
            content["by_axis"] = {axis: one.as_json() for axis, one in self.by_axis.items()}
        return content


def retrieval_intervals(
    heads: Sequence[RetrievalRanks],
    *,
    video_of_caption_Q: Tensor,
    resampling: Resampling,
    ties: TieRule = TIE_RULE,
    axis_of_caption_Q: Sequence[str] = (),
) -> RetrievalIntervals:
    """Of both directions: videos are drawn, for text to video with all of their captions.

    Args:
        heads: Of `muse.head.metrics.retrieval_ranks`; of several, the same captions and videos,
            it is of the mean of their numbers.
        video_of_caption_Q: (Q,) int64, as it was given there.
        resampling: How many draws, and which.
        ties: What a rank is worth where scores tie.
        axis_of_caption_Q: Q names, or none; captions under the empty one are in no axis.

    Raises:
        MetricError: If there is only one video.
    """
    video_of_caption_Q = video_of_caption_Q.cpu()

    def of(captions: Tensor, videos: Tensor) -> DirectionIntervals:
        # As `muse.head.metrics.retrieval_numbers`: of many captions CLIP4Clip's code is another.
        many = ties == "clip4clip" and heads[0].has_many_captions
        return DirectionIntervals(
            text_to_video=intervals(
                [one.text_to_video.of(captions) for one in heads],
                video_of_caption_Q[captions],
                resampling=resampling,
                ties="expected" if many else ties,
                median="lower" if many else "middle",
            ),
            video_to_text=intervals(
                [one.video_to_text.of(videos) for one in heads],
                videos,
                resampling=resampling,
                ties=ties,
            ),
        )

    axes = axis_queries(video_of_caption_Q, axis_of_caption_Q)
    return RetrievalIntervals(
        resampling=resampling,
        numbers=of(
            torch.arange(len(video_of_caption_Q)),
            torch.arange(len(heads[0].video_to_text.num_better)),
        ),
        by_axis={
            axis: of(queries.captions, queries.videos)
            for axis, queries in axes.items()
            if len(queries.videos) > 1
        },
        tie_rule=ties,
        num_seeds=len(heads),
    )
