"""``muse extract``: flags to a listing and an `ExtractConfig`."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from muse.cli.flags import DeviceOption
from muse.errors import UsageError

if TYPE_CHECKING:
    from muse.pipeline.extract import ExtractConfig
    from muse.pipeline.records import Listing

EXIT_SOME_FAILED = 3


class EngineFlag(StrEnum):
    """Values of ``--engine``."""

    ray = "ray"
    local = "local"


class DecoderFlag(StrEnum):
    """Values of ``--decoder``."""

    cpu = "cpu"
    nvdec = "nvdec"
    auto = "auto"


class SamplingFlag(StrEnum):
    """Values of ``--sampling``."""

    fps = "fps"
    uniform = "uniform"
    keyframes = "keyframes"


class DatasetFlag(StrEnum):
    """Values of ``--dataset``."""

    msvd = "msvd"
    msrvtt = "msrvtt"
    activitynet = "activitynet"
    didemo = "didemo"
    lsmdc = "lsmdc"
    vatex = "vatex"
    world = "world"


class ChangedFlag(StrEnum):
    """Values of ``--changed``."""

    stat = "stat"
    content = "content"


class PrecisionFlag(StrEnum):
    """Values of ``--precision``."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


def extract(
    out: Annotated[
        str, typer.Option("--out", help="Folder or URL (s3://…) of the store, made or continued.")
    ],
    folder: Annotated[Path | None, typer.Argument(help="Folder of videos, any depth.")] = None,
    captions: Annotated[
        Path | None,
        typer.Option(help="csv, parquet (video,caption[,split,axis]), json or jsonl."),
    ] = None,
    dataset: Annotated[DatasetFlag | None, typer.Option(help="A benchmark, with --root.")] = None,
    root: Annotated[
        Path | None, typer.Option(help="The benchmark's annotation files and videos.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Splits of --dataset, such as test or train,test.")
    ] = None,
    encoder: Annotated[
        str,
        typer.Option(
            help="openclip:MODEL/PRETRAINED (a tag or a file), openclip:muse-nano, or conse."
        ),
    ] = "openclip:ViT-B-32-quickgelu/openai",
    num_frames: Annotated[
        int | None,
        typer.Option(help="T, the most frames a video.", show_default="12; of --dataset, its own"),
    ] = None,
    sampling: Annotated[
        SamplingFlag | None,
        typer.Option(
            help="fps: --fps, then evenly to T. uniform: midpoints of T equal parts. keyframes: "
            "the keyframes nearest to those, which is quick and approximate.",
            show_default="fps; of --dataset, its own",
        ),
    ] = None,
    fps: Annotated[
        float | None, typer.Option(help="Frames a second of --sampling fps.", show_default="1")
    ] = None,
    clip_window: Annotated[
        str | None,
        typer.Option(
            help="Seconds of each file, such as 0:31; none; preset: what papers look at (DiDeMo "
            "0:31), or --captions' columns start, end; annotated: clips of whole videos.",
            show_default="preset",
        ),
    ] = None,
    text_length: Annotated[
        int | None,
        typer.Option(
            help="Tokens at which captions are cut, start and end included; 0 for the encoder's "
            "limit.",
            show_default="the encoder's limit; of --dataset, its own",
        ),
    ] = None,
    views: Annotated[
        str,
        typer.Option(
            help="What is kept of a video, with commas: tokens, int8, class, pooled, unprojected, "
            "block:K, and the frames themselves: frames:jpeg, frames:uint8."
        ),
    ] = "tokens",
    thumbnails: Annotated[
        bool,
        typer.Option(
            "--thumbnails",
            help="Keep small pictures of the frames, for `muse evaluate --html` without the "
            "videos.",
        ),
    ] = False,
    append: Annotated[
        bool, typer.Option("--append", help="Add videos and captions that the store lacks.")
    ] = False,
    retry_failed: Annotated[
        str | None,
        typer.Option(help="Try failed videos again: all, or reasons such as timeout,crashed."),
    ] = None,
    changed: Annotated[
        ChangedFlag | None,
        typer.Option(
            help="Extract files again that have changed: by size and time, or by the hash that "
            "--content-hash noted (else by size and time)."
        ),
    ] = None,
    max_failures: Annotated[
        str, typer.Option(help="Stop when more videos failed: a share such as 1%, or a number.")
    ] = "100%",
    dedup: Annotated[
        bool, typer.Option(help="Decode files with the same bytes once; each keeps its row.")
    ] = True,
    content_hash: Annotated[
        bool,
        typer.Option("--content-hash", help="Note each file's SHA-256, for --changed content."),
    ] = False,
    engine: Annotated[
        EngineFlag, typer.Option(help="ray: many cores, GPUs, nodes. local: no Ray.")
    ] = EngineFlag.ray,
    ray_address: Annotated[
        str | None, typer.Option(help="Of a running Ray cluster; else one is started here.")
    ] = None,
    device: DeviceOption = "auto",
    precision: Annotated[
        PrecisionFlag, typer.Option(help="Of the encoder; auto is bf16 on a GPU, else fp32.")
    ] = PrecisionFlag.auto,
    shard_size: Annotated[int, typer.Option(help="Videos a shard: what a kill can cost.")] = 64,
    batch_videos: Annotated[int, typer.Option(help="Videos a forward pass.")] = 8,
    num_decoders: Annotated[
        int | None, typer.Option(help="Decoding processes; default, one a core.")
    ] = None,
    decoder: Annotated[
        DecoderFlag,
        typer.Option(
            help="cpu: software. nvdec: the GPU's, of --engine local. auto: what decodes the first "
            "videos faster. Frames have the same bits."
        ),
    ] = DecoderFlag.cpu,
    num_encoders: Annotated[
        int | None, typer.Option(help="Encoding workers of --engine ray; default, one a GPU.")
    ] = None,
    decode_timeout: Annotated[
        float, typer.Option(help="Seconds after which a video is given up.")
    ] = 300.0,
    decode_memory: Annotated[
        float, typer.Option(help="GB of memory above which a video is given up; 0 for no limit.")
    ] = 4.0,
    max_duration: Annotated[
        float | None, typer.Option(help="Seconds; longer videos are skipped, and listed as such.")
    ] = None,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan", help="Only say what the run will take: probe some videos, extract none."
        ),
    ] = False,
    profile: Annotated[
        Path | None,
        typer.Option(
            help="File for a trace: what each worker did when. https://ui.perfetto.dev opens it."
        ),
    ] = None,
    json_lines: Annotated[
        bool, typer.Option("--json", help="Progress and summary as JSON lines on stdout.")
    ] = False,
) -> None:
    """Decode videos, encode frames and captions, and cache them in a feature store."""
    from muse.cli.forecast import RunForecast
    from muse.cli.interruption import interruptible
    from muse.cli.preset import AskedSettings, settings_of
    from muse.cli.progress import ExtractReporter
    from muse.pipeline.decoding.decoder import DecodeLimits
    from muse.pipeline.encoders.base import absolute_spec
    from muse.pipeline.extract import ExtractConfig
    from muse.pipeline.extract import extract as run_extract
    from muse.pipeline.redo import FailureLimit, RedoRules
    from muse.pipeline.schedule import Workers
    from muse.pipeline.views import parse_views

    asked = AskedSettings(
        sampling=sampling.value if sampling else None,
        num_frames=num_frames,
        fps=fps,
        text_length=text_length,
    )
    settings = settings_of(asked, dataset=dataset.value if dataset else None, out=out)
    config = ExtractConfig(
        out=out,
        encoder=absolute_spec(encoder),
        sampling=settings.sampling,
        text_length=settings.text_length,
        views=parse_views(views),
        thumbnails=thumbnails,
        engine=engine.value,
        ray_address=ray_address,
        device=device,
        precision=precision.value,
        shard_size=shard_size,
        batch_videos=batch_videos,
        append=append,
        finds_duplicates=dedup,
        hashes_content=content_hash,
        redo=RedoRules(
            failed=tuple(_names(retry_failed or "")),
            changed=changed.value if changed else None,
        ),
        max_failures=FailureLimit.parse(max_failures),
        workers=Workers(
            num_decoders=num_decoders,
            num_encoders=num_encoders,
            decoder=decoder.value,
            limits=DecodeLimits(
                timeout_seconds=decode_timeout,
                memory_bytes=round(decode_memory * 1e9) or None,
                max_duration_seconds=max_duration,
            ),
        ),
    )
    listing = _listing(folder, captions, dataset, root, split, clip_window, out=out)
    if plan:
        _plan(config, listing, as_json=json_lines)
        return
    forecast = RunForecast(config)
    with interruptible(), ExtractReporter(json_lines=json_lines) as reporter:
        reporter.start(listing)
        summary = run_extract(config, listing, on_progress=reporter.update, profile=profile)
    reporter.finish(summary, out)
    if not json_lines:
        forecast.compare(summary)
    if summary.counts.failed:
        raise typer.Exit(EXIT_SOME_FAILED)


