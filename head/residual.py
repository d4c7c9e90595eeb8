"""A block around a mixer: norm before it, dropout and gate behind, and how it adds to its input."""

# Legend: B videos, L tokens, D width.

from typing import Literal, cast

from torch import Tensor, nn

from muse.head.mixers.fused import FusableMixer, product_dtype
from muse.head.mixers.fused_block import BlockWeights, block_weights, fused_block

Residual = Literal["gated", "plain", "none"]


class ResMambaBlock(nn.Module):
    """x + W_g Drop(BiMamba(LN(x))) + b_g, MUSE sec. 3.4.

    The gate (W_g, b_g) starts at zero, so that a new head is mean pooling. The paper's appendix
    puts the norm into the gate; this follows the published code, where it comes first. Another
    mixer in BiMamba's place gives the other rows of the paper's table of mixers.

    Args:
        dim: D.
        mixer: (B, L, D) -> (B, L, D), taking lengths.
        dropout: Rate, of single elements.
        residual: ``gated``, the formula above; ``plain``, the same without a gate; ``none``, the
            mixer alone, Drop(BiMamba(LN(x))). The paper's "without residual" does not say which of
            the last two it is.
    """

    def __init__(
        self, dim: int, mixer: nn.Module, *, dropout: float, residual: Residual = "gated"
    ) -> None:
        super().__init__()
        self.has_skip = residual != "none"
        self.norm = nn.LayerNorm(dim)
        self.mamba = mixer  # named as in published weights, whatever it is
        self.dropout = nn.Dropout(dropout)
        self.gate = nn.Linear(dim, dim) if residual == "gated" else nn.Identity()
        if isinstance(self.gate, nn.Linear):
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)

    def prepare(self, tokens_BLD: Tensor) -> BlockWeights | None:
        """What `forward` makes of the weights for tokens such as these, for more than one call.

        None where the block runs step by step, which makes nothing of them.
        """
        if not (isinstance(self.mamba, FusableMixer) and isinstance(self.gate, nn.Linear)):
            return None
        parts = self.mamba.fused_parts(tokens_BLD)
        if parts is None:
            return None
        return block_weights(parts, self.norm, self.gate, product_dtype(tokens_BLD))

    def forward(
        self,
        tokens_BLD: Tensor,
        length_B: Tensor | None = None,
        weights: BlockWeights | None = None,
    ) -> Tensor:
        """(B, L, D) -> (B, L, D).

        Args:
            tokens_BLD: (B, L, D).
            length_B: As `BiMamba.forward` takes it.
            weights: Of `prepare`; made anew if None.
        """
        if weights := weights or self.prepare(tokens_BLD):
            rate = self.dropout.p if self.training else 0.0
            return fused_block(tokens_BLD, weights, dropout=rate, length_B=length_B)
        mixed_BLD = self.gate(self.dropout(self.mamba(self.norm(tokens_BLD), length_B)))
        return cast(Tensor, tokens_BLD + mixed_BLD if self.has_skip else mixed_BLD)
