"""Query by query, what a retrieval found: the right answer's rank and score, the first few answers.

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
    score_Q: Tensor
    """(Q,) float32, of each caption's own video."""
    top_score_Qk: Tensor
    """(Q, min(k, V)) float32, of ``top_Qk``."""


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
    own, top, top_scores = [], [], []
    for start in range(0, len(text_QD), BLOCK):
        queries = slice(start, start + BLOCK)
        scores_bV = score_block(text_QD[queries], video_VD)
        # A sort: topk has no order among equals.
        best = scores_bV.sort(dim=1, descending=True, stable=True)
        own.append(scores_bV.gather(1, video_of_caption_Q[queries, None])[:, 0])
        top.append(best.indices[:, :k].clone())  # the rest is as large as the scores
        top_scores.append(best.values[:, :k].clone())
    return QueryLedger(
        ranks=Ranks(num_better=ranks.num_better.cpu(), num_equal=ranks.num_equal.cpu()),
        top_Qk=torch.cat(top).cpu(),
        score_Q=torch.cat(own).cpu(),
        top_score_Qk=torch.cat(top_scores).cpu(),
    )


def recall_curve(ranks: Ranks, at: Sequence[int]) -> list[tuple[int, float]]:
    """(k, percent of queries whose answer is among the first k) for each k."""
    return [(k, ranks.recall_at(k)) for k in at]


def curve_places(num_answers: int) -> list[int]:
    """Up to `NUM_CURVE_POINTS` places from 1 to ``num_answers``, evenly apart on a log scale."""
    steps = torch.logspace(0, torch.tensor(num_answers).log10().item(), NUM_CURVE_POINTS)
    return sorted({1, num_answers, *(min(num_answers, round(step)) for step in steps.tolist())})
