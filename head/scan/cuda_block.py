"""What stands before and behind the scan in a Mamba block, as CUDA kernels of one pass each.

`short_conv` reads a sequence once for both directions, `gated_sum` adds the directions and applies
the gate. The kernels are in ``short_conv.cu`` and ``gated_sum.cu``. Knows nothing of projections.
"""

# Legend: X directions, B videos, L tokens, E inner width, W taps, R runs of tokens.

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from muse.head.scan.cuda import DTYPES, bits_of, row_major, stride_of
from muse.head.scan.cuda_kernels import Kernel, compile_kernels

_HERE = Path(__file__).parent
# As the sources have them.
_CONV_THREADS, _RUN = 128, 64
_GATE_THREADS = 256
MAX_TAPS = 8


class _Shape(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int)
        for name in ("directions", "videos", "length", "width", "runs", "reversed")
    ]


def short_conv(
    tokens_BLE: Tensor,
    weight_XEW: Tensor,
    bias_XE: Tensor,
    *,
    reversed_X: Sequence[bool],
    length_B: Tensor | None = None,
) -> Tensor:
    """SiLU of a depthwise convolution in which no token sees one that a direction has yet to pass.

    Args:
        tokens_BLE: (B, L, E) float32, bfloat16 or float16, on a CUDA device.
        weight_XEW: (X, E, W) of one or two directions, W up to 8; the last tap is the token's own.
        bias_XE: (X, E).
        reversed_X: Whether a direction begins at its sequences' ends.
        length_B: (B,) tokens of each sequence; what lies behind is not seen, and 0 in the output.

    Returns:
        (X, B, L, E) in the dtype of ``tokens_BLE``, at the tokens' own places.
    """
    lengths = None if length_B is None else length_B.to(tokens_BLE.device, torch.int32)
    weight_XEW, bias_XE = (tensor.float().contiguous() for tensor in (weight_XEW, bias_XE))
    made: Tensor = _conv(row_major(tokens_BLE), weight_XEW, bias_XE, lengths, bits_of(reversed_X))
    return made


def gated_sum(y_XBLE: Tensor, gate_BLE: Tensor) -> Tensor:
    """(B, L, E): the sum of the directions times SiLU of the gate.

    Args:
        y_XBLE: (X, B, L, E) on a CUDA device.
        gate_BLE: (B, L, E) of the same dtype.
    """
    made: Tensor = _gate(y_XBLE.contiguous(), _flat_rows(gate_BLE))
    return made


@torch.library.custom_op("muse::short_conv", mutates_args=())
def _conv(
    tokens: Tensor, weight: Tensor, bias: Tensor, lengths: Tensor | None, directions: int
) -> Tensor:
    out = tokens.new_empty((len(weight), *tokens.shape))
    if out.numel():
        forward, _ = _conv_kernels(weight.shape[-1], (tokens, out))
        shape, blocks = _conv_shape(tokens, weight, directions)
        forward(
            tokens, weight, bias, lengths, out, shape, stride_of(tokens[None]), stride_of(out),
            blocks=blocks, threads=_CONV_THREADS,
        )  # fmt: skip
    return out


@_conv.register_fake
def _(
    tokens: Tensor, weight: Tensor, bias: Tensor, lengths: Tensor | None, directions: int
) -> Tensor:
    return tokens.new_empty((len(weight), *tokens.shape))


@torch.library.custom_op("muse::short_conv_backward", mutates_args=())
def _conv_backward(
    dout: Tensor,
    tokens: Tensor,
    weight: Tensor,
    bias: Tensor,
    lengths: Tensor | None,
    directions: int,
) -> tuple[Tensor, Tensor, Tensor]:
    dtokens = tokens.new_empty(tokens.shape)
    if not dout.numel():
        return dtokens, torch.zeros_like(weight), torch.zeros_like(bias)
    _, backward = _conv_kernels(weight.shape[-1], (tokens, dout, dtokens))
    shape, blocks = _conv_shape(tokens, weight, directions)
    num_rows = shape.videos * shape.runs
    dweight_XREW = weight.new_empty((len(weight), num_rows, *weight.shape[1:]))
    dbias_XRE = weight.new_empty((len(weight), num_rows, weight.shape[1]))
    backward(
        tokens, weight, bias, lengths, dout, dtokens, dweight_XREW, dbias_XRE, shape,
        stride_of(tokens[None]), stride_of(dout), stride_of(dtokens[None]),
        blocks=blocks, threads=_CONV_THREADS,
    )  # fmt: skip
    return dtokens, dweight_XREW.sum(1), dbias_XRE.sum(1)


