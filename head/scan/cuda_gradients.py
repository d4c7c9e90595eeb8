"""The gradient of the selective scan as a CUDA kernel, ``scan_backward.cu`` beside this file.

Sums over channels come by blocks of channels from the kernel, and are added here. Where those of
all videos would take too much memory, videos take turns.
"""

# Legend: X directions, B videos, L tokens, E inner width, N state size, C blocks of channels,
# K chunks of a sequence.

from collections.abc import Sequence

import torch
from torch import Tensor

from muse.head.scan.grid import (
    Chunks,
    Shape,
    chunks_of,
    directions_at_once,
    shape_of,
    videos_at_once,
)
from muse.head.scan.launch import begins_of, grid_of, kept_dtype
from muse.head.scan.scan_kernels import kernels_for, stride_of
from muse.pipeline.kernels.cuda_kernels import num_multiprocessors
from muse.pipeline.kernels.operator import operator


@operator("muse::selective_scan_backward")
def scan_backward(
    dy: Tensor,
    states: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    bias: Tensor,
    lengths: Tensor | None,
    directions: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u and delta; of A, D and the bias by video; of B and C beside each other."""
    if not dy.numel():
        return tuple(tensor.zero_() for tensor in _empty_gradients(u, A))  # type: ignore[return-value]
    du, ddelta = u.new_empty(u.shape), u.new_empty(u.shape)
    rest = _by_videos((du, ddelta, dy, states, u, delta, B, C), (A, D, bias), lengths, directions)
    return du, ddelta, *rest


def scan_backward_into(
    du: Tensor,
    dy: Tensor,
    states: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    bias: Tensor,
    lengths: Tensor | None,
    directions: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """`scan_backward` that writes u's gradient to ``du`` and delta's over ``delta``."""
    if torch.compiler.is_compiling():  # it knows the operator, which writes over nothing
        its_du, ddelta, *rest = scan_backward(
            dy, states, u, delta, A, B, C, D, bias, lengths, directions
        )
        du.copy_(its_du)
        delta.copy_(ddelta)
        return rest[0], rest[1], rest[2]
    if not dy.numel():
        return tuple(tensor.zero_() for tensor in _empty_gradients(u, A)[2:])  # type: ignore[return-value]
    tensors = (du, delta, dy, states, u, delta, B, C)
    return _by_videos(tensors, (A, D, bias), lengths, directions)


def _by_videos(
    tensors: Sequence[Tensor],
    constants: tuple[Tensor, Tensor, Tensor],
    lengths: Tensor | None,
    directions: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of as many at once as have room for their sums over channels."""
    u, A = tensors[4], constants[0]
    number = videos_at_once(shape_of(u, A, directions), A.shape[-1], kept_dtype(u).itemsize)
    parts = []
    for first in range(0, u.shape[1], number):
        at = slice(first, first + number)
        its = [tensor[:, at] for tensor in tensors]
        its[3] = its[3].contiguous()  # the states, as kernels expect them
        own_lengths = None if lengths is None else lengths[at]
        parts.append(_gradients(its, constants, own_lengths, directions))
    return tuple(map(_beside, zip(*parts, strict=True), (1, 2, 1)))  # type: ignore[return-value]


def _beside(tensors: tuple[Tensor, ...], axis: int) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, axis)


def _gradients(
    tensors: Sequence[Tensor],
    constants: tuple[Tensor, Tensor, Tensor],
    lengths: Tensor | None,
    directions: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Those of u and delta go where the first two tensors are; the others are returned."""
    (du, ddelta, dy, states, u, delta, B, C), (A, D, bias) = tensors, constants
    shape = shape_of(u, A, directions)
    chunks = chunks_of(shape, A.shape[-1], num_multiprocessors(u.device))
    dA_XBKEN, dD_bias_2XBKE, dBC_XBLCN = _empty_parts(u, A, shape, chunks)
    begins = begins_of((dy, delta, C), (A, bias), lengths, shape, chunks, is_backward=True)
    read_and_written = (u, delta, B, C, dy, du, ddelta)
    (kernel,) = kernels_for(
        "scan_backward", read_and_written, (A, D, bias), is_chunked=chunks.number > 1
    )
    kernel(
        u, delta, A, B, C, D, bias, lengths, dy, states, du, ddelta, dA_XBKEN, dBC_XBLCN,
        dD_bias_2XBKE[0], dD_bias_2XBKE[1], shape,
        *map(stride_of, read_and_written), *begins,
        **grid_of(shape, A, chunks),
    )  # fmt: skip
    dA_XBEN, dD_bias_2XBE = _over_chunks(dA_XBKEN, 2), _over_chunks(dD_bias_2XBKE, 3)
    return dA_XBEN, dD_bias_2XBE, dBC_XBLCN.sum(3, dtype=torch.float32)


@scan_backward.register_fake
def _(
    dy: Tensor, states: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor,
    D: Tensor, bias: Tensor, lengths: Tensor | None, directions: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return _empty_gradients(u, A)


def directions_of_a_turn(u: Tensor, A: Tensor) -> int:
    """Directions whose gradients `scan_backward_into` is best asked for at once.

    Args:
        u: (X, B, L, E).
        A: (X, E, N).
    """
    if torch.compiler.is_compiling():
        return len(A)
    shape = shape_of(u, A, 0)
    return directions_at_once(shape, A.shape[-1], num_multiprocessors(u.device))


def _empty_gradients(u: Tensor, A: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    num_directions, num_videos, length, width = u.shape
    num_states, wide = A.shape[-1], torch.float32
    return (
        u.new_empty(u.shape),
        u.new_empty(u.shape),
        u.new_empty((num_directions, num_videos, width, num_states), dtype=wide),
        u.new_empty((2, num_directions, num_videos, width), dtype=wide),
        u.new_empty((num_directions, num_videos, length, 2 * num_states), dtype=wide),
    )


def _empty_parts(
    u: Tensor, A: Tensor, shape: Shape, chunks: Chunks
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the gradients of A, of D and the bias, and of B and C beside each other."""
    num_states, wide = A.shape[-1], torch.float32
    each = (*u.shape[:2], chunks.number, u.shape[3])
    return (
        u.new_empty((*each, num_states), dtype=wide),
        u.new_empty((2, *each), dtype=wide),
        u.new_empty((*u.shape[:3], shape.blocks, 2 * num_states), dtype=kept_dtype(u)),
    )


def _over_chunks(parts: Tensor, axis: int) -> Tensor:
    return parts.squeeze(axis) if parts.shape[axis] == 1 else parts.sum(axis)
