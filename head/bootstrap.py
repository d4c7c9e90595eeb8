"""How far retrieval numbers would move with other queries: bootstrap percentile intervals.

The queries are drawn again, with replacement, as often as there are, and the numbers taken anew;
the middle of what comes out is the interval. Captions of one video are no independent queries:
videos are drawn, and each brings all of its captions (Field and Welsh 2007, the cluster bootstrap).
The gallery stays as it is, and so does the head: what another training seed would change is in
`muse.head.spread`. Knows nothing of heads or stores, nor of directions.
"""

# Legend: Q queries, G clusters of them, S statistics, N draws, b draws of a block, P places.

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from muse.errors import MetricError, UsageError
from muse.head.metrics import RECALL_AT, TIE_RULE
from muse.head.ranks import Ranks, TieRule

NUM_SUMMED = 3  # R@1, R@5 and R@10, which Rsum adds up
VALUES_AT_ONCE = 2**22  # of a block of draws: 32 MB where they are float64
Median = Literal["middle", "lower"]  # the mean of the middle two ranks, or the lower of them


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


def clusters_of(cluster_Q: Tensor) -> tuple[Tensor, int]:
    """(Q,) int64 on the CPU, clusters counted from 0 without gaps, and how many there are.

    Raises:
        MetricError: If there is one only: nothing can be learnt of others from it.
    """
    found, place_Q = cast(tuple[Tensor, Tensor], torch.unique(cluster_Q, return_inverse=True))
    require_clusters(len(found), num_queries=len(cluster_Q))
    return place_Q.cpu(), len(found)


def require_clusters(num_clusters: int, *, num_queries: int) -> None:
    """Nothing, if others can be drawn.

    Raises:
        MetricError: If there is one cluster only.
    """
    if num_clusters < 2:
        raise MetricError(
            f"{num_clusters} video among {num_queries} queries: at least 2 are needed to tell "
            "how far the numbers would move with others. Leave the interval out."
        )


def hits_at(ranks: Ranks, k: int, ties: TieRule = TIE_RULE) -> Tensor:
    """(Q,) float64 on the CPU, the chance from 0 to 1 that a query's answer is among the first k.

    ``clip4clip`` has no answer a query, see `muse.head.ranks`.
    """
    return torch.tensor(ranks.hits_at(k, ties), dtype=torch.float64)


def resampled_numbers(
    ranks: Ranks,
    cluster_Q: Tensor,
    *,
    resampling: Resampling,
    ties: TieRule = TIE_RULE,
    median: Median = "middle",
) -> dict[str, Tensor]:
    """R@k in percent, Rsum of the first three, MdR and MnR of each draw.

    Two heads' numbers of the same queries and ``resampling`` are of the same draws: their
    difference, draw by draw, is the paired bootstrap of the difference.

    Args:
        ranks: Of Q queries.
        cluster_Q: (Q,) int64, which are drawn together: for captions, the video of each.
        resampling: How many draws, and which.
        ties: What a rank is worth where scores tie; ``clip4clip`` counts a tied place as an entry
            of its own, and a draw's numbers are of the entries that its queries have.
        median: Which MdR is where the number of queries is even; not read by ``clip4clip``.

    Returns:
        (N,) float64 each, on the CPU, under the names of `DirectionNumbers.as_json`.

    Raises:
        MetricError: If there is only one cluster.
    """
    place_Q, num_clusters = clusters_of(cluster_Q)
    sum_GS = sums_by_cluster(_statistics(ranks, ties), place_Q, num_clusters)
    medians_of = _EntryMedians(ranks) if ties == "clip4clip" else _RankMedians(ranks, ties, median)
    sums, medians = [], []
    for count_bG in _draws(num_clusters, len(place_Q), resampling):
        sums.append(count_bG.double() @ sum_GS)
        medians.append(medians_of(count_bG, place_Q))
    sum_NS = torch.cat(sums)
    mean_NS = sum_NS[:, 1:] / sum_NS[:, :1]
    *recall_N, mean_rank_N = mean_NS.unbind(1)
    return {
        **{f"R@{k}": drawn_N for k, drawn_N in zip(RECALL_AT, recall_N, strict=True)},
        "MdR": torch.cat(medians),
        "MnR": mean_rank_N,
        "Rsum": torch.stack(recall_N[:NUM_SUMMED]).sum(0),
    }


