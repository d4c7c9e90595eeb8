"""How much of a video's embedding comes from which tokens of its sequence.

The measure is the squared Jacobian of the embedding with respect to the tokens that the first
block is given, summed over the width of both: how far the vector moves when a token does. It is
shared out among the class tokens and the scales, and by distance from where frames are read. Knows
nothing of retrieval; what the scales are worth there is in `muse.head.scale_removal`.
"""

# Legend: B videos of a batch, V videos, T frames, K tokens a frame, L tokens of the longest
# sequence, D width, N probes, S class tokens and each scale, Z ranges of distance, G groups.

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from muse.errors import UsageError
from muse.head.aggregator import MuseAggregator, patch_grid
from muse.head.data import VideoBatch, select_split
from muse.head.loader import read_video_batches
from muse.head.model import RetrievalHead, VideoEmbedder
from muse.head.ordering import ORDERS, TokenSequence
from muse.head.pyramid import cells_per_scale
from muse.head.readout import class_tokens_of
from muse.head.similarity.mean_pool import pool_frames
from muse.pipeline.store import FeatureStore

CLASS_TOKENS = "class tokens"
FARTHEST = (0, 4, 16, 64, 256, 1024)  # of each range of distance but the last
DISTANCES = ("1-4", "5-16", "17-64", "65-256", "257-1024", "more")  # those of cells
VIDEOS_AT_A_TIME = 8  # a backward keeps what a forward may forget


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenShare:
    """What a group of tokens has of the squared Jacobian."""

    name: str
    """``class tokens``, a scale such as ``3x3``, or a range of distance such as ``5-16``."""
    num_tokens: float
    """Of a video, in the mean."""
    share: float
    """Of all tokens' squared Jacobian, from 0 to 1."""
    standard_error: float
    """By the chance of the probes; 0 where there was none."""

    @property
    def share_per_token(self) -> float:
        """Of one token of the group, in the mean; 0 where there is none."""
        return self.share / self.num_tokens if self.num_tokens else 0.0

    def as_json(self) -> dict[str, Any]:
        """The fields, and the share per token."""
        names = ("name", "num_tokens", "share", "standard_error", "share_per_token")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True, slots=True)
class GradientShares:
    """How the squared Jacobian of some videos' embeddings is shared out."""

    num_videos: int
    num_probes: int | None
    """Random directions a video; None: exact."""
    by_scale: tuple[TokenShare, ...]
    """The class tokens, then each scale in the order of the factors. The shares sum to 1."""
    by_distance: tuple[TokenShare, ...]
    """The cells of all scales by how many places they are from the nearest one where a frame is
    read (`DISTANCES`). Their shares sum to those of the scales."""

    @property
    def share_of_scales(self) -> float:
        """Of the cells of all scales together."""
        return sum(scale.share for scale in self.by_scale[1:])

    def as_json(self) -> dict[str, Any]:
        """The fields, with the share of all scales."""
        return {
            "num_videos": self.num_videos,
            "num_probes": self.num_probes,
            "share_of_scales": self.share_of_scales,
            "by_scale": [share.as_json() for share in self.by_scale],
            "by_distance": [share.as_json() for share in self.by_distance],
        }


def aggregator_with_scales(head: VideoEmbedder) -> MuseAggregator:
    """The aggregator of a head that reads scales.

    Raises:
        UsageError: If there is nothing to ask it: mean-pool, seq-transf, or a head without scales.
    """
    if not isinstance(head, RetrievalHead) or not isinstance(head.aggregator, MuseAggregator):
        raise UsageError(
            f"head {head.name}: it reads class tokens only. Name the run of a MUSE head."
        )
    if not head.aggregator.factors:
        raise UsageError(
            f"head {head.name}, factors {head.config.factors}, depth {head.config.depth}: it reads "
            "no scale. Name the run of a head that does."
        )
    return head.aggregator


def scale_names(aggregator: MuseAggregator, tokens_per_frame: int) -> list[str]:
    """``3x3``, ``7x7``, …: the scales by their cells."""
    cells = cells_per_scale(patch_grid(tokens_per_frame), aggregator.factors)
    return [f"{math.isqrt(num)}x{math.isqrt(num)}" for num in cells]


