"""What a run will take, before it: bytes, hours, memory, and which stage is the slow one.

``muse extract --plan`` on one page: pending work -> probe of a sample -> every video gets the time
of a measured one of its size -> the run is played (``run_model``), again and again on resampled
measurements for the interval. Bytes are exact if every present file decodes.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np

from muse.pipeline.decoding.input_frames import MOST_TIMES_INPUT
from muse.pipeline.forecasting.pending_work import PendingWork, Population, VideoTimes
from muse.pipeline.forecasting.probe import Probe, probe_run
from muse.pipeline.forecasting.record import INTERVAL, Forecast, Stage, wilson_interval
from muse.pipeline.forecasting.run_model import Pace, ShardWork, run_seconds, without_stage
from muse.pipeline.forecasting.store_size import (
    THUMBNAIL_BYTES,
    StoreShape,
    frame_picture_bytes,
    other_bytes,
    picture_bytes,
    require_space,
    store_bytes,
)
from muse.pipeline.forecasting.wording import binding_sentence
from muse.pipeline.header import EncoderInfo, require_same_encoder
from muse.pipeline.listing import sorted_listing
from muse.pipeline.records import Listing
from muse.pipeline.redo import reopened_receipts
from muse.pipeline.schedule import available_cpus, shards_in_flight
from muse.pipeline.storage.files import open_storage
from muse.pipeline.store_writer import require_free
from muse.pipeline.views import FRAMES_JPEG, frame_views

if TYPE_CHECKING:
    from muse.pipeline.extract import ExtractConfig

_NUM_RESAMPLES = 60
_MODEL_ERROR = 0.12  # standard deviation of log(actual / forecast) that resampling can't see
_SEED = 0
_RAY_VIDEO_SECONDS = 0.004  # a clip through the object store, its share of a task (ADR 0049)


def forecast_run(
    config: "ExtractConfig",
    listing: Listing,
    *,
    on_progress: Callable[[str], None] = lambda text: None,
) -> Forecast:
    """What `muse.pipeline.extract.extract` will take with the same arguments; changes no store.

    Raises:
        MuseError: As `extract` would before its first video.
    """
    from muse.pipeline.extract import rows_of_run  # it is above this module
    from muse.pipeline.sole_writer import existing_store

    storage = open_storage(config.out)
    store = existing_store(storage)
    if store is None:
        require_free(storage)
    rows = rows_of_run(config, sorted_listing(listing), store)
    if store is not None:
        store = store.with_receipts(reopened_receipts(store, rows, config.redo))
    work = PendingWork.of(rows, store, shard_size=config.shard_size)

    def check_encoder(info: EncoderInfo) -> None:
        if store is not None:
            require_same_encoder(store.header.encoder, info, what=store.location)

    return make_forecast(config, work, on_encoder=check_encoder, on_progress=on_progress)


def make_forecast(
    config: "ExtractConfig",
    work: PendingWork,
    *,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    on_encoder: Callable[[EncoderInfo], None] = lambda info: None,
    on_progress: Callable[[str], None] = lambda text: None,
) -> Forecast:
    """Probes a sample of a run's videos and says what the run will take.

    Args:
        config: Of the run.
        work: That is pending; `PendingWork.of`.
        num_cpus: Of the cluster that a run will join; this machine's without.
        num_gpus: Likewise. GPUs and cores there are taken to be like those here.
        on_encoder: Called with what was built; may refuse it.
        on_progress: Told what is being measured.

    Raises:
        EncoderError: If the encoder can't be built.
        StoreError: If the disk can't hold one shard, or can't be written.
    """
    free_bytes = free_bytes_at(config.out)

    def check_one_shard(info: EncoderInfo) -> None:
        on_encoder(info)
        shard = shape_of(config, info).video_shard_bytes(config.shard_size)
        require_space(2 * sum(shard.values()), free_bytes, str(config.out))

    population = Population(work)
    here = config.workers.num_decoders or available_cpus()
    probe = probe_run(
        config,
        population.videos,
        [caption for shard in work.captions for caption in shard.captions],
        num_decoders=here,
        on_encoder=check_one_shard,
        on_progress=on_progress,
    )
    return forecast_of(
        config,
        work,
        population,
        probe,
        num_decoders=num_cpus or here,
        num_encoders=_num_encoders(config, probe.device, num_gpus),
        free_bytes=free_bytes,
    )


def forecast_of(
    config: "ExtractConfig",
    work: PendingWork,
    population: Population,
    probe: Probe,
    *,
    num_decoders: int,
    num_encoders: int,
    free_bytes: int | None,
) -> Forecast:
    """What follows from measurements; see `make_forecast`."""
    shape = shape_of(config, probe.encoder)
    times = VideoTimes(population, probe.samples, rng=np.random.default_rng(_SEED))
    pace = _pace_of(config, probe, num_decoders=num_decoders, num_encoders=num_encoders)
    seconds = _wall_seconds(config, work, times, pace)
    low, high = _interval(config, work, population, probe, pace, around=seconds)
    binds = _binding_stage(config, work, times, pace)
    num_failed = sum(sample.has_failed for sample in probe.samples)
    frames = config.sampling.num_frames
    on_cpu = probe.device == "cpu"
    batch_seconds = probe.batch_cpu_seconds if on_cpu else pace.batch_seconds
    caption_seconds = probe.caption_cpu_seconds if on_cpu else pace.caption_seconds
    num_batches = times.num_batches_in_all(config.batch_videos)
    encode_seconds = num_batches * batch_seconds + work.num_captions * caption_seconds
    return Forecast(
        num_videos=work.num_videos,
        num_missing=work.num_missing,
        num_captions=work.num_captions,
        num_frames=round(times.num_frames),
        max_frames=(work.num_videos - work.num_missing) * frames,
        num_failures=_failures(times.failing_share, len(probe.samples), len(population)),
        array_bytes=store_bytes(shape, work.videos, work.captions),
        row_bytes=sum(shape.row_bytes.values()),
        table_bytes=other_bytes(work.videos, work.captions),
        thumbnail_bytes=_thumbnail_bytes(config, work, probe),
        frame_bytes=_frame_bytes(config, work, probe),
        decode_core_hours=times.decode_seconds * (probe.decode_cpu_share or 1.0) / 3600,
        encode_hours=encode_seconds / 3600,
        encode_device=probe.device,
        wall_seconds=seconds,
        wall_low_seconds=low,
        wall_high_seconds=high,
        peak_memory_bytes=_peak_memory_bytes(config, probe, shape, len(work.to_decode)),
        free_bytes=free_bytes,
        binds=binds,
        binds_because=binding_sentence(
            binds,
            pace,
            device=probe.device,
            decode_rate=times.decode_rate(pace.num_decoders),
            encode_rate=pace.num_encoders * config.batch_videos / pace.batch_seconds,
        ),
        num_decoders=num_decoders,
        num_encoders=num_encoders,
        num_sampled=len(probe.samples),
        num_sampled_failures=num_failed,
        decode_cpu_share=probe.decode_cpu_share,
        probe_seconds=probe.seconds,
    )


def shape_of(config: "ExtractConfig", encoder: EncoderInfo) -> StoreShape:
    """Of the store that a run will write."""
    return StoreShape.of(
        encoder, views=config.views, sampling=config.sampling, shard_size=config.shard_size
    )


def _thumbnail_bytes(config: "ExtractConfig", work: PendingWork, probe: Probe) -> int:
    if not config.thumbnails:
        return 0
    sizes = [sample.thumbnail_bytes for sample in probe.samples if not sample.has_failed]
    return _picture_bytes(config, work, sizes, usual=THUMBNAIL_BYTES)


def _frame_bytes(config: "ExtractConfig", work: PendingWork, probe: Probe) -> int:
    if FRAMES_JPEG not in config.views:
        return 0
    sizes = [sample.frame_bytes for sample in probe.samples if not sample.has_failed]
    usual = frame_picture_bytes(probe.encoder.preprocessing.kept_side)
    return _picture_bytes(config, work, sizes, usual=usual)


def _picture_bytes(
    config: "ExtractConfig", work: PendingWork, sizes: Sequence[int], *, usual: int
) -> int:
    """As many a video as the sample's decoded videos have; without any, the usual ones a frame."""
    num_frames = config.sampling.num_frames
    return picture_bytes(
        work.videos,
        num_frames=num_frames,
        shard_size=config.shard_size,
        frame_bytes=statistics.mean(sizes) / num_frames if sizes else usual,
    )


