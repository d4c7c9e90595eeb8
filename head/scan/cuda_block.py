"""What stands before and behind the scan in a Mamba block, as CUDA kernels of one pass each.

The convolution reads a sequence once for both directions; the gate adds the directions before it
applies. The kernels are in ``short_conv.cu`` and ``gated_sum.cu``. The gradients are operators of
their own, for `muse.head.mixers.fused`. Knows nothing of projections.
"""

# Legend: X directions, B videos, L tokens, E inner width, W taps, R runs of tokens.

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from muse.head.scan.launch import row_major
from muse.head.scan.scan_kernels import stride_of
from muse.pipeline.kernels.cuda_kernels import DTYPES, Kernel, compile_kernels
from muse.pipeline.kernels.operator import operator

_HERE = Path(__file__).parent
# As the sources have them.
_CONV_THREADS, _RUN = 128, 128
_GATE_THREADS = 256
MAX_TAPS = 8


class _Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("videos", "length", "width", "runs")]


@operator("muse::conv_forward")
def conv_forward(
    tokens: Tensor, weight: Tensor, bias: Tensor, lengths: Tensor | None, directions: int
) -> Tensor:
    """SiLU of a depthwise convolution in which no token sees one that a direction has yet to pass.

    Args:
        tokens: (B, L, E) float32, bfloat16 or float16, on a CUDA device.
        weight: (X, E, W) float32 of one or two directions, W up to 8; the last tap is the token's
            own.
        bias: (X, E) float32.
        lengths: (B,) int32 tokens of each sequence; what lies behind is not seen, and 0 in the
            output.
        directions: Of `muse.head.scan.cuda.bits_of`: which begin at their sequences' ends.

    Returns:
        (X, B, L, E) in the dtype of ``tokens``, at the tokens' own places.
    """
    tokens, weight, bias = row_major(tokens), weight.contiguous(), bias.contiguous()
    out = tokens.new_empty((len(weight), *tokens.shape))
    if out.numel():
        forward, _ = _conv_kernels(weight, directions, (tokens, out))
        shape, blocks = _conv_shape(tokens)
        forward(
            tokens, weight, bias, lengths, out, shape, stride_of(tokens[None]), stride_of(out),
            blocks=blocks, threads=_CONV_THREADS,
        )  # fmt: skip
    return out


@conv_forward.register_fake
def _(
    tokens: Tensor, weight: Tensor, bias: Tensor, lengths: Tensor | None, directions: int
) -> Tensor:
    return tokens.new_empty((len(weight), *tokens.shape))


