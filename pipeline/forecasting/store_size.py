"""Bytes of a store before it is written, and whether a disk can hold them.

Every array is uncompressed and every row as long as the next (docs/store-format.md), so bytes
follow from shapes and from which videos decode. Knows nothing of videos' content.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from muse.errors import StoreError
from muse.pipeline.header import EncoderInfo, Sampling
from muse.pipeline.picture_files import index_bytes
from muse.pipeline.plan import CaptionShard, VideoShard
from muse.pipeline.store import CAPTIONS_PER_SHARD
from muse.pipeline.views import ArraySpec, arrays_of

_INDEX_ENTRY_BYTES = 16  # offset and length of a row in its shard
_CHECKSUM_BYTES = 4
_VALID_BYTES, _PTS_BYTES = 1, 8  # bool and float64 a frame
_MARGIN = 1.02  # file systems round up, and keep books of their own
_RECEIPT_BYTES, _RECEIPT_ROW_BYTES = 720, 20
THUMBNAIL_BYTES = 4_000  # a picture of real clips; the made world's have 2 kB
_FRAME_BYTES_A_PIXEL = 0.4  # of frames:jpeg: 25.7 kB for 256 x 256, the mean of 794 real frames
_TABLE_SHRINKS = 0.6  # Parquet's dictionaries and snappy, on ids, paths and captions


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreShape:
    """What the bytes of a row and of a shard follow from."""

    arrays: tuple[ArraySpec, ...]
    """Of all views; one video's shape each."""
    shard_size: int
    num_frames: int
    """T."""
    dim: int
    """D, of the captions' embeddings."""

    @classmethod
    def of(
        cls, encoder: EncoderInfo, *, views: Sequence[str], sampling: Sampling, shard_size: int
    ) -> "StoreShape":
        """Of a store with these settings."""
        return cls(
            arrays=arrays_of(views, encoder, sampling.num_frames),
            shard_size=shard_size,
            num_frames=sampling.num_frames,
            dim=encoder.dim,
        )

    @property
    def row_bytes(self) -> dict[str, int]:
        """Of one video in each sharded array."""
        return {
            spec.name: math.prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in self.arrays
        }

    def video_shard_bytes(self, num_rows: int, *, is_new: bool = True) -> dict[str, int]:
        """Array -> bytes that ``num_rows`` more videos add to a shard's files.

        Args:
            num_rows: Videos with features. A shard without any has no files.
            is_new: Whether the files are not there yet; they then bring an index and whole chunks.
        """
        if num_rows == 0:
            return {}
        index = self.shard_size * _INDEX_ENTRY_BYTES + _CHECKSUM_BYTES
        sizes = {name: num_rows * row + is_new * index for name, row in self.row_bytes.items()}
        frames = is_new * self.shard_size * self.num_frames
        return {**sizes, "valid": frames * _VALID_BYTES, "pts_seconds": frames * _PTS_BYTES}


def store_bytes(
    shape: StoreShape,
    videos: Sequence[VideoShard],
    captions: Sequence[CaptionShard],
    *,
    failing: Collection[int] = (),
) -> dict[str, int]:
    """Array -> exact bytes that these shards add to the arrays of a store.

    Args:
        shape: Of the store.
        videos: To be done; places that are kept are there already.
        captions: To be done.
        failing: Rows of present files that will have no features; without, all decode.
    """
    totals: dict[str, int] = {}
    for shard in videos:
        rows = [
            place
            for place, video in enumerate(shard.videos)
            if place not in shard.kept
            and video.path is not None
            and shard.first_row + place not in failing
        ]
        for name, size in shape.video_shard_bytes(len(rows), is_new=not shard.kept).items():
            totals[name] = totals.get(name, 0) + size
    num_chunks = sum(1 for shard in captions if not shard.kept)
    totals["captions"] = num_chunks * CAPTIONS_PER_SHARD * shape.dim * 2
    return totals


def other_bytes(videos: Sequence[VideoShard], captions: Sequence[CaptionShard]) -> int:
    """About what tables and receipts take beside the arrays."""
    names = sum(len(f"{v.video_id}{v.path}") for shard in videos for v in shard.videos)
    texts = sum(len(c.text) + len(c.video_id) for shard in captions for c in shard.captions)
    rows = sum(len(shard.videos) for shard in videos)
    receipts = (len(videos) + len(captions)) * _RECEIPT_BYTES + rows * _RECEIPT_ROW_BYTES
    return round((names + texts) * _TABLE_SHRINKS) + receipts


def frame_picture_bytes(side: int) -> int:
    """About what a JPEG file of the view ``frames:jpeg`` takes, of S pixels each way."""
    return round(_FRAME_BYTES_A_PIXEL * side**2)


def picture_bytes(
    videos: Sequence[VideoShard],
    *,
    num_frames: int,
    shard_size: int,
    frame_bytes: float,
) -> int:
    """About what pictures of these shards take, if all videos decode and have T frames.

    Args:
        videos: To be done.
        num_frames: T.
        shard_size: Of the store.
        frame_bytes: Of one picture.
    """
    rows = sum(
        video.path is not None and place not in shard.kept
        for shard in videos
        for place, video in enumerate(shard.videos)
    )
    return round(rows * num_frames * frame_bytes) + len(videos) * index_bytes(
        shard_size, num_frames
    )


LESS_OF_A_VIDEO = "choose another --out, or keep less of a video (--num-frames, --views)"


def require_space(
    needed_bytes: int, free_bytes: int | None, where: str, *, advice: str = LESS_OF_A_VIDEO
) -> None:
    """Nothing, if a disk can hold what a run will write.

    Args:
        needed_bytes: Of `store_bytes`, summed, with `other_bytes`.
        free_bytes: On the store's disk; None where nobody knows, as in an object store.
        where: The store, for the message.
        advice: What else can be done than to free some, for the message.

    Raises:
        StoreError: If it can't, with both numbers.
    """
    if free_bytes is None or needed_bytes * _MARGIN <= free_bytes:
        return
    raise StoreError(
        f"{where}: needs {_size(needed_bytes * _MARGIN)}, its disk has {_size(free_bytes)} free. "
        f"Free some, {advice}."
    )


def _size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"
