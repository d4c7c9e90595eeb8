"""What all launches of the scan's kernels share."""

# Legend: X directions, B videos, L tokens, E inner width, N state size, K chunks of a sequence.

import ctypes
from typing import Any

import torch
from torch import Tensor

from muse.head.scan.grid import THREADS, Chunks, Shape
from muse.head.scan.scan_kernels import kernels_for, stride_of


def begins_of(
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
        *(stride_of(tensor) for tensor in walked), tiles, **grid_of(shape, A, chunks),
    )  # fmt: skip
    threads = THREADS[A.shape[-1]]
    blocks = -(-begins[:, :, 0].numel() // threads)
    join(begins, steps, A, shape, ctypes.c_int(chunks.number), blocks=blocks, threads=threads)
    return begins, tiles


def grid_of(shape: Shape, A: Tensor, chunks: Chunks) -> dict[str, int]:
    """Blocks and threads of a launch."""
    threads = THREADS[A.shape[-1]]
    return {"blocks": shape.num_blocks, "threads": threads, "rows": chunks.number}


def kept_dtype(u: Tensor) -> torch.dtype:
    """Of states, half of what a gradient keeps, and of sums over some channels.

    float16 could not hold every state; bfloat16 can, and as much of it as the input has.
    """
    return torch.bfloat16 if u.dtype == torch.bfloat16 else torch.float32


def row_major(tensor_XBLC: Tensor) -> Tensor:
    """The last axis contiguous; the others may lie as they do, repeated ones too."""
    return tensor_XBLC if tensor_XBLC.stride(-1) == 1 else tensor_XBLC.contiguous()
