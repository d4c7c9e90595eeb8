"""The selective scan as a CUDA kernel, for all directions at once.

The kernel is in ``scan_forward.cu`` beside this file, and its gradient in `cuda_gradients`.
Directions that begin at the end walk from there, and lengths are kept to, so nothing is reversed or
padded in memory. Few long sequences are scanned in chunks. Knows nothing of the block around the
scan.
"""

# Legend: X directions, B videos, L tokens, E inner width, N state size.

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from muse.errors import UsageError
from muse.head.scan.cuda_gradients import scan_backward
from muse.head.scan.grid import TILE, chunks_of, shape_of
from muse.head.scan.launch import begins_of, grid_of, kept_dtype, row_major
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
        begins = begins_of((u, delta, B), (A, bias), lengths, shape, chunks, is_backward=False)
        (kernel,) = kernels_for(
            "scan_forward", (u, delta, B, C, y), (A, D, bias), is_chunked=chunks.number > 1
        )
        kernel(
            u, delta, A, B, C, D, bias, lengths, y, states if keeps_states else None, shape,
            *(stride_of(tensor) for tensor in (u, delta, B, C, y)), *begins,
            **grid_of(shape, A, chunks),
        )  # fmt: skip
    return y, states


@scan_forward.register_fake
def _(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor,
    lengths: Tensor | None, directions: int, keeps_states: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return _empty_outputs(u, A, keeps_states)


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


def _empty_outputs(u: Tensor, A: Tensor, keeps_states: bool) -> tuple[Tensor, Tensor]:
    """y, and (X, B, tiles, E, N) or nothing."""
    num_tiles = -(-u.shape[2] // TILE[int(A.shape[-1])])
    sizes = (*u.shape[:2], num_tiles, *A.shape[1:]) if keeps_states else (0,)
    return u.new_empty(u.shape), u.new_empty(sizes, dtype=kept_dtype(u))


def bits_of(reversed_X: Sequence[bool]) -> int:
    """Bit x: whether direction x begins at the end."""
    return sum(1 << x for x, is_reversed in enumerate(reversed_X) if is_reversed)
