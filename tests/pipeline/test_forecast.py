"""A forecast before a run: on fakes at once, on a tiny CLIP and real processes when slow."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from runs import WithoutProcess

from muse.errors import StoreError
from muse.pipeline import schedule_local, shards
from muse.pipeline.datasets.folder import list_folder
from muse.pipeline.decoding.decoder import DecodeLimits, DecodeTask, attempt
from muse.pipeline.encoders.base import Encoder
from muse.pipeline.extract import ExtractConfig, extract
from muse.pipeline.forecasting import probe_decoders
from muse.pipeline.forecasting.forecast import forecast_of, make_forecast
from muse.pipeline.forecasting.pending_work import PendingWork, Population, VideoTimes
from muse.pipeline.forecasting.probe import Probe
from muse.pipeline.forecasting.probe_decoders import DecodeSample, SizedVideo, sized, spread_sample
from muse.pipeline.forecasting.record import (
    Forecast,
    forecast_from_json,
    keep_forecast,
    kept_forecast,
    wilson_interval,
)
from muse.pipeline.header import EncoderInfo, Preprocessing, Sampling
from muse.pipeline.listing import ListedRows, rows_of_new_store, sorted_listing
from muse.pipeline.records import Clip, Failure, VideoRef
from muse.pipeline.schedule import Workers
from muse.pipeline.storage.files import open_storage


@pytest.fixture
def run_here(plain_encoder: Callable[..., Encoder]) -> Iterator[None]:
    """Decoding in this process and a plain encoder."""

    class DecoderHere(WithoutProcess):
        def __init__(self, limits: DecodeLimits) -> None:
            self.limits = limits

        def __call__(self, task: DecodeTask) -> Clip | Failure:
            return attempt(task)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule_local, "IsolatedDecoder", DecoderHere)
        patch.setattr(probe_decoders, "IsolatedDecoder", DecoderHere)
        patch.setattr(shards, "build_encoder", plain_encoder)
        patch.setattr("muse.pipeline.forecasting.probe._PAIR_SECONDS", 0.05)
        yield


@pytest.fixture
def rows(video_folder: Path, tmp_path: Path) -> ListedRows:
    """Five good videos, a text file named like one, a missing video, four captions."""
    captions = tmp_path / "captions.csv"
    captions.write_text(
        "video,caption\nf,a cat\na,a song\ngone,a dog\na,another song\n", encoding="utf-8"
    )
    return rows_of_new_store(sorted_listing(list_folder(video_folder, captions)))


def config_for(out: Path, *, encoder: str = "plain") -> ExtractConfig:
    return ExtractConfig(
        out=out,
        encoder=encoder,
        engine="local",
        device="cpu",
        sampling=Sampling(num_frames=3),
        shard_size=4,
        batch_videos=2,
        workers=Workers(num_decoders=2),
    )


def array_bytes(store: Path) -> dict[str, int]:
    """Array -> bytes of its files, without zarr's own."""
    return {
        folder.name: sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        - (folder / "zarr.json").stat().st_size
        for folder in (store / "features.zarr").iterdir()
        if folder.is_dir()
    }


def said_and_written(
    config: ExtractConfig, rows: ListedRows, video_folder: Path, captions: Path
) -> tuple[Forecast, dict[str, int], float]:
    work = PendingWork.of(rows, None, shard_size=config.shard_size)
    forecast = make_forecast(config, work)
    summary = extract(config, list_folder(video_folder, captions))
    return forecast, array_bytes(Path(config.out)), summary.elapsed_seconds


@pytest.mark.usefixtures("run_here")
def test_the_run_writes_the_bytes_that_were_said_less_those_of_failed_videos(
    rows: ListedRows, video_folder: Path, tmp_path: Path
) -> None:
    config = config_for(tmp_path / "store")
    forecast, written, _ = said_and_written(config, rows, video_folder, tmp_path / "captions.csv")
    said = dict(forecast.array_bytes)
    said["tokens"] -= forecast.row_bytes  # c.mp4 is text
    assert written == said
    assert (forecast.num_videos, forecast.num_missing, forecast.num_captions) == (7, 1, 3)
    assert (forecast.num_sampled, forecast.num_sampled_failures) == (6, 1)
    assert forecast.num_frames == 1 + 2 + 2 + 3 + 3  # of 1, 1.5, 2, 2.5 and 3 s at a frame a second


