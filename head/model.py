"""The retrieval head: what it is made of, and one vector a video.

Knows nothing of stores, batches, losses or files.
"""

# Legend: B videos, T frames, K = 1 + P tokens a frame, D width.

import math
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from muse.errors import UsageError
from muse.head.aggregator import MuseAggregator
from muse.head.mixers.choice import Mixer
from muse.head.ordering import Order
from muse.head.pyramid import FACTORS
from muse.head.scan.select import ScanBackend
from muse.head.seq_transf import SeqTransfAggregator
from muse.head.similarity.mean_pool import pool_frames

MAX_LOGIT_SCALE = math.log(100)  # CLIP sec. 2.5

Aggregator = Literal["muse", "seq-transf"]

READ_BY_ALL = ("aggregator", "dim", "depth", "logit_scale_init")
READ_BY: dict[Aggregator, tuple[str, ...]] = {
    "muse": ("factors", "order", "mixer", "dropout", "d_state", "d_conv", "expand"),
    "seq-transf": ("max_frames",),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadConfig:
    """The shape of a head. The defaults are MUSE's for CLIP ViT-B/32 on MSR-VTT.

    Fields that only one aggregator reads say so, and change nothing of another.
    """

    dim: int
    """D, width of the joint space: the encoder's."""
    aggregator: Aggregator = "muse"
    """What makes one embedding a frame of all tokens of a video: ``muse``, all scales through
    BiMamba blocks; ``seq-transf``, the class tokens through CLIP4Clip's transformer."""
    factors: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Scales beside the class token, as factors on the grid, in the order they are scanned.

    (): the class tokens alone. Read by ``muse``."""
    order: Order = "scale"
    """How the tokens follow each other (`muse.head.ordering`). Read by ``muse``."""
    mixer: Mixer = "bimamba-v2"
    """What mixes the sequence in a block (`muse.head.mixers`). Read by ``muse``."""
    depth: int = 4
    """Residual BiMamba blocks, or layers of the transformer."""
    dropout: float = 0.1
    """Of the last block; it grows linearly from 0 at the first. Read by ``muse``."""
    d_state: int = 16
    """N, size of the state of a channel. Read by ``muse``."""
    d_conv: int = 4
    """Taps of the causal convolution. Read by ``muse``."""
    expand: int = 1
    """Inner width over D; Mamba's usual 2 is not MUSE's. Read by ``muse``."""
    max_frames: int = 64
    """Positions that are learned, the most frames a video may have. Read by ``seq-transf``."""
    logit_scale_init: float = MAX_LOGIT_SCALE
    """Natural logarithm of the factor on the cosine, where it begins: the encoder's own.

    Held at ln 100 or less, like the parameter."""

    def __post_init__(self) -> None:
        for name, choice in (("aggregator", Aggregator), ("order", Order), ("mixer", Mixer)):
            if getattr(self, name) not in get_args(choice):
                choices = ", ".join(get_args(choice))
                raise UsageError(f"{name} {getattr(self, name)!r}: choose one of {choices}")
        for name in ("dim", "depth", "d_state", "d_conv", "expand", "max_frames"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} {getattr(self, name)}: at least 1 is needed")
        if len(set(self.factors)) < len(self.factors):
            raise UsageError(f"factors {self.factors}: name each scale once")
        for factor in self.factors:
            if factor not in FACTORS:
                raise UsageError(f"factor {factor}: choose from {FACTORS}")
            if self.dim % max(1, int(factor)):
                raise UsageError(f"factor {factor}: dim {self.dim} can't be divided by it")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout {self.dropout}: choose a rate from 0 up to 1")
        if not math.isfinite(self.logit_scale_init):
            raise UsageError(f"logit_scale_init {self.logit_scale_init}: choose a finite number")

    @property
    def fields_read(self) -> tuple[str, ...]:
        """Names of the fields that decide what the head computes."""
        return (*READ_BY_ALL, *READ_BY[self.aggregator])


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
    """An aggregator before mean pooling, with the temperature of its loss.

    ``scan`` chooses the backend of MUSE's scan; ``seq-transf`` has none.
    """

    def __init__(self, config: HeadConfig, *, scan: ScanBackend = "auto") -> None:
        super().__init__()
        self.config = config
        self.name: str = config.aggregator
        self.aggregator = _new_aggregator(config, scan)
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
            UsageError: If D is not the head's, a scale can't be made of K - 1 patches, or a video
                has more frames than the head has positions.
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


def _new_aggregator(config: HeadConfig, scan: ScanBackend) -> nn.Module:
    """What maps (B, T, K, D) tokens and their (B, T) mask to (B, T, D), with initial weights."""
    if config.aggregator == "seq-transf":
        return SeqTransfAggregator(config.dim, depth=config.depth, max_frames=config.max_frames)
    return MuseAggregator(
        config.dim,
        factors=config.factors,
        order=config.order,
        mixer=config.mixer,
        depth=config.depth,
        dropout=config.dropout,
        d_state=config.d_state,
        d_conv=config.d_conv,
        expand=config.expand,
        scan=scan,
    )


@dataclass(frozen=True, slots=True)
class MeanPoolHead:
    """The head that trains nothing: the mean of the class tokens, CLIP4Clip's "meanP"."""

    name: str = "mean-pool"

    def embed_videos(self, tokens_BTKD: Tensor, valid_BT: Tensor) -> Tensor:
        """(B, D) unit vectors, float32 or wider; see `RetrievalHead.embed_videos`."""
        class_BTD = tokens_BTKD[:, :, 0]
        wide = torch.promote_types(class_BTD.dtype, torch.float32)
        return pool_frames(class_BTD.to(wide), valid_BT)
