"""MUSE: all tokens of a video's frames -> one refined embedding a frame.

Pyramid, scale-wise sequence, a few gated residual BiMamba blocks, and the class tokens read out
again. Knows nothing of text, of similarity or of training.
"""

# Legend: B videos, T frames, F valid frames of all videos, K = 1 + P tokens a frame, P = G * G
# patches, L tokens in the scan, D width.

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from muse.errors import UsageError
from muse.head.mixers.choice import Mixer, new_mixer
from muse.head.ordering import ORDERS, Order, read_frames, valid_frames
from muse.head.pyramid import FeaturePyramid, cells_per_scale
from muse.head.scan.select import ScanBackend


class ResMambaBlock(nn.Module):
    """x + W_g Drop(BiMamba(LN(x))) + b_g, MUSE sec. 3.4.

    The gate (W_g, b_g) starts at zero, so that a new head is mean pooling. The paper's appendix
    puts the norm into the gate; this follows the published code, where it comes first. Another
    mixer in BiMamba's place gives the other rows of the paper's table of mixers.
    """

    def __init__(
        self,
        dim: int,
        *,
        mixer: Mixer = "bimamba-v2",
        d_state: int,
        d_conv: int,
        expand: int,
        dropout: float,
        scan: ScanBackend = "auto",
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        # Named as in published weights, whatever it is.
        self.mamba = new_mixer(mixer, dim, d_state=d_state, d_conv=d_conv, expand=expand, scan=scan)
        self.dropout = nn.Dropout(dropout)
        self.gate = nn.Linear(dim, dim)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, tokens_BLD: Tensor, length_B: Tensor | None = None) -> Tensor:
        """(B, L, D) -> (B, L, D); ``length_B`` as `BiMamba.forward` takes it."""
        mixed_BLD = self.mamba(self.norm(tokens_BLD), length_B)
        return tokens_BLD + cast(Tensor, self.gate(self.dropout(mixed_BLD)))


class MuseAggregator(nn.Module):
    """(B, T, 1+P, D) tokens -> (B, T, D) frame embeddings, MUSE sec. 3.

    Without factors the sequence is the class tokens alone, and no patch is read.
    """

    def __init__(
        self,
        dim: int,
        *,
        factors: Sequence[float],
        order: Order = "scale",
        mixer: Mixer = "bimamba-v2",
        depth: int,
        dropout: float,
        d_state: int,
        d_conv: int,
        expand: int,
        scan: ScanBackend = "auto",
    ) -> None:
        super().__init__()
        self.factors = tuple(factors)
        self.recompute = False
        """Whether a block's activations are made again for its gradient rather than kept."""
        self.order = ORDERS[order]
        self.pyramid = FeaturePyramid(dim, factors)
        # Dropout grows linearly from 0 at the first block to its full rate at the last.
        rates = [dropout * block / max(1, depth - 1) for block in range(depth)]
        self.blocks = nn.ModuleList(
            ResMambaBlock(
                dim,
                mixer=mixer,
                d_state=d_state,
                d_conv=d_conv,
                expand=expand,
                dropout=rate,
                scan=scan,
            )
            for rate in rates
        )

    def forward(self, tokens_BTKD: Tensor, valid_BT: Tensor) -> Tensor:
        """The frames after all of them have been seen.

        Args:
            tokens_BTKD: (B, T, K, D), class token first, not normalised.
            valid_BT: (B, T) bool, False for padding, whose tokens are never read.

        Returns:
            (B, T, D), zeros where a frame is padding.

        Raises:
            UsageError: If there are factors, and K - 1 is no square or the grid is too small for
                one of them.
        """
        frames_FKD = valid_frames(tokens_BTKD, valid_BT)
        sequence = self.order(frames_FKD[:, 0], self._scales(frames_FKD), valid_BT)
        tokens_BLD = sequence.tokens_BLD
        for block in self.blocks:
            tokens_BLD = self._through(block, tokens_BLD, sequence.length_B)
        return read_frames(tokens_BLD, sequence, valid_BT)

    def _through(self, block: nn.Module, tokens_BLD: Tensor, length_B: Tensor | None) -> Tensor:
        if not (self.recompute and torch.is_grad_enabled()):
            return cast(Tensor, block(tokens_BLD, length_B))
        return cast(Tensor, checkpoint(block, tokens_BLD, length_B, use_reentrant=False))

    def _scales(self, frames_FKD: Tensor) -> list[Tensor]:
        """The patches' tokens at each scale, (F, S, D) each."""
        if not self.factors:
            return []  # a frame may then have any number of patches, or none
        grid = patch_grid(frames_FKD.shape[1])
        cells_per_scale(grid, self.factors)
        # Channels last: patch tokens lie in memory as that format wants them, so this is a view.
        patches_FGGD = frames_FKD[:, 1:].reshape(len(frames_FKD), grid, grid, -1)
        return cast(list[Tensor], self.pyramid(patches_FGGD.permute(0, 3, 1, 2)))


def patch_grid(tokens_per_frame: int) -> int:
    """G, patches along one side.

    Raises:
        UsageError: If ``tokens_per_frame`` is not one more than a square.
    """
    grid = math.isqrt(max(tokens_per_frame - 1, 0))
    if grid < 1 or grid * grid != tokens_per_frame - 1:
        raise UsageError(
            f"{tokens_per_frame} tokens a frame: expected one class token and a square of patches"
        )
    return grid
