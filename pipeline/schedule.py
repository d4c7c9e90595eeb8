"""Where the work runs: decoding in processes of their own, encoding beside them.

An engine maps shards to reports. It decides how many processes there are and what a dead or hung
one means, and nothing else: the stages are plain functions that know no engine, so every engine
writes the same bytes. This module is the local engine; ``schedule_ray`` is the other.
"""

import dataclasses
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from muse.errors import UsageError
from muse.pipeline.decoder import DecodeLimits, DecodeTask, IsolatedDecoder
from muse.pipeline.encoders.base import resolve_device
from muse.pipeline.header import EncoderInfo, Golden, Preprocessing, Sampling
from muse.pipeline.plan import CaptionShard, VideoShard
from muse.pipeline.receipts import Receipt
from muse.pipeline.records import Clip, Failure
from muse.pipeline.shards import EncoderSetting, ShardEncoder

SHARDS_AHEAD = 1  # decoded while another is encoded; bounds the memory that clips take


@dataclass(frozen=True, kw_only=True, slots=True)
class Workers:
    """How many processes, and what a decode may take."""

    num_decoders: int | None = None
    """None: as many as there are cores. A cluster that is joined has its own number."""
    num_encoders: int | None = None
    """None: one a GPU, or one. The local engine has one."""
    limits: DecodeLimits = dataclasses.field(default_factory=DecodeLimits)
    """Of one video's decoding."""

    def __post_init__(self) -> None:
        for name in ("num_decoders", "num_encoders"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} {value}: at least 1 is needed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """A sign of life between two reports."""

    num_decoded: int
    """Videos decoded so far, in all, failed ones included."""


class Engine(Protocol):
    """Runs the stages over shards."""

    def encoder_info(self) -> EncoderInfo:
        """Of the encoder that the workers have built."""
        ...

    def golden(self) -> Golden:
        """What that encoder makes of the built-in clip and caption."""
        ...

    def run(
        self,
        location: str,
        *,
        sampling: Sampling,
        videos: Sequence[VideoShard],
        captions: Sequence[CaptionShard],
    ) -> Iterator[Receipt | Tick]:
        """The receipt of every shard, once it is committed, in any order."""
        ...

    def close(self) -> None:
        """Ends all workers."""
        ...


def available_cpus() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decode_tasks(
    shard: VideoShard, *, sampling: Sampling, preprocessing: Preprocessing
) -> list[DecodeTask]:
    """Of the videos of a shard that have to be decoded, in its order."""
    return [
        DecodeTask(
            video=video,
            sampling=sampling,
            preprocessing=preprocessing,
            wants_sha256=place in shard.hashed,
        )
        for place, video in shard.to_decode
    ]


class LocalEngine:
    """Decoders in child processes, the encoder in this one. No Ray is imported."""

    def __init__(self, encoder: EncoderSetting, workers: Workers) -> None:
        self._workers = workers
        device = resolve_device(encoder.device)
        self._shard_encoder = ShardEncoder(dataclasses.replace(encoder, device=device))
        self._threads = ThreadPoolExecutor(workers.num_decoders or available_cpus())
        self._per_thread = threading.local()
        self._decoders: list[IsolatedDecoder] = []
        self._num_decoded = 0

    def encoder_info(self) -> EncoderInfo:
        """Of the encoder in this process."""
        return self._shard_encoder.info()

    def golden(self) -> Golden:
        """Of the encoder in this process."""
        return self._shard_encoder.golden

    def run(
        self,
        location: str,
        *,
        sampling: Sampling,
        videos: Sequence[VideoShard],
        captions: Sequence[CaptionShard],
    ) -> Iterator[Receipt | Tick]:
        """The receipt of every shard, in order; the next is decoded while one is encoded."""
        self._shard_encoder.open_store(location)
        preprocessing = self.encoder_info().preprocessing
        ahead: deque[tuple[VideoShard, list[Future[Clip | Failure]]]] = deque()
        for shard in videos:
            tasks = decode_tasks(shard, sampling=sampling, preprocessing=preprocessing)
            ahead.append((shard, [self._threads.submit(self._decode, task) for task in tasks]))
            if len(ahead) > SHARDS_AHEAD:
                yield from self._encode(*ahead.popleft())
        while ahead:
            yield from self._encode(*ahead.popleft())
        for caption_shard in captions:
            yield self._shard_encoder.encode_captions(caption_shard)

    def close(self) -> None:
        """Ends the decoding processes."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for decoder in self._decoders:
            decoder.close()

    def _encode(
        self, shard: VideoShard, decoding: list[Future[Clip | Failure]]
    ) -> Iterator[Receipt | Tick]:
        started = time.perf_counter()
        clips: list[Clip | Failure] = []
        for future in decoding:
            clips.append(future.result())
            yield Tick(num_decoded=self._num_decoded)
        waited = time.perf_counter() - started
        yield self._shard_encoder.encode_videos(shard, clips, wait_seconds=waited)

    def _decode(self, task: DecodeTask) -> Clip | Failure:
        decoder: IsolatedDecoder | None = getattr(self._per_thread, "decoder", None)
        if decoder is None:
            decoder = IsolatedDecoder(self._workers.limits)
            self._per_thread.decoder = decoder
            self._decoders.append(decoder)
        clip = decoder(task)
        self._num_decoded += 1  # a lost count would only blur the progress line
        return clip
