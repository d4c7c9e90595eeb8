"""What of a feature store a head is given: the pairs of a split, and a batch of them as tensors.

NumPy ends here and torch begins. Knows nothing of models or devices, of the order of pairs
(``epoch_order``) and of how they are read (``loader``).
"""

# Legend: B pairs in a batch, T frames, K tokens a frame, D width, V videos and Q captions of a
# split, N and M videos and captions of the store.

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from muse.errors import ManifestError
from muse.pipeline.store import FeatureStore

ALL_SPLITS = "all"


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
            f"split {split!r}: no captions. The store has {_sizes(splits)}. Name one of "
            "these, or all."
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
    """The distinct videos of the batch, each read and embedded once however many pairs show it; of
    several workers each has its part of them."""
    video_of_pair_B: Tensor
    """(B,) int64, which of them each pair shows."""
    text_BD: Tensor
    """(B, D) float32 caption embeddings, not normalised; where a text tower is trained, (B, C)
    token ids."""
    video_rows_B: Tensor
    """(B,) int64, each pair's video as a row of the store."""

    @property
    def num_videos(self) -> int:
        """Distinct videos that its pairs show, whoever has read them."""
        return int(self.video_of_pair_B.max()) + 1

    def map(self, change: Callable[[Tensor], Tensor]) -> "HeadBatch":
        """The same with each tensor changed, such as pinned or moved to a device."""
        return HeadBatch(
            videos=self.videos.map(change),
            video_of_pair_B=change(self.video_of_pair_B),
            text_BD=change(self.text_BD),
            video_rows_B=change(self.video_rows_B),
        )


def read_captions(store: FeatureStore, rows_B: NDArray[np.intp]) -> Tensor:
    """(B, D) float32 embeddings of the captions in some rows of the store."""
    return torch.from_numpy(store.read_caption_embeddings(rows_B).astype(np.float32))


def _sizes(splits_M: NDArray[np.str_]) -> str:
    """The splits there are, with the number of their captions."""
    counts = Counter(splits_M.tolist())
    return ", ".join(f"{name!r} ({counts[name]} captions)" for name in sorted(counts)) or "none"
