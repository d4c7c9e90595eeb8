"""The residual sum of a block and the LayerNorm behind it."""

import torch
import torch.nn.functional as F
from torch import Tensor


def add_norm(
    x: Tensor,
    added: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    out_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """The sum of two arrays, and its LayerNorm, computed in float32.

    Args:
        x: (..., W) float32, bfloat16 or float16.
        added: (..., W) of any of these, or None for 0.
        weight: (W,).
        bias: (W,).
        eps: Added to the variance.
        out_dtype: Of the second result.

    Returns:
        x + added in the dtype of x, or x itself; and its norm.
    """
    total = x if added is None else (x + added).to(x.dtype)
    normed = F.layer_norm(total.float(), weight.shape, weight.float(), bias.float(), eps)
    return total, normed.to(out_dtype)
