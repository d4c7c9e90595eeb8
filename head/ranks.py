"""What a rank is worth where scores tie: four rules, and the published code's count of entries.

Among equal scores the right answer's place is not known.

``expected``    the mean over all orders of the equal ones, which scores a constant model at chance
``optimistic``  the right answer comes first among its equals
``pessimistic`` it comes last among them
``clip4clip``   CLIP4Clip's published numbers: each place that is equal counts as a query of its own

Knows nothing of scores: it is given how many answers are better, and how many equal.
"""

# Legend: Q queries, P places.

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

TieRule = Literal["expected", "optimistic", "pessimistic", "clip4clip"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """Where each query's right answer stands."""

    num_better: Tensor
    """(queries,) int64, answers with a higher score."""
    num_equal: Tensor
    """(queries,) int64, answers with the same score, the right one included."""
    num_right: Tensor | None = None
    """(queries,) int64, how many of the equal ones are right: the first of them counts. None: one
    each."""

    def of(self, queries: Tensor) -> "Ranks":
        """Those of some queries, by their places or a mask; the answers are still all of them."""
        return Ranks(
            num_better=self.num_better[queries],
            num_equal=self.num_equal[queries],
            num_right=None if self.num_right is None else self.num_right[queries],
        )

    def expected(self) -> Tensor:
        """(queries,) float64 ranks from 1; halves where scores tie."""
        return self.placed("expected")

    def placed(self, ties: TieRule) -> Tensor:
        """(queries,) float64 ranks from 1. ``clip4clip`` has no rank a query: see `place_counts`.

        The expected place of the first of m right ones among n in a random order is
        (n + 1) / (m + 1).
        """
        assert ties != "clip4clip"
        right = self.num_right if self.num_right is not None else torch.ones_like(self.num_equal)
        if ties == "expected":
            first = (self.num_equal + 1).double() / (right + 1)
        elif ties == "optimistic":
            first = torch.ones_like(self.num_equal).double()
        else:
            first = (self.num_equal - right + 1).double()
        return self.num_better + first

    def recall_at(self, k: int, ties: TieRule = "expected") -> float:
        """Percent of queries whose answer is among the first k, from 0 to 100."""
        if ties == "clip4clip":
            count_P = place_counts(self)
            return 100 * int(count_P[:k].sum()) / int(count_P.sum())
        chances = self.hits_at(k, ties)
        # fsum: the mean does not depend on the order of the queries, to the last digit.
        return 100 * math.fsum(chances) / len(chances)

    def hits_at(self, k: int, ties: TieRule = "expected") -> list[float]:
        """For each query the chance from 0 to 1 that its answer is among the first k.

        ``clip4clip`` has no answer a query: see `place_counts`.
        """
        if ties == "expected":
            return self._chances(k)
        return (self.placed(ties) <= k).double().tolist()

    def median_and_mean(self, ties: TieRule = "expected") -> tuple[float, float]:
        """From 1; the median is the mean of the middle two where their number is even."""
        if ties == "clip4clip":
            return _median_and_mean(place_counts(self))
        ordered = self.placed(ties).sort().values
        middle = ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]
        return middle.item() / 2, math.fsum(ordered.tolist()) / len(ordered)

    def _chances(self, k: int) -> list[float]:
        """That one of the right ones is among the first k, for each query."""
        drawn = (k - self.num_better).clamp_min(0).minimum(self.num_equal)
        if self.num_right is None:
            return (drawn.double() / self.num_equal).tolist()
        triples = torch.stack([drawn, self.num_equal, self.num_right], 1)
        distinct, which = torch.unique(triples, dim=0, return_inverse=True)
        chances = [chance_of_one(*triple) for triple in distinct.tolist()]
        return [chances[place] for place in which.tolist()]


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrievalRanks:
    """Both directions of a retrieval."""

    text_to_video: Ranks
    """A query for each caption."""
    video_to_text: Ranks
    """A query for each video that has a caption, in the order of the videos."""

    @property
    def has_many_captions(self) -> bool:
        """Whether a video has more than one."""
        return len(self.text_to_video.num_better) > len(self.video_to_text.num_better)


def chance_of_one(num_drawn: int, num_equal: int, num_right: int) -> float:
    """The chance that of some drawn from equal ones at least one is right."""
    ways = math.comb(num_equal, num_drawn)
    return (ways - math.comb(num_equal - num_right, num_drawn)) / ways


def place_counts(ranks: Ranks) -> Tensor:
    """(P,) int64: how many entries the published code has at each place, best first.

    CLIP4Clip sorts a row's scores, subtracts the right one's and takes every zero for a rank: a
    query has as many entries as there are equal answers, and divides by more than the queries.
    """
    last = ranks.num_better + ranks.num_equal
    ends_P = torch.zeros(int(last.max()) + 1, dtype=torch.int64, device=last.device)
    ends_P.index_add_(0, ranks.num_better, torch.ones_like(last))
    ends_P.index_add_(0, last, -torch.ones_like(last))
    return ends_P.cumsum(0)[:-1]


def _median_and_mean(count_P: Tensor) -> tuple[float, float]:
    """Of the ranks from 1 that there are so many of."""
    total = int(count_P.sum())
    ends_P = count_P.cumsum(0)
    middle = ends_P.new_tensor([(total - 1) // 2, total // 2])
    medians = torch.searchsorted(ends_P, middle, right=True) + 1
    rank_P = torch.arange(1, len(count_P) + 1, device=count_P.device)
    return int(medians.sum()) / 2, int((rank_P * count_P).sum()) / total
