"""What of the mixed sequence becomes the frames' embeddings.

``class``, the paper's: the class tokens, where the order put them. At initialisation they hardly
feel the scales (docs/adr/0015). The others must: ``ends`` and ``interleaved`` repeat the class
tokens behind the cells and read the mean of their places; ``pool`` adds what the blocks changed
in the mean over all places; ``max`` adds the strongest of each feature over all places;
``attend`` lets each frame's class token look at every place. In each of them a new head with zero
gates is mean pooling. Knows nothing of orders or blocks.
"""

# Legend: B videos, T frames, L tokens of the longest sequence, D width, H heads, d width of a head.

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from muse.head.mixers.attention import num_heads
from muse.head.ordering import ClassTokens, TokenSequence, read_frames

Readout = Literal["class", "ends", "interleaved", "pool", "max", "attend"]
READS_CELLS: tuple[Readout, ...] = ("max", "attend")
"""Those that read cells even where no block mixes them into the class tokens."""


def class_tokens_of(readout: Readout) -> ClassTokens:
    """Where the class tokens must stand in a sequence for a read-out."""
    return readout if readout in ("ends", "interleaved") else "once"


class ClassReadout(nn.Module):
    """The mean over the places of each frame's class token."""

    def forward(self, outputs_BLD: Tensor, sequence: TokenSequence, valid_BT: Tensor) -> Tensor:
        """(B, T, D) frames, zeros where a frame is padding.

        Args:
            outputs_BLD: (B, L, D), what the blocks made of ``sequence.tokens_BLD``.
            sequence: What they were given.
            valid_BT: (B, T) bool, the one that made the sequence or a part of it.
        """
        return read_frames(outputs_BLD, sequence, valid_BT)


class PoolReadout(nn.Module):
    """Class tokens, plus the mean over the video's sequence of what the blocks added to it.

    What they added, not the tokens: cells of a new pyramid would drown the class tokens.
    """

    def forward(self, outputs_BLD: Tensor, sequence: TokenSequence, valid_BT: Tensor) -> Tensor:
        """(B, T, D) frames; the arguments are those of `ClassReadout.forward`."""
        frames_BTD = read_frames(outputs_BLD, sequence, valid_BT)
        added_BLD = outputs_BLD - sequence.tokens_BLD
        if sequence.length_B is None:
            mean_BD = added_BLD.mean(1)
        else:
            seen_BL = _seen(sequence.length_B, added_BLD.shape[1])
            added_BLD = added_BLD.masked_fill(~seen_BL[..., None], 0.0)
            mean_BD = added_BLD.sum(1) / sequence.length_B.clamp_min(1)[:, None]
        return (frames_BTD + mean_BD[:, None]).masked_fill(~valid_BT[..., None], 0.0)


class MaxReadout(nn.Module):
    """Class tokens, plus what the largest value of each feature in the video's sequence says.

    A linear layer makes the features and a linear layer reads them; the latter starts at zero.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.token_norm = nn.LayerNorm(dim)
        self.feature = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        nn.init.zeros_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, outputs_BLD: Tensor, sequence: TokenSequence, valid_BT: Tensor) -> Tensor:
        """(B, T, D) frames; the arguments are those of `ClassReadout.forward`."""
        frames_BTD = read_frames(outputs_BLD, sequence, valid_BT)
        features_BLD = self.feature(self.token_norm(outputs_BLD))
        if sequence.length_B is not None:
            seen_BL = _seen(sequence.length_B.clamp_min(1), outputs_BLD.shape[1])
            features_BLD = features_BLD.masked_fill(~seen_BL[..., None], -torch.inf)
        found_BD = cast(Tensor, self.out_proj(features_BLD.max(1).values))
        return (frames_BTD + found_BD[:, None]).masked_fill(~valid_BT[..., None], 0.0)


class AttendReadout(nn.Module):
    """Each frame's class token attends to its video's whole sequence, and adds what it finds.

    Multi-head cross-attention (Vaswani et al. 2017, sec. 3.2.2) with norms before it; its last
    matrix starts at zero.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads(dim)
        self.query_norm = nn.LayerNorm(dim)
        self.token_norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out_proj = nn.Linear(dim, dim)
        nn.init.zeros_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, outputs_BLD: Tensor, sequence: TokenSequence, valid_BT: Tensor) -> Tensor:
        """(B, T, D) frames; the arguments are those of `ClassReadout.forward`."""
        frames_BTD = read_frames(outputs_BLD, sequence, valid_BT)
        tokens_BLD = self.token_norm(outputs_BLD)
        seen_B11L = None
        if sequence.length_B is not None:
            # A video without a frame looks at the first place: over none, a softmax is no number.
            seen_BL = _seen(sequence.length_B.clamp_min(1), outputs_BLD.shape[1])
            tokens_BLD = tokens_BLD.masked_fill(~seen_BL[..., None], 0.0)
            seen_B11L = seen_BL[:, None, None]
        q_BHTd = self._heads(self.query(self.query_norm(frames_BTD)))
        k_BHLd, v_BHLd = (self._heads(part) for part in self.key_value(tokens_BLD).chunk(2, -1))
        found_BHTd = F.scaled_dot_product_attention(q_BHTd, k_BHLd, v_BHLd, attn_mask=seen_B11L)
        found_BTD = cast(Tensor, self.out_proj(found_BHTd.transpose(1, 2).flatten(-2)))
        return (frames_BTD + found_BTD).masked_fill(~valid_BT[..., None], 0.0)

    def _heads(self, tokens_BLD: Tensor) -> Tensor:
        return tokens_BLD.view(*tokens_BLD.shape[:2], self.num_heads, -1).transpose(1, 2)


def new_readout(readout: Readout, dim: int) -> nn.Module:
    """A read-out with initial weights; only those of `READS_CELLS` have any."""
    if readout in READS_CELLS:
        return AttendReadout(dim) if readout == "attend" else MaxReadout(dim)
    return PoolReadout() if readout == "pool" else ClassReadout()


def _seen(length_B: Tensor, num_places: int) -> Tensor:
    """(B, L) bool, False behind a sequence's end."""
    return torch.arange(num_places, device=length_B.device) < length_B[:, None]
