"""How many answers are better than the right one and how many equal, counted tile by tile.

A tile is the scores of some captions with some videos. Both directions are counted in one pass, and
no more scores than a tile are there at a time. Counts are whole numbers: tiles change none, as long
as a pair has the same score in every tile. Knows nothing of recalls, nor of what may be scored.
"""

# Legend: Q captions, V videos, G videos that have a caption, t captions and u videos of a tile,
# a answers of a tile.

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, cast

import torch
from torch import Tensor

from muse.head.ranks import Ranks, RetrievalRanks
from muse.head.scores import exact_paired_scores, exact_scores, on_grid

V2TRule = Literal["group", "caption"]

TILE = 512  # captions and videos of a tile: 2 MB of float64
BLOCK = 32 * TILE  # videos at a time that are rounded: 34 MB of width 512 in float32
ROWS_KEPT = 64 * TILE  # as many rounded captions, or videos, are kept: 67 MB

RowScores = Callable[[Tensor], Callable[[slice], Tensor]]
"""From (t,) captions to what gives (t, u) scores with a slice of the videos."""


class PairScores(Protocol):
    """Scores of Q captions and V videos, made when they are asked for."""

    def own(self, video_of_caption_Q: Tensor) -> Tensor:
        """(Q,) scores of each caption with one video."""
        ...

    def among(self, videos: slice) -> RowScores:
        """Scores with some of the videos, those of `own` to the last bit."""
        ...


class _RoundedRows:
    """Embeddings as `on_grid` has them: of a few all at once, of many each time they are needed."""

    def __init__(self, rows_ND: Tensor) -> None:
        self._are_rounded = len(rows_ND) <= ROWS_KEPT
        self._rows_ND = on_grid(rows_ND) if self._are_rounded else rows_ND

    def __getitem__(self, places: Tensor | slice) -> Tensor:
        rows_nD = self._rows_ND[places]
        return rows_nD if self._are_rounded else on_grid(rows_nD)


class EmbeddingScores:
    """Dot products of embeddings."""

    def __init__(self, text_QD: Tensor, video_VD: Tensor) -> None:
        self._text, self._video = _RoundedRows(text_QD), _RoundedRows(video_VD)

    def own(self, video_of_caption_Q: Tensor) -> Tensor:
        """See `PairScores`."""
        parts = (
            exact_paired_scores(self._text[start : start + TILE], self._video[videos_t])
            for start, videos_t in _parts(video_of_caption_Q)
        )
        return torch.cat(list(parts))

    def among(self, videos: slice) -> RowScores:
        """See `PairScores`."""
        video_bD = self._video[videos]

        def rows(captions_t: Tensor) -> Callable[[slice], Tensor]:
            text_tD = self._text[captions_t]
            return lambda columns: exact_scores(text_tD, video_bD[columns])

        return rows


class MatrixScores:
    """Scores that are there already."""

    def __init__(self, scores_QV: Tensor) -> None:
        self._scores_QV = scores_QV

    def own(self, video_of_caption_Q: Tensor) -> Tensor:
        """See `PairScores`."""
        return self._scores_QV.gather(1, video_of_caption_Q[:, None])[:, 0]

    def among(self, videos: slice) -> RowScores:
        """See `PairScores`."""
        scores_Qb = self._scores_QV[:, videos]
        return lambda captions_t: lambda columns: scores_Qb[captions_t, columns]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Count:
    """What of one direction's answers has been seen."""

    own: Tensor
    """(queries,) scores of the right answers."""
    num_better: Tensor
    num_equal: Tensor

    @classmethod
    def none_of(cls, own: Tensor) -> "_Count":
        zeros = torch.zeros_like(own, dtype=torch.int64)
        return cls(own=own, num_better=zeros, num_equal=zeros.clone())

    def add(self, queries: Tensor | slice, scores: Tensor, *, answers_dim: int) -> None:
        own = self.own[queries].unsqueeze(answers_dim)
        # int32: sums of a tile fit, three times as fast.
        self.num_better[queries] += (scores > own).sum(answers_dim, dtype=torch.int32)
        self.num_equal[queries] += (scores == own).sum(answers_dim, dtype=torch.int32)


