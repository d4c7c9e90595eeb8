"""Exact ranks of a retrieval, and the recalls, median and mean that follow from them.

Scores are made and counted tile by tile (`muse.head.tiles`), so that memory is bounded; a pair has
the same score in every tile (`muse.head.scores`), so that tiles change no rank. What a rank is
worth where scores tie is in `muse.head.ranks`: by default its expectation over random orders, so
that a model that gives everything the same score scores exactly chance. Knows nothing of models or
stores.
"""

# Legend: Q captions, V videos, D width, b of a block, R rows.

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from muse.errors import MetricError, UsageError
from muse.head.ranks import Ranks as Ranks
from muse.head.ranks import RetrievalRanks, TieRule
from muse.head.scores import exact_scores, on_grid
from muse.head.tiles import EmbeddingScores, MatrixScores, V2TRule, count_ranks, groups_of

TIE_RULE: TieRule = "expected"
V2T_RULES: dict[V2TRule, str] = {
    "group": "best caption of each video's group, ranked among the groups",
    "caption": "best caption of each video, ranked among all captions",
}
V2T_RULE = V2T_RULES["group"]
RECALL_AT = (1, 5, 10, 50)
SUMMED = (1, 5, 10)  # the recalls that Rsum adds up
BLOCK = 256  # rows looked at, or scored by who keeps whole rows; ranks do not depend on it
_LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True, kw_only=True, slots=True)
class DirectionNumbers:
    """One direction of a retrieval."""

    recall_at: dict[int, float]
    """Percent of queries whose answer is among the first k, for each k of `RECALL_AT`."""
    median_rank: float
    """From 1; the mean of the middle two where the number of queries is even."""
    mean_rank: float
    """From 1."""

    @property
    def recall_sum(self) -> float:
        """R@1 + R@5 + R@10, from 0 to 300."""
        return sum(self.recall_at[k] for k in SUMMED)

    def as_json(self) -> dict[str, float]:
        """``R@1`` to ``R@50`` in percent, ``MdR`` and ``MnR`` in ranks, ``Rsum``.

        Numbers that an earlier version wrote have no ``R@50``.
        """
        recalls = {f"R@{k}": value for k, value in self.recall_at.items()}
        ranks = {"MdR": self.median_rank, "MnR": self.mean_rank}
        return {**recalls, **ranks, "Rsum": self.recall_sum}


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


def direction_numbers(ranks: Ranks, *, ties: TieRule = TIE_RULE) -> DirectionNumbers:
    """Recalls, median and mean rank of one direction, by a rule of `muse.head.ranks` for ties."""
    recall_at = {k: ranks.recall_at(k, ties) for k in RECALL_AT}
    median_rank, mean_rank = ranks.median_and_mean(ties)
    return DirectionNumbers(recall_at=recall_at, median_rank=median_rank, mean_rank=mean_rank)


def retrieval_numbers(
    ranks: RetrievalRanks, *, ties: TieRule = TIE_RULE
) -> tuple[DirectionNumbers, DirectionNumbers]:
    """Text to video and video to text, ties counted by a rule of `muse.head.ranks`.

    CLIP4Clip has other code for text to video where videos have several captions: one rank a
    caption, the order of ties left to the sort, and the lower of two middle ranks as median. Under
    ``clip4clip`` that order counts as its expectation.
    """
    many = ranks.has_many_captions
    return (
        _text_to_video_numbers(ranks.text_to_video, ties=ties, has_many_captions=many),
        direction_numbers(ranks.video_to_text, ties=ties),
    )


def _text_to_video_numbers(
    ranks: Ranks, *, ties: TieRule, has_many_captions: bool
) -> DirectionNumbers:
    if ties != "clip4clip" or not has_many_captions:
        return direction_numbers(ranks, ties=ties)
    lower_median = ranks.expected().median().item()  # torch's is the lower of two
    return replace(direction_numbers(ranks, ties="expected"), median_rank=lower_median)


