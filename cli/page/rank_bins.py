"""How many queries have their answer at rank 1, at 2, at 3 to 5, and so on: bins that widen.

Knows nothing of charts.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from muse.head.ranks import Ranks

_LAST_RANKS = (1, 2, 5, 10)  # of the first bins; then 50, 500, 5000 and so on


@dataclass(frozen=True, kw_only=True, slots=True)
class RankBin:
    """Some ranks that follow each other, and who is there."""

    first: int
    last: int
    share: float
    """Percent of the queries; where scores tie, of the orders that they may have."""
    chance: float
    """Percent of the queries of a shuffled list."""

    @property
    def label(self) -> str:
        """``1``, or ``3–5``."""
        return str(self.first) if self.first == self.last else f"{self.first}–{self.last}"


def rank_bins(ranks: Ranks, num_answers: int) -> list[RankBin]:
    """Bins from rank 1 to the last one; their shares add up to 100.

    Args:
        ranks: Of the queries.
        num_answers: How many answers each was ranked among.
    """
    lasts = [*_lasts_below(num_answers), num_answers]
    bounds = itertools.pairwise([0, *lasts])
    return [
        RankBin(
            first=before + 1,
            last=last,
            share=ranks.recall_at(last) - (ranks.recall_at(before) if before else 0.0),
            chance=100 * (last - before) / num_answers,
        )
        for before, last in bounds
    ]


def _lasts_below(num_answers: int) -> Sequence[int]:
    wider = (5 * 10**power for power in itertools.count(1))
    every = itertools.chain(_LAST_RANKS, wider)
    return list(itertools.takewhile(lambda last: last < num_answers, every))