@pytest.mark.slow
@pytest.mark.usefixtures("run_here")
def test_thumbnails_take_about_what_those_of_the_sample_say(
    rows: ListedRows, video_folder: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(config_for(tmp_path / "store"), thumbnails=True)
    work = PendingWork.of(rows, None, shard_size=config.shard_size)
    forecast = make_forecast(config, work)
    extract(config, list_folder(video_folder, tmp_path / "captions.csv"))
    written = sum(file.stat().st_size for file in (tmp_path / "store/thumbnails").iterdir())
    # Six files of seven videos, of which one is text.
    assert written < forecast.thumbnail_bytes < 1.25 * written
    assert forecast.needed_bytes == (
        forecast.output_bytes + forecast.table_bytes + forecast.thumbnail_bytes
    )


@pytest.mark.slow
@pytest.mark.usefixtures("run_here")
def test_pictures_of_frames_take_about_what_those_of_the_sample_say(
    rows: ListedRows, video_folder: Path, tmp_path: Path
) -> None:
    views = ("tokens", "frames:uint8", "frames:jpeg")
    config = dataclasses.replace(config_for(tmp_path / "store"), views=views)
    work = PendingWork.of(rows, None, shard_size=config.shard_size)
    forecast = make_forecast(config, work)
    extract(config, list_folder(video_folder, tmp_path / "captions.csv"))
    written = sum(file.stat().st_size for file in (tmp_path / "store/frames").iterdir())
    assert written < forecast.frame_bytes < 1.25 * written
    # Of six files one is text; 36 x 36 pixels are kept where the encoder sees 32 x 32.
    arrays = tmp_path / "store/features.zarr/frames/c"
    written = sum(file.stat().st_size for file in arrays.rglob("*") if file.is_file())
    row_bytes = config.sampling.num_frames * 36 * 36 * 3
    assert forecast.array_bytes["frames"] - row_bytes == written


@pytest.mark.usefixtures("run_here")
def test_a_probe_leaves_nothing_behind(rows: ListedRows, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    config = config_for(tmp_path / "no" / "such" / "folder")
    make_forecast(config, PendingWork.of(rows, None, shard_size=4))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("run_here")
def test_where_every_video_is_missing_only_captions_chunks_are_written(
    make_rows: Callable[..., ListedRows], tmp_path: Path
) -> None:
    work = PendingWork.of(make_rows(5, missing=range(5)), None, shard_size=4)
    forecast = make_forecast(config_for(tmp_path / "store"), work)
    assert forecast.output_bytes == 4096 * 4 * 2  # one chunk of rows of width 4 in float16
    assert (forecast.num_sampled, forecast.num_captions, forecast.num_frames) == (0, 0, 0)


@pytest.mark.usefixtures("run_here")
def test_a_disk_without_place_for_one_shard_is_refused_before_any_video_is_decoded(
    rows: ListedRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muse.pipeline.forecasting.forecast.free_bytes_at", lambda out: 1_000)
    monkeypatch.setattr("muse.pipeline.forecasting.probe.DecoderPool", None)
    with pytest.raises(StoreError, match=r"needs .* kB, its disk has 1\.0 kB free"):
        make_forecast(config_for(tmp_path / "s"), PendingWork.of(rows, None, shard_size=4))


# -- from measurements to a forecast ---------------------------------------------------------------


def sample_of(video: SizedVideo, seconds: float, *, has_failed: bool = False) -> DecodeSample:
    return DecodeSample(
        video_id=video.video.video_id,
        num_bytes=video.num_bytes,
        seconds=seconds,
        num_frames=0 if has_failed else 3,
        has_failed=has_failed,
    )


@pytest.fixture
def make_work(tmp_path: Path) -> Callable[..., PendingWork]:
    """Files of given sizes, v00, v01, ..., in shards of 4; -1 is a missing one."""

    def make(sizes: Sequence[int]) -> PendingWork:
        videos = []
        for number, size in enumerate(sizes):
            path = tmp_path / f"v{number:02d}"
            path.write_bytes(bytes(max(size, 0)))
            videos.append(VideoRef(video_id=path.name, path=path if size >= 0 else None))
        rows = ListedRows(
            protocol="folder",
            videos=tuple(videos),
            duplicate_of=(None,) * len(videos),
            captions=(),
        )
        return PendingWork.of(rows, None, shard_size=4)

    return make


@pytest.fixture
def make_probe(encoder_info: EncoderInfo) -> Callable[..., Probe]:
    """Two decoders, an encoder on the CPU that takes 1 s a batch, nothing else takes time."""

    def make(samples: Sequence[DecodeSample], **changes: object) -> Probe:
        plain = Probe(
            encoder=encoder_info,
            device="cpu",
            num_decoders=2,
            samples=tuple(samples),
            decode_cpu_share=1.0,
            decode_slowdown=1.0,
            batch_seconds=(1.0, 1.0),
            batch_cpu_seconds=2.0,
            encode_slowdown=1.0,
            caption_seconds=0.0,
            caption_cpu_seconds=0.0,
            write_seconds=0.0,
            start_seconds=0.0,
            decoder_peak_bytes=100,
            encoder_peak_bytes=1000,
            seconds=1.0,
        )
        return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]

    return make


def forecast_from(work: PendingWork, probe: Probe, *, num_encoders: int = 1) -> Forecast:
    return forecast_of(
        config_for(Path("out")),
        work,
        Population(work),
        probe,
        num_decoders=2,
        num_encoders=num_encoders,
        free_bytes=10**9,
    )


def test_a_measured_video_has_its_own_time_and_others_that_of_one_of_their_size(
    make_work: Callable[..., PendingWork],
) -> None:
    population = Population(make_work([100] * 20 + [10_000] * 20))
    measured = [population.videos[place] for place in (0, 1, 2, 20, 21, 22)]
    samples = [sample_of(video, video.num_bytes / 100) for video in measured]
    samples[0] = dataclasses.replace(samples[0], seconds=50.0)
    times = VideoTimes(population, samples[1:], rng=np.random.default_rng(0))
    assert times.decode_seconds == pytest.approx(20 * 1 + 20 * 100)
    first = times.some_shards(shard_size=4, batch_videos=2)[0]
    assert first.decode_seconds[1:3] == (1.0, 1.0)
    with_slow = VideoTimes(population, samples, rng=np.random.default_rng(0))
    assert with_slow.some_shards(shard_size=4, batch_videos=2)[0].decode_seconds[0] == 50.0


def test_missing_videos_take_no_time_and_batches_of_failed_ones_are_not_encoded(
    make_work: Callable[..., PendingWork],
) -> None:
    population = Population(make_work([10, 10, -1, 10]))
    samples = [
        sample_of(video, 2.0, has_failed=video.video.video_id != "v03")
        for video in population.videos
    ]
    times = VideoTimes(population, samples, rng=np.random.default_rng(0))
    (shard,) = times.some_shards(shard_size=4, batch_videos=2)
    assert shard.decode_seconds == (2.0, 2.0, 2.0)
    assert (shard.num_batches, shard.write_share) == (1, 0.25)


def test_duplicates_are_copied_and_not_decoded(make_work: Callable[..., PendingWork]) -> None:
    work = dataclasses.replace(make_work([10, 10, 10]), copies=frozenset({2}))
    assert [video.video_id for video in work.to_decode] == ["v00", "v01"]


def test_wall_time_hours_and_what_binds_follow_from_the_measurements(
    make_work: Callable[..., PendingWork], make_probe: Callable[..., Probe]
) -> None:
    work = make_work([10] * 8)
    samples = [sample_of(video, 3.0) for video in Population(work).videos]
    slow_decoding = forecast_from(work, make_probe(samples))
    assert slow_decoding.wall_seconds == pytest.approx(8 * 3 / 2 + 2)  # the last shard's batches
    assert slow_decoding.wall_low_seconds < 14 < slow_decoding.wall_high_seconds
    assert slow_decoding.decode_core_hours == pytest.approx(8 * 3 / 3600)
    assert slow_decoding.encode_hours == pytest.approx(4 * 2 / 3600)  # CPU seconds, on two cores
    assert slow_decoding.binds == "decode"
    assert slow_decoding.binds_because.startswith(
        "decode-bound: 2 cores decode 0.667 videos/s, 1 encoder could take 2;"
    )
    slow_encoding = forecast_from(work, make_probe(samples, batch_seconds=(20.0,)))
    assert (slow_encoding.binds, slow_encoding.wall_seconds) == ("encode", pytest.approx(6 + 80))


def test_on_a_gpu_it_says_how_many_cores_would_help(
    make_work: Callable[..., PendingWork], make_probe: Callable[..., Probe]
) -> None:
    work = make_work([10] * 8)
    samples = [sample_of(video, 3.0) for video in Population(work).videos]
    forecast = forecast_from(work, make_probe(samples, device="cuda"))
    assert forecast.encode_hours == pytest.approx(4 * 1 / 3600)
    assert forecast.binds_because.endswith("4 more cores would help until the encoder binds")


@pytest.mark.parametrize(("num_videos", "num_clips"), [(100, 9 * 4 + 2), (8, 8)])
def test_memory_has_all_clips_in_flight_and_on_a_gpu_unresized_ones(
    make_work: Callable[..., PendingWork],
    make_probe: Callable[..., Probe],
    num_videos: int,
    num_clips: int,
) -> None:
    """Nine shards of four videos, of which sixteen a decoder, and what two are about to give."""
    work = make_work([10] * num_videos)
    samples = [sample_of(video, 3.0) for video in Population(work).videos]
    of_cpu, of_gpu = (
        forecast_from(work, make_probe(samples, device=device)).peak_memory_bytes
        for device in ("cpu", "cuda")
    )
    config, side = config_for(Path("out")), 32
    clip_bytes = config.sampling.num_frames * side * side * 3
    assert of_gpu - of_cpu == num_clips * clip_bytes // 2


def test_the_sample_is_decoded_as_the_run_s_videos_are(
    run_here: None,
    preprocessing: Preprocessing,
    make_video: Callable[..., Path],
    tmp_path: Path,
) -> None:
    pool = probe_decoders.DecoderPool(
        1,
        limits=DecodeLimits(),
        sampling=Sampling(num_frames=2),
        preprocessing=preprocessing,
        num_clips_kept=1,
        leaves_resize=True,
    )
    video = VideoRef(video_id="a", path=make_video(tmp_path / "a.mp4", size=(36, 32)))
    with pool:
        pool.decode([SizedVideo(video=video, num_bytes=1)], go_on=lambda begun: True).wait()
    (clip,) = pool.clips
    with_resize = attempt(
        DecodeTask(video=video, sampling=Sampling(num_frames=2), preprocessing=preprocessing)
    )
    assert isinstance(with_resize, Clip)
    assert (clip.unresized_from is None, with_resize.unresized_from) == (False, None)


def test_scattered_measurements_widen_the_interval(
    make_work: Callable[..., PendingWork], make_probe: Callable[..., Probe]
) -> None:
    work = make_work([10] * 200)
    videos = Population(work).videos[:16]
    even = forecast_from(work, make_probe([sample_of(video, 3.0) for video in videos]))
    uneven = forecast_from(
        work, make_probe([sample_of(v, 0.1 if i % 4 else 11.7) for i, v in enumerate(videos)])
    )

    def width(forecast: Forecast) -> float:
        return (forecast.wall_high_seconds - forecast.wall_low_seconds) / forecast.wall_seconds

    assert width(uneven) > 1.5 * width(even)


def test_a_sample_has_large_and_small_files_and_is_the_same_each_time() -> None:
    videos = [
        SizedVideo(video=VideoRef(video_id=f"v{n:03d}", path=None), num_bytes=size)
        for n, size in enumerate([1_000_000] * 3 + [1_000] * 197)
    ]
    sample = spread_sample(videos, 16, seed=0)
    sizes = [video.num_bytes for video in sample]
    assert sizes.count(1_000_000) == 3  # nearly all bytes, and so nearly half of the line
    assert 8 <= sizes.count(1_000) <= 9
    assert sample == spread_sample(videos, 16, seed=0) != spread_sample(videos, 16, seed=1)
    assert sorted(spread_sample(videos, 500, seed=0), key=videos.index) == videos


def test_a_file_that_cannot_be_looked_at_has_size_nought(tmp_path: Path) -> None:
    assert sized(VideoRef(video_id="v", path=tmp_path / "gone")).num_bytes == 0


def test_wilsons_interval_has_the_published_values() -> None:
    # Newcombe 1998, table I, method 3: 81 of 263, 0 of 20.
    assert wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(0.0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson_interval(0.0, 0) == (0.0, 1.0)


def test_a_forecast_is_read_back_as_it_was_kept(
    make_work: Callable[..., PendingWork], make_probe: Callable[..., Probe], tmp_path: Path
) -> None:
    work = make_work([10] * 8)
    forecast = forecast_from(work, make_probe([sample_of(Population(work).videos[0], 1.0)]))
    storage = open_storage(tmp_path / "store")
    assert kept_forecast(storage) is None
    keep_forecast(storage, forecast)
    assert kept_forecast(storage) == forecast


@pytest.mark.parametrize("content", ["[]", "{}", '{"binds": "nothing"}', "{"])
def test_what_is_no_forecast_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "forecast.json").write_text(content, encoding="utf-8")
    with pytest.raises(StoreError, match=r"forecast\.json: "):
        kept_forecast(open_storage(tmp_path))


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(StoreError, match="not a forecast"):
        forecast_from_json({"num_failures": [0, 0, 0], "binds": "decode", "x": 1}, source="f")


@pytest.mark.slow
def test_a_real_run_writes_the_bytes_and_takes_about_the_time_that_was_said(
    rows: ListedRows, video_folder: Path, tiny_clip_folder: Path, tmp_path: Path
) -> None:
    config = config_for(tmp_path / "store", encoder=f"openclip:local-dir:{tiny_clip_folder}")
    captions = tmp_path / "captions.csv"
    forecast, written, seconds = said_and_written(config, rows, video_folder, captions)
    assert sum(written.values()) == forecast.output_bytes - forecast.row_bytes
    assert forecast.wall_seconds / 4 < seconds < 4 * forecast.wall_seconds
    assert forecast.peak_memory_bytes > 100e6
