"""A gated residual block around a fused mixer, as one operation that keeps three things.

The stream's norm, both casts and the gate's gradient are kernels of one pass over the stream
(`muse.pipeline.kernels.row_norm`). For the gradient a block keeps its input, which the block below
keeps anyway, and of the mixer the states and the sum of the directions; what was normed and what
was gated are made again (ADR 0043). What it computes is what `muse.head.residual` does by steps.
"""

# Legend: B videos, L tokens, D width, E inner width.

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from muse.head.mixers.fused import (
    MixerParts,
    MixerWeights,
    as_lengths,
    mix,
    mixer_gradients,
    needs_gradient,
    product_dtype,
    weights_of,
)
from muse.head.scan.cuda import bits_of
from muse.pipeline.kernels.row_norm import narrow_and_sum, norm_backward, norm_forward


def fused_block(
    tokens_BLD: Tensor,
    parts: MixerParts,
    norm: nn.LayerNorm,
    gate: nn.Linear,
    *,
    dropout: float,
    length_B: Tensor | None = None,
) -> Tensor:
    """x + W_g Drop(Mixer(LN(x))) + b_g, (B, L, D) in the dtype of x.

    Args:
        tokens_BLD: (B, L, D), on a CUDA device.
        parts: Of the mixer.
        norm: Before it.
        gate: Behind it.
        dropout: Rate, of single elements; 0 outside of training.
        length_B: (B,) tokens of each sequence; None where all have L.
    """
    dtype = product_dtype(tokens_BLD)
    weights = weights_of(parts, dtype)
    around = (norm.weight.float(), norm.bias.float(), gate.weight.to(dtype), gate.bias.float())
    lengths, directions = as_lengths(length_B, tokens_BLD), bits_of(parts.reversed_X)
    settings = (directions, norm.eps, dropout)
    with torch.autocast(tokens_BLD.device.type, enabled=False):
        if needs_gradient(tokens_BLD, *around, *weights):
            out_BLD: Tensor = _Block.apply(tokens_BLD, lengths, settings, *around, *weights)
            return out_BLD
        return _through(tokens_BLD, lengths, settings, around, weights, keeps_states=False)[0]


Settings = tuple[int, float, float]
"""Directions as bits, the norm's eps, the rate of dropout."""
Around = tuple[Tensor, ...]
"""Weight and bias of the norm and of the gate, the gate's weight in the dtype of products."""


class _Block(torch.autograd.Function):
    """`_through` and its gradient."""

    @staticmethod
    def forward(
        ctx: Any, tokens_BLD: Tensor, lengths: Tensor | None, settings: Settings, *weights: Tensor
    ) -> Tensor:
        around, its = weights[:4], MixerWeights(*weights[4:])
        out_BLD, sum_BLE, states, mask_BLD = _through(
            tokens_BLD, lengths, settings, around, its, keeps_states=True
        )
        ctx.save_for_backward(tokens_BLD, lengths, sum_BLE, states, mask_BLD, *weights)
        ctx.settings = settings
        return out_BLD

    @staticmethod
    def backward(ctx: Any, dout_BLD: Tensor) -> tuple[Tensor | None, ...]:
        tokens_BLD, lengths, sum_BLE, states, mask_BLD, *weights = ctx.saved_tensors
        (directions, eps, dropout), its = ctx.settings, MixerWeights(*weights[4:])
        norm_weight, norm_bias, gate_weight, _ = weights[:4]
        with torch.autocast(tokens_BLD.device.type, enabled=False):
            dgated_BLD, dgate_bias = narrow_and_sum(dout_BLD, gate_weight.dtype)
            dmixed_BLD = _dropped(torch.matmul(dgated_BLD, gate_weight), mask_BLD, dropout)
            _, normed_BLD = norm_forward(
                tokens_BLD, None, norm_weight, norm_bias, eps, gate_weight.dtype, True
            )
            dnormed_BLD, gradients, through_BLE = mixer_gradients(
                dmixed_BLD, normed_BLD, lengths, sum_BLE, states, directions, its
            )
            kept_BLD = _dropped(F.linear(through_BLE, its.out), mask_BLD, dropout)
            dgate_weight = torch.mm(dgated_BLD.flatten(0, 1).t(), kept_BLD.flatten(0, 1))
            dtokens_BLD, _, dnorm_weight, dnorm_bias = norm_backward(
                dnormed_BLD, dout_BLD, tokens_BLD, norm_weight, eps, None
            )
        around = (dnorm_weight, dnorm_bias, dgate_weight, dgate_bias)
        return (dtokens_BLD, None, None, *around, *gradients)


def _through(
    tokens_BLD: Tensor,
    lengths: Tensor | None,
    settings: Settings,
    around: Around,
    weights: MixerWeights,
    *,
    keeps_states: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The output; for the gradient the sum of the directions, states, and what dropout left."""
    (directions, eps, dropout), (norm_weight, norm_bias, gate_weight, gate_bias) = settings, around
    dtype = gate_weight.dtype
    _, normed_BLD = norm_forward(tokens_BLD, None, norm_weight, norm_bias, eps, dtype, True)
    mixed_BLD, sum_BLE, states = mix(
        normed_BLD, lengths, directions, weights, keeps_states=keeps_states
    )
    mask_BLD = None
    if dropout:
        mixed_BLD, mask_BLD = torch.native_dropout(mixed_BLD, dropout, True)
    gated_BLD = F.linear(mixed_BLD, gate_weight, gate_bias.to(dtype))
    # The sum alone: the next block norms it.
    out_BLD, _ = norm_forward(tokens_BLD, gated_BLD, norm_weight, norm_bias, eps, dtype, False)
    return out_BLD, sum_BLE, states, mask_BLD


def _dropped(values_BLD: Tensor, mask_BLD: Tensor | None, dropout: float) -> Tensor:
    """What dropout made of them, or makes of their gradient."""
    if mask_BLD is None:
        return values_BLD
    scale = 1 / (1 - dropout)
    left_BLD: Tensor = torch.ops.aten.native_dropout_backward(values_BLD, mask_BLD, scale)
    return left_BLD
