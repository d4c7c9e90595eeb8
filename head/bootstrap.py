"""How far retrieval numbers would move with other queries: bootstrap percentile intervals.

The queries are drawn again, with replacement, as often as there are, and the numbers taken anew;
the middle of what comes out is the interval. Captions of one video are no independent queries:
videos are drawn, and each brings all of its captions (Field and Welsh 2007, the cluster bootstrap).
The gallery stays as it is, and so does the head: what another training seed would change is in
`muse.head.spread`. Knows nothing of heads or stores.
"""

# Legend: Q queries, G clusters of them, S statistics, N draws, b draws of a block.

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from muse.errors import MetricError, UsageError
from muse.head.metrics import RECALL_AT, TIE_RULE, Ranks

NUM_SUMMED = 3  # R@1, R@5 and R@10, which Rsum adds up
VALUES_AT_ONCE = 2**22  # of a block of draws: 32 MB where they are float64


@dataclass(frozen=True, kw_only=True, slots=True)
class Resampling:
    """How intervals are taken. The same one gives two heads the same draws."""

    level: float = 0.95
    """The part of the draws that an interval holds, between 0 and 1."""
    draws: int = 2000
    """At least 100."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise UsageError(f"interval {self.level:g}: expected between 0 and 1, such as 0.95")
        if self.draws < 100:
            raise UsageError(f"draws {self.draws}: at least 100 are needed, 2000 are usual")

    def as_json(self) -> dict[str, Any]:
        """The fields, and what is drawn."""
        return {
            "level": self.level,
            "draws": self.draws,
            "seed": self.seed,
            "drawn": "videos, each with all its queries",
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """Where a number is, as far as the choice of queries goes."""

    low: float
    high: float

    def as_json(self) -> list[float]:
        """``[low, high]``."""
        return [self.low, self.high]


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrievalIntervals:
    """Of each number of both directions, by its name."""

    resampling: Resampling
    text_to_video: dict[str, Interval]
    video_to_text: dict[str, Interval]

    def as_json(self) -> dict[str, Any]:
        """``[low, high]`` of each number, and how they were taken."""
        return {
            **self.resampling.as_json(),
            "tie_rule": TIE_RULE,
            "text_to_video": {name: one.as_json() for name, one in self.text_to_video.items()},
            "video_to_text": {name: one.as_json() for name, one in self.video_to_text.items()},
        }


def clusters_of(cluster_Q: Tensor) -> tuple[Tensor, int]:
    """(Q,) int64 on the CPU, clusters counted from 0 without gaps, and how many there are.

    Raises:
        MetricError: If there is one only: nothing can be learnt of others from it.
    """
    found, place_Q = cast(tuple[Tensor, Tensor], torch.unique(cluster_Q, return_inverse=True))
    if len(found) < 2:
        raise MetricError(
            f"{len(found)} video among {len(cluster_Q)} queries: at least 2 are needed to tell "
            "how far the numbers would move with others. Leave the interval out."
        )
    return place_Q.cpu(), len(found)


def hits_at(ranks: Ranks, k: int) -> Tensor:
    """(Q,) float64, the chance from 0 to 1 that a query's answer is among the first k."""
    return ((k - ranks.num_better.double()) / ranks.num_equal.double()).clamp(0, 1)


