"""Whole shards of a store in memory, for as long as batches show their videos.

Reading a shard from its start to its end is what slow and remote disks are good at, and a video
with twenty captions is then read once and not twenty times. Knows nothing of how batches are made.
"""

# Legend: N rows read together, V videos of a batch, T frames, K tokens a frame, D width.

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from muse.pipeline.store import FeatureStore, clip_map

VIDEOS_A_READ = 16  # 10 MB of B/32's tokens: a shard is read by several threads


@dataclass(frozen=True, kw_only=True, slots=True)
class _Piece:
    """Rows of a shard that are read together."""

    tokens_NTKD: NDArray[np.float16]
    valid_NT: Future[NDArray[np.bool_]]
    """(N, T); its result is there once the tokens are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shard:
    memory: NDArray[np.float16]
    place_of_row: dict[int, tuple[_Piece, int]]


class ShardWindow:
    """A source of tokens (`muse.head.loader.TokenSource`) that reads by the shard.

    It knows all batches before they come, and gives up the shard that is needed again last.

    Args:
        store: What is read.
        video_rows: Rows that batches may show, increasing; others of a shard are not read.
        batches: The (V,) rows of each batch, in the order in which they will be started.
        window_shards: So many are kept. What the batches that were started and are not finished
            show is kept besides, if that is more.
    """

    def __init__(
        self,
        store: FeatureStore,
        video_rows: NDArray[np.intp],
        batches: Sequence[NDArray[np.intp]],
        *,
        window_shards: int,
    ) -> None:
        self._store = store
        self._size = store.header.shard_size
        self._window_shards = window_shards
        shard_of_row = video_rows // self._size
        shards, starts = np.unique(shard_of_row, return_index=True)
        self._rows_of = dict(zip(shards.tolist(), np.split(video_rows, starts[1:]), strict=True))
        self._largest = max(map(len, self._rows_of.values()))
        self._num_batches = len(batches)
        self._uses = _uses([rows_V // self._size for rows_V in batches])
        self._num_started = 0
        self._in_flight: deque[set[int]] = deque()
        self._held: dict[int, _Shard] = {}
        self._free: list[NDArray[np.float16]] = []

    def start(self, pool: ThreadPoolExecutor, rows_V: NDArray[np.intp]) -> None:
        """Begins to read the shards of the next batch that are not there yet."""
        shards = set((rows_V // self._size).tolist())
        self._in_flight.append(shards)
        self._num_started += 1
        for shard in sorted(shards - self._held.keys()):
            self._make_room()
            self._held[shard] = self._read(pool, shard)

    def read(self, rows: Sequence[int], tokens_NTKD: NDArray[np.float16]) -> NDArray[np.bool_]:
        """Some videos of a batch that was started, once they are there."""
        valid = []
        for row, tokens_TKD in zip(rows, tokens_NTKD, strict=True):
            piece, place = self._held[row // self._size].place_of_row[row]
            valid.append(piece.valid_NT.result()[place])
            tokens_TKD[...] = piece.tokens_NTKD[place]
        return np.stack(valid)

    def finish(self) -> None:
        """Lets go of what only the oldest batch needed."""
        self._in_flight.popleft()

    def _read(self, pool: ThreadPoolExecutor, shard: int) -> _Shard:
        memory = self._free.pop() if self._free else self._new_memory()
        rows = self._rows_of[shard].tolist()
        place_of_row = {}
        for start in range(0, len(rows), VIDEOS_A_READ):
            some = rows[start : start + VIDEOS_A_READ]
            tokens_NTKD = memory[start : start + len(some)]
            valid_NT = pool.submit(self._store.read_clips_into, some, tokens_NTKD)
            piece = _Piece(tokens_NTKD=tokens_NTKD, valid_NT=valid_NT)
            place_of_row.update({row: (piece, place) for place, row in enumerate(some)})
        return _Shard(memory=memory, place_of_row=place_of_row)

    def _make_room(self) -> None:
        in_flight = set().union(*self._in_flight)
        idle = sorted(self._held.keys() - in_flight, key=self._next_use)
        while idle and len(self._held) > self._window_shards:
            shard = self._held.pop(idle.pop())
            # A piece that no batch has asked for may still be on its way into this memory.
            wait([piece.valid_NT for piece, _ in shard.place_of_row.values()])
            self._free.append(shard.memory)

    def _next_use(self, shard: int) -> int:
        """The number of the next batch that is not started and shows it, or of none."""
        place = int(np.searchsorted(self._uses, shard * self._num_batches + self._num_started))
        if place == len(self._uses) or self._uses[place] // self._num_batches != shard:
            return self._num_batches
        return int(self._uses[place] % self._num_batches)

    def _new_memory(self) -> NDArray[Any]:
        clip = clip_map(self._store)
        # torch begins memory at a multiple of 64 bytes, as read_clips_into likes it
        return torch.empty((self._largest, *clip.shape), dtype=getattr(torch, clip.dtype)).numpy()


def _uses(shards_of_batches: Sequence[NDArray[np.intp]]) -> NDArray[np.int64]:
    """``shard * number of batches + batch`` of each batch that shows a shard, increasing."""
    batch_of = np.repeat(np.arange(len(shards_of_batches)), [len(s) for s in shards_of_batches])
    return np.unique(np.concatenate(shards_of_batches) * len(shards_of_batches) + batch_of)
