"""``muse extract`` on one page: a listing in, a feature store out. Start reading here.

    listing -> rows -> shards -> (sample, decode, crop) -> encode -> write -> receipt

A row is done when the receipt of its shard says so. So a second run of the same command finds
nothing to do, and a run after a kill goes on where the other one stopped. What is to be done again
(failed videos, changed files) is first made pending in the receipts, then done like all the rest.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from muse.errors import TooManyFailuresError, UsageError
from muse.pipeline.decoding.thumbnail import SIDE
from muse.pipeline.encoders.setting import EncoderSetting, Precision
from muse.pipeline.forecasting.space import require_space_of_run
from muse.pipeline.golden import require_same_golden
from muse.pipeline.header import Sampling, require_same_encoder
from muse.pipeline.listing import (
    ListedRows,
    rows_of_continued_store,
    rows_of_new_store,
    sorted_listing,
)
from muse.pipeline.parity import certified
from muse.pipeline.plan import (
    header_of,
    pending_caption_shards,
    pending_video_shards,
    ready_video_shards,
    require_same_settings,
)
from muse.pipeline.progress import Progress, Tally
from muse.pipeline.receipts import Receipt
from muse.pipeline.records import Listing
from muse.pipeline.redo import FailureLimit, RedoRules, reopened_receipts
from muse.pipeline.run_record import package_versions, write_failures, write_run_record
from muse.pipeline.schedule import Engine, Tick, Workers, available_cpus
from muse.pipeline.schedule_local import LocalEngine
from muse.pipeline.sole_writer import existing_store, only_writer
from muse.pipeline.speed.report import SpeedReport, SpeedTally
from muse.pipeline.speed.spans import Measured
from muse.pipeline.speed.trace import TraceLog, traced
from muse.pipeline.storage.files import Storage, WriteLock
from muse.pipeline.store import StoreCounts
from muse.pipeline.store_writer import StoreWriter
from muse.pipeline.store_zarr import ZarrStore

EngineName = Literal["ray", "local"]
MIN_TEXT_LENGTH = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractConfig:
    """All that a run depends on besides its listing."""

    out: Path | str
    """Folder or URL of the store."""
    encoder: str = "openclip:ViT-B-32-quickgelu/openai"
    """``openclip:MODEL/PRETRAINED`` or ``conse``."""
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    """Which instants of a video are looked at."""
    views: tuple[str, ...] = ("tokens",)
    """What is kept of each video (`muse.pipeline.views`)."""
    text_length: int | None = None
    """Tokens at which captions are cut, start and end included; None: at the encoder's limit."""
    thumbnails: bool = False
    """Whether small pictures of the sampled frames are kept, for the report's page."""
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
    append: bool = False
    """Whether the store may grow by what it does not list yet."""
    finds_duplicates: bool = True
    """Whether files with the same bytes are decoded once."""
    hashes_content: bool = False
    """Whether the bytes of every file are hashed, for `RedoRules.changed` by content."""
    redo: RedoRules = dataclasses.field(default_factory=RedoRules)
    """Which committed videos are done again."""
    max_failures: FailureLimit = dataclasses.field(default_factory=FailureLimit)
    """How many videos may fail before the run stops."""
    workers: Workers = dataclasses.field(default_factory=Workers)
    """How many processes, and what a decode may take."""

    def __post_init__(self) -> None:
        for name in ("shard_size", "batch_videos"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} {getattr(self, name)}: at least 1 is needed")
        if self.text_length is not None and self.text_length < MIN_TEXT_LENGTH:
            raise UsageError(
                f"text_length {self.text_length}: at least {MIN_TEXT_LENGTH} tokens, which are a "
                "text's start, one token and its end"
            )
        if self.engine not in ("ray", "local"):
            raise UsageError(f"engine {self.engine!r}: choose ray or local")

    @property
    def thumbnail_side(self) -> int:
        """Pixels of the shorter edge of thumbnails; 0 without."""
        return SIDE if self.thumbnails else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractSummary:
    """What a run left behind."""

    counts: StoreCounts
    num_new_videos: int
    """Committed by this run, failed ones included."""
    num_new_failures: int
    """Of these, failed or missing."""
    was_complete: bool
    """True if there was nothing to do."""
    elapsed_seconds: float
    speed: SpeedReport | None = None
    """Of the stages, and which one binds; None of a run that had nothing to do."""


def extract(
    config: ExtractConfig,
    listing: Listing,
    *,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    profile: Path | None = None,
) -> ExtractSummary:
    """Brings a store up to its listing: creates it, goes on with it, or lets it grow.

    Args:
        config: Of the run.
        listing: What it is about.
        on_progress: Told after each sign of life.
        profile: File for a trace of what each worker did, also of a run that is cut off
            (`muse.pipeline.speed.trace`).

    Raises:
        ManifestError: If the listing is empty or has an id twice.
        EncoderError: If the encoder can't be built.
        ParityError: If the features of a new store would be too far from the library's.
        IncompatibleStoreError: If the store was made with other settings, for another listing, or
            the encoder no longer gives what it gave.
        StoreError: If the store can't be read or written, or another run is writing to it.
        TooManyFailuresError: If more videos failed than `ExtractConfig.max_failures` allows.
    """
    started = time.perf_counter()
    listing = sorted_listing(listing)
    with traced(profile) as trace, only_writer(config.out) as (storage, lock):
        store = existing_store(storage)
        rows = rows_of_run(config, listing, store)
        reopened = reopened_receipts(store, rows, config.redo) if store else []
        num_new, num_failed, has_work = 0, 0, bool(reopened) or _has_work(store, rows)
        speed = None
        with _failures_listed(storage):  # also of a run that was cut off after its last shard
            if has_work:
                with _engine(config) as engine:
                    _bring_up(config, rows, storage, lock, engine)
                    _reopen(storage, reopened)
                    for progress in _run(config, rows, storage, lock, engine, trace):
                        num_new, num_failed = progress.num_committed, progress.num_failed
                        speed = progress.speed
                        on_progress(progress)
        store = ZarrStore.open(storage.location)
    return ExtractSummary(
        counts=store.counts(),
        num_new_videos=num_new,
        num_new_failures=num_failed,
        was_complete=not has_work,
        elapsed_seconds=time.perf_counter() - started,
        speed=speed,
    )


