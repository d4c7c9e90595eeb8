"""How a scan is divided over a GPU: blocks of channels, tiles of tokens, chunks of a sequence.

Where all blocks of channels together do not fill a GPU, sequences are cut into chunks that are
scanned at once (ADR 0045). Knows nothing of kernels: these follow the numbers given here.
"""

# Legend: X directions, B videos, L tokens, E inner width, N state size.

import ctypes
from typing import NamedTuple

from torch import Tensor

# By the state size: threads of a block, each with four of a channel's states; tokens of a tile.
THREADS = {8: 128, 16: 256, 32: 128, 64: 128}
TILE = {8: 32, 16: 32, 32: 32, 64: 16}
_RESIDENT_THREADS = 512  # of a multiprocessor in the gradient, as the source asks for
# Chunks are walked twice, once by a shorter kernel, and joined in between: two gain little, and a
# sequence of fewer tiles is scanned sooner than the two more kernels are launched (ADR 0045).
_MIN_CHUNKS, _MIN_TILES = 3, 192
_FULL = 0.9  # of the blocks that are resident at once: fewer leave multiprocessors idle
_MOST_BYTES_OF_SUMS = 1 << 31  # five videos of 3,060 tokens, 1,024 channels and 64 states


class Shape(ctypes.Structure):
    """Of a scan, as the kernels take it."""

    _fields_ = [
        (name, ctypes.c_int)
        for name in ("directions", "videos", "length", "width", "tiles", "blocks", "reversed")
    ]

    @property
    def num_blocks(self) -> int:
        """Of channels, of all sequences."""
        return int(self.directions * self.videos * self.blocks)


class Chunks(NamedTuple):
    """Of each sequence, in the order in which it is walked."""

    number: int
    tiles: int
    """Of a chunk; the last may have fewer."""


def shape_of(u: Tensor, A: Tensor, directions: int) -> Shape:
    """Of a scan.

    Args:
        u: (X, B, L, E).
        A: (X, E, N).
        directions: Of `muse.head.scan.cuda.bits_of`.
    """
    num_directions, num_videos, length, width = u.shape
    num_states = int(A.shape[-1])
    tile, channels = TILE[num_states], 4 * THREADS[num_states] // num_states
    return Shape(
        num_directions, num_videos, length, width, -(-length // tile), -(-width // channels),
        directions,
    )  # fmt: skip


def chunks_of(shape: Shape, num_states: int, num_multiprocessors: int) -> Chunks:
    """As many as fill a GPU; one where the blocks of channels come near to that.

    Args:
        shape: Of the scan.
        num_states: N.
        num_multiprocessors: Of the GPU.
    """
    resident = num_multiprocessors * (_RESIDENT_THREADS // THREADS[num_states])
    number = resident // max(1, shape.num_blocks)
    pays = number >= _MIN_CHUNKS and shape.tiles >= _MIN_TILES
    return in_chunks(shape.tiles, number if pays else 1)


def directions_at_once(shape: Shape, num_states: int, num_multiprocessors: int) -> int:
    """Directions whose gradient is made at once: one, in less memory, where it fills a GPU alone.

    Args:
        shape: Of the scan.
        num_states: N.
        num_multiprocessors: Of the GPU.
    """
    resident = num_multiprocessors * (_RESIDENT_THREADS // THREADS[num_states])
    fills = shape.videos * shape.blocks >= _FULL * resident
    return 1 if fills else max(1, int(shape.directions))


def videos_at_once(shape: Shape, num_states: int, size: int) -> int:
    """Videos whose gradient is made at once: each block has its own sums of B's and C's gradients.

    With few channels to a block (64 states: eight) these take more memory than all else.

    Args:
        shape: Of the scan.
        num_states: N.
        size: Bytes of a sum.
    """
    of_video = shape.directions * shape.length * shape.blocks * 2 * num_states * size
    return int(max(1, _MOST_BYTES_OF_SUMS // max(1, of_video)))


def in_chunks(num_tiles: int, number: int) -> Chunks:
    """That many chunks of equally many tiles; fewer where so many would leave one empty."""
    tiles = max(1, -(-num_tiles // number))
    return Chunks(max(1, -(-num_tiles // tiles)), tiles)
