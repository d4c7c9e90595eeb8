"""The retrieval head: what it is made of, and one vector a video.

Knows nothing of stores, batches, losses or files.
"""

# Legend: B videos, T frames, K = 1 + P tokens a frame, D width.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from muse.errors import UsageError
from muse.head.aggregator import MuseAggregator
from muse.head.head_config import MAX_LOGIT_SCALE, HeadConfig
from muse.head.scan.select import ScanBackend
from muse.head.seq_transf import SeqTransfAggregator
from muse.head.similarity.mean_pool import pool_frames


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

    def embed_texts(self, texts: Tensor) -> Tensor:
        """(B, D) of the (B, D) cached embeddings of captions: themselves, their tower is frozen."""
        return texts

    def token_ids(self, texts: Sequence[str]) -> Tensor | None:
        """What `embed_texts` reads of some texts instead of cached embeddings; None: nothing."""
        return None

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Holds the factor on the cosine at 100 or less; called after every step."""
        self.logit_scale.clamp_(max=MAX_LOGIT_SCALE)


def _new_aggregator(config: HeadConfig, scan: ScanBackend) -> nn.Module:
    """What maps (B, T, K, D) tokens and their (B, T) mask to (B, T, D), with initial weights."""
    if config.aggregator == "seq-transf":
        return SeqTransfAggregator(config.dim, depth=config.depth, max_frames=config.max_frames)
    return MuseAggregator(config, scan=scan)


@dataclass(frozen=True, slots=True)
class MeanPoolHead:
    """The head that trains nothing: the mean of the class tokens, CLIP4Clip's "meanP"."""

    name: str = "mean-pool"

    def embed_videos(self, tokens_BTKD: Tensor, valid_BT: Tensor) -> Tensor:
        """(B, D) unit vectors, float32 or wider; see `RetrievalHead.embed_videos`."""
        class_BTD = tokens_BTKD[:, :, 0]
        wide = torch.promote_types(class_BTD.dtype, torch.float32)
        return pool_frames(class_BTD.to(wide), valid_BT)
