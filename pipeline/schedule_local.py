"""The local engine: decoders in child processes, the encoder in this one. No Ray is imported.

While a shard is encoded the next one is decoded, and the one before is written by a thread.
"""

import dataclasses
import functools
import itertools
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from muse.pipeline.decoding.decoder import DecodeTask, IsolatedDecoder
from muse.pipeline.decoding.decoder_choice import DecoderChoice, chosen_decoder
from muse.pipeline.decoding.gpu_decoder import GpuDecoder
from muse.pipeline.encoded_shard import EncodedShard
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
        self._workforce = Workforce(
            num_decoders=workers.num_decoders or available_cpus(),
            num_encoders=1,
            num_cores=available_cpus(),
            device=device,
        )
        self._threads = ThreadPoolExecutor(self._workforce.num_decoders)
        self._per_thread = threading.local()
        self._decoders: list[IsolatedDecoder | GpuDecoder] = []
        self._numbers = itertools.count(1)  # of decoders
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="muse-writer")
        self._writing: Future[tuple[Measured, Receipt]] | None = None
        self._num_decoded = 0

    def workforce(
        self, views: Sequence[str], videos: Sequence[VideoRef], sampling: Sampling
    ) -> Workforce:
        """Of this machine, once it is known who decodes."""
        choice = self._chosen_decoder(videos, sampling)
        found = (self._workforce.decoder, self._workforce.num_decoders)
        if (choice.decoder, choice.num_decoders) != found:
            self._end_decoders()  # those of `sample`
            self._threads = ThreadPoolExecutor(choice.num_decoders)
        self._workforce = dataclasses.replace(
            self._workforce,
            num_decoders=choice.num_decoders,
            decoder=choice.decoder,
            decoder_because=choice.because,
            rates=self._shard_encoder.device_rates(views),
        )
        return self._workforce

    def _chosen_decoder(self, videos: Sequence[VideoRef], sampling: Sampling) -> DecoderChoice:
        task_of = functools.partial(
            DecodeTask,
            sampling=sampling,
            preprocessing=self.encoder_info().preprocessing,
            leaves_resize=self._shard_encoder.resizes,
        )
        return chosen_decoder(
            self._workers.decoder,
            (task_of(video=video) for video in videos if video.path is not None),
            num_decoders=self._workers.num_decoders,
            num_cores=available_cpus(),
            has_gpu=resolve_device("auto") == "cuda",
            limits=self._workers.limits,
        )

    def encoder_info(self) -> EncoderInfo:
        """Of the encoder in this process."""
        return self._shard_encoder.info()

    def golden(self) -> Golden:
        """Of the encoder in this process."""
        return self._shard_encoder.golden

    def sample(self, videos: Sequence[VideoRef], *, sampling: Sampling) -> list[Clip | Failure]:
        """In software, also where a GPU's frames, which are held to these, are taken later."""
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
        """The receipt of every shard, in order."""
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
            yield from self._write(self._shard_encoder.encode_captions(caption_shard))
        yield from self._written()

    def close(self) -> None:
        """Ends the decoding processes, and waits for what is being written."""
        self._writer.shutdown(cancel_futures=True)
        self._end_decoders()

    def _end_decoders(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for decoder in self._decoders:
            decoder.close()
        self._decoders = []

    def _encode(
        self, shard: VideoShard, decoding: list[Future[Decoded]]
    ) -> Iterator[Receipt | Tick | Measured]:
        watch, decoded = Stopwatch(), []
        for future in decoding:
            decoded.append(future.result())
            yield Tick(num_decoded=self._num_decoded)
            if self._writing is not None and self._writing.done():
                yield from self._written()
        wait = watch.span("wait", self._shard_encoder.worker, what=f"shard {shard.index}")
        clips = [each.clip for each in decoded]
        encoded = self._shard_encoder.encode_videos(shard, clips, wait_seconds=wait.seconds)
        yield Measured(spans=(*(span for each in decoded for span in each.spans), wait))
        yield from self._write(encoded)

    def _write(self, encoded: EncodedShard) -> Iterator[Receipt | Measured]:
        """Once the shard before is written, so that no more than one waits in memory."""
        yield from self._written()
        self._writing = self._writer.submit(self._shard_encoder.write, encoded)

    def _written(self) -> Iterator[Receipt | Measured]:
        """The receipt of the shard that is being written, if one is, and its spans before it."""
        writing, self._writing = self._writing, None
        if writing is not None:
            yield from writing.result()

    def _decode(self, task: DecodeTask) -> Decoded:
        decoded = self._timed(task)
        self._num_decoded += 1  # a lost count would only blur the progress line
        return decoded

    def _timed(self, task: DecodeTask) -> Decoded:
        decoder: IsolatedDecoder | GpuDecoder | None = getattr(self._per_thread, "decoder", None)
        if decoder is None:
            new_decoder = GpuDecoder if self._workforce.decoder == "nvdec" else IsolatedDecoder
            decoder = new_decoder(self._workers.limits)
            self._per_thread.decoder = decoder
            self._per_thread.worker = f"decoder {next(self._numbers)}"
            self._decoders.append(decoder)
        return timed_decode(decoder, task, worker=self._per_thread.worker)
