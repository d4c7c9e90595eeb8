"""What a run's parts take on this machine: its own decoders, encoder and store, on a sample.

Everything is measured as it will run: as many decoders side by side as the run has, the encoder
alone and with all of them busy, writing on the store's own disk. Nothing is left behind. Knows
nothing of how a run follows from its parts: ``forecast`` does.
"""

import itertools
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from muse.pipeline.encoders.base import resolve_device
from muse.pipeline.encoders.setting import EncoderSetting
from muse.pipeline.forecasting.probe_decoders import (
    DecoderPool,
    DecodeSample,
    SizedVideo,
    peak_bytes,
    spread_sample,
)
from muse.pipeline.forecasting.probe_store import ScratchStore, scratch_store
from muse.pipeline.header import EncoderInfo
from muse.pipeline.plan import VideoShard
from muse.pipeline.records import Caption, Clip
from muse.pipeline.schedule import available_cpus
from muse.pipeline.shards import ShardEncoder
from muse.pipeline.views import frame_views

if TYPE_CHECKING:
    from muse.pipeline.extract import ExtractConfig

MIN_VIDEOS, MAX_VIDEOS = 8, 32
DECODE_SECONDS = 20.0  # no video is begun later
_MIN_BATCHES, _MAX_BATCHES, _ENCODE_SECONDS = 2, 4, 8.0  # alone; none is begun later
_PAIR_SECONDS = 10.0  # both at once, then until every video that was begun is decoded
_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """Measurements of a sample. Seconds are wall time unless they say otherwise."""

    encoder: EncoderInfo
    device: str
    num_decoders: int
    samples: tuple[DecodeSample, ...]
    """Of present videos, decoded with all decoders busy and no encoder."""
    decode_cpu_share: float | None
    """CPU seconds a second of decoding: below 1 where decoders wait for a disk or for a core."""
    decode_slowdown: float
    """Factor on a decode while the encoder works."""
    batch_seconds: tuple[float, ...]
    """Of forward passes, no decoder busy."""
    batch_cpu_seconds: float
    """CPU seconds of one, on all threads."""
    encode_slowdown: float
    """Factor on a forward pass while all decoders are busy."""
    caption_seconds: float
    """Of one in a full batch of captions; 0 without captions."""
    caption_cpu_seconds: float
    """CPU seconds of one, on all threads."""
    write_seconds: float
    """Of a full shard, durable."""
    start_seconds: float
    """What a run takes besides its work: building the encoder, starting the decoders, Ray."""
    decoder_peak_bytes: int
    """Of the largest decoding process; 0 where the system does not tell."""
    encoder_peak_bytes: int
    """Of this process with the encoder and a shard in it."""
    seconds: float
    """That the probe took."""


def probe_run(
    config: "ExtractConfig",
    videos: Sequence[SizedVideo],
    captions: Sequence[Caption],
    *,
    num_decoders: int,
    on_encoder: Callable[[EncoderInfo], None] = lambda info: None,
    on_progress: Callable[[str], None] = lambda text: None,
) -> Probe:
    """Measures the parts of a run.

    Args:
        config: Of the run.
        videos: All that it will decode; a sample of them is.
        captions: All that it will encode; some of them are.
        num_decoders: Of the run, on one machine.
        on_encoder: Told as soon as the encoder is there; may raise to end the probe.
        on_progress: Told what is being measured.

    Raises:
        EncoderError: If the encoder can't be built.
        StoreError: If nothing can be written where the store shall be.
    """
    started = time.perf_counter()
    on_progress("building the encoder")
    device = resolve_device(config.device)
    setting = EncoderSetting(
        spec=config.encoder,
        device=device,
        precision=config.precision,
        num_threads=available_cpus(),
    )
    encoder = ShardEncoder(setting)
    on_encoder(encoder.info())
    pool = DecoderPool(
        num_decoders,
        limits=config.workers.limits,
        sampling=config.sampling,
        preprocessing=encoder.info().preprocessing,
        num_clips_kept=config.batch_videos,
        thumbnail_side=config.thumbnail_side,
        frame_views=frame_views(config.views),
        leaves_resize=encoder.resizes,  # as in the run: a quarter of a short video's decode
    )
    with pool, scratch_store(config, encoder, captions) as store:
        start_seconds = time.perf_counter() - started + pool.start()
        wanted = min(max(MAX_VIDEOS, 2 * num_decoders), len(videos))
        chosen = spread_sample(videos, wanted, seed=_SEED)
        on_progress(f"decoding up to {len(chosen)} of {len(videos)} videos")
        samples, cpu_share, decoder_peak = _decode_alone(pool, chosen)
        on_progress("encoding")
        first, batches, batch_cpu = _encode_alone(store, pool.clips)
        on_progress("decoding and encoding at once")
        slowdowns = _both(pool, store, chosen, samples, statistics.median(batches))
        on_progress("encoding captions and writing")
        caption_seconds, caption_cpu = store.caption_seconds()
        write_seconds = store.write_seconds()
        if config.engine == "ray":
            on_progress("starting Ray")
            work = _mean_seconds(samples) + statistics.median(batches)
            start_seconds = _ray_seconds(config, store, chosen[:num_decoders], work_seconds=work)
        else:
            start_seconds += max(0.0, first - statistics.median(batches))
    return Probe(
        encoder=encoder.info(),
        device=device,
        num_decoders=num_decoders,
        samples=samples,
        decode_cpu_share=cpu_share,
        decode_slowdown=slowdowns[0],
        batch_seconds=tuple(batches),
        batch_cpu_seconds=batch_cpu,
        encode_slowdown=slowdowns[1],
        caption_seconds=caption_seconds,
        caption_cpu_seconds=caption_cpu,
        write_seconds=write_seconds,
        start_seconds=start_seconds,
        decoder_peak_bytes=decoder_peak,
        encoder_peak_bytes=peak_bytes(os.getpid()),
        seconds=time.perf_counter() - started,
    )


