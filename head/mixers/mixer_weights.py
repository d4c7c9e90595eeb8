"""What a fused mixer computes with, and its parameters in the form that kernels take.

Directions lie beside each other, in the dtypes of what reads them. All of it is one operation with
one gradient: as single ones they would take longer to launch than a small batch takes to compute.
"""

# Legend: X directions, S convolutions (X, or one that all share), D width, E inner width, N state
# size, R rank of Δ, P = R + 2 N, W taps.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from muse.head.scan.cuda import padded_states
from muse.head.scan.cuda_block import MAX_TAPS

Layer = TypeVar("Layer", bound=nn.Module)


@dataclass(frozen=True, kw_only=True, slots=True)
class Direction:
    """What one scan has of its own; two may share all but ``A_log``."""

    conv: nn.Conv1d
    x_proj: nn.Linear
    dt_proj: nn.Linear
    A_log: Tensor
    D: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class MixerParts:
    """All that a mixer computes with."""

    in_proj: nn.Linear
    """To the scans' input and the gate."""
    directions: Sequence[Direction]
    """One or two."""
    reversed_X: Sequence[bool]
    """Whether a direction begins at its sequences' ends."""
    out_proj: nn.Linear
    """Behind the gate."""


class MixerWeights(NamedTuple):
    """Of all directions, in the dtypes that they are used in; A with zeros up to a size that the
    scan has, which add states that stay 0."""

    into: Tensor  # (2E, D)
    out: Tensor  # (D, E)
    x: Tensor  # (S, P, E)
    dt: Tensor  # (S, E, R)
    conv: Tensor  # (S, E, W)
    conv_bias: Tensor  # (S, E)
    skip: Tensor  # (X, E)
    dt_bias: Tensor  # (X, E)
    A: Tensor  # (X, E, N)


_NUM_SINGLE, _NUM_OF_PRODUCTS = 2, 4
"""The first are no stacks; the first have the dtype of products, the others are float32."""


def weights_of(parts: MixerParts, dtype: torch.dtype) -> MixerWeights:
    """The weights of a mixer.

    Args:
        parts: Of the mixer.
        dtype: Of matrix products.
    """
    directions = parts.directions
    convs = _different([direction.conv for direction in directions])
    x_projs = _different([direction.x_proj for direction in directions])
    dt_projs = _different([direction.dt_proj for direction in directions])
    assert convs[0].weight.shape[-1] <= MAX_TAPS
    stacks = (
        [parts.in_proj.weight],
        [parts.out_proj.weight],
        [projection.weight for projection in x_projs],
        [projection.weight for projection in dt_projs],
        [conv.weight for conv in convs],
        [_bias(conv) for conv in convs],
        [direction.D for direction in directions],
        [_bias(direction.dt_proj) for direction in directions],
        [direction.A_log for direction in directions],
    )
    sizes = tuple(len(stack) for stack in stacks)
    parameters = tuple(weight for stack in stacks for weight in stack)
    if torch.compiler.is_compiling():  # which makes few operations of it by itself
        return _prepared(dtype, sizes, parameters)
    return MixerWeights(*_Prepared.apply(dtype, sizes, *parameters))


def _prepared(
    dtype: torch.dtype, sizes: Sequence[int], parameters: tuple[Tensor, ...]
) -> MixerWeights:
    stacks = _split(parameters, sizes)
    made = [stack[0].to(dtype) for stack in stacks[:_NUM_SINGLE]]
    made += [torch.stack(stack).to(dtype) for stack in stacks[_NUM_SINGLE:_NUM_OF_PRODUCTS]]
    convs, *others, A_logs = (torch.stack(stack).float() for stack in stacks[_NUM_OF_PRODUCTS:])
    num_states = A_logs.shape[-1]
    A_XEN = F.pad(-A_logs.exp(), (0, padded_states(num_states) - num_states))
    tensors = (*made, convs.flatten(2), *others, A_XEN)
    return MixerWeights(*tensors)


class _Prepared(torch.autograd.Function):
    """`_prepared`, and the gradients of the weights back to the parameters."""

    @staticmethod
    def forward(
        ctx: Any, dtype: torch.dtype, sizes: tuple[int, ...], *parameters: Tensor
    ) -> tuple[Tensor, ...]:
        made = _prepared(dtype, sizes, parameters)
        ctx.save_for_backward(made.A)
        ctx.like = [(weight.shape, weight.dtype) for weight in parameters]
        return tuple(made)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (A_XEN,) = ctx.saved_tensors
        *others, dA_XEN = gradients
        num_states = ctx.like[-1][0][-1]
        dA_log = (dA_XEN * A_XEN)[..., :num_states]  # A is -exp(A_log)
        pieces: list[Tensor] = others[:_NUM_SINGLE]
        for stack in (*others[_NUM_SINGLE:], dA_log):
            pieces += stack.unbind()
        of_parameters = (
            piece.reshape(shape).to(dtype)
            for piece, (shape, dtype) in zip(pieces, ctx.like, strict=True)
        )
        return (None, None, *of_parameters)


def _split(parameters: tuple[Tensor, ...], sizes: Sequence[int]) -> list[tuple[Tensor, ...]]:
    stacks, first = [], 0
    for size in sizes:
        stacks.append(parameters[first : first + size])
        first += size
    return stacks


def _different(layers: Sequence[Layer]) -> list[Layer]:
    """Each once, in order."""
    return list(dict.fromkeys(layers))


def _bias(layer: nn.Conv1d | nn.Linear) -> Tensor:
    assert layer.bias is not None
    return layer.bias
