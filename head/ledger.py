"""Query by query, what a retrieval found: the right answer's rank and the first few answers.

The numbers of `muse.head.metrics` are means over these rows, under the same tie rule. Knows nothing
of heads, stores or texts: a row is a query's place.
"""

# Legend: Q captions, V videos, D width, k answers kept, b of a block.

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from muse.head.metrics import BLOCK, Ranks, score_block, text_to_video_ranks

NUM_CURVE_POINTS = 60  # of a recall curve: more can't be told apart on a screen


@dataclass(frozen=True, kw_only=True, slots=True)
class QueryLedger:
    """Text to video, a row for each caption."""

    ranks: Ranks
    """Of each caption's video."""
    top_Qk: Tensor
    """(Q, min(k, V)) int64 places of the best videos, best first; equal ones in their own order."""


def text_to_video_ledger(
    text_QD: Tensor, video_VD: Tensor, video_of_caption_Q: Tensor, *, k: int
) -> QueryLedger:
    """Each caption's rank and its first k videos, on the CPU.

    Args:
        text_QD: (Q, D); the score of a pair is the dot product.
        video_VD: (V, D).
        video_of_caption_Q: (Q,) int64, the row of each caption's video.
        k: How many answers are kept, at least 1.

    Raises:
        MetricError: If shapes do not fit, or a value is NaN or infinite.
    """
    ranks = text_to_video_ranks(text_QD, video_VD, video_of_caption_Q)
    top = [
        _first(score_block(text_QD[start : start + BLOCK], video_VD), k)
        for start in range(0, len(text_QD), BLOCK)
    ]
    on_cpu = Ranks(num_better=ranks.num_better.cpu(), num_equal=ranks.num_equal.cpu())
    return QueryLedger(ranks=on_cpu, top_Qk=torch.cat(top).cpu())


def _first(scores_bV: Tensor, k: int) -> Tensor:
    """(b, min(k, V)) columns of the highest scores. A sort: topk has no order among equals."""
    return scores_bV.sort(dim=1, descending=True, stable=True).indices[:, :k]


def recall_curve(ranks: Ranks, at: Sequence[int]) -> list[tuple[int, float]]:
    """(k, percent of queries whose answer is among the first k) for each k."""
    return [(k, ranks.recall_at(k)) for k in at]


def curve_places(num_answers: int) -> list[int]:
    """Up to `NUM_CURVE_POINTS` places from 1 to ``num_answers``, evenly apart on a log scale."""
    steps = torch.logspace(0, torch.tensor(num_answers).log10().item(), NUM_CURVE_POINTS)
    return sorted({1, num_answers, *(min(num_answers, round(step)) for step in steps.tolist())})
