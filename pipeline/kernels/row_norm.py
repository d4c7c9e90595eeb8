"""LayerNorm of a residual stream, and what is added to the stream, as CUDA kernels of one pass.

A stream may be float32 while what is added to it and what is normed are half as wide, so that no
cast stands beside the norm. The kernels are in ``row_norm.cu``; on a CPU, for rows that they do not
take, and where no kernel can be compiled, torch computes the same. Knows nothing of blocks.
"""

# Legend: ... any leading axes, W width.

import ctypes
import math
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from muse.pipeline.kernels.cuda_kernels import (
    DTYPES,
    Kernel,
    compile_kernels,
    why_unavailable,
)
from muse.pipeline.kernels.operator import operator

_SOURCE = Path(__file__).parent / "row_norm.cu"
# As the source has them.
_THREADS, _WARPS, MAX_WIDTH = 256, 8, 2048
_BLOCKS_OF_A_SUM = 1024  # each adds up its rows; enough for a large GPU, few to add up afterwards
_ALIGNMENT = 16  # bytes, of the widest load


def add_norm(
    x: Tensor,
    added: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    out_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """A stream after an addition, and its LayerNorm (Ba et al. 2016), computed in float32.

    Args:
        x: (..., W) the stream.
        added: (..., W) of any floating dtype, or None.
        weight: (W,) of the norm.
        bias: (W,) of the norm.
        eps: Of the norm, added to the variance.
        out_dtype: Of the norm's output.

    Returns:
        (..., W) ``x + added`` in the dtype of ``x``, which is ``x`` itself where nothing is added,
        and (..., W) its norm in ``out_dtype``.
    """
    if not takes(x, weight, out_dtype, *(() if added is None else (added,))):
        total = x if added is None else (x + added).to(x.dtype)
        wide = total.float() if total.dtype.itemsize < torch.float32.itemsize else total
        normed = F.layer_norm(wide, weight.shape, weight.to(wide.dtype), bias.to(wide.dtype), eps)
        return total, normed.to(out_dtype)
    tensors = (x, weight, bias) if added is None else (x, weight, bias, added)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        found: tuple[Tensor, Tensor] = _AddNorm.apply(x, added, weight, bias, eps, out_dtype)
        return found
    total, normed = norm_forward(x, added, weight, bias, eps, out_dtype, True)
    return x if added is None else total, normed


def takes(x: Tensor, weight: Tensor, out_dtype: torch.dtype, *others: Tensor) -> bool:
    """Whether the kernels take these rows."""
    dtypes = {x.dtype, out_dtype, weight.dtype, *(other.dtype for other in others)}
    return (
        x.is_cuda and dtypes <= DTYPES.keys() and weight.shape[0] <= MAX_WIDTH and _is_available()
    )


# The compiler takes the answer: it could not follow how a library is looked for.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _is_available() -> bool:
    return why_unavailable() is None


class _AddNorm(torch.autograd.Function):
    """`add_norm` and its gradient; the stream alone is kept, and its statistics made again."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        added: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        out_dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        total, normed = norm_forward(x, added, weight, bias, eps, out_dtype, True)
        total = x if added is None else total
        ctx.save_for_backward(total, weight)
        ctx.eps, ctx.added, ctx.out_dtype = eps, added is not None and added.dtype, out_dtype
        ctx.bias_dtype = bias.dtype
        return total, normed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        (total, weight), (dtotal, dnormed) = ctx.saved_tensors, gradients
        if dnormed is None:
            dadded = dtotal.to(ctx.added) if ctx.added and dtotal is not None else None
            return dtotal, dadded, None, None, None, None
        also = ctx.added if ctx.added and ctx.added != total.dtype else None
        dx, dadded, dweight, dbias = norm_backward(
            dnormed.to(ctx.out_dtype), dtotal, total, weight, ctx.eps, also
        )
        if ctx.added == total.dtype:
            dadded = dx
        return (
            dx, dadded if ctx.added else None, dweight.to(weight.dtype), dbias.to(ctx.bias_dtype),
            None, None,
        )  # fmt: skip


@operator("muse::norm_forward")
def norm_forward(
    x: Tensor,
    added: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    out_dtype: torch.dtype,
    norms: bool,
) -> tuple[Tensor, Tensor]:
    """The sum, empty where nothing is added, and its norm, empty where none is asked for.

    Args:
        x: (..., W) float32, bfloat16 or float16, on a CUDA device.
        added: (..., W) of any of these, or None.
        weight: (W,) of any of these.
        bias: (W,) of the same.
        eps: Of the norm.
        out_dtype: Of the norm.
        norms: Whether the norm is asked for, or the sum alone.
    """
    x, added = x.contiguous(), None if added is None else added.contiguous()
    total, normed = _empty_like(x, added, out_dtype, norms)
    if x.numel():
        tensors = (x, weight, bias, *(() if added is None else (added,)))
        stream = x.dtype if added is None else added.dtype
        forward, _, _ = _kernels(x, stream, normed, weight.dtype, tensors)
        num_rows = x.numel() // x.shape[-1]
        forward(
            x, added, weight, bias, None if added is None else total, normed if norms else None,
            ctypes.c_longlong(num_rows), ctypes.c_float(eps),
            blocks=-(-num_rows // _WARPS), threads=_THREADS,
        )  # fmt: skip
    return total, normed


@norm_forward.register_fake
def _(
    x: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor, eps: float,
    out_dtype: torch.dtype, norms: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return _empty_like(x, added, out_dtype, norms)


@operator("muse::norm_backward")
def norm_backward(
    dnormed: Tensor,
    dtotal: Tensor | None,
    total: Tensor,
    weight: Tensor,
    eps: float,
    also: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of what was normed, with what else flows to it, and of weight and bias.

    Args:
        dnormed: (..., W) of the norm.
        dtotal: (..., W) of the stream where it goes on, or None.
        total: (..., W) what was normed.
        weight: (W,) float32, bfloat16 or float16; its gradient is float32.
        eps: Of the norm.
        also: A dtype in which the first gradient is given a second time; None leaves that empty.
    """
    dnormed, total = dnormed.contiguous(), total.contiguous()
    dtotal = None if dtotal is None else dtotal.to(total.dtype).contiguous()
    dx = torch.empty_like(total)
    twice = total.new_empty((0,) if also is None else total.shape, dtype=also)
    num_rows = total.numel() // total.shape[-1]
    blocks = min(_BLOCKS_OF_A_SUM, -(-num_rows // _WARPS))
    sums = weight.new_empty((blocks, 2, total.shape[-1]), dtype=torch.float32)
    if num_rows:
        tensors = (dnormed, total, weight, *(() if dtotal is None else (dtotal,)))
        _, backward, _ = _kernels(total, also or total.dtype, dnormed, weight.dtype, tensors)
        backward(
            dnormed, dtotal, total, weight, dx, twice if also else None, sums,
            ctypes.c_longlong(num_rows), ctypes.c_float(eps), blocks=blocks, threads=_THREADS,
        )  # fmt: skip
    dweight, dbias = sums.sum(0)
    return dx, twice, dweight.clone(), dbias.clone()  # an operator gives no two views of a tensor


@norm_backward.register_fake
def _(
    dnormed: Tensor, dtotal: Tensor | None, total: Tensor, weight: Tensor, eps: float,
    also: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    twice = total.new_empty((0,) if also is None else total.shape, dtype=also)
    sums = [weight.new_empty(weight.shape, dtype=torch.float32) for _ in range(2)]
    return torch.empty_like(total), twice, sums[0], sums[1]


@operator("muse::narrow_and_sum")
def narrow_and_sum(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows in another dtype, and (W,) the float32 sum of all rows."""
    x = x.contiguous()
    out = x.new_empty(x.shape, dtype=dtype)
    num_rows = x.numel() // x.shape[-1]
    blocks = min(_BLOCKS_OF_A_SUM, -(-num_rows // _WARPS))
    sums = x.new_empty((blocks, x.shape[-1]), dtype=torch.float32)
    if num_rows:
        _, _, narrow = _kernels(x, x.dtype, out, torch.float32, (x,))
        narrow(x, out, sums, ctypes.c_longlong(num_rows), blocks=blocks, threads=_THREADS)
    return out, sums.sum(0)


@narrow_and_sum.register_fake
def _(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=dtype), x.new_empty(x.shape[-1:], dtype=torch.float32)


def _empty_like(
    x: Tensor, added: Tensor | None, out_dtype: torch.dtype, norms: bool
) -> tuple[Tensor, Tensor]:
    total = x.new_empty((0,) if added is None else x.shape)
    return total, x.new_empty(x.shape if norms else (0,), dtype=out_dtype)


def _kernels(
    x: Tensor,
    added: torch.dtype,
    out: Tensor,
    params: torch.dtype,
    tensors: tuple[Tensor, ...],
) -> tuple[Kernel, ...]:
    width = x.shape[-1]
    # What torch allocates is aligned; a part of it may not be.
    is_aligned = all(tensor.data_ptr() % _ALIGNMENT == 0 for tensor in tensors)
    vector = math.gcd(width, 8) if is_aligned else 1
    return _compiled(width, vector, (x.dtype, added, out.dtype, params), x.device)


@cache
def _compiled(
    width: int, vector: int, dtypes: tuple[torch.dtype, ...], device: torch.device
) -> tuple[Kernel, ...]:
    of_dtypes = zip(("DTYPE", "ADDED", "OUT", "PARAMS"), dtypes, strict=True)
    macros = {"WIDTH": width, "VECTOR": vector, **{name: DTYPES[of] for name, of in of_dtypes}}
    names = ("norm_forward", "norm_backward", "narrow_and_sum")
    return compile_kernels([_SOURCE], names, macros, device)
