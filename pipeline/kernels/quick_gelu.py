"""QuickGELU, x sigmoid(1.702 x), in one pass over memory, and its gradient in another.

The approximation of GELU by Hendrycks and Gimpel (2016, section 2) that OpenAI's CLIP was trained
with. In torch's words it is three kernels, and three arrays that a gradient keeps; here it is one,
and the input. The kernels are in ``quick_gelu.cu``. Knows nothing of towers.
"""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from muse.pipeline.kernels.cuda_kernels import (
    DTYPES,
    Kernel,
    compile_kernels,
    why_unavailable,
)
from muse.pipeline.kernels.operator import operator

SLOPE = 1.702
_SOURCE = Path(__file__).parent / "quick_gelu.cu"
_THREADS = 256  # as the source has them


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x), in float32 inside the kernel.

    Args:
        x: Of any shape and floating dtype. The kernel takes float32, bfloat16 and float16 on a CUDA
            device that can have kernels; for all else these are torch's operators.

    Returns:
        Of the same shape and dtype.
    """
    if not (x.is_cuda and x.dtype in DTYPES and _can_compile()):
        return x * torch.sigmoid(SLOPE * x)
    if torch.is_grad_enabled() and x.requires_grad:
        made: Tensor = _QuickGelu.apply(x)
        return made
    return quick_gelu_forward(x)


class _QuickGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return quick_gelu_forward(x)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return quick_gelu_backward(dout, x)


@operator("muse::quick_gelu_forward")
def quick_gelu_forward(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x).

    Args:
        x: Of any shape, float32, bfloat16 or float16, on a CUDA device.
    """
    x = x.contiguous()
    out = torch.empty_like(x)
    _run(0, x, out)
    return out


@quick_gelu_forward.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@operator("muse::quick_gelu_backward")
def quick_gelu_backward(dout: Tensor, x: Tensor) -> Tensor:
    """The gradient of x, from that of `quick_gelu_forward`'s output, of the same dtype."""
    dout, x = dout.contiguous(), x.contiguous()
    dx = torch.empty_like(x)
    _run(1, dout, x, dx)
    return dx


@quick_gelu_backward.register_fake
def _(dout: Tensor, x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _run(place: int, *tensors: Tensor) -> None:
    """One of the two kernels, over tensors of one size and dtype."""
    size = tensors[0].numel()
    if not size:
        return
    is_aligned = size % 8 == 0 and all(tensor.data_ptr() % 16 == 0 for tensor in tensors)
    kernel = _kernels(DTYPES[tensors[0].dtype], is_aligned, tensors[0].device)[place]
    each = _THREADS * (8 if is_aligned else 1)
    kernel(*tensors, ctypes.c_longlong(size), blocks=-(-size // each), threads=_THREADS)


@cache
def _kernels(dtype: int, is_aligned: bool, device: torch.device) -> tuple[Kernel, ...]:
    names = ("quick_gelu_forward", "quick_gelu_backward")
    macros = {"DTYPE": dtype, "ALIGNED": int(is_aligned)}
    return compile_kernels([_SOURCE], names, macros, device)


# The compiler takes the answer: it could not follow how a library is looked for.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _can_compile() -> bool:
    return why_unavailable() is None
