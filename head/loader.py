"""Batches read ahead: several threads fill a ring of buffers, straight from the store's files.

A video's tokens go from the file into the memory that the device copies from, and nowhere else on
the way. Which batches there are, and in which order, is the caller's; the number of threads decides
nothing but time. Knows nothing of models.
"""

# Legend: B pairs in a batch, V videos in it, T frames, K tokens a frame, D width.

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from muse.head.data import HeadBatch, SplitSelection, VideoBatch, read_captions
from muse.head.process_group import ALONE, ProcessGroup
from muse.head.shard_window import ShardWindow
from muse.pipeline.store import FeatureStore, clip_map

MOST_THREADS = 8
# One that is computed on, two that are read: 0.24 GB for 128 videos of B/32, 1.8 GB for L/14. Where
# it is pinned, torch takes the next power of two.
NUM_BUFFERS = 3
VIDEOS_A_TASK = 16  # of one thread: a batch of 128 keeps eight busy
CAPTIONS_KEPT_BYTES = 2**30  # a million of width 512; of more than that each batch's are read

Rest = TypeVar("Rest")


class TokenSource(Protocol):
    """Where the tokens of batches come from."""

    def start(self, pool: ThreadPoolExecutor, rows_V: NDArray[np.intp]) -> None:
        """Takes note of the next batch, before its videos are read. Waits for nothing."""
        ...

    def read(self, rows: Sequence[int], tokens_NTKD: NDArray[np.float16]) -> NDArray[np.bool_]:
        """As `FeatureStore.read_clips_into`, for videos of a batch that was started."""
        ...

    def finish(self) -> None:
        """Takes note that the oldest batch that was started has been read."""
        ...


