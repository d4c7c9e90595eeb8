"""Self-attention as a mixer: multi-head, both ways, no positions; Vaswani et al. 2017, sec. 3.2.

The paper's "Transformer" and "FlashAttention" rows are the same function, computed by two kernels.
Its published code has no runnable form of the second (q = k = v without projections, no heads).
"""

# Legend: B videos, L tokens, D width, H heads, d width of a head.

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

HEAD_WIDTH = 64  # as in CLIP's transformers: 8 heads at D = 512


def num_heads(dim: int) -> int:
    """One a 64 channels, or the next lower number that divides ``dim``; at least 1."""
    most = max(1, dim // HEAD_WIDTH)
    return next(heads for heads in range(most, 0, -1) if dim % heads == 0)


class Attention(nn.Module):
    """Every token looks at every token of its sequence.

    Args:
        dim: D; `num_heads` of it.
        is_fused: Whether torch may take a kernel that never holds the (L, L) weights: flash
            attention where it has one for the device, the type and the mask. Same result but for
            rounding.
    """

    def __init__(self, dim: int, *, is_fused: bool) -> None:
        super().__init__()
        self.num_heads = num_heads(dim)
        self.is_fused = is_fused
        self.in_proj = nn.Linear(dim, 3 * dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, tokens_BLD: Tensor, length_B: Tensor | None = None) -> Tensor:
        """(B, L, D) -> (B, L, D); ``length_B`` (B,) int64, None where all have L."""
        heads_3BHLd = self.in_proj(tokens_BLD).unflatten(-1, (3, self.num_heads, -1))
        q_BHLd, k_BHLd, v_BHLd = heads_3BHLd.permute(2, 0, 3, 1, 4)
        seen_B11L = None
        if length_B is not None:
            place_L = torch.arange(tokens_BLD.shape[1], device=tokens_BLD.device)
            # A sequence of no tokens looks at the first: over none, a softmax is no number.
            seen_B11L = (place_L < length_B.clamp_min(1)[:, None])[:, None, None]
            v_BHLd = v_BHLd.masked_fill(~seen_B11L.transpose(-1, -2), 0.0)
        if self.is_fused:
            mixed_BHLd = F.scaled_dot_product_attention(q_BHLd, k_BHLd, v_BHLd, attn_mask=seen_B11L)
        else:
            with sdpa_kernel(SDPBackend.MATH):
                mixed_BHLd = F.scaled_dot_product_attention(
                    q_BHLd, k_BHLd, v_BHLd, attn_mask=seen_B11L
                )
        return cast(Tensor, self.out_proj(mixed_BHLd.transpose(1, 2).flatten(-2)))
