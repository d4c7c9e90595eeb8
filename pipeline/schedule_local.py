"""The local engine: decoders in child processes, the encoder in this one. No Ray is imported."""

import dataclasses
import itertools
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from muse.pipeline.decoding.decoder import DecodeTask, IsolatedDecoder
from muse.pipeline.encoders.base import resolve_device
from muse.pipeline.encoders.setting import EncoderSetting
from muse.pipeline.header import EncoderInfo, Golden, Parity, Sampling
from muse.pipeline.plan import CaptionShard, VideoShard
from muse.pipeline.receipts import Receipt
from muse.pipeline.records import Clip, Failure, VideoRef
from muse.pipeline.schedule import (
    Tick,
    Workers,
    available_cpus,
    decode_tasks,
    sample_tasks,
    shards_in_flight,
)
from muse.pipeline.shards import ShardEncoder
from muse.pipeline.speed.report import Workforce
from muse.pipeline.speed.spans import Measured, Stopwatch
from muse.pipeline.speed.timed_decoder import Decoded, timed_decode


class LocalEngine:
    """Decoders in child processes, the encoder in this one. No Ray is imported."""

    def __init__(self, encoder: EncoderSetting, workers: Workers) -> None:
        self._workers = workers
        device = resolve_device(encoder.device)
        self._shard_encoder = ShardEncoder(dataclasses.replace(encoder, device=device))
        num_decoders = workers.num_decoders or available_cpus()
        self._workforce = Workforce(
            num_decoders=num_decoders,
            num_encoders=1,
            num_cores=available_cpus(),
            device=device,
        )
        self._threads = ThreadPoolExecutor(num_decoders)
        self._per_thread = threading.local()
        self._decoders: list[IsolatedDecoder] = []
        self._numbers = itertools.count(1)  # of decoders
        self._num_decoded = 0

    def workforce(self, views: Sequence[str]) -> Workforce:
        """Of this machine."""
        rates = self._shard_encoder.device_rates(views)
        return dataclasses.replace(self._workforce, rates=rates)

    def encoder_info(self) -> EncoderInfo:
        """Of the encoder in this process."""
        return self._shard_encoder.info()

    def golden(self) -> Golden:
        """Of the encoder in this process."""
        return self._shard_encoder.golden

    def sample(self, videos: Sequence[VideoRef], *, sampling: Sampling) -> list[Clip | Failure]:
        """By the decoders that the run will have."""
        tasks = sample_tasks(
            videos,
            sampling=sampling,
            preprocessing=self.encoder_info().preprocessing,
            leaves_resize=self._shard_encoder.resizes,
        )
        return [decoded.clip for decoded in self._threads.map(self._timed, tasks)]

    def parity(self, clips: Sequence[Clip], *, num_frames: int) -> Parity:
        """Of the encoder in this process."""
        return self._shard_encoder.parity(clips, num_frames=num_frames)

    def run(
        self,
        location: str,
        *,
        sampling: Sampling,
        videos: Sequence[VideoShard],
        captions: Sequence[CaptionShard],
    ) -> Iterator[Receipt | Tick | Measured]:
        """The receipt of every shard, in order; the next is decoded while one is encoded."""
        self._shard_encoder.open_store(location)
        preprocessing = self.encoder_info().preprocessing
        shard_size = max((len(shard.to_decode) for shard in videos), default=1)
        most = shards_in_flight(
            shard_size, num_decoders=self._workforce.num_decoders, num_encoders=1
        )
        ahead: deque[tuple[VideoShard, list[Future[Decoded]]]] = deque()
        for shard in videos:
            tasks = decode_tasks(
                shard,
                sampling=sampling,
                preprocessing=preprocessing,
                leaves_resize=self._shard_encoder.resizes,
            )
            ahead.append((shard, [self._threads.submit(self._decode, task) for task in tasks]))
            if len(ahead) == most:
                yield from self._encode(*ahead.popleft())
        while ahead:
            yield from self._encode(*ahead.popleft())
        for caption_shard in captions:
            receipt = self._shard_encoder.encode_captions(caption_shard)
            yield Measured(spans=self._shard_encoder.spans.taken())
            yield receipt

    def close(self) -> None:
        """Ends the decoding processes."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for decoder in self._decoders:
            decoder.close()

    def _encode(
        self, shard: VideoShard, decoding: list[Future[Decoded]]
    ) -> Iterator[Receipt | Tick | Measured]:
        watch, decoded = Stopwatch(), []
        for future in decoding:
            decoded.append(future.result())
            yield Tick(num_decoded=self._num_decoded)
        wait = watch.span("wait", self._shard_encoder.spans.worker, what=f"shard {shard.index}")
        clips = [each.clip for each in decoded]
        receipt = self._shard_encoder.encode_videos(shard, clips, wait_seconds=wait.seconds)
        spans = [span for each in decoded for span in each.spans]
        yield Measured(spans=(*spans, wait, *self._shard_encoder.spans.taken()))
        yield receipt

    def _decode(self, task: DecodeTask) -> Decoded:
        decoded = self._timed(task)
        self._num_decoded += 1  # a lost count would only blur the progress line
        return decoded

    def _timed(self, task: DecodeTask) -> Decoded:
        decoder: IsolatedDecoder | None = getattr(self._per_thread, "decoder", None)
        if decoder is None:
            decoder = IsolatedDecoder(self._workers.limits)
            self._per_thread.decoder = decoder
            self._per_thread.worker = f"decoder {next(self._numbers)}"
            self._decoders.append(decoder)
        return timed_decode(decoder, task, worker=self._per_thread.worker)