class StoreSource:
    """Each video is read whenever a batch shows it."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store

    def start(self, pool: ThreadPoolExecutor, rows_V: NDArray[np.intp]) -> None:
        """Nothing: no video is read before its batch."""

    def read(self, rows: Sequence[int], tokens_NTKD: NDArray[np.float16]) -> NDArray[np.bool_]:
        """From the store."""
        return self._store.read_clips_into(rows, tokens_NTKD)

    def finish(self) -> None:
        """Nothing: no video is kept."""


def reading_threads() -> int:
    """Twice the cores this process may use, from 4, which a disk wants, to `MOST_THREADS`.

    On two cores 4 deliver a third more than 8 from the page cache, and twice as much as 2.
    """
    has_affinity = hasattr(os, "sched_getaffinity")  # not on macOS
    num_cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return min(MOST_THREADS, max(4, 2 * num_cores))


def read_pair_batches(
    store: FeatureStore,
    selection: SplitSelection,
    batches: Sequence[NDArray[np.intp]],
    *,
    device: torch.device,
    window_shards: int | None = None,
    num_threads: int | None = None,
    token_ids_QC: Tensor | None = None,
    group: ProcessGroup = ALONE,
) -> Iterator[HeadBatch]:
    """Some batches of pairs, in order; a video that several pairs of one show is there once.

    A batch is good until the next one is asked for: then its memory is filled anew, as soon as the
    device has done what it was asked to do with it.

    Args:
        store: What is read.
        selection: The pairs.
        batches: (B,) places in ``selection.caption_rows_Q`` each (`muse.head.epoch_order`).
        device: Where they will go. For CUDA their tokens are in pinned memory.
        window_shards: Whole shards are read, and so many kept (`ShardWindow`); None: each video is
            read whenever a batch shows it.
        num_threads: So many read; `reading_threads` if None.
        token_ids_QC: Of the selection's captions, read instead of their cached embeddings.
        group: Of a batch's videos only this worker's part is read; its pairs are there whole.

    Raises:
        StoreError: If a row can't be read, when its batch is due.
    """
    rows_of = [selection.video_rows_V[selection.video_of_caption_Q[b]] for b in batches]
    source: TokenSource = StoreSource(store)
    if window_shards is not None:
        rows = selection.video_rows_V
        source = ShardWindow(
            store,
            rows,
            [group.part(np.unique(rows_B)) for rows_B in rows_of],
            window_shards=window_shards,
        )
    captions = _Captions(store, selection.caption_rows_Q, token_ids_QC)
    requests = (
        _Request(
            rows_V=group.part(np.unique(rows_B)),
            rest=partial(_pairs, captions, places_B, rows_B),
        )
        for rows_B, places_B in zip(rows_of, batches, strict=True)
    )
    num_videos = min(max(map(len, batches), default=0), len(selection.video_rows_V))
    ring = _ring(store, math.ceil(num_videos / group.size), device)
    for videos, pairs_of in _read_ahead(requests, source, ring, num_threads=num_threads):
        yield pairs_of(videos=videos)


def read_video_batches(
    store: FeatureStore,
    batches: Sequence[NDArray[np.intp]],
    *,
    device: torch.device,
    num_threads: int | None = None,
) -> Iterator[VideoBatch]:
    """The same of videos alone.

    Args:
        store: What is read.
        batches: (V,) rows of the store each.
        device: Where they will go.
        num_threads: So many read; `reading_threads` if None.

    Raises:
        StoreError: If a row can't be read, when its batch is due.
    """
    requests = (_Request(rows_V=rows_V, rest=lambda: None) for rows_V in batches)
    ring = _ring(store, max(map(len, batches), default=0), device)
    source = StoreSource(store)
    for videos, _ in _read_ahead(requests, source, ring, num_threads=num_threads):
        yield videos


@dataclass(frozen=True, kw_only=True, slots=True)
class _Request(Generic[Rest]):
    rows_V: NDArray[np.intp]
    rest: Callable[[], Rest]
    """Makes what else a batch has; called once, by one of the threads."""


class _Buffer:
    """Memory for the tokens of a batch, filled anew once the device has its copy."""

    def __init__(self, tokens_VTKD: Tensor, device: torch.device) -> None:
        self.tokens_VTKD = tokens_VTKD
        self._device = device
        self._is_copied: torch.cuda.Event | None = None

    def release(self) -> None:
        """Gives it back: it may be filled when the device has done what it was given so far."""
        if self._device.type == "cuda":
            self._is_copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._is_copied.record(torch.cuda.current_stream(self._device))

    def no_frames(self) -> NDArray[np.bool_]:
        """(0, T): of a batch without videos."""
        return np.zeros((0, self.tokens_VTKD.shape[1]), dtype=np.bool_)

    def fill(
        self, source: TokenSource, rows_V: NDArray[np.intp], places: slice
    ) -> NDArray[np.bool_]:
        """Reads a part of a batch into its places."""
        if self._is_copied is not None:
            self._is_copied.synchronize()
        return source.read(rows_V[places].tolist(), self.tokens_VTKD[places].numpy())


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pending(Generic[Rest]):
    """A batch that is being read."""

    buffer: _Buffer
    valid: list[Future[NDArray[np.bool_]]]
    rest: Future[Rest]

    def result(self) -> tuple[VideoBatch, Rest]:
        """The batch, when it has been read."""
        valid = [part.result() for part in self.valid]
        # A worker may have no part of a small batch.
        valid_VT = np.concatenate(valid) if valid else self.buffer.no_frames()
        videos = VideoBatch(
            tokens_BTKD=self.buffer.tokens_VTKD[: len(valid_VT)],
            valid_BT=torch.from_numpy(valid_VT),
        )
        return videos, self.rest.result()


def _ring(store: FeatureStore, num_videos: int, device: torch.device) -> list[_Buffer]:
    """Buffers for batches of that size; torch begins them at a multiple of 64 bytes."""
    clip = clip_map(store)
    memory = torch.empty(
        (NUM_BUFFERS, num_videos, *clip.shape),
        dtype=getattr(torch, clip.dtype),
        pin_memory=device.type == "cuda",
    )
    return [_Buffer(tokens_VTKD, device) for tokens_VTKD in memory]


def _read_ahead(
    requests: Iterator[_Request[Rest]],
    source: TokenSource,
    ring: Sequence[_Buffer],
    *,
    num_threads: int | None,
) -> Iterator[tuple[VideoBatch, Rest]]:
    """What was asked for, in order; as many batches are under way as there are buffers."""
    num_threads = num_threads or reading_threads()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="muse-read-ahead") as pool:
        try:
            pending = deque(
                _start(pool, source, buffer, request)
                for buffer, request in zip(ring, requests, strict=False)
            )
            released: list[_Buffer] = []
            while pending:
                current = pending.popleft()
                batch = current.result()
                source.finish()
                # Not before this batch is there: the threads would hold the interpreter's lock.
                for buffer, request in zip(released, requests, strict=False):
                    pending.append(_start(pool, source, buffer, request))
                yield batch
                current.buffer.release()
                released = [current.buffer]
        finally:
            pool.shutdown(cancel_futures=True)


def _start(
    pool: ThreadPoolExecutor, source: TokenSource, buffer: _Buffer, request: _Request[Rest]
) -> _Pending[Rest]:
    source.start(pool, request.rows_V)
    parts = (
        slice(start, min(start + VIDEOS_A_TASK, len(request.rows_V)))
        for start in range(0, len(request.rows_V), VIDEOS_A_TASK)
    )
    valid = [pool.submit(buffer.fill, source, request.rows_V, part) for part in parts]
    return _Pending(buffer=buffer, valid=valid, rest=pool.submit(request.rest))


class _Captions:
    """A split's captions: their token ids where there are any, else their embeddings, which are in
    memory if they fit `CAPTIONS_KEPT_BYTES`."""

    def __init__(
        self, store: FeatureStore, rows_Q: NDArray[np.intp], token_ids_QC: Tensor | None
    ) -> None:
        self._store = store
        self._rows_Q = rows_Q
        self._token_ids_QC = token_ids_QC
        self._kept_QD: NDArray[np.float16] | None = None
        if (
            token_ids_QC is None
            and len(rows_Q) * store.header.encoder.dim * 2 <= CAPTIONS_KEPT_BYTES
        ):
            self._kept_QD = store.read_caption_embeddings(rows_Q)

    def read(self, places_B: NDArray[np.intp]) -> Tensor:
        """Of the captions in some places of the split: (B, D) float32, or (B, C) token ids."""
        if self._token_ids_QC is not None:
            return self._token_ids_QC[torch.from_numpy(places_B)]
        if self._kept_QD is None:
            return read_captions(self._store, self._rows_Q[places_B])
        return torch.from_numpy(self._kept_QD[places_B].astype(np.float32))


def _pairs(
    captions: _Captions, places_B: NDArray[np.intp], rows_B: NDArray[np.intp]
) -> Callable[..., HeadBatch]:
    """What makes pairs of the videos in ``np.unique(rows_B)``."""
    _, video_of_pair_B = np.unique(rows_B, return_inverse=True)
    return partial(
        HeadBatch,
        video_of_pair_B=torch.from_numpy(video_of_pair_B),
        text_BD=captions.read(places_B),
        video_rows_B=torch.from_numpy(rows_B),
    )