@_conv_backward.register_fake
def _(
    dout: Tensor, tokens: Tensor, weight: Tensor, bias: Tensor, lengths: Tensor | None,
    directions: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return tokens.new_empty(tokens.shape), torch.empty_like(weight), torch.empty_like(bias)


def _save_conv(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.directions = inputs
    ctx.save_for_backward(*tensors)


def _differentiate_conv(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
    gradients = _conv_backward(row_major(dout), *ctx.saved_tensors, ctx.directions)
    return (*gradients, None, None)


_conv.register_autograd(_differentiate_conv, setup_context=_save_conv)


@torch.library.custom_op("muse::gated_sum", mutates_args=())
def _gate(y: Tensor, gate: Tensor) -> Tensor:
    out = y.new_empty(y.shape[1:])
    if out.numel():
        forward, _ = _gate_kernels((y, gate, out))
        forward(y, gate, out, *_gate_sizes(y, gate), **_gate_grid((y, gate, out)))
    return out


@_gate.register_fake
def _(y: Tensor, gate: Tensor) -> Tensor:
    return y.new_empty(y.shape[1:])


@torch.library.custom_op("muse::gated_sum_backward", mutates_args=())
def _gate_backward(dout: Tensor, y: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    """Of one direction, as all have the same, and of the gate."""
    dy, dgate = dout.new_empty(dout.shape), dout.new_empty(dout.shape)
    if dout.numel():
        tensors = (y, gate, dout)
        _, backward = _gate_kernels(tensors)
        backward(dout, y, gate, dy, dgate, *_gate_sizes(y, gate), **_gate_grid(tensors))
    return dy, dgate


@_gate_backward.register_fake
def _(dout: Tensor, y: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    return dout.new_empty(dout.shape), dout.new_empty(dout.shape)


def _save_gate(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate_gate(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor]:
    y, gate = ctx.saved_tensors
    dy_BLE, dgate_BLE = _gate_backward(dout.contiguous(), y, gate)
    return dy_BLE.expand(y.shape), dgate_BLE


_gate.register_autograd(_differentiate_gate, setup_context=_save_gate)


def _conv_shape(tokens: Tensor, weight: Tensor, directions: int) -> tuple[_Shape, int]:
    """And how many blocks of threads."""
    num_videos, length, width = tokens.shape
    runs = -(-length // _RUN)
    # At the worst a thread has one channel; threads without any leave at once.
    blocks = -(-num_videos * runs * width // _CONV_THREADS)
    return _Shape(len(weight), num_videos, length, width, runs, directions), blocks


def _flat_rows(tensor_BLE: Tensor) -> Tensor:
    """Its rows (B, L) at one stride, as they are in a half of a projection."""
    is_fit = tensor_BLE.stride(-1) == 1 and (
        tensor_BLE.stride(0) == tensor_BLE.shape[1] * tensor_BLE.stride(1)
    )
    return tensor_BLE if is_fit else tensor_BLE.contiguous()


def _gate_sizes(y: Tensor, gate: Tensor) -> tuple[Any, ...]:
    tokens, width = y.shape[1] * y.shape[2], y.shape[3]
    long = ctypes.c_longlong
    return ctypes.c_int(len(y)), long(tokens), ctypes.c_int(width), long(gate.stride(1))


def _gate_grid(tensors: tuple[Tensor, Tensor, Tensor]) -> dict[str, int]:
    each = 8 if _lies_in_pieces(tensors, 8) else 1
    return {"blocks": -(-tensors[0][0].numel() // (_GATE_THREADS * each)), "threads": _GATE_THREADS}


def _lies_in_pieces(tensors: Sequence[Tensor], size: int) -> bool:
    """Whether that many neighbouring channels can be read at once, of each."""
    return all(
        tensor.shape[-1] % size == 0
        and tensor.data_ptr() % (size * tensor.element_size() if size < 8 else 16) == 0
        and all(stride % size == 0 for stride in tensor.stride()[:-1])
        for tensor in tensors
    )


def _conv_kernels(taps: int, tensors: Sequence[Tensor]) -> tuple[Kernel, ...]:
    macros = (("TAPS", taps), *_macros(tensors, 2))
    return _compiled("short_conv.cu", ("conv_forward", "conv_backward"), macros, tensors[0].device)


def _gate_kernels(tensors: Sequence[Tensor]) -> tuple[Kernel, ...]:
    names = ("gate_forward", "gate_backward")
    return _compiled("gated_sum.cu", names, _macros(tensors, 8), tensors[0].device)


def _macros(tensors: Sequence[Tensor], size: int) -> tuple[tuple[str, int], ...]:
    is_aligned = _lies_in_pieces(tensors, size)
    return (("DTYPE", DTYPES[tensors[0].dtype]), ("ALIGNED", int(is_aligned)))


@cache
def _compiled(
    source: str, names: tuple[str, ...], macros: tuple[tuple[str, int], ...], device: torch.device
) -> tuple[Kernel, ...]:
    sources = [_HERE / file for file in ("values.cuh", source)]
    return compile_kernels(sources, names, dict(macros), device)
