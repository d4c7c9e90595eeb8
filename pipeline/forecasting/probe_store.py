"""A store of one shard beside the one that shall be: what encoding and writing take there.

The encoder's and the writer's own code runs, on the store's own disk, and everything is removed
afterwards. Knows nothing of which videos are measured.
"""

import contextlib
import dataclasses
import itertools
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from muse.pipeline.decoding.kept_frame import squares_as
from muse.pipeline.forecasting.store_size import THUMBNAIL_BYTES, frame_picture_bytes
from muse.pipeline.header import StoreHeader
from muse.pipeline.listing import ListedRows
from muse.pipeline.plan import CaptionShard, VideoShard, header_of
from muse.pipeline.records import Caption, Clip, ClipFeatures, VideoRef
from muse.pipeline.shards import TEXTS_PER_BATCH, ShardEncoder
from muse.pipeline.storage.files import LocalStorage, open_storage
from muse.pipeline.store_writer import StoreWriter
from muse.pipeline.views import FRAMES_JPEG, arrays_of, frame_views

if TYPE_CHECKING:
    from muse.pipeline.extract import ExtractConfig


class ScratchStore:
    """The encoder with a store of one shard to write to."""

    def __init__(
        self, encoder: ShardEncoder, writer: StoreWriter, rows: ListedRows, location: str
    ) -> None:
        self.location = location
        self._encoder, self._writer, self._rows = encoder, writer, rows
        encoder.open_store(location)

    def batch_seconds(self, clips: Sequence[Clip]) -> float:
        """Of one forward pass over a full batch, with all that a run does to its tokens."""
        header = self._writer.header
        videos = self._rows.videos[: header.batch_videos]
        clips = list(itertools.islice(itertools.cycle(clips or [_blank_clip(header)]), len(videos)))
        shard = VideoShard(index=0, first_row=0, videos=videos)
        return self._encoder.encode_videos(shard, clips).seconds["encode"]

    def caption_seconds(self) -> tuple[float, float]:
        """(wall, CPU) of one caption in a batch, after a first batch that sets things up."""
        captions = self._rows.captions
        if not captions:
            return 0.0, 0.0
        shard = CaptionShard(index=0, first_row=0, captions=captions)
        self._encoder.encode_captions(shard)
        cpu_started = time.process_time()
        seconds = self._encoder.encode_captions(shard).seconds["encode"]
        return seconds / len(captions), (time.process_time() - cpu_started) / len(captions)

    def write_seconds(self) -> float:
        """Of a full shard: made, written, hashed and durable."""
        header, videos = self._writer.header, self._rows.videos
        shard = VideoShard(index=0, first_row=0, videos=videos)
        features = [_features(header, video) for video in videos]
        started = time.perf_counter()
        self._writer.write_video_shard(shard, features, seconds={})
        return time.perf_counter() - started


@contextlib.contextmanager
def scratch_store(
    config: "ExtractConfig", encoder: ShardEncoder, captions: Sequence[Caption]
) -> Iterator[ScratchStore]:
    """A store beside the one that shall be, removed afterwards."""
    location = scratch_location(config.out)
    rows = _scratch_rows(config.shard_size, captions[:TEXTS_PER_BATCH])
    header = header_of(
        rows,
        encoder=encoder.info(),
        sampling=config.sampling,
        shard_size=config.shard_size,
        batch_videos=config.batch_videos,
        views=config.views,
        thumbnail_side=config.thumbnail_side,
        golden=encoder.golden,
    )
    storage = open_storage(location)
    try:
        writer = StoreWriter.create(location, header, rows)
        yield ScratchStore(encoder, writer, rows, storage.location)
    finally:
        if isinstance(storage, LocalStorage):  # also behind a file:// URL
            shutil.rmtree(storage.location, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                storage.remove(*storage.list(""))


def scratch_location(out: Path | str) -> str:
    """A new name on the disk that the store will be on: beside its first folder that exists."""
    name = f".muse-probe-{secrets.token_hex(4)}"
    if "://" in str(out):
        return f"{str(out).rstrip('/')}{name}"
    folder = Path(out).absolute().parent
    while not folder.is_dir():
        folder = folder.parent
    return str(folder / name)


def _scratch_rows(num_videos: int, captions: Sequence[Caption]) -> ListedRows:
    videos = tuple(VideoRef(video_id=f"probe-{row}", path=None) for row in range(num_videos))
    return ListedRows(
        protocol="probe",
        videos=videos,
        duplicate_of=(None,) * num_videos,
        captions=tuple(
            dataclasses.replace(caption, video_id=videos[0].video_id) for caption in captions
        ),
    )


def _blank_clip(header: StoreHeader) -> Clip:
    """Where no video of the sample decodes."""
    shape, frames = header.encoder.preprocessing, header.sampling.num_frames
    squares = [np.zeros((shape.kept_side, shape.kept_side, 3), np.uint8)] * frames
    return Clip(
        video_id="probe",
        frames_THWC=np.zeros((frames, shape.size, shape.size, 3), np.uint8),
        pts_seconds_T=np.arange(frames, dtype=np.float64),
        **squares_as(frame_views(header.views), squares),
    )


def _features(header: StoreHeader, video: VideoRef) -> ClipFeatures:
    """Values that nobody compresses: the bytes of a row are those of any other."""
    frames, side = header.sampling.num_frames, header.encoder.preprocessing.kept_side
    picture = bytes(frame_picture_bytes(side))
    arrays = {
        spec.name: np.full(spec.shape, 1, spec.dtype)
        for spec in arrays_of(header.views, header.encoder, frames)
    }
    return ClipFeatures(
        video_id=video.video_id,
        arrays=arrays,
        valid_T=np.ones(frames, np.bool_),
        pts_seconds_T=np.arange(frames, dtype=np.float64),
        thumbnails=(bytes(THUMBNAIL_BYTES),) * frames if header.thumbnail_side else (),
        frame_pictures=(picture,) * frames if FRAMES_JPEG in header.views else (),
    )