def free_bytes_at(out: Path | str) -> int | None:
    """On the disk that a store is on, or will be; None where nobody knows."""
    return open_storage(out).free_bytes()


def _pace_of(
    config: "ExtractConfig", probe: Probe, *, num_decoders: int, num_encoders: int
) -> Pace:
    return Pace(
        num_decoders=num_decoders,
        num_encoders=num_encoders,
        batch_seconds=statistics.mean(probe.batch_seconds),
        encode_slowdown=probe.encode_slowdown,
        decode_slowdown=probe.decode_slowdown,
        write_seconds=probe.write_seconds,
        caption_seconds=probe.caption_seconds,
        start_seconds=probe.start_seconds,
        video_seconds=_RAY_VIDEO_SECONDS if config.engine == "ray" else 0.0,
        shards_in_flight=shards_in_flight(
            config.shard_size, num_decoders=num_decoders, num_encoders=num_encoders
        ),
    )


def _num_encoders(config: "ExtractConfig", device: str, num_gpus: int | None) -> int:
    if config.engine == "local":
        return 1
    if config.workers.num_encoders:
        return config.workers.num_encoders
    if device == "cpu":
        return 1
    import torch

    return num_gpus or torch.cuda.device_count()


def _played(config: "ExtractConfig", times: VideoTimes) -> list[ShardWork]:
    return times.some_shards(shard_size=config.shard_size, batch_videos=config.batch_videos)


