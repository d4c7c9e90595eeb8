"""The retrieval head: what it is made of, and one vector a video.

Knows nothing of stores, batches, losses or files.
"""

# Legend: B videos, T frames, K = 1 + P tokens a frame, D width.

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from muse.errors import UsageError
from muse.head.aggregator import MuseAggregator
from muse.head.pyramid import FACTORS
from muse.head.scan.select import ScanBackend
from muse.head.similarity.mean_pool import pool_frames

MAX_LOGIT_SCALE = math.log(100)  # CLIP sec. 2.5


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadConfig:
    """The shape of a head. The defaults are MUSE's for CLIP ViT-B/32 on MSR-VTT."""

    dim: int
    """D, width of the joint space: the encoder's."""
    factors: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Scales beside the class token, as factors on the grid, in the order they are scanned."""
    depth: int = 4
    """Residual BiMamba blocks."""
    dropout: float = 0.1
    """Of the last block; it grows linearly from 0 at the first."""
    d_state: int = 16
    """N, size of the state of a channel."""
    d_conv: int = 4
    """Taps of the causal convolution."""
    expand: int = 1
    """Inner width over D; Mamba's usual 2 is not MUSE's."""
    logit_scale_init: float = MAX_LOGIT_SCALE
    """Natural logarithm of the factor on the cosine, where it begins: the encoder's own.

    Held at ln 100 or less, like the parameter."""

    def __post_init__(self) -> None:
        for name in ("dim", "depth", "d_state", "d_conv", "expand"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} {getattr(self, name)}: at least 1 is needed")
        if not self.factors or len(set(self.factors)) < len(self.factors):
            raise UsageError(f"factors {self.factors}: name at least one scale, each once")
        for factor in self.factors:
            if factor not in FACTORS:
                raise UsageError(f"factor {factor}: choose from {FACTORS}")
            if self.dim % max(1, int(factor)):
                raise UsageError(f"factor {factor}: dim {self.dim} can't be divided by it")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout {self.dropout}: choose a rate from 0 up to 1")
        if not math.isfinite(self.logit_scale_init):
            raise UsageError(f"logit_scale_init {self.logit_scale_init}: choose a finite number")


class VideoEmbedder(Protocol):
    """What evaluation and search need of a head."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def embed_videos(self, tokens_BTKD: Tensor, valid_BT: Tensor) -> Tensor:
        """(B, D) unit vectors of (B, T, K, D) tokens; (B, T) is False for padded frames."""
        ...


class RetrievalHead(nn.Module):
    """MUSE before mean pooling, with the temperature of its loss."""

    name = "muse"

    def __init__(self, config: HeadConfig, *, scan: ScanBackend = "auto") -> None:
        super().__init__()
        self.config = config
        self.aggregator = MuseAggregator(
            config.dim,
            factors=config.factors,
            depth=config.depth,
            dropout=config.dropout,
            d_state=config.d_state,
            d_conv=config.d_conv,
            expand=config.expand,
            scan=scan,
        )
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init))
        self.clamp_logit_scale()

    def embed_videos(self, tokens_BTKD: Tensor, valid_BT: Tensor) -> Tensor:
        """One vector a video.

        Args:
            tokens_BTKD: (B, T, K, D) of any floating dtype, class token first, not normalised.
            valid_BT: (B, T) bool, False for padded frames, which change nothing.

        Returns:
            (B, D) unit vectors in the dtype of the weights.

        Raises:
            UsageError: If D is not the head's, or K - 1 is no square.
        """
        if tokens_BTKD.shape[-1] != self.config.dim:
            raise UsageError(
                f"tokens of width {tokens_BTKD.shape[-1]}: this head was made for "
                f"{self.config.dim}. Use the store that it was trained on."
            )
        wide = self.logit_scale.dtype
        frames_BTD = self.aggregator(tokens_BTKD.to(wide), valid_BT)
        return pool_frames(frames_BTD.to(wide), valid_BT)

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Holds the factor on the cosine at 100 or less; called after every step."""
        self.logit_scale.clamp_(max=MAX_LOGIT_SCALE)


@dataclass(frozen=True, slots=True)
class MeanPoolHead:
    """The head that trains nothing: the mean of the class tokens, CLIP4Clip's "meanP"."""

    name: str = "mean-pool"

    def embed_videos(self, tokens_BTKD: Tensor, valid_BT: Tensor) -> Tensor:
        """(B, D) unit vectors, float32 or wider; see `RetrievalHead.embed_videos`."""
        class_BTD = tokens_BTKD[:, :, 0]
        wide = torch.promote_types(class_BTD.dtype, torch.float32)
        return pool_frames(class_BTD.to(wide), valid_BT)