def token_labels(
    aggregator: MuseAggregator, tokens_per_frame: int, valid_BT: Tensor
) -> tuple[TokenSequence, Tensor]:
    """What each place of a sequence holds.

    The order of the head itself puts labels, in the tokens' stead, where it puts tokens.

    Returns:
        The sequence of labels, and (B, L) int64: 0 for class tokens, 1 for the first scale and so
        on, -1 behind a sequence's end.
    """
    config = aggregator.config
    scanned_BT = torch.ones_like(valid_BT) if config.padding == "scanned" else valid_BT
    class_F1 = torch.zeros(int(scanned_BT.sum()), 1, device=valid_BT.device)
    cells = cells_per_scale(patch_grid(tokens_per_frame), aggregator.factors)
    labels_FS1 = [
        class_F1.new_full((len(class_F1), num, 1), scale) for scale, num in enumerate(cells, 1)
    ]
    sequence = ORDERS[config.order](
        class_F1, labels_FS1, scanned_BT, class_tokens_of(config.readout)
    )
    # Rounded: an order may average equal labels.
    label_BL = sequence.tokens_BLD[..., 0].round().long()
    if sequence.length_B is not None:
        place_L = torch.arange(label_BL.shape[1], device=label_BL.device)
        label_BL = label_BL.masked_fill(place_L >= sequence.length_B[:, None], -1)
    return sequence, label_BL


def gradient_shares(
    aggregator: MuseAggregator,
    batches: Iterable[VideoBatch],
    *,
    num_probes: int | None = 4,
    seed: int = 0,
) -> GradientShares:
    """Who has which share of the squared Jacobian of the videos' unit vectors.

    Random probes (Hutchinson 1990): the mean over random signs r of |d(r·v)/dx|² is the squared
    Frobenius norm of dv/dx. Videos are summed before shares are taken.

    Args:
        aggregator: In evaluation mode.
        batches: Of videos of one kind, on the aggregator's device.
        num_probes: Backward passes a batch, at least 2; None: one a channel, which is exact.
        seed: Of the probes.

    Raises:
        UsageError: If ``num_probes`` is below 2.
    """
    if num_probes is not None and num_probes < 2:
        raise UsageError(f"probes {num_probes}: at least 2 are needed to say how exact they are")
    generator = torch.Generator().manual_seed(seed)
    squared, counts, names = [], [], [CLASS_TOKENS]
    for videos in batches:
        tokens_per_frame = videos.tokens_BTKD.shape[2]
        names[1:] = scale_names(aggregator, tokens_per_frame)
        group_BL = _groups(aggregator, tokens_per_frame, videos.valid_BT)
        num_groups = len(names) * (len(FARTHEST) + 1)
        rows = [
            _sum_by_group(squared_BL, group_BL, num_groups)
            for squared_BL in _squared_gradients(aggregator, videos, num_probes, generator)
        ]
        squared.append(torch.stack(rows))
        ones_BL = torch.ones_like(group_BL, dtype=torch.float64)
        counts.append(_sum_by_group(ones_BL, group_BL, num_groups))
    shape = (len(names), len(FARTHEST) + 1)
    squared_NVG = torch.cat(squared, dim=1)
    squared_NVSZ = squared_NVG.view(*squared_NVG.shape[:2], *shape)
    count_SZ = torch.cat(counts).mean(0).view(shape)
    total_NV, is_exact = squared_NVSZ.sum((2, 3)), num_probes is None
    cells_NVZ, cell_count_Z = squared_NVSZ[:, :, 1:, 1:].sum(2), count_SZ[1:, 1:].sum(0)
    return GradientShares(
        num_videos=total_NV.shape[1],
        num_probes=num_probes,
        by_scale=_shares(names, squared_NVSZ.sum(-1), total_NV, count_SZ.sum(-1), is_exact),
        by_distance=_shares(DISTANCES, cells_NVZ, total_NV, cell_count_Z, is_exact),
    )


def split_shares(
    store: FeatureStore,
    head: VideoEmbedder,
    *,
    split: str = "test",
    num_videos: int = 256,
    num_probes: int | None = 4,
    seed: int = 0,
    device: torch.device,
    on_videos: Callable[[int], None] = lambda num_videos: None,
) -> GradientShares:
    """`gradient_shares` of a split's videos.

    Args:
        store: Where the tokens are.
        head: In evaluation mode, on ``device``.
        split: Whose videos; ``all`` for every split.
        num_videos: At most this many, drawn by ``seed``.
        num_probes: As `gradient_shares` takes it.
        seed: Of the videos and of the probes.
        device: Where the batches go.
        on_videos: Called after each batch with how many videos it had.

    Raises:
        ManifestError: If the split has no usable pair.
        UsageError: If the head reads no scales, or a number is below its limit.
    """
    if num_videos < 1:
        raise UsageError(f"videos {num_videos}: at least 1 is needed")
    aggregator = aggregator_with_scales(head)
    rows_V = select_split(store, split).video_rows_V
    drawn = np.random.default_rng(seed).permutation(rows_V)[:num_videos]
    drawn.sort()
    blocks = [
        drawn[start : start + VIDEOS_AT_A_TIME] for start in range(0, len(drawn), VIDEOS_AT_A_TIME)
    ]

    def batches() -> Iterator[VideoBatch]:
        for videos in read_video_batches(store, blocks, device=device):
            yield videos.map(lambda tensor: tensor.to(device))
            on_videos(len(videos.valid_BT))

    return gradient_shares(aggregator, batches(), num_probes=num_probes, seed=seed)