def intervals(
    ranks: Ranks | Sequence[Ranks],
    cluster_Q: Tensor,
    *,
    resampling: Resampling,
    ties: TieRule = TIE_RULE,
    median: Median = "middle",
) -> dict[str, Interval]:
    """The interval of each number by its name; arguments and errors of `resampled_numbers`.

    Of the ranks of several heads on the same queries it is that of their mean number.
    """
    heads = [ranks] if isinstance(ranks, Ranks) else ranks
    drawn = [
        resampled_numbers(one, cluster_Q, resampling=resampling, ties=ties, median=median)
        for one in heads
    ]
    return {
        name: percentile_interval(
            torch.stack([numbers[name] for numbers in drawn]).mean(0), resampling.level
        )
        for name in drawn[0]
    }


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


def _statistics(ranks: Ranks, ties: TieRule) -> Tensor:
    """(Q, S) float64: a query's entries, its hits at each k of `RECALL_AT` in percent, its ranks.

    Sums over queries, divided by that of the first column, are the numbers.
    """
    if ties != "clip4clip":
        rank_Q = ranks.placed(ties).double().cpu()
        recalls = [100 * hits_at(ranks, k, ties) for k in RECALL_AT]
        return torch.stack([torch.ones_like(rank_Q), *recalls, rank_Q], dim=1)
    better_Q, equal_Q = ranks.num_better.double().cpu(), ranks.num_equal.double().cpu()
    hits = [100 * (k - better_Q).clamp_min(0).minimum(equal_Q) for k in RECALL_AT]
    return torch.stack([equal_Q, *hits, equal_Q * (better_Q + (equal_Q + 1) / 2)], dim=1)


class _RankMedians:
    """Medians of one rank a query, each as often as it was drawn."""

    def __init__(self, ranks: Ranks, ties: TieRule, median: Median) -> None:
        self._ordered_Q, self._order_Q = ranks.placed(ties).double().cpu().sort()
        self._takes_lower = median == "lower"

    def __call__(self, count_bG: Tensor, place_Q: Tensor) -> Tensor:
        """(b,) medians."""
        upto_bQ = count_bG[:, place_Q[self._order_Q]].cumsum(1, dtype=torch.int32)
        middle_b2 = self._ordered_Q[_middle_two(upto_bQ)]
        return middle_b2[:, 0] if self._takes_lower else middle_b2.mean(1)


class _EntryMedians:
    """Medians of the places from 1 that each query takes as many of as it has equal answers."""

    def __init__(self, ranks: Ranks) -> None:
        self._start_Q = ranks.num_better.cpu()
        self._end_Q = self._start_Q + ranks.num_equal.cpu()
        self._num_places = int(self._end_Q.max())

    def __call__(self, count_bG: Tensor, place_Q: Tensor) -> Tensor:
        """(b,) medians."""
        count_bQ = count_bG[:, place_Q].long()
        change_bP = count_bQ.new_zeros(len(count_bQ), self._num_places + 1)
        change_bP.index_add_(1, self._start_Q, count_bQ).index_add_(1, self._end_Q, -count_bQ)
        upto_bP = change_bP.cumsum(1)[:, :-1].cumsum(1)
        return (_middle_two(upto_bP) + 1).double().mean(1)


def _middle_two(upto_bQ: Tensor) -> Tensor:
    """(b, 2) where in a row of sums the middle two of its entries are; once each if it is odd."""
    num_b = upto_bQ[:, -1]
    middle_b2 = torch.stack([(num_b - 1) // 2, num_b // 2], dim=1)
    return torch.searchsorted(upto_bQ, middle_b2, right=True)
