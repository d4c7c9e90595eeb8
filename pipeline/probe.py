"""What a run's parts take on this machine: its own decoders, encoder and store, on a sample.

Everything is measured as it will run: as many decoders side by side as the run has, the encoder
alone and with all of them busy, writing on the store's own disk. Nothing is left behind. Knows
nothing of how a run follows from its parts: ``forecast`` does.
"""

import contextlib
import dataclasses
import itertools
import resource
import secrets
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from muse.pipeline.encoders.base import resolve_device
from muse.pipeline.header import EncoderInfo, StoreHeader
from muse.pipeline.listing import ListedRows
from muse.pipeline.plan import CaptionShard, VideoShard, header_of
from muse.pipeline.probe_decoders import DecoderPool, DecodeSample, SizedVideo, spread_sample
from muse.pipeline.records import Caption, Clip, ClipFeatures, VideoRef
from muse.pipeline.schedule import available_cpus
from muse.pipeline.shards import TEXTS_PER_BATCH, EncoderSetting, ShardEncoder
from muse.pipeline.storage import open_storage
from muse.pipeline.store_writer import StoreWriter
from muse.pipeline.views import arrays_of

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
    encode_slowdown: float
    """Factor on a forward pass while all decoders are busy."""
    caption_seconds: float
    """Of one in a full batch of captions; 0 without captions."""
    write_seconds: float
    """Of a full shard, durable."""
    build_seconds: float
    """Encoder, first pass included."""
    spawn_seconds: float
    """All decoders, side by side."""
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
        videos: All that it will decode, at least one; a sample of them is.
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
    info = encoder.info()
    on_encoder(info)
    pool = DecoderPool(
        num_decoders,
        limits=config.workers.limits,
        sampling=config.sampling,
        preprocessing=info.preprocessing,
        num_clips_kept=config.batch_videos,
    )
    with pool, _scratch_store(config, encoder, captions) as bench:
        build_seconds = time.perf_counter() - started
        spawn_seconds = pool.start()
        wanted = max(MAX_VIDEOS, 2 * num_decoders)
        chosen = spread_sample(videos, min(wanted, len(videos)), seed=_SEED)
        on_progress(f"decoding up to {len(chosen)} of {len(videos)} videos")
        samples, phase_cpu, peak = _decode_alone(pool, chosen)
        on_progress("encoding")
        first, batches = _encode_alone(bench, pool.clips)
        on_progress("decoding and encoding at once")
        pair = _both(pool, bench, chosen, samples, statistics.median(batches))
        on_progress("writing")
        return Probe(
            encoder=info,
            device=device,
            num_decoders=num_decoders,
            samples=samples,
            decode_cpu_share=phase_cpu,
            decode_slowdown=pair[0],
            batch_seconds=tuple(batches),
            encode_slowdown=pair[1],
            caption_seconds=bench.caption_seconds(),
            write_seconds=bench.write_seconds(),
            build_seconds=build_seconds + max(0.0, first - statistics.median(batches)),
            spawn_seconds=spawn_seconds,
            decoder_peak_bytes=peak,
            encoder_peak_bytes=_own_peak_bytes(),
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


def _encode_alone(bench: "_Bench", clips: Sequence[Clip]) -> tuple[float, list[float]]:
    """(seconds of the first pass, of the later ones): the first sets up what the others use."""
    batches: list[float] = []
    first = bench.batch_seconds(clips)
    started = time.perf_counter()
    while len(batches) < _MIN_BATCHES or (
        len(batches) < _MAX_BATCHES and time.perf_counter() - started < _ENCODE_SECONDS
    ):
        batches.append(bench.batch_seconds(clips))
    return first, batches


def _both(
    pool: DecoderPool,
    bench: "_Bench",
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
        seconds = bench.batch_seconds(pool.clips)
        if not passes or not phase.is_over:  # the last pass had idle decoders beside it
            passes.append(seconds)
    samples = [sample for sample in phase.wait() if sample.video_id in seconds_of]
    together = sum(sample.seconds for sample in samples)
    decode_factor = together / sum(seconds_of[sample.video_id] for sample in samples)
    encode_factor = statistics.mean(passes) / batch_seconds
    return max(1.0, decode_factor), max(1.0, encode_factor)


class _Bench:
    """The encoder with a store of one shard to write to."""

    def __init__(
        self, encoder: ShardEncoder, writer: StoreWriter, rows: ListedRows, location: str
    ) -> None:
        self._encoder, self._writer, self._rows = encoder, writer, rows
        encoder.open_store(location)

    def batch_seconds(self, clips: Sequence[Clip]) -> float:
        """Of one forward pass over a full batch, with all that a run does to its tokens."""
        header = self._writer.header
        videos = self._rows.videos[: header.batch_videos]
        clips = list(itertools.islice(itertools.cycle(clips or [_blank_clip(header)]), len(videos)))
        shard = VideoShard(index=0, first_row=0, videos=videos)
        return self._encoder.encode_videos(shard, clips).seconds["encode"]

    def caption_seconds(self) -> float:
        """Of one caption in a batch, after a first batch that sets things up."""
        captions = self._rows.captions
        if not captions:
            return 0.0
        for _ in range(2):
            shard = CaptionShard(index=0, first_row=0, captions=captions)
            seconds = self._encoder.encode_captions(shard).seconds["encode"]
        return seconds / len(captions)

    def write_seconds(self) -> float:
        """Of a full shard: made, written, hashed and durable."""
        header, videos = self._writer.header, self._rows.videos
        shard = VideoShard(index=0, first_row=0, videos=videos)
        features = [_features(header, video) for video in videos]
        started = time.perf_counter()
        self._writer.write_video_shard(shard, features, seconds={})
        return time.perf_counter() - started


@contextlib.contextmanager
def _scratch_store(
    config: "ExtractConfig", encoder: ShardEncoder, captions: Sequence[Caption]
) -> Iterator[_Bench]:
    """A store beside the one that shall be, removed afterwards."""
    location = scratch_location(config.out)
    rows = _scratch_rows(config.shard_size, captions[:TEXTS_PER_BATCH])
    header = header_of(
        rows,
        encoder=encoder.info(),
        sampling=config.sampling,
        shard_size=config.shard_size,
        batch_videos=config.batch_videos,
        views=config.views,
        golden=encoder.golden,
    )
    storage = open_storage(location)
    try:
        writer = StoreWriter.create(location, header, rows)
        yield _Bench(encoder, writer, rows, storage.location)
    finally:
        if "://" in location:
            with contextlib.suppress(OSError):
                storage.remove(*storage.list(""))
        else:
            shutil.rmtree(location, ignore_errors=True)


def scratch_location(out: Path | str) -> str:
    """A new name on the disk that the store will be on: beside its first folder that exists."""
    name = f".muse-probe-{secrets.token_hex(4)}"
    if "://" in str(out):
        return f"{str(out).rstrip('/')}{name}"
    folder = Path(out).absolute().parent
    while not folder.is_dir():
        folder = folder.parent
    return str(folder / name)


def _scratch_rows(num_videos: int, captions: Sequence[Caption]) -> ListedRows:
    videos = tuple(VideoRef(video_id=f"probe-{row}", path=None) for row in range(num_videos))
    return ListedRows(
        protocol="probe",
        videos=videos,
        duplicate_of=(None,) * num_videos,
        captions=tuple(
            dataclasses.replace(caption, video_id=videos[0].video_id) for caption in captions
        ),
    )


def _blank_clip(header: StoreHeader) -> Clip:
    """Where no video of the sample decodes."""
    size, frames = header.encoder.preprocessing.size, header.sampling.num_frames
    return Clip(
        video_id="probe",
        frames_THWC=np.zeros((frames, size, size, 3), np.uint8),
        pts_seconds_T=np.arange(frames, dtype=np.float64),
    )


def _features(header: StoreHeader, video: VideoRef) -> ClipFeatures:
    """Values that nobody compresses: the bytes of a row are those of any other."""
    frames = header.sampling.num_frames
    arrays: Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {
        spec.name: np.full(spec.shape, 1, spec.dtype)
        for spec in arrays_of(header.views, header.encoder, frames)
    }
    return ClipFeatures(
        video_id=video.video_id,
        arrays=arrays,
        valid_T=np.ones(frames, np.bool_),
        pts_seconds_T=np.arange(frames, dtype=np.float64),
    )


def _own_peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