def _decode_alone(
    pool: DecoderPool, chosen: Sequence[SizedVideo]
) -> tuple[tuple[DecodeSample, ...], float | None, int]:
    started = time.perf_counter()

    def go_on(num_begun: int) -> bool:
        return num_begun < MIN_VIDEOS or time.perf_counter() - started < DECODE_SECONDS

    phase = pool.decode(chosen, go_on=go_on)
    samples = phase.wait()
    wall = sum(sample.seconds for sample in samples)
    share = phase.cpu_seconds / wall if phase.cpu_seconds is not None and wall else None
    return samples, share, phase.peak_bytes


def _encode_alone(store: ScratchStore, clips: Sequence[Clip]) -> tuple[float, list[float], float]:
    """(seconds of the first pass, of the later ones, CPU seconds of one of these).

    The first sets up what the others use.
    """
    first = store.batch_seconds(clips)
    batches: list[float] = []
    started, cpu_started = time.perf_counter(), time.process_time()
    while len(batches) < _MIN_BATCHES or (
        len(batches) < _MAX_BATCHES and time.perf_counter() - started < _ENCODE_SECONDS
    ):
        batches.append(store.batch_seconds(clips))
    return first, batches, (time.process_time() - cpu_started) / len(batches)


def _both(
    pool: DecoderPool,
    store: ScratchStore,
    chosen: Sequence[SizedVideo],
    alone: Sequence[DecodeSample],
    batch_seconds: float,
) -> tuple[float, float]:
    """(factor on decoding, factor on encoding) when both run, on videos measured alone before."""
    seconds_of = {s.video_id: s.seconds for s in alone if not s.has_failed}
    again = [video for video in chosen if video.video.video_id in seconds_of]
    if not again:
        return 1.0, 1.0
    started = time.perf_counter()
    wanted = max(_PAIR_SECONDS, batch_seconds)
    phase = pool.decode(
        itertools.cycle(again), go_on=lambda _: time.perf_counter() - started < wanted
    )
    passes: list[float] = []
    while not phase.is_over:
        seconds = store.batch_seconds(pool.clips)
        if not passes or not phase.is_over:  # the last pass had idle decoders beside it
            passes.append(seconds)
    samples = [sample for sample in phase.wait() if sample.video_id in seconds_of]
    together = sum(sample.seconds for sample in samples)
    decode_factor = together / sum(seconds_of[sample.video_id] for sample in samples)
    encode_factor = statistics.mean(passes) / batch_seconds
    return max(1.0, decode_factor), max(1.0, encode_factor)


def _mean_seconds(samples: Sequence[DecodeSample]) -> float:
    return statistics.mean(sample.seconds for sample in samples) if samples else 0.0


def _ray_seconds(
    config: "ExtractConfig",
    store: ScratchStore,
    videos: Sequence[SizedVideo],
    *,
    work_seconds: float,
) -> float:
    """What a run on Ray takes besides its work: a run of a video a decoder, less its work."""
    from muse.pipeline.schedule_ray import RayEngine  # --engine local never loads Ray

    setting = EncoderSetting(
        spec=config.encoder,
        device=config.device,  # Ray asks its cluster
        precision=config.precision,
        num_threads=available_cpus(),
    )
    refs = tuple(video.video for video in videos[: config.batch_videos])
    shard = VideoShard(
        index=0,
        first_row=0,
        videos=refs,
        thumbnail_side=config.thumbnail_side,
        frame_views=frame_views(config.views),
    )
    started = time.perf_counter()
    engine = RayEngine(setting, config.workers, address=config.ray_address)
    try:
        shards = [shard] if refs else []
        run = engine.run(store.location, sampling=config.sampling, videos=shards, captions=[])
        for _ in run:
            pass
    finally:
        engine.close()
    return max(0.0, time.perf_counter() - started - work_seconds)