@operator("muse::conv_backward")
def conv_backward(
    dout: Tensor,
    tokens: Tensor,
    weight: Tensor,
    bias: Tensor,
    lengths: Tensor | None,
    directions: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the tokens, weight and bias of `conv_forward`, from that of its output."""
    dout, tokens = row_major(dout), row_major(tokens)
    weight, bias = weight.contiguous(), bias.contiguous()
    dtokens = tokens.new_empty(tokens.shape)
    if not dout.numel():
        return dtokens, torch.zeros_like(weight), torch.zeros_like(bias)
    _, backward = _conv_kernels(weight, directions, (tokens, dout, dtokens))
    shape, blocks = _conv_shape(tokens)
    num_rows = shape.videos * shape.runs
    dweight_XREW = weight.new_empty((len(weight), num_rows, *weight.shape[1:]))
    dbias_XRE = weight.new_empty((len(weight), num_rows, weight.shape[1]))
    backward(
        tokens, weight, bias, lengths, dout, dtokens, dweight_XREW, dbias_XRE, shape,
        stride_of(tokens[None]), stride_of(dout), stride_of(dtokens[None]),
        blocks=blocks, threads=_CONV_THREADS,
    )  # fmt: skip
    return dtokens, dweight_XREW.sum(1), dbias_XRE.sum(1)


@conv_backward.register_fake
def _(
    dout: Tensor, tokens: Tensor, weight: Tensor, bias: Tensor, lengths: Tensor | None,
    directions: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return tokens.new_empty(tokens.shape), torch.empty_like(weight), torch.empty_like(bias)


@operator("muse::gate_forward")
def gate_forward(y: Tensor, gate: Tensor, keeps_sum: bool) -> tuple[Tensor, Tensor]:
    """The sum of the directions times SiLU of the gate, and the sum where a gradient needs it.

    Args:
        y: (X, B, L, E) on a CUDA device.
        gate: (B, L, E) of the same dtype.
        keeps_sum: Whether the second is (B, L, E) or empty.
    """
    y, gate = y.contiguous(), _flat_rows(gate)
    out, total = _empty_sums(y, keeps_sum)
    if out.numel():
        forward, _ = _gate_kernels((y, gate, out))
        forward(
            y, gate, out, total if keeps_sum else None, ctypes.c_int(len(y)), *_gate_sizes(gate),
            **_gate_grid((y, gate, out)),
        )  # fmt: skip
    return out, total


@gate_forward.register_fake
def _(y: Tensor, gate: Tensor, keeps_sum: bool) -> tuple[Tensor, Tensor]:
    return _empty_sums(y, keeps_sum)


@operator("muse::gate_backward")
def gate_backward(dout: Tensor, total: Tensor, gate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of one direction, as all have the same, and of the gate; and `gate_forward` again.

    Args:
        dout: (B, L, E) the gradient of what the gate let through.
        total: (B, L, E) the sum of the directions.
        gate: (B, L, E).
    """
    dout, gate = dout.contiguous(), _flat_rows(gate)
    dy, dgate, out = (dout.new_empty(dout.shape) for _ in range(3))
    if dout.numel():
        tensors = (total, gate, dout)
        _, backward = _gate_kernels(tensors)
        backward(dout, total, gate, dy, dgate, out, *_gate_sizes(gate), **_gate_grid(tensors))
    return dy, dgate, out


@gate_backward.register_fake
def _(dout: Tensor, total: Tensor, gate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return dout.new_empty(dout.shape), dout.new_empty(dout.shape), dout.new_empty(dout.shape)


def _empty_sums(y: Tensor, keeps_sum: bool) -> tuple[Tensor, Tensor]:
    return y.new_empty(y.shape[1:]), y.new_empty(y.shape[1:] if keeps_sum else (0,))


def _conv_shape(tokens: Tensor) -> tuple[_Shape, int]:
    """And how many blocks of threads."""
    num_videos, length, width = tokens.shape
    runs = -(-length // _RUN)
    # At the worst a thread has one channel; threads without any leave at once.
    blocks = -(-num_videos * runs * width // _CONV_THREADS)
    return _Shape(num_videos, length, width, runs), blocks


def _flat_rows(tensor_BLE: Tensor) -> Tensor:
    """Its rows (B, L) at one stride, as they are in a half of a projection."""
    is_fit = tensor_BLE.stride(-1) == 1 and (
        tensor_BLE.stride(0) == tensor_BLE.shape[1] * tensor_BLE.stride(1)
    )
    return tensor_BLE if is_fit else tensor_BLE.contiguous()


def _gate_sizes(gate: Tensor) -> tuple[Any, ...]:
    long = ctypes.c_longlong
    tokens, width = gate.shape[0] * gate.shape[1], gate.shape[2]
    return long(tokens), ctypes.c_int(width), long(gate.stride(1))


def _gate_grid(tensors: tuple[Tensor, Tensor, Tensor]) -> dict[str, int]:
    each = 8 if _lies_in_pieces(tensors, 8) else 1
    return {"blocks": -(-tensors[-1].numel() // (_GATE_THREADS * each)), "threads": _GATE_THREADS}


def _lies_in_pieces(tensors: Sequence[Tensor], size: int) -> bool:
    """Whether that many neighbouring channels can be read at once, of each."""
    return all(
        tensor.shape[-1] % size == 0
        and tensor.data_ptr() % (size * tensor.element_size() if size < 8 else 16) == 0
        and all(stride % size == 0 for stride in tensor.stride()[:-1])
        for tensor in tensors
    )


def _conv_kernels(weight: Tensor, directions: int, tensors: Sequence[Tensor]) -> tuple[Kernel, ...]:
    num, _, taps = weight.shape
    macros = (
        ("TAPS", taps),
        ("DIRECTIONS", num),
        ("REVERSED", directions & ((1 << num) - 1)),
        *_macros(tensors, 2),
    )
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
    return compile_kernels([_HERE / source], names, dict(macros), device)
