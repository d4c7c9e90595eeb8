"""Exact ranks of a retrieval, and the recalls, median and mean that follow from them.

Ties: among equal scores the right answer's place is not known, so every number is its expectation
over random orders. A rank is 1 + #better + (#equal - 1) / 2, and the recall at k is the chance
that the right answer is among the first k, clip((k - #better) / #equal, 0, 1), where #equal counts
the right answer itself. A model that gives everything the same score scores exactly chance. Knows
nothing of models or stores.
"""

# Legend: Q captions, V videos, D width, b of a block.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from muse.errors import MetricError

TIE_RULE = "expected"
V2T_RULE = "best caption of each video's group, ranked among the groups"
RECALL_AT = (1, 5, 10)
BLOCK = 256  # queries scored at a time; ranks do not depend on it


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """Where each query's right answer stands."""

    num_better: Tensor
    """(queries,) int64, answers with a higher score."""
    num_equal: Tensor
    """(queries,) int64, answers with the same score, the right one included."""

    def of(self, queries: Tensor) -> "Ranks":
        """Those of some queries, by their places or a mask; the answers are still all of them."""
        return Ranks(num_better=self.num_better[queries], num_equal=self.num_equal[queries])

    def expected(self) -> Tensor:
        """(queries,) float64 ranks from 1; halves where scores tie."""
        return 1 + self.num_better.double() + (self.num_equal.double() - 1) / 2

    def recall_at(self, k: int) -> float:
        """Percent of queries whose answer is among the first k, from 0 to 100."""
        chance = (k - self.num_better.double()) / self.num_equal.double()
        return 100 * chance.clamp(0, 1).mean().item()


@dataclass(frozen=True, kw_only=True, slots=True)
class DirectionNumbers:
    """One direction of a retrieval."""

    recall_at: dict[int, float]
    """Percent of queries whose answer is among the first k, for each k of `RECALL_AT`."""
    median_rank: float
    """From 1; the mean of the middle two where the number of queries is even."""
    mean_rank: float
    """From 1."""

    def as_json(self) -> dict[str, float]:
        """``R@1``, ``R@5``, ``R@10`` in percent, ``MdR`` and ``MnR`` in ranks."""
        recalls = {f"R@{k}": value for k, value in self.recall_at.items()}
        return {**recalls, "MdR": self.median_rank, "MnR": self.mean_rank}


@dataclass(frozen=True, kw_only=True, slots=True)
class AxisNumbers:
    """Both directions for the captions of one axis, ranked among all answers of the split."""

    num_captions: int
    """Captions of the axis: the queries of text to video."""
    num_videos: int
    """Videos that those captions belong to: the queries of video to text."""
    text_to_video: DirectionNumbers
    video_to_text: DirectionNumbers

    def as_json(self) -> dict[str, Any]:
        """The counts and both directions under the field names."""
        return {
            "num_captions": self.num_captions,
            "num_videos": self.num_videos,
            "text_to_video": self.text_to_video.as_json(),
            "video_to_text": self.video_to_text.as_json(),
        }


def direction_numbers(ranks: Ranks) -> DirectionNumbers:
    """Recalls, median and mean rank under the tie rule above."""
    rank = ranks.expected()
    recall_at = {k: ranks.recall_at(k) for k in RECALL_AT}
    ordered = rank.sort().values
    middle = ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]
    return DirectionNumbers(
        recall_at=recall_at, median_rank=middle.item() / 2, mean_rank=rank.mean().item()
    )


def numbers_by_axis(
    text_to_video: Ranks,
    video_to_text: Ranks,
    *,
    video_of_caption_Q: Tensor,
    axis_of_caption_Q: Sequence[str],
) -> dict[str, AxisNumbers]:
    """Numbers of each axis by its name, in the order of the names; no axis, no entry.

    Nothing is ranked again: an axis takes the ranks of its captions, and those of the videos that
    have a caption of it, each among all answers.

    Args:
        text_to_video: Of `text_to_video_ranks`.
        video_to_text: Of `video_to_text_ranks`.
        video_of_caption_Q: (Q,) int64, as it was given to both.
        axis_of_caption_Q: Q names; captions under the empty one are in no axis.
    """
    group_of_caption_Q = _groups(video_of_caption_Q)[1]
    found = {}
    for axis in sorted({*axis_of_caption_Q} - {""}):
        captions = torch.tensor([place for place, a in enumerate(axis_of_caption_Q) if a == axis])
        groups = torch.tensor(sorted({*group_of_caption_Q[captions].tolist()}))
        found[axis] = AxisNumbers(
            num_captions=len(captions),
            num_videos=len(groups),
            text_to_video=direction_numbers(text_to_video.of(captions)),
            video_to_text=direction_numbers(video_to_text.of(groups)),
        )
    return found


