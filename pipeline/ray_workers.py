"""What runs in Ray's workers: a video's decode as a task, an encoder as an actor.

Names are what ``ps`` shows of them. Knows nothing of a run: `muse.pipeline.schedule_ray` drives it.
"""

import os
import platform
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import OutOfMemoryError, WorkerCrashedError

from muse.pipeline.decoding.decoder import DecodeLimits, DecodeTask, IsolatedDecoder, decode_failure
from muse.pipeline.encoders.setting import EncoderSetting
from muse.pipeline.header import EncoderInfo, Golden, Parity
from muse.pipeline.plan import CaptionShard, VideoShard
from muse.pipeline.receipts import Receipt
from muse.pipeline.records import Clip, VideoRef
from muse.pipeline.speed.report import DeviceRates
from muse.pipeline.speed.spans import Measured, Stopwatch
from muse.pipeline.speed.timed_decoder import Decoded, timed_decode

if TYPE_CHECKING:
    from muse.pipeline.shards import ShardEncoder

_decoders: dict[DecodeLimits, IsolatedDecoder] = {}  # one a worker process, kept between tasks


def decode_video(task: DecodeTask, limits: DecodeLimits) -> Decoded:
    """A video in a decoding process of this worker."""
    decoder = _decoders.get(limits)
    if decoder is None:
        decoder = _decoders[limits] = IsolatedDecoder(limits)
    return timed_decode(decoder, task, worker=f"decoder {_process()}")


def _process() -> str:
    """Of this worker, among all of a cluster."""
    return f"{platform.node()}:{os.getpid()}"


class EncodeActor:
    """A `ShardEncoder`, built at its first call: an error then reaches the driver whole."""

    def __init__(self, encoder: EncoderSetting) -> None:
        self._setting = encoder
        self._shard_encoder: ShardEncoder | None = None
        self._open_location: str | None = None

    def node(self) -> str:
        """The id of the node that it is on."""
        return str(ray.get_runtime_context().get_node_id())

    def info(self) -> EncoderInfo:
        """What the features depend on."""
        return self._built().info()

    def golden(self) -> Golden:
        """What the encoder makes of the built-in clip and caption."""
        return self._built().golden

    def parity(self, clips: Sequence[Clip], *, num_frames: int) -> Parity:
        """How far the features of some clips are from those of the encoder's library."""
        return self._built().parity(clips, num_frames=num_frames)

    def resizes(self) -> bool:
        """Whether clips may come unresized."""
        return self._built().resizes

    def device_rates(self, views: Sequence[str]) -> DeviceRates | None:
        """What its device can do at most."""
        return self._built().device_rates(views)

    def open_store(self, location: str) -> None:
        """As the first shard does otherwise: an encoder that doesn't fit the store is refused."""
        self._ready(location)

    def encode_videos(
        self, location: str, shard: VideoShard, references: list[Any]
    ) -> tuple[Measured, Receipt]:
        """Gets the clips, encodes and commits them."""
        watch = Stopwatch()
        decoded = [
            decoded_of(video, reference)
            for (_, video), reference in zip(shard.to_decode, references, strict=True)
        ]
        wait = watch.span("wait", _encoder_name(), what=f"shard {shard.index}")
        clips = [each.clip for each in decoded]
        encoder = self._ready(location)
        receipt = encoder.encode_videos(shard, clips, wait_seconds=wait.seconds)
        spans = [span for each in decoded for span in each.spans]
        return Measured(spans=(*spans, wait, *encoder.spans.taken())), receipt

    def encode_captions(self, location: str, shard: CaptionShard) -> tuple[Measured, Receipt]:
        """Encodes and commits a shard of captions."""
        encoder = self._ready(location)
        receipt = encoder.encode_captions(shard)
        return Measured(spans=encoder.spans.taken()), receipt

    def _ready(self, location: str) -> "ShardEncoder":
        """With the store open; after a restart of this actor, open again."""
        encoder = self._built()
        if self._open_location != location:
            encoder.open_store(location)
            self._open_location = location
        return encoder

    def _built(self) -> "ShardEncoder":
        if self._shard_encoder is None:
            from muse.pipeline.shards import (
                ShardEncoder,  # torch, which decoding workers do without
            )

            self._shard_encoder = ShardEncoder(self._setting, worker=_encoder_name())
        return self._shard_encoder


def _encoder_name() -> str:
    return f"encoder {_process()}"


def decoded_of(video: VideoRef, reference: Any) -> Decoded:
    """The decoded clip; a worker that died in every try is the failure of its video.

    Nothing else is: a node without libav or a full object store must not mark videos as broken.
    """
    try:
        decoded: Decoded = ray.get(reference)
    except (WorkerCrashedError, OutOfMemoryError) as error:
        words = " ".join(str(error).split())[:200]
        reason = "out_of_memory" if isinstance(error, OutOfMemoryError) else "crashed"
        message = f"{video.path}: {words}"
        return Decoded(clip=decode_failure(video, reason=reason, message=message))
    return decoded
