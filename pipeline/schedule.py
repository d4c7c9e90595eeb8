"""Where the work runs: decoding in processes of their own, encoding beside them.

An engine maps shards to reports. It decides how many processes there are and what a dead or hung
one means, and nothing else: the stages are plain functions that know no engine, so every engine
writes the same bytes. The engines are ``schedule_local`` and ``schedule_ray``. No torch here: the
processes that only decode import this.
"""

import dataclasses
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, get_args

from muse.errors import UsageError
from muse.pipeline.decoding.decoder import DecodeLimits, DecodeTask
from muse.pipeline.decoding.decoder_choice import AskedDecoder
from muse.pipeline.header import EncoderInfo, Golden, Parity, Preprocessing, Sampling
from muse.pipeline.plan import CaptionShard, VideoShard
from muse.pipeline.receipts import Receipt
from muse.pipeline.records import Clip, Failure, VideoRef
from muse.pipeline.speed.report import Workforce
from muse.pipeline.speed.spans import Measured

MIN_SHARDS_IN_FLIGHT = 2  # for each encoder: one encoded, one decoded meanwhile
# For each decoder: with Ray two tasks of eight. A shard is under way until its last video is
# decoded, and while it is encoded and written, and meanwhile no decoder should wait.
_VIDEOS_AHEAD = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Workers:
    """How many processes, and what a decode may take."""

    num_decoders: int | None = None
    """None: as many as there are cores. A cluster that is joined has its own number."""
    num_encoders: int | None = None
    """None: one a GPU, or one. The local engine has one."""
    limits: DecodeLimits = dataclasses.field(default_factory=DecodeLimits)
    """Of one video's decoding."""
    decoder: AskedDecoder = "cpu"
    """Software, a GPU's, or whichever is measured to be faster; all give the same bits."""

    def __post_init__(self) -> None:
        for name in ("num_decoders", "num_encoders"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} {value}: at least 1 is needed")
        if self.decoder not in get_args(AskedDecoder):
            choices = ", ".join(get_args(AskedDecoder))
            raise UsageError(f"decoder {self.decoder!r}: choose one of {choices}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """A sign of life between two reports."""

    num_decoded: int
    """Videos decoded so far, in all, failed ones included."""


class Engine(Protocol):
    """Runs the stages over shards."""

    def workforce(
        self, views: Sequence[str], videos: Sequence[VideoRef], sampling: Sampling
    ) -> Workforce:
        """Who works, as far as is known now, and what their devices can do for these views.

        Who decodes may be found out here, by a few of the run's videos: before the first `run`.
        """
        ...

    def encoder_info(self) -> EncoderInfo:
        """Of the encoder that the workers have built."""
        ...

    def golden(self) -> Golden:
        """What that encoder makes of the built-in clip and caption."""
        ...

    def sample(self, videos: Sequence[VideoRef], *, sampling: Sampling) -> list[Clip | Failure]:
        """Some videos, decoded as in a run, in their order; the clips have whole frames, too."""
        ...

    def parity(self, clips: Sequence[Clip], *, num_frames: int) -> Parity:
        """How far the features of their whole frames are from those of the encoder's library.

        Args:
            clips: At least one, of `sample`.
            num_frames: Of a batch of the run.
        """
        ...

    def run(
        self,
        location: str,
        *,
        sampling: Sampling,
        videos: Sequence[VideoShard],
        captions: Sequence[CaptionShard],
    ) -> Iterator[Receipt | Tick | Measured]:
        """The receipt of every shard, once it is committed, in any order; before it its spans."""
        ...

    def close(self) -> None:
        """Ends all workers."""
        ...


def available_cpus() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shards_in_flight(shard_size: int, *, num_decoders: int, num_encoders: int) -> int:
    """Shards that each encoder has in hand: one to encode, and videos for all decoders meanwhile.

    This bounds the memory that clips take. On few cores it is two whatever the videos.
    """
    videos_ahead = _VIDEOS_AHEAD * num_decoders / num_encoders
    return max(MIN_SHARDS_IN_FLIGHT, 1 + math.ceil(videos_ahead / max(1, shard_size)))


def sample_tasks(
    videos: Sequence[VideoRef],
    *,
    sampling: Sampling,
    preprocessing: Preprocessing,
    leaves_resize: bool,
) -> list[DecodeTask]:
    """Of videos that are decoded to see what a run will do with their frames."""
    return [
        DecodeTask(
            video=video,
            sampling=sampling,
            preprocessing=preprocessing,
            leaves_resize=leaves_resize,
            keeps_whole=True,
        )
        for video in videos
    ]


def decode_tasks(
    shard: VideoShard,
    *,
    sampling: Sampling,
    preprocessing: Preprocessing,
    leaves_resize: bool = False,
) -> list[DecodeTask]:
    """Of the videos of a shard that have to be decoded, in its order."""
    return [
        DecodeTask(
            video=video,
            sampling=sampling,
            preprocessing=preprocessing,
            leaves_resize=leaves_resize,
            wants_sha256=place in shard.hashed,
            thumbnail_side=shard.thumbnail_side,
            frame_views=shard.frame_views,
        )
        for place, video in shard.to_decode
    ]
