"""What a run still has to do, and how long each video of it will take to decode.

A video that was not measured takes after a measured one of about its size. Knows nothing of how
stages overlap: ``run_model`` does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from muse.pipeline.forecasting.probe_decoders import DecodeSample, sized
from muse.pipeline.forecasting.run_model import ShardWork
from muse.pipeline.listing import ListedRows
from muse.pipeline.plan import (
    CaptionShard,
    VideoShard,
    all_video_shards,
    pending_caption_shards,
    pending_video_shards,
)
from muse.pipeline.records import VideoRef
from muse.pipeline.store_zarr import ZarrStore

_NEAREST = 2  # measured videos on either side of a size that may stand for it
_SIMILAR = 2.0  # if their sizes are within this factor
_MOST_SCALING = 4.0  # of a measured time by the ratio of sizes
_MAX_SHARDS_PLAYED = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class PendingWork:
    """What a run has to do."""

    videos: tuple[VideoShard, ...]
    captions: tuple[CaptionShard, ...]
    copies: frozenset[int] = frozenset()
    """Rows whose bytes another row has: they are copied, not decoded."""

    @classmethod
    def of(cls, rows: ListedRows, store: ZarrStore | None, *, shard_size: int) -> "PendingWork":
        """Of a run over these rows.

        Args:
            rows: Of the run.
            store: That it goes on with; None if it makes a new one.
            shard_size: Of a new one.
        """
        copies = {row for row, original in enumerate(rows.duplicate_of) if original is not None}
        if store is not None:
            videos = pending_video_shards(store, rows)
        else:
            videos = all_video_shards(rows, shard_size=shard_size)
        captions = pending_caption_shards(store, rows)
        return cls(videos=tuple(videos), captions=tuple(captions), copies=frozenset(copies))

    @property
    def num_videos(self) -> int:
        """Pending, missing ones included."""
        return sum(shard.num_todo for shard in self.videos)

    @property
    def num_missing(self) -> int:
        """Pending and without a file."""
        return sum(video.path is None for s in self.videos for _, video in s.to_decode)

    @property
    def num_captions(self) -> int:
        """To be embedded."""
        return sum(len(shard.to_embed) for shard in self.captions)

    @property
    def to_decode(self) -> list[VideoRef]:
        """Every video that will be decoded, in row order."""
        return [video for shard in self.videos for video in self.decoded_of(shard).values()]

    def decoded_of(self, shard: VideoShard) -> dict[int, VideoRef]:
        """Place -> video of what will be decoded of one shard."""
        return {
            place: video
            for place, video in shard.to_decode
            if video.path is not None and shard.first_row + place not in self.copies
        }


class Population:
    """All videos of a run that will be decoded, with their sizes and shards."""

    def __init__(self, work: PendingWork) -> None:
        self.videos = [sized(video) for video in work.to_decode]
        self.sizes = np.array([video.num_bytes for video in self.videos], np.float64)
        self.place_of = {video.video.video_id: i for i, video in enumerate(self.videos)}
        self.shards = [list(work.decoded_of(shard)) for shard in work.videos]
        """Of each shard the places within it that are decoded."""
        self.starts = np.cumsum([0, *(len(places) for places in self.shards)]).tolist()
        """Of each shard the place of its first decoded video in ``videos``."""

    def __len__(self) -> int:
        return len(self.videos)


class VideoTimes:
    """Seconds, frames and failure of every video, measured or after one that was measured.

    Args:
        population: All videos to be decoded.
        samples: What was measured.
        rng: Chooses among the measured videos of about the same size.
    """

    def __init__(
        self,
        population: Population,
        samples: Sequence[DecodeSample],
        *,
        rng: np.random.Generator,
    ) -> None:
        self._population = population
        samples = sorted(samples, key=lambda sample: sample.num_bytes)
        chosen = _donors(population, samples, rng)
        columns = np.array(
            [(s.num_bytes, s.seconds, s.num_frames, s.has_failed) for s in samples], np.float64
        ).reshape(-1, 4)[chosen]
        num_bytes, seconds, frames, fails = columns.T
        ratio = population.sizes / np.maximum(num_bytes, 1)
        ratio = np.clip(ratio, 1 / _MOST_SCALING, _MOST_SCALING)
        self._fails = fails.astype(np.bool_)
        self._seconds = np.where(self._fails, seconds, seconds * ratio)
        self.num_frames = float(frames.sum())
        """Of all videos that decode."""

    @property
    def decode_seconds(self) -> float:
        """Of all videos, one after the other."""
        return float(self._seconds.sum())

    @property
    def failing_share(self) -> float:
        """Of the files that are there."""
        return float(self._fails.mean()) if len(self._fails) else 0.0

    def decode_rate(self, num_decoders: int) -> float:
        """Videos a second while no encoder works; infinite where none is to be decoded."""
        seconds = self.decode_seconds
        return len(self._seconds) * num_decoders / seconds if seconds else math.inf

    def some_shards(self, *, shard_size: int, batch_videos: int) -> list[ShardWork]:
        """Enough shards to play the run, evenly spaced."""
        num_shards = len(self._population.shards)
        num_played = min(num_shards, _MAX_SHARDS_PLAYED)
        places = np.linspace(0, num_shards - 1, num_played).round().astype(int).tolist()
        return [self._shard_work(i, shard_size, batch_videos) for i in places]

    def num_batches_in_all(self, batch_videos: int) -> int:
        """Forward passes over videos."""
        shards = range(len(self._population.shards))
        return sum(self._shard_work(i, 1, batch_videos).num_batches for i in shards)

    def _shard_work(self, index: int, shard_size: int, batch_videos: int) -> ShardWork:
        places, start = self._population.shards[index], self._population.starts[index]
        here = slice(start, start + len(places))
        encoded = [p for p, fails in zip(places, self._fails[here], strict=True) if not fails]
        return ShardWork(
            decode_seconds=tuple(self._seconds[here].tolist()),
            num_batches=len({place // batch_videos for place in encoded}),
            write_share=len(encoded) / shard_size,
        )


def _donors(
    population: Population, samples: Sequence[DecodeSample], rng: np.random.Generator
) -> NDArray[np.intp]:
    """For each video the sample, sorted by size, that stands for it: itself where it is one."""
    sizes = np.array([sample.num_bytes for sample in samples], np.float64)
    first = np.searchsorted(sizes, population.sizes, "left")
    after = np.searchsorted(sizes, population.sizes, "right")  # first:after have its very size
    similar = np.searchsorted(sizes, population.sizes / _SIMILAR, "left")
    unlike = np.searchsorted(sizes, population.sizes * _SIMILAR, "right")
    low = np.maximum(first - _NEAREST, similar)
    high = np.minimum(after + _NEAREST, unlike)
    alone = low >= high  # nothing of about its size: the next larger one, or the largest
    low = np.where(alone, np.minimum(first, len(samples) - 1), low)
    chosen: NDArray[np.intp] = rng.integers(low, np.where(alone, low + 1, high)).astype(np.intp)
    for place, sample in enumerate(samples):
        if sample.video_id in population.place_of:
            chosen[population.place_of[sample.video_id]] = place
    return chosen
