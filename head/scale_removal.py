"""What a head's recall is without one of its scales.

A scale is taken away where the sequence begins, after the pyramid: its cells become zeros, or the
cells of another video. The first is a sequence that the head never saw, and so may cost recall by
itself; the second looks like any video, and costs recall only if the scale says which video it is.
"""

# Legend: B videos of a batch, V videos and Q captions of a split, T frames, K tokens a frame, L
# tokens of the longest sequence, D width, M ways of removing.

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from muse.errors import UsageError
from muse.head.aggregator import MuseAggregator
from muse.head.data import VideoBatch, read_captions, select_split
from muse.head.influence import aggregator_with_scales, scale_names, token_labels
from muse.head.loader import read_video_batches
from muse.head.metrics import Ranks, text_to_video_ranks, video_to_text_ranks
from muse.head.model import VideoEmbedder
from muse.head.similarity.mean_pool import pool_frames
from muse.pipeline.store import FeatureStore

ALL_SCALES = "all scales"
VIDEOS_AT_A_TIME = 32

How = Literal["zeroed", "foreign"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RecallChange:
    """Recall at 1 of one direction after a change, against before, on the same queries."""

    recall_at_1: float
    """Percent."""
    change: float
    """Percent points; negative: worse than before."""
    standard_error: float
    """Of the change, by the choice of videos; the captions of a video are counted together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaleRemoval:
    """What is left without a scale."""

    scale: str
    """Such as ``3x3``, or ``all scales``."""
    how: How
    """``zeroed``, or ``foreign``: the cells of another video."""
    text_to_video: RecallChange
    video_to_text: RecallChange

    def as_json(self) -> dict[str, Any]:
        """The fields, each direction a dictionary."""
        return {
            "scale": self.scale,
            "how": self.how,
            "text_to_video": _json_of(self.text_to_video),
            "video_to_text": _json_of(self.video_to_text),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class RemovalReport:
    """A head's recalls at 1 with all its scales, and without each."""

    num_videos: int
    num_captions: int
    text_to_video: float
    """Recall at 1 of the untouched head, percent."""
    video_to_text: float
    removals: tuple[ScaleRemoval, ...]
    """Scale by scale in the order of the factors, then all at once; zeroed before foreign."""

    def of(self, scale: str, how: How) -> ScaleRemoval:
        """The one of a scale."""
        return next(one for one in self.removals if (one.scale, one.how) == (scale, how))

    def as_json(self) -> dict[str, Any]:
        """The fields."""
        return {
            "num_videos": self.num_videos,
            "num_captions": self.num_captions,
            "text_to_video": {"R@1": self.text_to_video},
            "video_to_text": {"R@1": self.video_to_text},
            "removals": [one.as_json() for one in self.removals],
        }


def recalls_without_scales(
    store: FeatureStore,
    head: VideoEmbedder,
    *,
    split: str = "test",
    seed: int = 0,
    device: torch.device,
    on_videos: Callable[[int], None] = lambda num_videos: None,
) -> RemovalReport:
    """Both directions' recall at 1 of a split, whole and without each scale.

    Args:
        store: Where the tokens are.
        head: In evaluation mode, on ``device``.
        split: Whose captions are the queries; ``all`` for every split.
        seed: Decides whose cells are the foreign ones.
        device: Where the batches go.
        on_videos: Called after each batch with how many videos it had.

    Raises:
        ManifestError: If the split has no usable pair.
        MetricError: If an embedding is NaN or infinite.
        UsageError: If the head reads no scales, or the split has one video only.
    """
    aggregator = aggregator_with_scales(head)
    selection = select_split(store, split)
    rows_V = selection.video_rows_V
    if len(rows_V) < 2:
        raise UsageError(f"split {split!r}: one video, and no other's cells to give it. Use more.")
    other_V = rows_V[another_each(len(rows_V), seed=seed)]
    own_batches, other_batches = (
        read_video_batches(
            store,
            [rows[i : i + VIDEOS_AT_A_TIME] for i in range(0, len(rows), VIDEOS_AT_A_TIME)],
            device=device,
        )
        for rows in (rows_V, other_V)
    )
    embedded = []
    for own, other in zip(own_batches, other_batches, strict=True):
        video_MBD = embed_without(
            aggregator, own.map(lambda t: t.to(device)), other.map(lambda t: t.to(device))
        )
        embedded.append(video_MBD.float().cpu())
        on_videos(video_MBD.shape[1])
    return _report(
        [*scale_names(aggregator, store.header.encoder.tokens_per_frame), ALL_SCALES],
        F.normalize(read_captions(store, selection.caption_rows_Q), dim=-1),
        torch.cat(embedded, dim=1),
        torch.from_numpy(selection.video_of_caption_Q),
    )


def another_each(num: int, *, seed: int) -> NDArray[np.intp]:
    """(num,) for each place another one, each taken once: one random circle of them all."""
    circle = np.random.default_rng(seed).permutation(num)
    other = np.empty(num, dtype=np.intp)
    other[circle] = np.roll(circle, 1)
    return other


@torch.no_grad()
def embed_without(aggregator: MuseAggregator, own: VideoBatch, other: VideoBatch) -> Tensor:
    """Unit vectors of some videos, whole and without each scale.

    Args:
        aggregator: In evaluation mode.
        own: The videos.
        other: For each the one whose cells are the foreign ones.

    Returns:
        (M, B, D): untouched; then each scale zeroed and foreign, and all scales zeroed and foreign.
    """
    wide = next(aggregator.parameters()).dtype
    sequence = aggregator.sequence_of(own.tokens_BTKD.to(wide), own.valid_BT)
    foreign_BTKD = _frames_for(other, own.valid_BT).to(wide)
    foreign_BLD = aggregator.sequence_of(foreign_BTKD, own.valid_BT).tokens_BLD
    _, label_BL = token_labels(aggregator, own.tokens_BTKD.shape[2], own.valid_BT)

    def embed(tokens_BLD: Tensor) -> Tensor:
        frames_BTD = aggregator.frames_of(replace(sequence, tokens_BLD=tokens_BLD), own.valid_BT)
        return pool_frames(frames_BTD, own.valid_BT)

    embedded = [embed(sequence.tokens_BLD)]
    for removed_BL in _removed(label_BL, len(aggregator.factors)):
        embedded.append(embed(sequence.tokens_BLD.masked_fill(removed_BL[..., None], 0.0)))
        mixed_BLD = torch.where(removed_BL[..., None], foreign_BLD, sequence.tokens_BLD)
        embedded.append(embed(mixed_BLD))
    return torch.stack(embedded)


def _removed(label_BL: Tensor, num_scales: int) -> Iterator[Tensor]:
    """(B, L) bool each: the cells of each scale, then of all."""
    for scale in range(1, num_scales + 1):
        yield label_BL == scale
    yield label_BL > 0


def _frames_for(other: VideoBatch, valid_BT: Tensor) -> Tensor:
    """(B, T, K, D): the other videos' valid frames where these have theirs, over again if few."""
    first_BT = other.valid_BT.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    num_B1 = other.valid_BT.sum(1, keepdim=True).clamp_min(1)
    rank_BT = (valid_BT.cumsum(1) - 1).clamp_min(0)
    frame_BT = first_BT.gather(1, rank_BT % num_B1)
    video_B1 = torch.arange(len(frame_BT), device=frame_BT.device)[:, None]
    return other.tokens_BTKD[video_B1, frame_BT] * valid_BT[..., None, None]


def _report(
    scales: list[str], text_QD: Tensor, video_MVD: Tensor, video_of_caption_Q: Tensor
) -> RemovalReport:
    hits = [
        (
            _hits(text_to_video_ranks(text_QD, video_VD, video_of_caption_Q)),
            _hits(video_to_text_ranks(text_QD, video_VD, video_of_caption_Q)),
        )
        for video_VD in video_MVD
    ]
    (before_Q, before_V), *after = hits
    kinds: list[tuple[str, How]] = [(s, how) for s in scales for how in ("zeroed", "foreign")]
    return RemovalReport(
        num_videos=video_MVD.shape[1],
        num_captions=len(text_QD),
        text_to_video=100 * before_Q.mean().item(),
        video_to_text=100 * before_V.mean().item(),
        removals=tuple(
            ScaleRemoval(
                scale=scale,
                how=how,
                text_to_video=_change(before_Q, hits_Q, video_of_caption_Q),
                video_to_text=_change(before_V, hits_V, torch.arange(len(hits_V))),
            )
            for (scale, how), (hits_Q, hits_V) in zip(kinds, after, strict=True)
        ),
    )


def _hits(ranks: Ranks) -> Tensor:
    """(queries,) float64, the chance of each that its answer is first."""
    return (ranks.num_better == 0).double() / ranks.num_equal


def _change(before_Q: Tensor, after_Q: Tensor, video_Q: Tensor) -> RecallChange:
    change_Q = after_Q - before_Q
    residual_Q = change_Q - change_Q.mean()
    residual_V = change_Q.new_zeros(int(video_Q.max()) + 1).index_add(0, video_Q, residual_Q)
    return RecallChange(
        recall_at_1=100 * after_Q.mean().item(),
        change=100 * change_Q.mean().item(),
        standard_error=100 * residual_V.square().sum().sqrt().item() / len(change_Q),
    )


def _json_of(change: RecallChange) -> dict[str, float]:
    return {
        "R@1": change.recall_at_1,
        "change": change.change,
        "standard_error": change.standard_error,
    }
