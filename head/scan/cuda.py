"""The selective scan and its gradient as one CUDA kernel each, for all directions at once.

The kernels are in ``scan_forward.cu`` and ``scan_backward.cu`` beside this file. Directions that
begin at the end walk from there, and lengths are kept to, so nothing is reversed or padded in
memory. Few long sequences are scanned in chunks, which ``scan_chunks.cu`` tells what they begin
with. Knows nothing of the block around the scan.
"""

# Legend: X directions, B videos, L tokens, E inner width, N state size, C blocks of channels,
# K chunks of a sequence.

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from muse.errors import UsageError
from muse.head.scan.grid import (
    THREADS,
    TILE,
    Chunks,
    Shape,
    chunks_of,
    shape_of,
    videos_at_once,
)
from muse.head.scan.scan_kernels import kernels_for, stride_of
from muse.pipeline.kernels.cuda_kernels import DTYPES, num_multiprocessors
from muse.pipeline.kernels.cuda_kernels import why_unavailable as why_unavailable
from muse.pipeline.kernels.operator import operator

MAX_STATES = 64


def padded_states(num_states: int) -> int:
    """The size that the kernels have and that takes so many, up to `MAX_STATES`."""
    return next(size for size in TILE if size >= num_states)


def selective_scan(
    u_XBLE: Tensor,
    delta_XBLE: Tensor,
    A_XEN: Tensor,
    B_XBLN: Tensor,
    C_XBLN: Tensor,
    D_XE: Tensor,
    delta_bias_XE: Tensor,
    *,
    reversed_X: Sequence[bool] = (),
    length_B: Tensor | None = None,
) -> Tensor:
    """The output of the selective state space model; see `muse.head.scan.reference`.

    Args:
        u_XBLE: (X, B, L, E) float32, bfloat16 or float16, on a CUDA device.
        delta_XBLE: (X, B, L, E) step sizes before bias and softplus.
        A_XEN: (X, E, N) float32, negative; N up to 64.
        B_XBLN: (X, B, L, N) input projections.
        C_XBLN: (X, B, L, N) output projections.
        D_XE: (X, E) float32 skip connection.
        delta_bias_XE: (X, E) float32.
        reversed_X: Whether a direction begins at its sequences' ends; none does if empty.
        length_B: (B,) tokens of each sequence; what lies behind is not read, and 0 in the output.

    Returns:
        (X, B, L, E) in the dtype of ``u_XBLE``. States are float32.

    Raises:
        UsageError: If N or the dtype is another.
    """
    num_states, dtype = A_XEN.shape[-1], u_XBLE.dtype
    if num_states > MAX_STATES or dtype not in DTYPES:
        raise UsageError(
            f"scan cuda: {num_states} states of {dtype}; it takes up to {MAX_STATES}, and float32, "
            "bfloat16 or float16. Choose --scan cpu."
        )
    padded = padded_states(num_states)
    if padded > num_states:  # by states that stay 0
        extra = (0, padded - num_states)
        A_XEN, B_XBLN, C_XBLN = (F.pad(tensor, extra) for tensor in (A_XEN, B_XBLN, C_XBLN))
    delta_XBLE, B_XBLN, C_XBLN = (t.to(dtype) for t in (delta_XBLE, B_XBLN, C_XBLN))
    tensors = [u_XBLE, delta_XBLE, B_XBLN, C_XBLN]
    u_XBLE, delta_XBLE, B_XBLN, C_XBLN = (row_major(tensor) for tensor in tensors)
    floats = (A_XEN.float(), D_XE.float(), delta_bias_XE.float())
    A_XEN, D_XE, delta_bias_XE = (tensor.contiguous() for tensor in floats)
    needs_gradient = torch.is_grad_enabled() and any(
        tensor.requires_grad for tensor in (*tensors, *floats)
    )
    directions = bits_of(reversed_X)
    lengths = None if length_B is None else length_B.to(u_XBLE.device, torch.int32)
    y_XBLE: Tensor
    y_XBLE, _ = scan_forward.registered(
        u_XBLE, delta_XBLE, A_XEN, B_XBLN, C_XBLN, D_XE, delta_bias_XE, lengths, directions,
        needs_gradient,
    )  # fmt: skip
    return y_XBLE