def numbers_by_axis(
    text_to_video: Ranks,
    video_to_text: Ranks,
    *,
    video_of_caption_Q: Tensor,
    axis_of_caption_Q: Sequence[str],
    ties: TieRule = TIE_RULE,
) -> dict[str, AxisNumbers]:
    """Numbers of each axis by its name, in the order of the names; no axis, no entry.

    Nothing is ranked again: an axis takes the ranks of its captions, and those of the videos that
    have a caption of it, each among all answers.

    Args:
        text_to_video: Of `retrieval_ranks`.
        video_to_text: Of `retrieval_ranks`.
        video_of_caption_Q: (Q,) int64, as it was given there.
        axis_of_caption_Q: Q names; captions under the empty one are in no axis.
        ties: A rule of `muse.head.ranks`.
    """
    many = RetrievalRanks(
        text_to_video=text_to_video, video_to_text=video_to_text
    ).has_many_captions
    return {
        axis: AxisNumbers(
            num_captions=len(queries.captions),
            num_videos=len(queries.videos),
            text_to_video=_text_to_video_numbers(
                text_to_video.of(queries.captions), ties=ties, has_many_captions=many
            ),
            video_to_text=direction_numbers(video_to_text.of(queries.videos), ties=ties),
        )
        for axis, queries in axis_queries(video_of_caption_Q, axis_of_caption_Q).items()
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class AxisQueries:
    """Which queries of a retrieval are of one axis."""

    captions: Tensor
    """int64 places among the Q captions, increasing."""
    videos: Tensor
    """int64 places of their videos among those that have a caption, increasing."""


def axis_queries(
    video_of_caption_Q: Tensor, axis_of_caption_Q: Sequence[str]
) -> dict[str, AxisQueries]:
    """The queries of each axis by its name, in the order of the names; see `numbers_by_axis`."""
    group_of_caption_Q = groups_of(video_of_caption_Q)[1]
    found = {}
    for axis in sorted({*axis_of_caption_Q} - {""}):
        captions = torch.tensor([place for place, a in enumerate(axis_of_caption_Q) if a == axis])
        videos = torch.tensor(sorted({*group_of_caption_Q[captions].tolist()}))
        found[axis] = AxisQueries(captions=captions, videos=videos)
    return found


def retrieval_ranks(
    text_QD: Tensor, video_VD: Tensor, video_of_caption_Q: Tensor, *, v2t: V2TRule = "group"
) -> RetrievalRanks:
    """Each caption's video among all videos, and each video's captions by a rule of `V2T_RULES`.

    A video without a caption is an answer to all, and no query. Beside the embeddings memory holds
    one tile of scores and some embeddings as they are rounded (`muse.head.scores`): up to 0.2 GB.

    Args:
        text_QD: (Q, D); the score of a pair is the dot product.
        video_VD: (V, D), on the same device.
        video_of_caption_Q: (Q,) int64, the row of each caption's video.
        v2t: ``group`` ranks a video's best caption among the best ones of all videos, ``caption``
            among all captions.

    Raises:
        MetricError: If shapes do not fit, or a value is NaN, infinite or too large.
    """
    _check_embeddings(text_QD, video_VD, video_of_caption_Q)
    scores = EmbeddingScores(text_QD, video_VD)
    return count_ranks(scores, video_of_caption_Q, num_videos=len(video_VD), v2t=v2t)


def score_matrix_ranks(
    scores_QV: Tensor, video_of_caption_Q: Tensor, *, v2t: V2TRule = "group"
) -> RetrievalRanks:
    """`retrieval_ranks` of a matrix of scores.

    Args:
        scores_QV: (Q, V), higher is better.
        video_of_caption_Q: As `retrieval_ranks` takes it.
        v2t: As `retrieval_ranks` takes it.

    Raises:
        MetricError: If shapes do not fit, or a score is NaN or infinite.
    """
    _check_scores(scores_QV, video_of_caption_Q)
    scores = MatrixScores(scores_QV)
    return count_ranks(scores, video_of_caption_Q, num_videos=scores_QV.shape[1], v2t=v2t)


def text_to_video_ranks(text_QD: Tensor, video_VD: Tensor, video_of_caption_Q: Tensor) -> Ranks:
    """Text to video alone of `retrieval_ranks`, which counts both at once."""
    return retrieval_ranks(text_QD, video_VD, video_of_caption_Q).text_to_video


def video_to_text_ranks(text_QD: Tensor, video_VD: Tensor, video_of_caption_Q: Tensor) -> Ranks:
    """Video to text alone of `retrieval_ranks`, by the best caption of each group."""
    return retrieval_ranks(text_QD, video_VD, video_of_caption_Q).video_to_text


def rank_scores(scores_QV: Tensor, right_Q: Tensor) -> Ranks:
    """Where the right answer stands in each row of a matrix of scores.

    Args:
        scores_QV: (Q, V), higher is better.
        right_Q: (Q,) int64, the right column of each row.

    Raises:
        MetricError: If shapes do not fit, or a score is NaN or infinite.
    """
    _check_scores(scores_QV, right_Q)
    own_Q1 = scores_QV.gather(1, right_Q[:, None])
    return Ranks(num_better=(scores_QV > own_Q1).sum(1), num_equal=(scores_QV == own_Q1).sum(1))


def score_block(left_bD: Tensor, right_RD: Tensor) -> Tensor:
    """(b, R) dot products, exact and rounded to float32.

    A pair has the same bits in every block, and equal embeddings tie wherever they stand.
    """
    return exact_scores(on_grid(left_bD), on_grid(right_RD))


def require_rules_fit(ties: TieRule, v2t: V2TRule) -> None:
    """Nothing, if the rule for ties says what to do with that for video to text.

    Raises:
        UsageError: If not.
    """
    if ties == "clip4clip" and v2t != "group":
        raise UsageError(
            f"ties clip4clip with v2t {v2t}: CLIP4Clip's code ranks groups. Use v2t group, or "
            "another rule for ties."
        )


def _check_scores(scores_QV: Tensor, right_Q: Tensor) -> None:
    if scores_QV.ndim != 2 or right_Q.shape != scores_QV.shape[:1] or not scores_QV.numel():
        raise MetricError(
            f"scores of shape {tuple(scores_QV.shape)} with {tuple(right_Q.shape)} right answers: "
            "expected (queries, answers) and one right answer a query, at least one of each"
        )
    _require_columns(right_Q, scores_QV.shape[1])
    _require_finite(scores_QV, what="scores")


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
    largest = [max(map(abs, map(float, rows.aminmax()))) for rows in (text_QD, video_VD)]
    if largest[0] * largest[1] * text_QD.shape[1] > _LARGEST:
        raise MetricError(
            f"caption embeddings up to {largest[0]:.3g}, video embeddings up to {largest[1]:.3g}: "
            "their dot products may not fit float32. Make them unit vectors."
        )


def _require_columns(right_Q: Tensor, num_answers: int) -> None:
    if int(right_Q.min()) < 0 or int(right_Q.max()) >= num_answers:
        raise MetricError(
            f"right answers from {int(right_Q.min())} to {int(right_Q.max())}: "
            f"there are {num_answers} answers, counted from 0"
        )


def _require_finite(values: Tensor, *, what: str) -> None:
    parts = (values[start : start + BLOCK] for start in range(0, len(values), BLOCK))
    num_bad = sum(int((~part.isfinite()).sum()) for part in parts)  # it copies what it is asked of
    if num_bad:
        raise MetricError(
            f"{what}: {num_bad} of {values.numel()} values are NaN or infinite and can't be "
            "ranked. The head has diverged, or the store is damaged."
        )
