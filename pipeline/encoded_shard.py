"""A shard between its encoding and its writing: what goes from an encoder to the writer beside it.

Knows nothing of encoders.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from muse.pipeline.plan import CaptionShard, VideoShard
from muse.pipeline.receipts import Receipt
from muse.pipeline.records import ClipFeatures, Failure
from muse.pipeline.speed.spans import Measured, Span, SpanLog
from muse.pipeline.store_writer import StoreWriter


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedVideos:
    """A shard of videos that is not yet written."""

    shard: VideoShard
    rows: Sequence[ClipFeatures | Failure]
    """Of all its videos, in order."""
    seconds: Mapping[str, float]
    """That its stages took so far, for its receipt."""
    spans: tuple[Span, ...]
    """Of its encoder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedCaptions:
    """A shard of captions that is not yet written."""

    shard: CaptionShard
    embeddings_BD: NDArray[np.float16]
    """Of all its captions, in order; zeros for those left out."""
    seconds: Mapping[str, float]
    """That its stages took so far, for its receipt."""
    spans: tuple[Span, ...]
    """Of its encoder."""


EncodedShard = EncodedVideos | EncodedCaptions


def written(
    encoded: EncodedShard, store: StoreWriter, *, encoder_name: str
) -> tuple[Measured, Receipt]:
    """Commits a shard; what encoder and writer did for it, and its receipt.

    Args:
        encoded: The shard.
        store: To write to.
        encoder_name: As its spans have it, ``encoder`` and which one: the writer is called alike.

    Raises:
        StoreError: If it can't be written.
    """
    log = SpanLog(encoder_name.replace("encoder", "writer", 1))
    write = _write_videos if isinstance(encoded, EncodedVideos) else _write_captions
    receipt = write(encoded, store, log)  # type: ignore[arg-type]
    return Measured(spans=(*encoded.spans, *log.taken())), receipt


def _write_videos(encoded: EncodedVideos, store: StoreWriter, log: SpanLog) -> Receipt:
    with log.measured(
        "write",
        what=f"shard {encoded.shard.index}",
        num_items=encoded.shard.num_todo,
        num_bytes=sum(_num_bytes(row) for row in encoded.rows),
        cpu_clock=time.thread_time,  # another thread encodes meanwhile
    ):
        return store.write_video_shard(encoded.shard, encoded.rows, seconds=encoded.seconds)


def _write_captions(encoded: EncodedCaptions, store: StoreWriter, log: SpanLog) -> Receipt:
    with log.measured(
        "write",
        what=f"captions {encoded.shard.index}",
        num_bytes=encoded.embeddings_BD.nbytes,
        cpu_clock=time.thread_time,
    ):
        return store.write_caption_shard(
            encoded.shard, encoded.embeddings_BD, seconds=encoded.seconds
        )


def _num_bytes(row: ClipFeatures | Failure) -> int:
    """Of the arrays of one video."""
    if isinstance(row, Failure):
        return 0
    return sum(int(array.nbytes) for array in row.arrays.values())