def _plan(config: "ExtractConfig", listing: "Listing", *, as_json: bool) -> None:
    """Prints what the run will take, and keeps it for a comparison afterwards."""
    from muse.cli.forecast import print_forecast
    from muse.cli.report import print_progress, print_warning
    from muse.pipeline.forecasting.forecast import forecast_run
    from muse.pipeline.forecasting.record import keep_forecast
    from muse.pipeline.forecasting.store_size import require_space
    from muse.pipeline.storage.files import open_storage

    if config.workers.decoder != "cpu":
        print_warning("the forecast decodes in software, whatever --decoder says.")
    forecast = forecast_run(config, listing, on_progress=print_progress)
    storage = open_storage(config.out)
    print_forecast(forecast, as_json=as_json)
    require_space(forecast.needed_bytes, forecast.free_bytes, storage.location)
    keep_forecast(storage, forecast)


def _listing(
    folder: Path | None,
    captions: Path | None,
    dataset: DatasetFlag | None,
    root: Path | None,
    split: str | None,
    clip_window: str | None,
    *,
    out: str,
) -> "Listing":
    from muse.cli.preset import with_preset_window
    from muse.pipeline.datasets.benchmark import list_benchmark
    from muse.pipeline.datasets.folder import list_folder
    from muse.pipeline.window import parse_clip_window

    window = parse_clip_window(clip_window or "preset")
    if dataset is not None:
        _refuse(with_dataset=("FOLDER", folder), and_=("--captions", captions))
        if root is None:
            raise UsageError(f"--dataset {dataset} needs --root DIR, where its files are.")
        splits = _names(split or "test")
        listing = list_benchmark(dataset.value, root, splits, clip_window=window)
        return listing if clip_window else with_preset_window(listing, dataset.value, out=out)
    if folder is None:
        raise UsageError("nothing to extract: name a FOLDER of videos, or a --dataset.")
    if split or root:
        raise UsageError("--root and --split go with --dataset; a FOLDER takes all splits.")
    return list_folder(folder, captions, clip_window=window)


def _refuse(*, with_dataset: tuple[str, object], and_: tuple[str, object]) -> None:
    for name, value in (with_dataset, and_):
        if value is not None:
            raise UsageError(
                f"{name} {value} does not go with --dataset: that reads its own files."
            )


def _names(text: str) -> Sequence[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