def text_to_video_ranks(text_QD: Tensor, video_VD: Tensor, video_of_caption_Q: Tensor) -> Ranks:
    """Each caption's video among all videos.

    Args:
        text_QD: (Q, D); the score of a pair is the dot product.
        video_VD: (V, D).
        video_of_caption_Q: (Q,) int64, the row of each caption's video.

    Raises:
        MetricError: If shapes do not fit, or a value is NaN or infinite.
    """
    _check_embeddings(text_QD, video_VD, video_of_caption_Q)
    blocks = []
    for start in range(0, len(text_QD), BLOCK):
        queries = slice(start, start + BLOCK)
        scores_bV = score_block(text_QD[queries], video_VD)
        blocks.append(rank_scores(scores_bV, video_of_caption_Q[queries]))
    return _join(blocks)


def video_to_text_ranks(text_QD: Tensor, video_VD: Tensor, video_of_caption_Q: Tensor) -> Ranks:
    """Each video's group of captions among the groups, by the best caption of each (`V2T_RULE`).

    A video without a caption is no query and has no group. The arguments and errors are those of
    `text_to_video_ranks`.
    """
    _check_embeddings(text_QD, video_VD, video_of_caption_Q)
    groups_G, group_of_caption_Q = _groups(video_of_caption_Q)
    blocks = []
    for start in range(0, len(groups_G), BLOCK):
        video_b = groups_G[start : start + BLOCK]
        scores_bQ = score_block(video_VD[video_b], text_QD)
        best_bG = scores_bQ.new_full((len(video_b), len(groups_G)), -torch.inf)
        best_bG.scatter_reduce_(1, group_of_caption_Q.expand_as(scores_bQ), scores_bQ, "amax")
        own_b = torch.arange(start, start + len(video_b), device=video_b.device)
        blocks.append(rank_scores(best_bG, own_b))
    return _join(blocks)


def rank_scores(scores_QV: Tensor, right_Q: Tensor) -> Ranks:
    """Where the right answer stands in each row of a matrix of scores.

    Args:
        scores_QV: (Q, V), higher is better.
        right_Q: (Q,) int64, the right column of each row.

    Raises:
        MetricError: If shapes do not fit, or a score is NaN or infinite.
    """
    if scores_QV.ndim != 2 or right_Q.shape != scores_QV.shape[:1] or not scores_QV.numel():
        raise MetricError(
            f"scores of shape {tuple(scores_QV.shape)} with {tuple(right_Q.shape)} right answers: "
            "expected (queries, answers) and one right answer a query, at least one of each"
        )
    _require_columns(right_Q, scores_QV.shape[1])
    _require_finite(scores_QV, what="scores")
    own_Q1 = scores_QV.gather(1, right_Q[:, None])
    return Ranks(num_better=(scores_QV > own_Q1).sum(1), num_equal=(scores_QV == own_Q1).sum(1))


def _groups(video_of_caption_Q: Tensor) -> tuple[Tensor, Tensor]:
    """(G,) videos that have a caption, increasing, and (Q,) the place of each caption's there."""
    return cast(tuple[Tensor, Tensor], torch.unique(video_of_caption_Q, return_inverse=True))


def score_block(left_bD: Tensor, right_RD: Tensor) -> Tensor:
    """(b, R) dot products, computed in float64 and rounded to float32.

    A matrix product may give equal pairs different last bits, by their place in the block; the
    rounding takes those off, so that equal embeddings tie wherever they stand.
    """
    return (left_bD.double() @ right_RD.double().transpose(0, 1)).float()


def _join(blocks: list[Ranks]) -> Ranks:
    return Ranks(
        num_better=torch.cat([block.num_better for block in blocks]),
        num_equal=torch.cat([block.num_equal for block in blocks]),
    )


def _check_embeddings(text_QD: Tensor, video_VD: Tensor, video_of_caption_Q: Tensor) -> None:
    if (
        text_QD.ndim != 2
        or video_VD.ndim != 2
        or text_QD.shape[1] != video_VD.shape[1]
        or video_of_caption_Q.shape != text_QD.shape[:1]
        or not len(text_QD)
        or not len(video_VD)
    ):
        raise MetricError(
            f"captions {tuple(text_QD.shape)}, videos {tuple(video_VD.shape)}, video of each "
            f"caption {tuple(video_of_caption_Q.shape)}: expected (Q, D), (V, D) and (Q,)"
        )
    _require_columns(video_of_caption_Q, len(video_VD))
    _require_finite(text_QD, what="caption embeddings")
    _require_finite(video_VD, what="video embeddings")


def _require_columns(right_Q: Tensor, num_answers: int) -> None:
    if int(right_Q.min()) < 0 or int(right_Q.max()) >= num_answers:
        raise MetricError(
            f"right answers from {int(right_Q.min())} to {int(right_Q.max())}: "
            f"there are {num_answers} answers, counted from 0"
        )


def _require_finite(values: Tensor, *, what: str) -> None:
    num_bad = int((~values.isfinite()).sum())
    if num_bad:
        raise MetricError(
            f"{what}: {num_bad} of {values.numel()} values are NaN or infinite and can't be "
            "ranked. The head has diverged, or the store is damaged."
        )
