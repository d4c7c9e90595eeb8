"""nDCG, MRR, MAP, recall, precision and hit rate at k, as information retrieval defines them.

For queries with one right answer each follows from where it stands: a gain of its place, and none
after k. Where scores tie the gain is its mean over all orders of the equal ones, as that of
`muse.head.ranks`, so that no order of the gallery is in it. Knows nothing of scores or tasks.
"""

# Legend: Q queries, P places.

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from muse.errors import MetricError
from muse.head.ranks import Ranks

Measure = Literal["ndcg", "map", "recall", "precision", "mrr", "hit_rate"]


def _one(place: int, k: int) -> float:
    return 1.0


def _reciprocal(place: int, k: int) -> float:
    return 1 / place


# Järvelin and Kekäläinen 2002 with a gain of 1: the ideal has it in place 1, where it is 1.
def _discounted(place: int, k: int) -> float:
    return 1 / math.log2(place + 1)


def _part(place: int, k: int) -> float:
    return 1 / k


_GAINS: dict[Measure, Callable[[int, int], float]] = {
    "ndcg": _discounted,
    "map": _reciprocal,  # of one right answer, the precision at its place
    "recall": _one,
    "precision": _part,
    "mrr": _reciprocal,
    "hit_rate": _one,
}


def measure_at(measure: Measure, ranks: Ranks, k: int) -> float:
    """The mean over queries, from 0 to 1.

    Args:
        measure: Which.
        ranks: Of queries with one right answer each.
        k: Answers that are looked at, at least 1.

    Raises:
        MetricError: If a query has several right answers.
    """
    if ranks.num_right is not None and bool((ranks.num_right > 1).any()):
        raise MetricError(f"{measure}: a query has several right answers among equal ones.")
    gains = [_GAINS[measure](place, k) for place in range(1, k + 1)]
    upto_P = torch.tensor([0.0, *gains], dtype=torch.float64).cumsum(0)
    gain_Q = _between(upto_P, ranks.num_better.cpu(), ranks.num_equal.cpu())
    return math.fsum(gain_Q.tolist()) / len(gain_Q)


def _between(upto_P: Tensor, num_better_Q: Tensor, num_equal_Q: Tensor) -> Tensor:
    """(Q,) mean gain of the places after the better ones that the equal ones take."""
    last = len(upto_P) - 1
    ends_Q = (num_better_Q + num_equal_Q).clamp_max(last)
    return (upto_P[ends_Q] - upto_P[num_better_Q.clamp_max(last)]) / num_equal_Q