@operator("muse::selective_scan")
def scan_forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    bias: Tensor,
    lengths: Tensor | None,
    directions: int,
    keeps_states: bool,
) -> tuple[Tensor, Tensor]:
    """The output, and the states before each tile where a gradient needs them."""
    shape = shape_of(u, A, directions)
    chunks = chunks_of(shape, A.shape[-1], num_multiprocessors(u.device))
    y, states = _empty_outputs(u, A, keeps_states)
    if y.numel():
        begins = _begins((u, delta, B), (A, bias), lengths, shape, chunks, is_backward=False)
        (kernel,) = kernels_for(
            "scan_forward", (u, delta, B, C, y), (A, D, bias), is_chunked=chunks.number > 1
        )
        kernel(
            u, delta, A, B, C, D, bias, lengths, y, states if keeps_states else None, shape,
            *(stride_of(tensor) for tensor in (u, delta, B, C, y)), *begins,
            **_grid(shape, A, chunks),
        )  # fmt: skip
    return y, states


@scan_forward.register_fake
def _(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor,
    lengths: Tensor | None, directions: int, keeps_states: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return _empty_outputs(u, A, keeps_states)


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
    number = videos_at_once(shape_of(u, A, directions), A.shape[-1])
    parts = []
    for first in range(0, u.shape[1], number):
        at = slice(first, first + number)
        its = [tensor[:, at] for tensor in (dy, states, u, delta, B, C)]
        its[1] = its[1].contiguous()  # as kernels expect it
        own_lengths = None if lengths is None else lengths[at]
        parts.append(_gradients(its, (A, D, bias), own_lengths, directions))
    return tuple(map(_beside, zip(*parts, strict=True), (1, 1, 1, 2, 1)))  # type: ignore[return-value]


def _beside(tensors: tuple[Tensor, ...], axis: int) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, axis)


