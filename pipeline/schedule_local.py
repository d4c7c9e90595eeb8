"""The local engine: decoders in child processes, the encoder in this one. No Ray is imported."""

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from muse.pipeline.decoding.decoder import DecodeTask, IsolatedDecoder
from muse.pipeline.encoders.base import resolve_device
from muse.pipeline.encoders.setting import EncoderSetting
from muse.pipeline.header import EncoderInfo, Golden, Sampling
from muse.pipeline.plan import CaptionShard, VideoShard
from muse.pipeline.receipts import Receipt
from muse.pipeline.records import Clip, Failure
from muse.pipeline.schedule import Tick, Workers, available_cpus, decode_tasks
from muse.pipeline.shards import ShardEncoder

SHARDS_AHEAD = 1  # decoded while another is encoded; bounds the memory that clips take


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