@contextmanager
def _failures_listed(storage: Storage) -> Iterator[None]:
    """``failures.jsonl`` is up to date afterwards, also where too many failures ended the run."""
    try:
        yield
    except TooManyFailuresError:
        write_failures(ZarrStore.open(storage.location))
        raise
    write_failures(ZarrStore.open(storage.location))


def rows_of_run(config: ExtractConfig, listing: Listing, store: ZarrStore | None) -> ListedRows:
    """The rows of a run; nothing is written.

    Args:
        config: Of the run.
        listing: Of `sorted_listing`.
        store: Of `existing_store`.

    Raises:
        IncompatibleStoreError: If the store was made with other settings or for another listing.
    """
    if store is None:
        return rows_of_new_store(listing, finds_duplicates=config.finds_duplicates)
    require_same_settings(
        store,
        encoder_spec=config.encoder,
        sampling=config.sampling,
        shard_size=config.shard_size,
        batch_videos=config.batch_videos,
        views=config.views,
        text_length=config.text_length,
        thumbnails=config.thumbnails,
    )
    return rows_of_continued_store(
        store, listing, append=config.append, finds_duplicates=config.finds_duplicates
    )


def _has_work(store: ZarrStore | None, rows: ListedRows) -> bool:
    if store is None or not store.header.files:  # its growth was cut off
        return True
    return bool(pending_video_shards(store, rows) or pending_caption_shards(store, rows))


def _reopen(storage: Storage, receipts: Sequence[Receipt]) -> None:
    """Makes what is to be done again pending, now that nothing speaks against the run."""
    if receipts:
        writer = StoreWriter.open(storage.location)
        for receipt in receipts:
            writer.replace_receipt(receipt)


def _bring_up(
    config: ExtractConfig, rows: ListedRows, storage: Storage, lock: WriteLock, engine: Engine
) -> None:
    """A store whose header and tables are those of this run, made or grown."""
    info, golden = engine.encoder_info(), engine.golden()
    store = existing_store(storage)
    require_space_of_run(config, rows, storage, store, info)
    # Of an existing store it would tell of rows that it has not seen: its own stays.
    parity = certified(engine, rows, config) if store is None else store.header.parity
    lock.check()  # weights may have taken minutes to load
    header = header_of(
        rows,
        encoder=info,
        sampling=config.sampling,
        shard_size=config.shard_size,
        batch_videos=config.batch_videos,
        views=config.views,
        text_length=config.text_length,
        thumbnail_side=config.thumbnail_side,
        golden=golden,
        parity=parity,
        versions=package_versions(),
    )
    if store is None:
        StoreWriter.create(storage.location, header, rows)
        return
    writer, found = StoreWriter.open(storage.location), store.header
    require_same_encoder(found.encoder, info, what=storage.location)
    if found.golden is not None:
        require_same_golden(golden, found.golden, precision=info.precision, what=storage.location)
    if header.listing_sha256 != found.listing_sha256 or not found.files:
        kept = {name: getattr(found, name) for name in ("golden", "versions", "thumbnail_side")}
        writer.describe(dataclasses.replace(header, **kept), rows)


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


def _run(
    config: ExtractConfig,
    rows: ListedRows,
    storage: Storage,
    lock: WriteLock,
    engine: Engine,
    trace: TraceLog,
) -> Iterator[Progress]:
    workforce = engine.workforce(config.views, rows.videos, config.sampling)
    speed = SpeedTally(workforce, started_seconds=trace.started_seconds)
    tally = Tally(ZarrStore.open(storage.location), rows, speed=speed)
    config.max_failures.check(tally.num_failed_in_all, of=len(rows.videos))
    write_run_record(storage, config, workforce)
    for event in _events(config, rows, storage, engine):
        if isinstance(event, Receipt):  # an object store is asked over the network
            lock.check()
        tally.count(event)
        if isinstance(event, Measured):
            trace.add(event.spans)
            continue  # its receipt follows
        yield tally.progress()
        config.max_failures.check(tally.num_failed_in_all, of=len(rows.videos))


def _events(
    config: ExtractConfig, rows: ListedRows, storage: Storage, engine: Engine
) -> Iterator[Receipt | Tick | Measured]:
    """Of all shards, in waves: a duplicate waits until its original is committed."""
    captions = pending_caption_shards(ZarrStore.open(storage.location), rows)
    while True:
        store = ZarrStore.open(storage.location)
        videos = ready_video_shards(store, rows, hashes_all=config.hashes_content)
        if not videos and not captions:
            return
        yield from engine.run(
            storage.location, sampling=config.sampling, videos=videos, captions=captions
        )
        captions = []
