"""What runs on Ray beside decoding: an encoder as an actor.

Names are what ``ps`` shows of them. Knows nothing of a run: `muse.pipeline.schedule_ray` drives it.
"""

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import ray

from muse.pipeline.encoders.setting import EncoderSetting
from muse.pipeline.header import EncoderInfo, Golden, Parity
from muse.pipeline.plan import CaptionShard, VideoShard
from muse.pipeline.ray_decoding import DecodeGroup, process_name
from muse.pipeline.receipts import Receipt
from muse.pipeline.records import Clip
from muse.pipeline.speed.report import DeviceRates
from muse.pipeline.speed.spans import Measured, Span, Stopwatch

if TYPE_CHECKING:
    from muse.pipeline.encoded_shard import EncodedShard, EncodedVideos
    from muse.pipeline.shards import ShardEncoder


class EncodeActor:
    """A `ShardEncoder`, built at its first call: an error then reaches the driver whole.

    Two calls at a time: one thread has all to do with the encoder, and the one whose shard is
    encoded writes it meanwhile.
    """

    def __init__(self, encoder: EncoderSetting) -> None:
        self._setting = encoder
        self._shard_encoder: ShardEncoder | None = None
        self._open_location: str | None = None
        self._remarks = _Remarks()
        logging.getLogger("muse").addHandler(self._remarks)
        self._encoding = ThreadPoolExecutor(1, thread_name_prefix="muse-encoder")
        self._writing = threading.Lock()

    def node(self) -> str:
        """The id of the node that it is on."""
        return str(ray.get_runtime_context().get_node_id())

    def info(self) -> EncoderInfo:
        """What the features depend on."""
        return self._encoding.submit(lambda: self._built().info()).result()

    def golden(self) -> Golden:
        """What the encoder makes of the built-in clip and caption."""
        return self._encoding.submit(lambda: self._built().golden).result()

    def parity(self, clips: Sequence[Clip], *, num_frames: int) -> Parity:
        """How far the features of some clips are from those of the encoder's library."""
        measuring = self._encoding.submit(
            lambda: self._built().parity(clips, num_frames=num_frames)
        )
        return measuring.result()

    def resizes(self) -> bool:
        """Whether clips may come unresized."""
        return self._encoding.submit(lambda: self._built().resizes).result()

    def device_rates(self, views: Sequence[str]) -> DeviceRates | None:
        """What its device can do at most."""
        return self._encoding.submit(lambda: self._built().device_rates(views)).result()

    def open_store(self, location: str) -> None:
        """As the first shard does otherwise: an encoder that doesn't fit the store is refused."""
        self._encoding.submit(self._ready, location).result()

    def encode_videos(
        self, location: str, shard: VideoShard, groups: list[DecodeGroup]
    ) -> tuple[Measured, Receipt]:
        """Gets the clips, encodes and commits them."""
        encoding = self._encoding.submit(self._encoded, location, shard, groups)
        spans, encoded = encoding.result()
        measured, receipt = self._written(encoded)
        return dataclasses.replace(measured, spans=(*spans, *measured.spans)), receipt

    def encode_captions(self, location: str, shard: CaptionShard) -> tuple[Measured, Receipt]:
        """Encodes and commits a shard of captions."""
        encoding = self._encoding.submit(lambda: self._ready(location).encode_captions(shard))
        return self._written(encoding.result())

    def _encoded(
        self, location: str, shard: VideoShard, groups: list[DecodeGroup]
    ) -> "tuple[tuple[Span, ...], EncodedVideos]":
        """What led to the clips of a shard, and the encoded shard."""
        watch = Stopwatch()
        decoded = [each for group in groups for each in group.decoded()]
        wait = watch.span("wait", _encoder_name(), what=f"shard {shard.index}")
        clips = [each.clip for each in decoded]
        encoder = self._ready(location)
        encoded = encoder.encode_videos(shard, clips, wait_seconds=wait.seconds)
        return (*(span for each in decoded for span in each.spans), wait), encoded

    def _written(self, encoded: "EncodedShard") -> tuple[Measured, Receipt]:
        with self._writing:  # one at a time: while a shard waits here, none is encoded
            assert self._shard_encoder is not None, "it has encoded"
            measured, receipt = self._shard_encoder.write(encoded)
        return dataclasses.replace(measured, remarks=self._remarks.taken()), receipt

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


class _Remarks(logging.Handler):
    """Warnings of muse in this process: Ray keeps its log in a folder of the node."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._remarks: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._remarks.append(f"{_encoder_name()}: {record.getMessage()}")

    def taken(self) -> tuple[str, ...]:
        """All since the last call."""
        with self.lock or contextlib.nullcontext():
            remarks, self._remarks = tuple(self._remarks), []
        return remarks


def _encoder_name() -> str:
    return f"encoder {process_name()}"
