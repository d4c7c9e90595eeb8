"""``muse extract`` on one page: a listing in, a feature store out. Start reading here.

    listing -> rows -> shards -> (sample, decode, crop) -> encode -> write -> receipt

A shard is done when its receipt exists. So a second run of the same command finds nothing to do,
and a run after a kill goes on at the first unfinished shard.
"""

import dataclasses
import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import muse
from muse.errors import UsageError
from muse.pipeline.encoders.base import Precision
from muse.pipeline.header import Sampling
from muse.pipeline.plan import (
    CaptionShard,
    VideoShard,
    header_of,
    pending_caption_shards,
    pending_video_shards,
    require_same_plan,
    sorted_listing,
)
from muse.pipeline.receipts import write_json
from muse.pipeline.records import Listing
from muse.pipeline.schedule import Engine, LocalEngine, Tick, Workers, available_cpus
from muse.pipeline.shards import EncoderSetting, ShardReport
from muse.pipeline.store import HEADER_FILE, StoreCounts
from muse.pipeline.store_writer import StoreWriter, writing
from muse.pipeline.store_zarr import ZarrStore

EngineName = Literal["ray", "local"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractConfig:
    """All that a run depends on besides its listing."""

    out: Path
    """Folder of the store."""
    encoder: str = "openclip:ViT-B-32-quickgelu/openai"
    """``openclip:MODEL/PRETRAINED`` or ``conse``."""
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    """Which instants of a video are looked at."""
    engine: EngineName = "ray"
    """Both write the same bytes."""
    ray_address: str | None = None
    """Of a running cluster; None starts a local Ray."""
    device: str = "auto"
    """``cpu``, ``cuda``; ``auto`` takes a GPU where there is one."""
    precision: Precision = "auto"
    """Of the matrix products; ``auto`` is bf16 on a GPU and fp32 elsewhere."""
    shard_size: int = 64
    """Videos a shard: the unit of work, of resumption and of writing."""
    batch_videos: int = 8
    """Videos a forward pass."""
    workers: Workers = dataclasses.field(default_factory=Workers)
    """How many processes, and how long a decode may take."""

    def __post_init__(self) -> None:
        for name in ("shard_size", "batch_videos"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} {getattr(self, name)}: at least 1 is needed")
        if self.engine not in ("ray", "local"):
            raise UsageError(f"engine {self.engine!r}: choose ray or local")


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where a run stands."""

    num_videos: int
    """Of this run: those not done by an earlier one."""
    num_decoded: int
    num_committed: int
    num_failed: int
    elapsed_seconds: float

    @property
    def videos_per_second(self) -> float:
        """Decoded a second, since the workers were ready."""
        return self.num_decoded / self.elapsed_seconds if self.elapsed_seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At this rate; None before the first video."""
        rate = self.videos_per_second
        return (self.num_videos - self.num_decoded) / rate if rate else None


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractSummary:
    """What a run left behind."""

    counts: StoreCounts
    num_new_videos: int
    """Committed by this run, failed ones included."""
    was_complete: bool
    """True if there was nothing to do."""
    elapsed_seconds: float


def extract(
    config: ExtractConfig,
    listing: Listing,
    *,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> ExtractSummary:
    """Brings a store up to its listing: creates it, or goes on where a run stopped.

    Raises:
        ManifestError: If the listing is empty or has an id twice.
        EncoderError: If the encoder can't be built.
        IncompatibleStoreError: If the store was made with other settings.
        StoreError: If the store can't be read or written.
    """
    started = time.perf_counter()
    listing = sorted_listing(listing)
    is_new = not (config.out / HEADER_FILE).is_file()
    if not is_new:
        _require_same_plan(config, listing)
    num_new = 0
    was_complete = not is_new and not any(_pending_shards(config, listing))
    if not was_complete:
        with _engine(config) as engine:
            if is_new:
                _create_store(config, listing, engine)
            for progress in _run(config, listing, engine):
                num_new = progress.num_committed
                on_progress(progress)
    store = ZarrStore.open(config.out)
    _write_failures(store)
    return ExtractSummary(
        counts=store.counts(),
        num_new_videos=num_new,
        was_complete=was_complete,
        elapsed_seconds=time.perf_counter() - started,
    )


def _require_same_plan(config: ExtractConfig, listing: Listing) -> None:
    require_same_plan(
        ZarrStore.open(config.out),
        listing,
        encoder_spec=config.encoder,
        sampling=config.sampling,
        shard_size=config.shard_size,
        batch_videos=config.batch_videos,
    )


def _pending_shards(
    config: ExtractConfig, listing: Listing
) -> tuple[list[VideoShard], list[CaptionShard]]:
    store = ZarrStore.open(config.out)
    return pending_video_shards(store, listing), pending_caption_shards(store, listing)


def _create_store(config: ExtractConfig, listing: Listing, engine: Engine) -> None:
    header = header_of(
        listing,
        encoder=engine.encoder_info(),
        sampling=config.sampling,
        shard_size=config.shard_size,
        batch_videos=config.batch_videos,
        versions=_versions(),
    )
    StoreWriter.create(config.out, header, listing)


@contextmanager
def _engine(config: ExtractConfig) -> Iterator[Engine]:
    setting = EncoderSetting(
        spec=config.encoder,
        device=config.device,
        precision=config.precision,
        num_threads=available_cpus(),
    )
    engine: Engine
    if config.engine == "local":
        engine = LocalEngine(setting, config.workers)
    else:
        from muse.pipeline.schedule_ray import RayEngine  # --engine local never loads Ray

        engine = RayEngine(setting, config.workers, address=config.ray_address)
    try:
        yield engine
    finally:
        engine.close()


def _run(config: ExtractConfig, listing: Listing, engine: Engine) -> Iterator[Progress]:
    videos, captions = _pending_shards(config, listing)
    with writing(config.out):
        write_json(config.out / "run.json", _run_record(config))
    num_videos = sum(len(shard.videos) for shard in videos)
    decoded = committed = failed = 0
    started = time.perf_counter()
    for event in engine.run(config.out, sampling=config.sampling, videos=videos, captions=captions):
        if isinstance(event, Tick):
            decoded = max(decoded, event.num_decoded)
        else:
            _append_stats(config.out, event)
            if event.receipt.kind == "videos":
                committed += event.receipt.num_rows
                failed += len(event.receipt.failures)
                decoded = max(decoded, committed)
        yield Progress(
            num_videos=num_videos,
            num_decoded=decoded,
            num_committed=committed,
            num_failed=failed,
            elapsed_seconds=time.perf_counter() - started,
        )


def _append_stats(store_path: Path, report: ShardReport) -> None:
    """A line of ``stats.jsonl`` a shard: where its seconds went."""
    receipt = report.receipt
    line = {
        "kind": receipt.kind,
        "shard": receipt.index,
        "rows": receipt.num_rows,
        "failed": len(receipt.failures),
        "seconds": report.seconds,
    }
    with (
        writing(store_path),
        (store_path / "stats.jsonl").open("a", encoding="utf-8") as stream,
    ):
        stream.write(json.dumps(line) + "\n")


def _write_failures(store: ZarrStore) -> None:
    """``failures.jsonl``: a line for every failed video of the whole store."""
    path = store.path / "failures.jsonl"
    lines = "".join(json.dumps(failure.as_json()) + "\n" for failure in store.failures)
    if path.is_file() and path.read_text(encoding="utf-8") == lines:
        return
    temporary = path.with_name("failures.jsonl.partial")
    with writing(store.path):
        temporary.write_text(lines, encoding="utf-8")
        temporary.replace(path)


def _run_record(config: ExtractConfig) -> dict[str, Any]:
    """``run.json``: the settings, versions and machine of the last run that did something."""
    plain = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    return {"config": plain, "versions": _versions(), "machine": platform.machine()}


def _versions() -> dict[str, str | None]:
    """Of all that a feature's bits may depend on."""
    packages = ("torch", "open_clip_torch", "av", "zarr", "numpy", "pillow", "ray")
    return {
        "muse": muse.__version__,
        "python": platform.python_version(),
        **{name: _version_of(name) for name in packages},
    }


def _version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # on the path without being installed
        return None