def _squared_gradients(
    aggregator: MuseAggregator,
    videos: VideoBatch,
    num_probes: int | None,
    generator: torch.Generator,
) -> Iterator[Tensor]:
    """(B, L) float64 for each direction: the squared gradient of each token."""
    wide = next(aggregator.parameters()).dtype
    with torch.no_grad():
        sequence = aggregator.sequence_of(videos.tokens_BTKD.to(wide), videos.valid_BT)
    tokens_BLD = sequence.tokens_BLD.detach().requires_grad_()
    with torch.enable_grad():
        frames_BTD = aggregator.frames_of(replace(sequence, tokens_BLD=tokens_BLD), videos.valid_BT)
        video_BD = pool_frames(frames_BTD, videos.valid_BT)
    for direction_BD in _directions(video_BD, num_probes, generator):
        (gradient_BLD,) = torch.autograd.grad(video_BD, tokens_BLD, direction_BD, retain_graph=True)
        yield gradient_BLD.double().square().sum(-1)


def _directions(
    video_BD: Tensor, num_probes: int | None, generator: torch.Generator
) -> Iterator[Tensor]:
    """(B, D) each: the channels one by one, or random signs."""
    if num_probes is None:
        for channel_D in torch.eye(video_BD.shape[1]).to(video_BD):
            yield channel_D.expand_as(video_BD)
        return
    for _ in range(num_probes):
        signs_BD = torch.randint(0, 2, video_BD.shape, generator=generator) * 2 - 1
        yield signs_BD.to(video_BD)


def _groups(aggregator: MuseAggregator, tokens_per_frame: int, valid_BT: Tensor) -> Tensor:
    """(B, L) int64, label and range of distance of each token in one number; -1: no token."""
    sequence, label_BL = token_labels(aggregator, tokens_per_frame, valid_BT)
    farthest = torch.tensor(FARTHEST, device=label_BL.device)
    range_BL = torch.bucketize(_distances(sequence, valid_BT), farthest)
    return torch.where(label_BL < 0, -1, label_BL * (len(FARTHEST) + 1) + range_BL)


def _distances(sequence: TokenSequence, valid_BT: Tensor) -> Tensor:
    """(B, L) int64, places from the nearest one where a frame is read."""
    num_videos, length = sequence.tokens_BLD.shape[:2]
    place_L = torch.arange(length, device=valid_BT.device)
    places_BTR = sequence.places_BTR
    if places_BTR is None:
        places_BTR = place_L[: valid_BT.shape[1], None].expand(num_videos, -1, -1)
    read_BL = torch.zeros(num_videos, length, dtype=torch.int64, device=valid_BT.device)
    used_BTR = valid_BT[..., None].expand(places_BTR.shape).long()
    read_BL.scatter_add_(1, places_BTR.flatten(1), used_BTR.flatten(1))
    before_BL = torch.where(read_BL > 0, place_L, -length).cummax(1).values
    after_BL = torch.where(read_BL > 0, place_L, 2 * length).flip(1).cummin(1).values.flip(1)
    return torch.minimum(place_L - before_BL, after_BL - place_L)


def _sum_by_group(value_BL: Tensor, group_BL: Tensor, num_groups: int) -> Tensor:
    """(B, groups) float64, on the CPU."""
    summed = value_BL.new_zeros(len(value_BL), num_groups + 1)
    summed.scatter_add_(1, torch.where(group_BL < 0, num_groups, group_BL), value_BL)
    return summed[:, :num_groups].cpu()


def _shares(
    names: Sequence[str],
    squared_NVG: Tensor,
    total_NV: Tensor,
    count_G: Tensor,
    is_exact: bool,
) -> tuple[TokenShare, ...]:
    """One a group; the total is that of all tokens."""
    share_G = squared_NVG.sum((0, 1)) / total_NV.sum()
    # A ratio's error is that of its residuals. Each video has its own spread over the probes.
    residual_NVG = squared_NVG - share_G * total_NV[..., None]
    error_G = torch.zeros_like(share_G)
    if not is_exact:
        variance_G = len(squared_NVG) * residual_NVG.var(0).sum(0)
        error_G = variance_G.sqrt() / total_NV.sum()
    return tuple(
        TokenShare(name=name, num_tokens=num, share=share, standard_error=error)
        for name, num, share, error in zip(
            names, count_G.tolist(), share_G.tolist(), error_G.tolist(), strict=True
        )
    )
