"""Which frames, and which places in them, raise or lower the score of one caption and one video.

The paper's Figure 1, as numbers. A response is what a class token, or a cell of a scale, adds to
the cosine by being other than the mean of its kind in this video: integrated gradients
(Sundararajan et al. 2017, sec. 3) along the straight line from a video whose class tokens are all
alike, and the cells of each scale too, to the video as it is. All of them sum to the difference of
those two scores. CLIP's own cosines with the same tokens stand beside them. Computed from stored
tokens alone; knows nothing of pictures.
"""

# Legend: T frames, n valid frames, N frames that the head reads, K tokens a frame, G cells along a
# side, S cells of a scale, A points of the line, D width.

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from muse.errors import UsageError
from muse.head.aggregator import MuseAggregator
from muse.head.model import RetrievalHead, VideoEmbedder
from muse.head.similarity.mean_pool import cosine_similarity, pool_frames
from muse.pipeline.records import ClipTokens

NUM_STEPS = 32
STEPS_AT_A_TIME = 4  # of a full-size head one takes 0.3 GB

Map = NDArray[np.float64]
Parts = Sequence[Tensor]
"""The class tokens, (N, 1, D), then the cells of each scale, (N, S, D)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaleResponse:
    """What the cells of one scale add to the score."""

    values_TGG: Map
    """(T, G, G) parts of a cosine, signed; row 0 is the picture's top. 0 where a frame is padding,
    and everywhere if all cells are alike."""

    @property
    def grid(self) -> int:
        """G, cells along a side."""
        return int(self.values_TGG.shape[1])

    @property
    def total(self) -> float:
        """Of all cells of all frames."""
        return float(self.values_TGG.sum())

    @property
    def strongest(self) -> tuple[int, int, int]:
        """Frame, row and column, from 0, of the largest value; any place if none is above 0."""
        frame, row, column = np.unravel_index(self.values_TGG.argmax(), self.values_TGG.shape)
        return int(frame), int(row), int(column)


@dataclass(frozen=True, kw_only=True, slots=True)
class Responses:
    """Where a video answers a caption."""

    score: float
    """The head's cosine of the two."""
    score_of_alike: float
    """The same of a video whose class tokens are all their mean, and so each scale's cells."""
    valid_T: NDArray[np.bool_]
    """(T,) False where a frame is padding."""
    class_tokens: ScaleResponse
    """Of one cell a frame: the paper's scale 1. The only one of a head that reads no scale."""
    by_scale: tuple[ScaleResponse, ...]
    """The head's scales in the order of its factors."""
    clip_frames_T: Map
    """(T,) CLIP's own cosine of the caption with each frame's class token; NaN in padding."""
    clip_patches_TGG: Map | None
    """(T, G, G) the same with each patch token; None if the store has no grid of patches."""

    @property
    def by_frame_T(self) -> Map:
        """(T,) what a frame's class token and its cells of all scales add; 0 in padding."""
        every = (self.class_tokens, *self.by_scale)
        return cast(Map, sum(one.values_TGG.sum((1, 2)) for one in every))

    @property
    def remainder(self) -> float:
        """What the responses miss of the difference of the scores: the error of the integral."""
        return self.score - self.score_of_alike - float(self.by_frame_T.sum())


def responses(
    head: VideoEmbedder,
    clip: ClipTokens,
    text_D: NDArray[np.floating],
    *,
    device: torch.device,
    num_steps: int = NUM_STEPS,
) -> Responses:
    """What each frame and each cell of a video adds to its score with a caption.

    Args:
        head: In evaluation mode, on ``device``; any that evaluation takes.
        clip: The video, `FeatureStore.read_clip`.
        text_D: (D,) the caption's embedding, of any length but 0.
        device: Where it is computed.
        num_steps: Points of the line, >= 1. Time grows with them, and `Responses.remainder`
            shrinks.

    Raises:
        UsageError: If a number is out of range, no frame is valid, or the head doesn't fit the
            tokens.
    """
    if num_steps < 1:
        raise UsageError(f"steps {num_steps}: at least 1 is needed")
    if not clip.valid_T.any():
        raise UsageError(f"{clip.video_id}: no valid frame, so nothing that could respond")
    tokens_TKD = torch.from_numpy(clip.tokens_TKD).to(device, torch.float32)
    valid_T = torch.from_numpy(clip.valid_T).to(device)
    text_1D = torch.from_numpy(text_D).to(device, torch.float32)[None]
    with torch.no_grad():
        video_1D = head.embed_videos(tokens_TKD[None], valid_T[None])
        parts, scanned_T, embed = _opened(head, tokens_TKD, valid_T)
        alike = [_alike(part_NSD, valid_T[scanned_T]) for part_NSD in parts]

    def score(parts_ANSD: Parts) -> Tensor:
        return _cosines(text_1D, embed(parts_ANSD))

    values = _integrated_gradients(score, parts, alike, num_steps)
    maps = [_map(value_NS, scanned_T) for value_NS in values]
    frames_T, patches_TGG = _clip_cosines(tokens_TKD, valid_T, text_1D)
    return Responses(
        score=_cosines(text_1D, video_1D).item(),
        score_of_alike=score([part_NSD[None] for part_NSD in alike]).item(),
        valid_T=clip.valid_T,
        class_tokens=ScaleResponse(values_TGG=maps[0]),
        by_scale=tuple(ScaleResponse(values_TGG=values_TGG) for values_TGG in maps[1:]),
        clip_frames_T=frames_T,
        clip_patches_TGG=patches_TGG,
    )


