"""A gated residual block around a fused mixer, as one operation that keeps three things.

The stream's norm, both casts and the gate's gradient are kernels of one pass over the stream
(`muse.pipeline.kernels.row_norm`). For the gradient a block keeps its input, which the block below
keeps anyway, and of the mixer the states and the sum of the directions; what was normed and what
was gated are made again (ADR 0043). What it computes is what `muse.head.residual` does by steps.
"""

# Legend: B videos, L tokens, D width, E inner width.

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from muse.head.mixers.fused import as_lengths, mix, needs_gradient
from muse.head.mixers.fused_gradients import OpenedGate, open_gate, outer, scan_gradients
from muse.head.mixers.mixer_weights import MixerParts, MixerWeights, weights_of
from muse.head.scan.cuda import bits_of
from muse.pipeline.kernels.row_norm import narrow_and_sum, norm_backward, norm_forward


class _Around(NamedTuple):
    """What stands around a mixer."""

    norm: Tensor  # (D,) float32
    norm_bias: Tensor  # (D,) float32
    gate: Tensor  # (D, D) in the dtype of products
    gate_bias: Tensor  # (D,) float32


class BlockWeights(NamedTuple):
    """Of a block, in the dtypes that they are used in, for any number of calls."""

    around: _Around
    mixer: MixerWeights
    directions: int
    """Of `muse.head.scan.cuda.bits_of`."""
    eps: float
    """Of the norm."""


def block_weights(
    parts: MixerParts, norm: nn.LayerNorm, gate: nn.Linear, dtype: torch.dtype
) -> BlockWeights:
    """The weights of a block.

    Args:
        parts: Of its mixer.
        norm: Before the mixer.
        gate: Behind it.
        dtype: Of matrix products.
    """
    return BlockWeights(
        around=_Around(
            norm.weight.float(), norm.bias.float(), gate.weight.to(dtype), gate.bias.float()
        ),
        mixer=weights_of(parts, dtype),
        directions=bits_of(parts.reversed_X),
        eps=norm.eps,
    )


def fused_block(
    tokens_BLD: Tensor, weights: BlockWeights, *, dropout: float, length_B: Tensor | None = None
) -> Tensor:
    """x + W_g Drop(Mixer(LN(x))) + b_g, (B, L, D) in the dtype of x.

    Args:
        tokens_BLD: (B, L, D), on a CUDA device.
        weights: Of `block_weights`.
        dropout: Rate, of single elements; 0 outside of training.
        length_B: (B,) tokens of each sequence; None where all have L.
    """
    lengths, tensors = as_lengths(length_B, tokens_BLD), (*weights.around, *weights.mixer)
    with torch.autocast(tokens_BLD.device.type, enabled=False):
        if needs_gradient(tokens_BLD, *tensors):
            settings = (dropout, weights.directions, weights.eps)
            out_BLD: Tensor = _Block.apply(tokens_BLD, lengths, settings, *tensors)
            return out_BLD
        return _through(tokens_BLD, lengths, dropout, weights, keeps_states=False)[0]


class _Block(torch.autograd.Function):
    """`_through` and its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        tokens_BLD: Tensor,
        lengths: Tensor | None,
        settings: tuple[float, int, float],
        *tensors: Tensor,
    ) -> Tensor:
        out_BLD, sum_BLE, states, mask_BLD = _through(
            tokens_BLD, lengths, settings[0], _as_weights(tensors, settings), keeps_states=True
        )
        ctx.save_for_backward(tokens_BLD, lengths, sum_BLE, states, mask_BLD, *tensors)
        ctx.settings = settings
        return out_BLD

    @staticmethod
    def backward(ctx: Any, dout_BLD: Tensor) -> tuple[Tensor | None, ...]:
        tokens_BLD, lengths, sum_BLE, states, mask_BLD, *tensors = ctx.saved_tensors
        its = _as_weights(tensors, ctx.settings)
        with torch.autocast(tokens_BLD.device.type, enabled=False):
            normed_BLD = _normed(tokens_BLD, its)
            opened, dgate, dgate_bias, dout_weight = _gate_gradients(
                dout_BLD, normed_BLD, sum_BLE, mask_BLD, its, ctx.settings[0]
            )
            dnormed_BLD, gradients = scan_gradients(
                opened, normed_BLD, lengths, states, its.directions, its.mixer
            )
            dtokens_BLD, _, dnorm, dnorm_bias = norm_backward(
                dnormed_BLD, dout_BLD, tokens_BLD, its.around.norm, its.eps, None
            )
        of_around = (dnorm, dnorm_bias, dgate, dgate_bias)
        return (dtokens_BLD, None, None, *of_around, *gradients._replace(out=dout_weight))


def _as_weights(tensors: Sequence[Tensor], settings: tuple[float, int, float]) -> BlockWeights:
    _, directions, eps = settings
    num = len(_Around._fields)
    return BlockWeights(_Around(*tensors[:num]), MixerWeights(*tensors[num:]), directions, eps)


def _through(
    tokens_BLD: Tensor,
    lengths: Tensor | None,
    dropout: float,
    weights: BlockWeights,
    *,
    keeps_states: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The output; for the gradient the sum of the directions, states, and what dropout left."""
    mixed_BLD, sum_BLE, states = mix(
        _normed(tokens_BLD, weights), lengths, weights.directions, weights.mixer,
        keeps_states=keeps_states,
    )  # fmt: skip
    mask_BLD = None
    if dropout:
        mixed_BLD, mask_BLD = torch.native_dropout(mixed_BLD, dropout, True)
    around = weights.around
    gated_BLD = F.linear(mixed_BLD, around.gate, around.gate_bias.to(mixed_BLD.dtype))
    # The sum alone: the next block norms it.
    out_BLD, _ = norm_forward(
        tokens_BLD, gated_BLD, around.norm, around.norm_bias, weights.eps, gated_BLD.dtype, False
    )
    return out_BLD, sum_BLE, states, mask_BLD


def _gate_gradients(
    dout_BLD: Tensor,
    normed_BLD: Tensor,
    sum_BLE: Tensor,
    mask_BLD: Tensor | None,
    weights: BlockWeights,
    dropout: float,
) -> tuple[OpenedGate, Tensor, Tensor, Tensor]:
    """At the mixer's gate; of the block's gate and its bias; of the mixer's last product."""
    dgated_BLD, dgate_bias = narrow_and_sum(dout_BLD, weights.around.gate.dtype)
    dmixed_BLD = _dropped(torch.matmul(dgated_BLD, weights.around.gate), mask_BLD, dropout)
    opened = open_gate(dmixed_BLD, normed_BLD, sum_BLE, weights.mixer)
    mixed_BLD = _dropped(F.linear(opened.through_BLE, weights.mixer.out), mask_BLD, dropout)
    dgate, dout_weight = outer(dgated_BLD, mixed_BLD), outer(dmixed_BLD, opened.through_BLE)
    return opened.without_through(), dgate, dgate_bias, dout_weight


def _normed(tokens_BLD: Tensor, weights: BlockWeights) -> Tensor:
    norm, norm_bias, gate, _ = weights.around
    return norm_forward(tokens_BLD, None, norm, norm_bias, weights.eps, gate.dtype, True)[1]


def _dropped(values_BLD: Tensor, mask_BLD: Tensor | None, dropout: float) -> Tensor:
    """What dropout made of them, or makes of their gradient."""
    if mask_BLD is None:
        return values_BLD
    scale = 1 / (1 - dropout)
    left_BLD: Tensor = torch.ops.aten.native_dropout_backward(values_BLD, mask_BLD, scale)
    return left_BLD
