"""The captions and videos of a split as one head's vectors.

The head runs once a video and never sees a caption. Knows nothing of ranks or training.
"""

# Legend: Q captions, V videos, B videos at a time, D width.

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from muse.head.data import SplitSelection, read_captions, select_split
from muse.head.loader import read_video_batches
from muse.head.model import RetrievalHead, VideoEmbedder
from muse.head.process_group import ALONE, ProcessGroup
from muse.pipeline.store import FeatureStore

VIDEOS_AT_A_TIME = 32
CAPTIONS_AT_A_TIME = 256  # of a text tower


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitEmbeddings:
    """A split as one head sees it: all that its numbers are made of."""

    selection: SplitSelection
    text_QD: Tensor
    """(Q, D) float32 unit vectors."""
    video_VD: Tensor
    """(V, D) float32 unit vectors, on the same device."""
    video_of_caption_Q: Tensor
    """(Q,) int64, on the same device."""


def embed_split(
    store: FeatureStore,
    head: VideoEmbedder,
    *,
    split: str = "test",
    device: torch.device | None = None,
    on_videos: Callable[[int], None] = lambda num_videos: None,
) -> SplitEmbeddings:
    """The captions and videos of a split as vectors, each video embedded once.

    The arguments and the `ManifestError` are those of `evaluate`.
    """
    return embed_selection(
        store, head, select_split(store, split), device=device, on_videos=on_videos
    )


def embed_selection(
    store: FeatureStore,
    head: VideoEmbedder,
    selection: SplitSelection,
    *,
    device: torch.device | None = None,
    on_videos: Callable[[int], None] = lambda num_videos: None,
    group: ProcessGroup = ALONE,
) -> SplitEmbeddings:
    """The captions and videos of a selection as vectors; the arguments are those of `evaluate`.

    Each worker of a ``group`` embeds its part of the videos and captions, and has them all.
    """
    where = device or torch.device("cpu")
    rows_V = selection.video_rows_V
    part_PD = embed_videos(store, group.part(rows_V), head, device=where, on_videos=on_videos)
    video_VD = group.gather_rows(part_PD.to(where), num_rows=len(rows_V))
    rows_Q = selection.caption_rows_Q
    part_QD = embed_captions(store, group.part(rows_Q), head).to(where)
    text_QD = F.normalize(group.gather_rows(part_QD, num_rows=len(rows_Q)), dim=-1)
    return SplitEmbeddings(
        selection=selection,
        text_QD=text_QD,
        video_VD=video_VD,
        video_of_caption_Q=torch.from_numpy(selection.video_of_caption_Q).to(where),
    )


@torch.no_grad()
def embed_videos(
    store: FeatureStore,
    rows_V: NDArray[np.intp],
    head: VideoEmbedder,
    *,
    device: torch.device,
    on_videos: Callable[[int], None] = lambda num_videos: None,
) -> Tensor:
    """(V, D) float32 unit vectors of the videos in some rows, on the CPU.

    Args:
        store: Where the tokens are.
        rows_V: Rows that have features.
        head: In evaluation mode, on ``device``.
        device: Where the batches go.
        on_videos: Called after each batch with how many videos it had.
    """
    blocks = [
        rows_V[start : start + VIDEOS_AT_A_TIME]
        for start in range(0, len(rows_V), VIDEOS_AT_A_TIME)
    ]
    embedded = []
    for videos in read_video_batches(store, blocks, device=device):
        video_BD = head.embed_videos(videos.tokens_BTKD.to(device), videos.valid_BT.to(device))
        embedded.append(video_BD.float().cpu())
        on_videos(len(video_BD))
    return torch.cat(embedded or [torch.zeros(0, store.header.encoder.dim)])


@torch.no_grad()
def embed_texts(head: VideoEmbedder, texts: Sequence[str]) -> Tensor | None:
    """(Q, D) float32 by a head's own text tower, not normalised, on the CPU; None without one."""
    ids_QC = head.token_ids(texts) if isinstance(head, RetrievalHead) else None
    if ids_QC is None:
        return None
    assert isinstance(head, RetrievalHead)
    device = head.logit_scale.device
    parts = torch.split(ids_QC, CAPTIONS_AT_A_TIME)
    return torch.cat([head.embed_texts(part.to(device)).float().cpu() for part in parts])


def embed_captions(store: FeatureStore, rows_Q: NDArray[np.intp], head: VideoEmbedder) -> Tensor:
    """(Q, D) float32 of some captions, not normalised, on the CPU.

    By the head's own text tower, or else the store's embeddings.
    """
    texts = [store.captions[row].text for row in rows_Q]
    embedded = embed_texts(head, texts) if texts else None  # a worker may have no part
    return read_captions(store, rows_Q) if embedded is None else embedded