def _opened(
    head: VideoEmbedder, tokens_TKD: Tensor, valid_T: Tensor
) -> tuple[Parts, Tensor, Callable[[Parts], Tensor]]:
    """What may respond, which frames it is of, and how a head makes (A, D) vectors of it."""
    if isinstance(head, RetrievalHead) and isinstance(head.aggregator, MuseAggregator):
        aggregator = head.aggregator
        tokens_TKD = tokens_TKD.to(head.logit_scale.dtype)
        scanned_T = aggregator.scanned(valid_T)
        frames_NKD = tokens_TKD[scanned_T]

        def embed(parts_ANSD: Parts) -> Tensor:
            valid_AT = valid_T.expand(len(parts_ANSD[0]), -1)
            class_FD, *cells_FSD = (part.flatten(0, 1) for part in parts_ANSD)
            sequence = aggregator.sequence_from(class_FD[:, 0], cells_FSD, valid_AT)
            return pool_frames(aggregator.frames_of(sequence, valid_AT), valid_AT)

        return (frames_NKD[:, :1], *aggregator.scales_of(frames_NKD)), scanned_T, embed

    def embed_class_tokens(parts_ANSD: Parts) -> Tensor:
        (class_AN1D,) = parts_ANSD
        all_AN = torch.ones(class_AN1D.shape[:2], dtype=torch.bool, device=class_AN1D.device)
        return head.embed_videos(class_AN1D, all_AN)

    return (tokens_TKD[valid_T, :1],), valid_T, embed_class_tokens


def _alike(part_NSD: Tensor, valid_N: Tensor) -> Tensor:
    """The mean of the valid frames in each of their places; padding that is read stays."""
    mean_D = part_NSD[valid_N].mean((0, 1))
    return torch.where(valid_N[:, None, None], mean_D, part_NSD)


def _integrated_gradients(
    score: Callable[[Parts], Tensor], parts: Parts, alike: Parts, num_steps: int
) -> list[Tensor]:
    """(N, S) of each part, by the midpoint rule over ``num_steps`` equal pieces of the line."""
    sums = [torch.zeros_like(part_NSD) for part_NSD in parts]
    midpoints = (torch.arange(num_steps, device=parts[0].device) + 0.5) / num_steps
    for point_A in torch.split(midpoints.to(parts[0].dtype), STEPS_AT_A_TIME):
        points = [
            torch.lerp(start, end, point_A[:, None, None, None]).requires_grad_()
            for start, end in zip(alike, parts, strict=True)
        ]
        with torch.enable_grad():
            total = score(points).sum()
        gradients = torch.autograd.grad(total, points)
        for sum_NSD, gradient_ANSD in zip(sums, gradients, strict=True):
            sum_NSD += gradient_ANSD.sum(0)
    return [
        ((end - start) * sum_NSD).sum(-1) / num_steps
        for start, end, sum_NSD in zip(alike, parts, sums, strict=True)
    ]


def _cosines(text_1D: Tensor, video_AD: Tensor) -> Tensor:
    """(A,) of one caption."""
    return cosine_similarity(text_1D.to(video_AD.dtype), video_AD)[0]


def _map(value_NS: Tensor, scanned_T: Tensor) -> Map:
    """(T, G, G) of the frames that were read, zeros elsewhere."""
    value_TS = value_NS.new_zeros(len(scanned_T), value_NS.shape[1], dtype=torch.float64)
    value_TS[scanned_T] = value_NS.double()
    grid = math.isqrt(value_NS.shape[1])
    return value_TS.view(-1, grid, grid).cpu().numpy()


def _clip_cosines(tokens_TKD: Tensor, valid_T: Tensor, text_1D: Tensor) -> tuple[Map, Map | None]:
    """Of class tokens and of patches, NaN in padding."""
    cosine_TK = F.cosine_similarity(tokens_TKD.double(), text_1D.double(), dim=-1)
    cosine_TK = cosine_TK.masked_fill(~valid_T[:, None], math.nan).cpu()
    grid = math.isqrt(cosine_TK.shape[1] - 1)
    if grid < 1 or grid * grid != cosine_TK.shape[1] - 1:
        return cosine_TK[:, 0].numpy(), None
    return cosine_TK[:, 0].numpy(), cosine_TK[:, 1:].reshape(-1, grid, grid).numpy()
