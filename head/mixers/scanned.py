"""What a scan reads: what the convolutions give, and its projections.

Made in the forward pass, and again for the gradient. Knows nothing of the scan itself, nor of what
stands behind it.
"""

# Legend: X directions, S convolutions (X, or one that all share), B videos, L tokens, M = B * L,
# E inner width, N state size, R rank of Δ, P = R + 2 N.

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from muse.head.mixers.mixer_weights import MixerWeights
from muse.head.scan.cuda_block import conv_forward


class Scanned(NamedTuple):
    """What a scan reads but Δ, with one entry a convolution."""

    conv_SBLE: Tensor
    B_SBLN: Tensor
    C_SBLN: Tensor
    low_SBLR: Tensor
    """Δ before its projection."""

    def of(self, directions: slice, num: int) -> "Scanned":
        """Of some of ``num`` directions; what they share is repeated without being copied."""
        return Scanned(*(tensor.expand(num, -1, -1, -1)[directions] for tensor in self))

    def steps(self, dt: Tensor) -> Tensor:
        """Δ before the bias, in memory of its own.

        Args:
            dt: (S, E, R) its projections.
        """
        steps_SME = torch.bmm(self.low_SBLR.flatten(1, 2), dt.transpose(1, 2))
        return steps_SME.view(self.conv_SBLE.shape)


def scan_inputs(
    u_BLE: Tensor, lengths: Tensor | None, directions: int, weights: MixerWeights
) -> Scanned:
    """From what goes into the convolutions.

    Args:
        u_BLE: (B, L, E) the first half of the mixer's first product.
        lengths: (B,) tokens of each sequence; None where all have L.
        directions: Of `muse.head.scan.cuda.bits_of`.
        weights: Of the mixer.
    """
    conv_SBLE = conv_forward(u_BLE, weights.conv, weights.conv_bias, lengths, directions)
    projected_SMP = torch.bmm(conv_SBLE.flatten(1, 2), weights.x.transpose(1, 2))
    rank, padded = weights.dt.shape[-1], weights.A.shape[-1]
    low_SMR, BC_SMN = projected_SMP[..., :rank], projected_SMP[..., rank:]
    B_SMN, C_SMN = (_with_zeros(half, padded) for half in BC_SMN.chunk(2, dim=-1))
    shape = conv_SBLE.shape[:3]
    return Scanned(conv_SBLE, *(tensor.view(*shape, -1) for tensor in (B_SMN, C_SMN, low_SMR)))


def _with_zeros(values_SMN: Tensor, num_states: int) -> Tensor:
    missing = num_states - values_SMN.shape[-1]
    return F.pad(values_SMN, (0, missing)) if missing else values_SMN