def _wall_seconds(
    config: "ExtractConfig", work: PendingWork, times: VideoTimes, pace: Pace
) -> float:
    shards, num_shards = _played(config, times), len(work.videos)
    return run_seconds(shards, work.num_captions, pace, num_shards=num_shards)


def _interval(
    config: "ExtractConfig",
    work: PendingWork,
    population: Population,
    probe: Probe,
    pace: Pace,
    *,
    around: float,
) -> tuple[float, float]:
    """Of the wall time: over resampled videos and passes, and over what the model leaves out."""
    rng = np.random.default_rng(_SEED)
    found = []
    for _ in range(_NUM_RESAMPLES):
        samples = [
            probe.samples[i] for i in rng.integers(0, len(probe.samples), len(probe.samples))
        ]
        batches = rng.choice(probe.batch_seconds, len(probe.batch_seconds))
        resampled = dataclasses.replace(pace, batch_seconds=float(batches.mean()))
        times = VideoTimes(population, samples, rng=rng)
        error = math.exp(rng.normal(0.0, _MODEL_ERROR))
        found.append(_wall_seconds(config, work, times, resampled) * error)
    tail = (1 - INTERVAL) / 2
    low, high = np.quantile(found, [tail, 1 - tail]).tolist()
    return min(low, around), max(high, around)


def _binding_stage(
    config: "ExtractConfig", work: PendingWork, times: VideoTimes, pace: Pace
) -> Stage:
    shards, num_shards = _played(config, times), len(work.videos)

    def seconds_without(stage: Stage) -> float:
        fewer, num_captions, faster = without_stage(stage, shards, work.num_captions, pace)
        return run_seconds(fewer, num_captions, faster, num_shards=num_shards)

    stages: tuple[Stage, ...] = get_args(Stage)
    return min(stages, key=seconds_without)


def _failures(share: float, num_sampled: int, num_present: int) -> tuple[float, float, float]:
    """Expected, low and high number of files that fail, of those that are there."""
    low, high = wilson_interval(share, num_sampled)
    return share * num_present, low * num_present, high * num_present


def _peak_memory_bytes(
    config: "ExtractConfig", probe: Probe, shape: StoreShape, num_videos: int
) -> int:
    """Decoders, the encoder's process with the features of two shards, and the clips in flight."""
    crop = probe.encoder.preprocessing
    sides = [crop.size, *(crop.kept_side for _ in frame_views(config.views))]  # JPEG's are less
    clip_bytes = config.sampling.num_frames * sum(side * side * 3 for side in sides)
    if probe.device == "cuda":  # where frames may come unresized
        clip_bytes = math.ceil(clip_bytes * MOST_TIMES_INPUT)
    shards = shards_in_flight(config.shard_size, num_decoders=probe.num_decoders, num_encoders=1)
    shards += config.engine == "ray"  # whose clips stay until they are written
    clips = min(shards * config.shard_size + probe.num_decoders, num_videos) * clip_bytes
    rows = 2 * config.shard_size * sum(shape.row_bytes.values())  # one encoded, one written
    decoders = probe.num_decoders * probe.decoder_peak_bytes
    return decoders + probe.encoder_peak_bytes + clips + rows
