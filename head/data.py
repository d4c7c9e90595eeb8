"""A feature store as batches of tensors: which pairs a split holds, their order, and reading them.

NumPy ends here and torch begins. Knows nothing of models or devices.
"""

# Legend: B pairs in a batch, T frames, K tokens a frame, D width, V videos and Q captions of a
# split, N and M videos and captions of the store.

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from muse.errors import ManifestError
from muse.pipeline.store import FeatureStore

ALL_SPLITS = "all"
NUM_BATCHES_AHEAD = 2

Key = TypeVar("Key")
Batch = TypeVar("Batch")


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitSelection:
    """What of a split can be used, and how much of it can't."""

    split: str
    video_rows_V: NDArray[np.intp]
    """(V,) rows of the store, increasing: videos with features and an embedded caption."""
    caption_rows_Q: NDArray[np.intp]
    """(Q,) rows of the store, increasing: embedded captions of those videos."""
    video_of_caption_Q: NDArray[np.intp]
    """(Q,) for each caption its video's place in ``video_rows_V``."""
    num_videos_listed: int
    """Videos that captions of the split name; V of them can be used."""
    num_captions_listed: int
    """Captions of the split; Q of them can be used."""


def select_split(store: FeatureStore, split: str) -> SplitSelection:
    """The pairs of a split whose video and caption both have features.

    Args:
        store: Any store, finished or not.
        split: The split of the captions, or ``all``.

    Raises:
        ManifestError: If no caption is in the split, or none of its pairs has features.
    """
    splits = np.array([caption.split for caption in store.captions], dtype=np.str_)
    in_split_M = np.full(len(splits), True) if split == ALL_SPLITS else splits == split
    if not in_split_M.any():
        raise ManifestError(
            f"split {split!r}: no captions. The store has {_sizes(splits)}. Choose with --split; "
            "all takes every one."
        )
    row_of_video = {video_id: row for row, video_id in enumerate(store.video_ids)}
    video_row_M = np.array(
        [row_of_video[caption.video_id] for caption in store.captions], dtype=np.intp
    )
    usable_M = in_split_M & store.has_embedding_Q & store.has_features_N[video_row_M]
    if not usable_M.any():
        raise ManifestError(
            f"split {split!r}: none of its {int(in_split_M.sum())} pairs has features of both "
            "video and caption. Finish the extraction (`muse extract` goes on where it stopped)."
        )
    video_rows_V, video_of_caption_Q = np.unique(video_row_M[usable_M], return_inverse=True)
    return SplitSelection(
        split=split,
        video_rows_V=video_rows_V,
        caption_rows_Q=np.flatnonzero(usable_M),
        video_of_caption_Q=video_of_caption_Q,
        num_videos_listed=len(np.unique(video_row_M[in_split_M])),
        num_captions_listed=int(in_split_M.sum()),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoBatch:
    """The tokens of some videos."""

    tokens_BTKD: Tensor
    """(B, T, K, D) float16, class token first, zeros where a frame is padding."""
    valid_BT: Tensor
    """(B, T) bool."""

    def map(self, change: Callable[[Tensor], Tensor]) -> "VideoBatch":
        """The same with each tensor changed, such as pinned or moved to a device."""
        return VideoBatch(tokens_BTKD=change(self.tokens_BTKD), valid_BT=change(self.valid_BT))

    def split(self, num_videos: int) -> "list[VideoBatch]":
        """The same in parts of at most ``num_videos``."""
        return [
            VideoBatch(
                tokens_BTKD=self.tokens_BTKD[start : start + num_videos],
                valid_BT=self.valid_BT[start : start + num_videos],
            )
            for start in range(0, len(self.valid_BT), num_videos)
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadBatch:
    """Pairs of a caption and its video."""

    videos: VideoBatch
    """The distinct videos of the batch, each read and embedded once however many pairs show it."""
    video_of_pair_B: Tensor
    """(B,) int64, which of them each pair shows."""
    text_BD: Tensor
    """(B, D) float32 caption embeddings, not normalised."""
    video_rows_B: Tensor
    """(B,) int64, each pair's video as a row of the store."""

    def map(self, change: Callable[[Tensor], Tensor]) -> "HeadBatch":
        """The same with each tensor changed, such as pinned or moved to a device."""
        return HeadBatch(
            videos=self.videos.map(change),
            video_of_pair_B=change(self.video_of_pair_B),
            text_BD=change(self.text_BD),
            video_rows_B=change(self.video_rows_B),
        )


def epoch_batches(
    num_pairs: int, *, batch_size: int, seed: int, epoch: int
) -> list[NDArray[np.intp]]:
    """Every pair once, in an order that only the seed and the epoch decide.

    What does not fill a batch is left out, as in the published code, unless nothing does: a set
    smaller than a batch is one batch.

    Returns:
        Arrays of ``batch_size`` places from 0 to ``num_pairs`` - 1.
    """
    order = np.random.default_rng([seed, epoch]).permutation(num_pairs)
    num_batches = num_batches_of(num_pairs, batch_size=batch_size)
    return [order[i * batch_size : (i + 1) * batch_size] for i in range(num_batches)]


def num_batches_of(num_pairs: int, *, batch_size: int) -> int:
    """How many batches an epoch has."""
    return max(1, num_pairs // batch_size)


def read_pairs(
    store: FeatureStore, selection: SplitSelection, places_B: NDArray[np.intp]
) -> HeadBatch:
    """Pairs of a selection; a video that several of them show is read once.

    Args:
        places_B: (B,) places in ``selection.caption_rows_Q``.
    """
    caption_rows_B = selection.caption_rows_Q[places_B]
    video_rows_B = selection.video_rows_V[selection.video_of_caption_Q[places_B]]
    distinct_rows, video_of_pair_B = np.unique(video_rows_B, return_inverse=True)
    return HeadBatch(
        videos=read_videos(store, distinct_rows),
        video_of_pair_B=torch.from_numpy(video_of_pair_B),
        text_BD=read_captions(store, caption_rows_B),
        video_rows_B=torch.from_numpy(video_rows_B),
    )


def read_videos(store: FeatureStore, rows: Sequence[int] | NDArray[np.intp]) -> VideoBatch:
    """The tokens of the videos in some rows of the store."""
    clips = [store.read_clip(int(row)) for row in rows]
    tokens_BTKD = np.stack([clip.tokens_TKD for clip in clips])
    valid_BT = np.stack([clip.valid_T for clip in clips])
    return VideoBatch(
        tokens_BTKD=torch.from_numpy(tokens_BTKD), valid_BT=torch.from_numpy(valid_BT)
    )


def read_captions(store: FeatureStore, rows_B: NDArray[np.intp]) -> Tensor:
    """(B, D) float32 embeddings of the captions in some rows of the store."""
    return torch.from_numpy(store.read_caption_embeddings(rows_B).astype(np.float32))


def read_ahead(
    keys: Sequence[Key], read: Callable[[Key], Batch], *, num_ahead: int = NUM_BATCHES_AHEAD
) -> Iterator[Batch]:
    """``read(key)`` of each key in order, a few of them read early by a background thread."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="muse-read-ahead") as pool:
        pending = deque(pool.submit(read, key) for key in keys[:num_ahead])
        try:
            for position in range(len(keys)):
                batch = pending.popleft().result()
                if position + num_ahead < len(keys):
                    pending.append(pool.submit(read, keys[position + num_ahead]))
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)


def _sizes(splits_M: NDArray[np.str_]) -> str:
    """The splits there are, with the number of their captions."""
    counts = Counter(splits_M.tolist())
    return ", ".join(f"{name!r} ({counts[name]} captions)" for name in sorted(counts)) or "none"
