"""The scan's kernels, compiled for what a call gives them.

Knows nothing of how the scan's work is divided.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from muse.head.scan.grid import THREADS, TILE
from muse.pipeline.kernels.cuda_kernels import DTYPES, Kernel, compile_kernels

_HERE = Path(__file__).parent
_NAMES = {
    "scan_forward": ("scan_forward",),
    "scan_backward": ("scan_backward",),
    "scan_chunks": ("walk_chunks", "join_chunks"),
}


class Stride(ctypes.Structure):
    """Of the first three axes of an array whose last is contiguous, in elements."""

    _fields_ = [("x", ctypes.c_longlong), ("b", ctypes.c_longlong), ("l", ctypes.c_int)]


def stride_of(tensor_XBLC: Tensor) -> Stride:
    """As kernels take it."""
    return Stride(*tensor_XBLC.stride()[:3])


def kernels_for(
    source: str,
    tensors: Sequence[Tensor],
    constants: Sequence[Tensor],
    *,
    is_chunked: bool,
    **macros: int,
) -> tuple[Kernel, ...]:
    """Compiled for their dtype, and for eight channels at a time where all lie so.

    Args:
        source: Name of the file.
        tensors: (X, B, L, ...) each, in the dtype that kernels read.
        constants: float32; the first is A.
        is_chunked: Whether sequences are scanned in chunks.
        macros: More of the source's own.
    """
    u, num_states = tensors[0], constants[0].shape[-1]
    is_aligned = (
        u.shape[-1] % 8 == 0
        and all(tensor.data_ptr() % 16 == 0 for tensor in (*tensors, *constants))
        and all(stride % 8 == 0 for tensor in tensors for stride in tensor.stride()[:3])
    )
    if is_chunked:
        macros["CHUNKED"] = 1
    by_name = {
        "N_STATE": num_states,
        "THREADS": THREADS[num_states],
        "TILE": TILE[num_states],
        "DTYPE": DTYPES[u.dtype],
        "ALIGNED": int(is_aligned),
    }
    return _kernels(source, tuple((by_name | macros).items()), u.device)


@cache
def _kernels(
    source: str, macros: tuple[tuple[str, int], ...], device: torch.device
) -> tuple[Kernel, ...]:
    sources = [_HERE / file for file in ("scan_tile.cuh", f"{source}.cu")]
    return compile_kernels(sources, _NAMES[source], dict(macros), device)