def _gradients(
    tensors: Sequence[Tensor],
    constants: tuple[Tensor, Tensor, Tensor],
    lengths: Tensor | None,
    directions: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Of videos whose sums over channels fit into memory beside each other."""
    (dy, states, u, delta, B, C), (A, D, bias) = tensors, constants
    shape = shape_of(u, A, directions)
    chunks = chunks_of(shape, A.shape[-1], num_multiprocessors(u.device))
    du, ddelta = u.new_empty(u.shape), u.new_empty(u.shape)
    dA_XBKEN, dD_bias_2XBKE, dBC_XBLCN = _empty_parts(u, A, shape, chunks)
    begins = _begins((dy, delta, C), (A, bias), lengths, shape, chunks, is_backward=True)
    (kernel,) = kernels_for(
        "scan_backward", (u, delta, B, C, dy), (A, D, bias), is_chunked=chunks.number > 1
    )
    kernel(
        u, delta, A, B, C, D, bias, lengths, dy, states, du, ddelta, dA_XBKEN, dBC_XBLCN,
        dD_bias_2XBKE[0], dD_bias_2XBKE[1], shape,
        *(stride_of(tensor) for tensor in (u, delta, B, C, dy, du, ddelta)), *begins,
        **_grid(shape, A, chunks),
    )  # fmt: skip
    dA_XBEN, dD_bias_2XBE = _over_chunks(dA_XBKEN, 2), _over_chunks(dD_bias_2XBKE, 3)
    return du, ddelta, dA_XBEN, dD_bias_2XBE, dBC_XBLCN.sum(3)


@scan_backward.register_fake
def _(
    dy: Tensor, states: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor,
    D: Tensor, bias: Tensor, lengths: Tensor | None, directions: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return _empty_gradients(u, A)


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


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.directions, _ = inputs
    ctx.save_for_backward(output[1], *tensors)


def _differentiate(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    states, *tensors = ctx.saved_tensors
    _, _, A, B, C, _, _, _ = tensors
    du, ddelta, dA_XBEN, dD_bias_2XBE, dBC_XBLN = scan_backward.registered(
        row_major(dy), states, *tensors, ctx.directions
    )
    dB, dC = dBC_XBLN.split(A.shape[-1], dim=-1)
    dD, dbias = dD_bias_2XBE.sum(2)
    return (
        du, ddelta, dA_XBEN.sum(1), dB.to(B.dtype), dC.to(C.dtype), dD, dbias, None, None, None,
    )  # fmt: skip


scan_forward.registered.register_autograd(_differentiate, setup_context=_save)


def _empty_parts(
    u: Tensor, A: Tensor, shape: Shape, chunks: Chunks
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the gradients of A, of D and the bias, and of B and C beside each other."""
    num_states, wide = A.shape[-1], torch.float32
    each = (*u.shape[:2], chunks.number, u.shape[3])
    return (
        u.new_empty((*each, num_states), dtype=wide),
        u.new_empty((2, *each), dtype=wide),
        u.new_empty((*u.shape[:3], shape.blocks, 2 * num_states), dtype=wide),
    )


def _over_chunks(parts: Tensor, axis: int) -> Tensor:
    return parts.squeeze(axis) if parts.shape[axis] == 1 else parts.sum(axis)


def _begins(
    walked: tuple[Tensor, Tensor, Tensor],
    constants: tuple[Tensor, Tensor],
    lengths: Tensor | None,
    shape: Shape,
    chunks: Chunks,
    *,
    is_backward: bool,
) -> tuple[Any, ...]:
    """What chunked kernels take beside all else; nothing if there is one chunk.

    Args:
        walked: What goes into the states and by which projection, with delta between: u, delta and
            B, or for the carried gradient dy, delta and C.
        constants: A and the bias.
        lengths: Of the scan.
        shape: Of the scan.
        chunks: Of each sequence.
        is_backward: Whether the carried gradient is asked for.

    Returns:
        (X, B, K, E, N) float32 what each chunk begins with, and the tiles of a chunk.
    """
    if chunks.number == 1:
        return ()
    (values, delta, projection), (A, bias) = walked, constants
    begins = values.new_empty((*values.shape[:2], chunks.number, *A.shape[1:]), dtype=torch.float32)
    steps = begins.new_empty(begins.shape[:-1])
    walk, join = kernels_for(
        "scan_chunks", walked, constants, is_chunked=True, BACKWARD=int(is_backward)
    )
    tiles = ctypes.c_int(chunks.tiles)
    walk(
        values, delta, A, projection, bias, lengths, begins, steps, shape,
        *(stride_of(tensor) for tensor in walked), tiles, **_grid(shape, A, chunks),
    )  # fmt: skip
    threads = THREADS[A.shape[-1]]
    blocks = -(-begins[:, :, 0].numel() // threads)
    join(begins, steps, A, shape, ctypes.c_int(chunks.number), blocks=blocks, threads=threads)
    return begins, tiles


def _grid(shape: Shape, A: Tensor, chunks: Chunks) -> dict[str, int]:
    threads = THREADS[A.shape[-1]]
    return {"blocks": shape.num_blocks, "threads": threads, "rows": chunks.number}


def _empty_outputs(u: Tensor, A: Tensor, keeps_states: bool) -> tuple[Tensor, Tensor]:
    """y, and (X, B, tiles, E, N) or nothing."""
    num_tiles = -(-u.shape[2] // TILE[int(A.shape[-1])])
    sizes = (*u.shape[:2], num_tiles, *A.shape[1:]) if keeps_states else (0,)
    # They are half of what a gradient keeps. float16 could not hold every state; bfloat16 can, and
    # as much of it as the input has.
    kept = torch.bfloat16 if u.dtype == torch.bfloat16 else torch.float32
    return u.new_empty(u.shape), u.new_empty(sizes, dtype=kept)


def bits_of(reversed_X: Sequence[bool]) -> int:
    """Bit x: whether direction x begins at the end."""
    return sum(1 << x for x, is_reversed in enumerate(reversed_X) if is_reversed)


def row_major(tensor_XBLC: Tensor) -> Tensor:
    """The last axis contiguous; the others may lie as they do, repeated ones too."""
    return tensor_XBLC if tensor_XBLC.stride(-1) == 1 else tensor_XBLC.contiguous()