def resampled_numbers(
    ranks: Ranks, cluster_Q: Tensor, *, resampling: Resampling
) -> dict[str, Tensor]:
    """R@k in percent, Rsum of the first three, MdR and MnR of each draw.

    Two heads' numbers of the same queries and ``resampling`` are of the same draws: their
    difference, draw by draw, is the paired bootstrap of the difference.

    Args:
        ranks: Of Q queries.
        cluster_Q: (Q,) int64, which are drawn together: for captions, the video of each.
        resampling: How many draws, and which.

    Returns:
        (N,) float64 each, on the CPU, under the names of `DirectionNumbers.as_json`.

    Raises:
        MetricError: If there is only one cluster.
    """
    place_Q, num_clusters = clusters_of(cluster_Q)
    rank_Q = ranks.expected().cpu()
    recalls = [100 * hits_at(ranks, k).cpu() for k in RECALL_AT]
    statistic_QS = torch.stack([torch.ones_like(rank_Q), *recalls, rank_Q], dim=1)
    sum_GS = sums_by_cluster(statistic_QS, place_Q, num_clusters)
    ordered_Q, order_Q = rank_Q.sort()
    sums, medians = [], []
    for count_bG in _draws(num_clusters, len(rank_Q), resampling):
        sums.append(count_bG.double() @ sum_GS)
        medians.append(_medians(ordered_Q, count_bG[:, place_Q[order_Q]]))
    sum_NS = torch.cat(sums)
    mean_NS = sum_NS[:, 1:] / sum_NS[:, :1]
    *recall_N, mean_rank_N = mean_NS.unbind(1)
    return {
        **{f"R@{k}": drawn_N for k, drawn_N in zip(RECALL_AT, recall_N, strict=True)},
        "MdR": torch.cat(medians),
        "MnR": mean_rank_N,
        "Rsum": torch.stack(recall_N[:NUM_SUMMED]).sum(0),
    }


def intervals(ranks: Ranks, cluster_Q: Tensor, *, resampling: Resampling) -> dict[str, Interval]:
    """The interval of each number by its name; arguments and errors of `resampled_numbers`."""
    found = resampled_numbers(ranks, cluster_Q, resampling=resampling)
    return {name: percentile_interval(drawn, resampling.level) for name, drawn in found.items()}


def retrieval_intervals(
    text_to_video: Ranks,
    video_to_text: Ranks,
    *,
    video_of_caption_Q: Tensor,
    resampling: Resampling,
) -> RetrievalIntervals:
    """Of both directions: videos are drawn, for text to video with all of their captions.

    Args:
        text_to_video: Of `muse.head.metrics.text_to_video_ranks`.
        video_to_text: Of `muse.head.metrics.video_to_text_ranks`, one a video.
        video_of_caption_Q: (Q,) int64, as it was given to both.
        resampling: How many draws, and which.

    Raises:
        MetricError: If there is only one video.
    """
    each_video = torch.arange(len(video_to_text.num_better))
    return RetrievalIntervals(
        resampling=resampling,
        text_to_video=intervals(text_to_video, video_of_caption_Q, resampling=resampling),
        video_to_text=intervals(video_to_text, each_video, resampling=resampling),
    )


def percentile_interval(drawn: Tensor, level: float) -> Interval:
    """What holds the middle ``level`` of the draws."""
    rest = (1 - level) / 2
    low, high = np.quantile(drawn.numpy(), [rest, 1 - rest]).tolist()
    return Interval(low=low, high=high)


def sums_by_cluster(statistic_QS: Tensor, place_Q: Tensor, num_clusters: int) -> Tensor:
    """(G, S) float64, each cluster's sum."""
    sum_GS = statistic_QS.new_zeros(num_clusters, statistic_QS.shape[1])
    return sum_GS.index_add_(0, place_Q, statistic_QS)


def _draws(num_clusters: int, num_queries: int, resampling: Resampling) -> Iterator[Tensor]:
    """(b, G) int32 for each block: how often each cluster was drawn."""
    generator = np.random.default_rng(resampling.seed)
    at_once = max(1, VALUES_AT_ONCE // num_queries)
    for start in range(0, resampling.draws, at_once):
        num = min(at_once, resampling.draws - start)
        drawn_bG = generator.integers(num_clusters, size=(num, num_clusters))
        drawn_bG += np.arange(num)[:, None] * num_clusters
        count = np.bincount(drawn_bG.ravel(), minlength=num * num_clusters)
        yield torch.from_numpy(count.reshape(num, num_clusters).astype(np.int32))


def _medians(ordered_Q: Tensor, count_bQ: Tensor) -> Tensor:
    """(b,) medians of ranks in order, each as often as it was drawn; the mean of the middle two."""
    upto_bQ = count_bQ.cumsum(1, dtype=torch.int32)
    num_b = upto_bQ[:, -1]
    middle_b2 = torch.stack([(num_b - 1) // 2, num_b // 2], dim=1)
    return ordered_Q[torch.searchsorted(upto_bQ, middle_b2, right=True)].mean(1)