def count_ranks(
    scores: PairScores, video_of_caption_Q: Tensor, *, num_videos: int, v2t: V2TRule
) -> RetrievalRanks:
    """Both directions of a retrieval; see `muse.head.metrics.retrieval_ranks`."""
    groups_G, group_of_caption_Q = groups_of(video_of_caption_Q)
    own_Q = scores.own(video_of_caption_Q)
    own_G = _best_of_groups(own_Q[:, None], group_of_caption_Q)[:, 0]
    # A video without a caption is no query: nothing is better than infinity.
    own_V = own_G.new_full((num_videos,), torch.inf).index_copy(0, groups_G, own_G)
    to_video, to_text = _Count.none_of(own_Q), _Count.none_of(own_V)
    for captions_t, videos, scores_tu in _tiles(scores, group_of_caption_Q, num_videos):
        to_video.add(captions_t, scores_tu, answers_dim=1)
        answers_au = scores_tu
        if v2t == "group":
            answers_au = _best_of_groups(scores_tu, group_of_caption_Q[captions_t])
        to_text.add(videos, answers_au, answers_dim=0)
    num_right_G = None
    if v2t == "caption":
        is_best_Q = (own_Q == own_G[group_of_caption_Q]).long()
        num_right_G = torch.zeros_like(groups_G).index_add(0, group_of_caption_Q, is_best_Q)
    return RetrievalRanks(
        text_to_video=Ranks(num_better=to_video.num_better, num_equal=to_video.num_equal),
        video_to_text=Ranks(
            num_better=to_text.num_better[groups_G],
            num_equal=to_text.num_equal[groups_G],
            num_right=num_right_G,
        ),
    )


def groups_of(video_of_caption_Q: Tensor) -> tuple[Tensor, Tensor]:
    """(G,) videos that have a caption, increasing, and (Q,) the place of each caption's there."""
    return cast(tuple[Tensor, Tensor], torch.unique(video_of_caption_Q, return_inverse=True))


def _best_of_groups(scores_tu: Tensor, group_t: Tensor) -> Tensor:
    """(a, u) highest score of each group; of groups with consecutive numbers, none cut."""
    first, last = int(group_t.min()), int(group_t.max())
    if last - first + 1 == len(group_t):
        return scores_tu[group_t.argsort()]
    best_au = scores_tu.new_full((last - first + 1, scores_tu.shape[1]), -torch.inf)
    place_tu = (group_t - first)[:, None].expand_as(scores_tu)
    return best_au.scatter_reduce_(0, place_tu, scores_tu, "amax")


def _whole_groups(group_of_caption_Q: Tensor) -> Iterator[Tensor]:
    """Captions of each tile: those of consecutive groups, up to `TILE`, or of one larger group."""
    captions_Q = group_of_caption_Q.argsort(stable=True)
    start = end = 0
    for size in torch.bincount(group_of_caption_Q).tolist():
        if end > start and end + size - start > TILE:
            yield captions_Q[start:end]
            start = end
        end += size
    yield captions_Q[start:end]


def _parts(video_of_caption_Q: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The first caption of each part of `TILE`, and the (t,) videos of its captions."""
    for start in range(0, len(video_of_caption_Q), TILE):
        yield start, video_of_caption_Q[start : start + TILE]


def _tiles(
    scores: PairScores, group_of_caption_Q: Tensor, num_videos: int
) -> Iterator[tuple[Tensor, slice, Tensor]]:
    """(t,) captions, u videos and their (t, u) scores; each pair once."""
    for start in range(0, num_videos, BLOCK):
        end = min(start + BLOCK, num_videos)
        rows = scores.among(slice(start, end))
        for captions_t in _whole_groups(group_of_caption_Q):
            scores_of = rows(captions_t)
            for u in _video_tiles(end - start, num_captions=len(captions_t)):
                yield captions_t, slice(start + u.start, start + u.stop), scores_of(u)


def _video_tiles(num_videos: int, *, num_captions: int) -> Iterator[slice]:
    """As many videos at a time as keep a tile at `TILE` squared scores."""
    width = max(1, TILE * TILE // max(TILE, num_captions))
    for start in range(0, num_videos, width):
        yield slice(start, min(start + width, num_videos))
