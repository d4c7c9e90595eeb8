"""A run in miniature: how long shards take when decoders and encoders share a machine.

Played event by event as the engines schedule (`muse.pipeline.schedule`): a shard is encoded once
all of it is decoded, the next one is decoded meanwhile, the one before is written, and decoders and
encoders slow each other down as far as was measured. Knows nothing of where its numbers come from.
"""

import dataclasses
import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from muse.pipeline.schedule import MIN_SHARDS_IN_FLIGHT


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """Seconds that the parts of a run take on this machine."""

    num_decoders: int
    num_encoders: int
    batch_seconds: float
    """A forward pass while no decoder is busy."""
    encode_slowdown: float
    """Factor on it while all decoders are."""
    decode_slowdown: float
    """Factor on a decode while an encoder is busy."""
    write_seconds: float
    """Of a full shard, while the next one is encoded."""
    caption_seconds: float
    """Of one caption while no decoder is busy."""
    start_seconds: float
    """What a run takes besides its work."""
    video_seconds: float = 0.0
    """That the engine adds to each decode."""
    shards_in_flight: int = MIN_SHARDS_IN_FLIGHT
    """For each encoder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardWork:
    """What one shard of videos asks for."""

    decode_seconds: tuple[float, ...]
    """Of each video, with all decoders busy and no encoder."""
    num_batches: int
    """Forward passes; one of failed videos alone is left out."""
    write_share: float
    """Of a full shard's bytes."""


def run_seconds(
    shards: Sequence[ShardWork], num_captions: int, pace: Pace, *, num_shards: int | None = None
) -> float:
    """Wall time of a run.

    Args:
        shards: The run's, or evenly spaced ones of it, in order.
        num_captions: They come after the videos.
        pace: Of the machine.
        num_shards: Of the run, where ``shards`` are fewer.
    """
    seconds = videos_seconds(shards, pace)
    if num_shards and num_shards > len(shards):
        fill = min(seconds, _fill_seconds(shards[0], pace))
        seconds = fill + (seconds - fill) * num_shards / len(shards)
    captions = num_captions * pace.caption_seconds / pace.num_encoders
    return pace.start_seconds + seconds + captions


def videos_seconds(shards: Sequence[ShardWork], pace: Pace) -> float:
    """From the first decode to the last shard's receipt."""
    machine = _Machine(pace, deque(enumerate(shards)))
    while machine.step():
        pass
    return machine.now


@dataclass(slots=True)
class _Encoder:
    """One encoder with its writer, its shards in flight and what is left of those in work."""

    shards: deque[int] = field(default_factory=deque)
    seconds_left: float | None = None
    """Of encoding; 0 while the encoded shard waits until the one before is written."""
    write_seconds_left: float | None = None

    @property
    def is_encoding(self) -> bool:
        """Whether it has a shard that does not only wait for the writer."""
        waits = self.seconds_left == 0.0 and self.write_seconds_left is not None
        return self.seconds_left is not None and not waits

    def hand_over(self, write_seconds: float) -> None:
        """Gives the encoded shard to the writer."""
        self.seconds_left = None
        self.shards.popleft()
        self.write_seconds_left = write_seconds or None


class _Machine:
    """The state between two events. Busy decoders all run at one rate, so they share a clock."""

    def __init__(self, pace: Pace, todo: deque[tuple[int, ShardWork]]) -> None:
        self.now = 0.0
        self._pace = pace
        self._todo = todo
        self._encoders = [_Encoder() for _ in range(pace.num_encoders)]
        self._queue: deque[tuple[int, float]] = deque()
        self._busy: list[tuple[float, int]] = []  # heap of (end on the decoders' clock, shard)
        self._decoders_now = 0.0
        self._undecoded: dict[int, int] = {}
        self._encode_seconds: dict[int, float] = {}
        self._write_seconds: dict[int, float] = {}

    def step(self) -> bool:
        """On to the next event; False if there is none."""
        self._submit()
        self._start()
        encoding = [e for e in self._encoders if e.is_encoding]
        writing = [e.write_seconds_left for e in self._encoders if e.write_seconds_left is not None]
        if not encoding and not writing and not self._busy:
            return False
        decode_rate = 1 / self._pace.decode_slowdown if encoding else 1.0
        share = len(self._busy) / self._pace.num_decoders
        encode_rate = 1 / (1 + (self._pace.encode_slowdown - 1) * share)
        passed = min(
            *(e.seconds_left / encode_rate for e in encoding if e.seconds_left is not None),
            (self._busy[0][0] - self._decoders_now) / decode_rate if self._busy else math.inf,
            *writing,
            math.inf,
        )
        self.now += passed
        self._decoders_now += passed * decode_rate
        self._finish(encoding, passed * encode_rate)
        self._finish_writing(passed)
        return True

    def _submit(self) -> None:
        for encoder in self._encoders:
            while self._todo and len(encoder.shards) < self._pace.shards_in_flight:
                index, work = self._todo.popleft()
                encoder.shards.append(index)
                extra = self._pace.video_seconds
                self._queue.extend((index, seconds + extra) for seconds in work.decode_seconds)
                self._undecoded[index] = len(work.decode_seconds)
                self._encode_seconds[index] = work.num_batches * self._pace.batch_seconds
                self._write_seconds[index] = work.write_share * self._pace.write_seconds

    def _start(self) -> None:
        while self._queue and len(self._busy) < self._pace.num_decoders:
            index, seconds = self._queue.popleft()
            heapq.heappush(self._busy, (self._decoders_now + seconds, index))
        for encoder in self._encoders:
            if (
                encoder.seconds_left is None
                and encoder.shards
                and not self._undecoded[encoder.shards[0]]
            ):
                encoder.seconds_left = self._encode_seconds[encoder.shards[0]]

    def _finish(self, encoding: Sequence[_Encoder], progress: float) -> None:
        tiny = 1e-9 * max(1.0, self.now)  # sums of floats do not meet exactly
        while self._busy and self._busy[0][0] <= self._decoders_now + tiny:
            self._undecoded[heapq.heappop(self._busy)[1]] -= 1
        for encoder in encoding:
            assert encoder.seconds_left is not None
            encoder.seconds_left -= progress
            if encoder.seconds_left <= tiny:
                encoder.seconds_left = 0.0

    def _finish_writing(self, passed: float) -> None:
        tiny = 1e-9 * max(1.0, self.now)
        for encoder in self._encoders:
            if encoder.write_seconds_left is not None:
                encoder.write_seconds_left -= passed
                if encoder.write_seconds_left <= tiny:
                    encoder.write_seconds_left = None
            if encoder.seconds_left == 0.0 and encoder.write_seconds_left is None:
                encoder.hand_over(self._write_seconds[encoder.shards[0]])


def _fill_seconds(shard: ShardWork, pace: Pace) -> float:
    """Until the first shard is decoded: no encoder works before."""
    seconds = shard.decode_seconds
    return max(sum(seconds) / pace.num_decoders, max(seconds, default=0.0))


def without_stage(
    stage: str, shards: Sequence[ShardWork], num_captions: int, pace: Pace
) -> tuple[Sequence[ShardWork], int, Pace]:
    """The same run if one stage took no time: what it would save is how much it binds."""
    if stage == "decode":
        shards = [dataclasses.replace(s, decode_seconds=()) for s in shards]
    if stage == "encode":
        shards = [dataclasses.replace(s, num_batches=0) for s in shards]
    if stage == "write":
        pace = dataclasses.replace(pace, write_seconds=0.0)
    return shards, 0 if stage == "captions" else num_captions, pace
