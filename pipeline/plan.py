"""Rows and store state to the shards that are still to do.

The members of a shard follow from the rows and the shard size alone, so every run, engine and
number of workers cuts the work the same way. What is done is read from receipts and from nothing
else. Knows nothing of decoding or of Ray.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from muse.errors import IncompatibleStoreError
from muse.pipeline.header import EncoderInfo, Golden, Parity, Sampling, StoreHeader
from muse.pipeline.listing import ListedRows
from muse.pipeline.receipts import Receipt
from muse.pipeline.records import Caption, SourceFile, VideoRef
from muse.pipeline.sealed_json import hash_of_json
from muse.pipeline.sources import has_changed, same_bytes, source_of
from muse.pipeline.store import CAPTIONS_PER_SHARD
from muse.pipeline.store_zarr import ZarrStore
from muse.pipeline.views import frame_views


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoShard:
    """A unit of work: consecutive rows of videos. A place is a row, counted from the first."""

    index: int
    first_row: int
    videos: tuple[VideoRef, ...]
    kept: frozenset[int] = frozenset()
    """Places that are committed and stay as they are."""
    copies: Mapping[int, int] = field(default_factory=dict)
    """Place -> row of a committed video, or of one of this shard, with the same bytes."""
    hashed: frozenset[int] = frozenset()
    """Places whose file's bytes are to be hashed."""
    thumbnail_side: int = 0
    """Pixels of the shorter edge of thumbnails, as the store has them; 0 for none."""
    frame_views: tuple[str, ...] = ()
    """Views of the store that hold frames."""
    receipts: tuple[Receipt, ...] = ()
    """Of the committed shards that kept and copied rows are read from."""

    @property
    def to_decode(self) -> list[tuple[int, VideoRef]]:
        """(place, video) of what has to be decoded."""
        return [
            (place, video)
            for place, video in enumerate(self.videos)
            if place not in self.kept and place not in self.copies
        ]

    @property
    def num_todo(self) -> int:
        """Videos that this shard brings to an end, copies included."""
        return len(self.videos) - len(self.kept)

    @property
    def members_sha256(self) -> str:
        """Over the ids, and the windows where there are any."""
        return hash_of_json([video.hashed for video in self.videos])


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionShard:
    """A unit of work: consecutive rows of captions."""

    index: int
    first_row: int
    captions: tuple[Caption, ...]
    kept: frozenset[int] = frozenset()
    """Places that are committed and stay as they are."""
    left_out: tuple[int, ...] = ()
    """Rows whose video is missing: they keep their place and need no embedding."""

    @property
    def to_embed(self) -> list[tuple[int, str]]:
        """(place, text) of what has to be embedded."""
        absent = {row - self.first_row for row in self.left_out}
        return [
            (place, caption.text)
            for place, caption in enumerate(self.captions)
            if place not in self.kept and place not in absent
        ]

    @property
    def members_sha256(self) -> str:
        """Over the captions."""
        return hash_of_json([caption.hashed for caption in self.captions])


def header_of(
    rows: ListedRows,
    *,
    encoder: EncoderInfo,
    sampling: Sampling,
    shard_size: int,
    batch_videos: int,
    views: tuple[str, ...] = ("tokens",),
    text_length: int | None = None,
    thumbnail_side: int = 0,
    golden: Golden | None = None,
    parity: Parity | None = None,
    versions: Mapping[str, str | None] | None = None,
) -> StoreHeader:
    """The header of a store for these rows and settings."""
    return StoreHeader(
        encoder=encoder,
        sampling=sampling,
        protocol=rows.protocol,
        num_videos=len(rows.videos),
        num_captions=len(rows.captions),
        shard_size=shard_size,
        batch_videos=batch_videos,
        listing_sha256=rows.sha256,
        views=views,
        text_length=text_length,
        thumbnail_side=thumbnail_side,
        golden=golden,
        parity=parity,
        versions=dict(versions or {}),
    )


def require_same_settings(
    store: ZarrStore,
    *,
    encoder_spec: str,
    sampling: Sampling,
    shard_size: int,
    batch_videos: int,
    views: tuple[str, ...],
    text_length: int | None = None,
    thumbnails: bool = False,
) -> None:
    """Nothing, if a run with these settings may go on with a store.

    Raises:
        IncompatibleStoreError: Naming the first setting that differs and both its values.
    """
    header = store.header
    settings: tuple[tuple[str, object, object], ...] = (
        ("encoder", header.encoder.spec, encoder_spec),
        ("sampling", header.sampling.kind, sampling.kind),
        ("num_frames", header.sampling.num_frames, sampling.num_frames),
        ("fps", header.sampling.fps, sampling.fps),
        ("views", ",".join(header.views), ",".join(views)),
        ("text_length", header.text_length, text_length),
        ("shard_size", header.shard_size, shard_size),
        ("batch_videos", header.batch_videos, batch_videos),
        ("thumbnails", header.thumbnail_side > 0, thumbnails),
    )
    for name, found, wanted in settings:
        if found != wanted:
            raise IncompatibleStoreError(
                f"{store.location}: made with {name} = {found!r}, this run has {wanted!r}. "
                "Repeat the settings it was made with, or choose another --out."
            )


def all_video_shards(rows: ListedRows, *, shard_size: int) -> list[VideoShard]:
    """Every shard of videos, as if nothing were done."""
    return [
        VideoShard(index=index, first_row=first_row, videos=rows.videos[first_row:end])
        for index, first_row, end in _pieces(len(rows.videos), shard_size)
    ]


def all_caption_shards(rows: ListedRows) -> list[CaptionShard]:
    """Every shard of captions, as if nothing were done."""
    return [
        CaptionShard(index=index, first_row=first_row, captions=rows.captions[first_row:end])
        for index, first_row, end in _pieces(len(rows.captions), CAPTIONS_PER_SHARD)
    ]


def pending_video_shards(store: ZarrStore, rows: ListedRows) -> list[VideoShard]:
    """Shards with rows that are not committed, in order; what is a copy is not known yet."""
    receipts = {receipt.index: receipt for receipt in store.video_receipts}
    side, frames, pending = store.header.thumbnail_side, frame_views(store.header.views), []
    for shard in all_video_shards(rows, shard_size=store.header.shard_size):
        kept = _kept(receipts.get(shard.index))
        if len(kept) < len(shard.videos):
            own = (receipts[shard.index],) if kept else ()
            shard = dataclasses.replace(shard, thumbnail_side=side, frame_views=frames)
            pending.append(dataclasses.replace(shard, kept=kept, receipts=own))
    return pending


def ready_video_shards(
    store: ZarrStore, rows: ListedRows, *, hashes_all: bool = False
) -> list[VideoShard]:
    """The pending shards that can be done now: their duplicates' originals are committed.

    An original has a lower row than its duplicates, so some shard is always ready.

    Args:
        store: As it is now.
        rows: Of the run.
        hashes_all: Whether the bytes of every decoded file are hashed, not only of originals.
    """
    originals = {row for row in rows.duplicate_of if row is not None}
    receipts = {receipt.index: receipt for receipt in store.video_receipts}
    ready = []
    for shard in pending_video_shards(store, rows):
        with_copies = _with_copies(
            shard, store, rows, receipts=receipts, originals=originals, hashes_all=hashes_all
        )
        if with_copies is not None:
            ready.append(with_copies)
    return ready


def pending_caption_shards(store: ZarrStore | None, rows: ListedRows) -> list[CaptionShard]:
    """Caption shards with rows that are not committed, in order.

    Args:
        store: As it is; None where there is none yet.
        rows: Of the run.
    """
    receipts = {receipt.index: receipt for receipt in (store.caption_receipts if store else ())}
    has_features = store.has_features_N.tolist() if store else []
    missing = {
        video.video_id
        for row, video in enumerate(rows.videos)
        if video.path is None and not (row < len(has_features) and has_features[row])
    }
    pending = []
    for shard in all_caption_shards(rows):
        receipt = receipts.get(shard.index)
        kept = _kept(receipt)
        if len(kept) < len(shard.captions):
            left_out = {
                shard.first_row + place
                for place, caption in enumerate(shard.captions)
                if place not in kept and caption.video_id in missing
            }
            left_out |= set(receipt.left_out if receipt else ())
            pending.append(dataclasses.replace(shard, kept=kept, left_out=tuple(sorted(left_out))))
    return pending


def _with_copies(
    shard: VideoShard,
    store: ZarrStore,
    rows: ListedRows,
    *,
    receipts: Mapping[int, Receipt],
    originals: set[int],
    hashes_all: bool,
) -> VideoShard | None:
    """The shard with its duplicates as copies; None while an original is still to come."""
    done, copies = store.done("videos"), {}
    for place, video in enumerate(shard.videos):
        original = rows.duplicate_of[shard.first_row + place]
        if original is None or place in shard.kept:
            continue
        if original < shard.first_row and not done[original]:
            return None
        # A file may have changed since it was listed: then it is a video of its own.
        decoded = store.sources.get(original) if done[original] else None
        if _has_bytes_of(video.path, rows.videos[original].path, decoded):
            copies[place] = original
    row_of_place = range(shard.first_row, shard.first_row + len(shard.videos))
    hashed = {p for p, row in enumerate(row_of_place) if hashes_all or row in originals}
    elsewhere = {row // store.header.shard_size for row in copies.values()} - {shard.index}
    return dataclasses.replace(
        shard,
        copies=copies,
        hashed=frozenset(hashed),
        receipts=(*shard.receipts, *(receipts[index] for index in sorted(elsewhere))),
    )


def _has_bytes_of(path: Path | None, original: Path | None, decoded: SourceFile | None) -> bool:
    """True if a file's bytes are those of an original: as it was decoded, else as it is now."""
    if decoded is None:
        return same_bytes(original, path)
    if decoded.sha256 is None:  # then the original has to be what it was
        return not has_changed(original, decoded, by="stat") and same_bytes(original, path)
    now = source_of(path, wants_sha256=True) if path else None
    return now is not None and now.sha256 == decoded.sha256


def _kept(receipt: Receipt | None) -> frozenset[int]:
    """Places of a shard whose rows are committed."""
    if receipt is None:
        return frozenset()
    return frozenset(row - receipt.first_row for row in set(receipt.rows) - set(receipt.pending))


def _pieces(num_rows: int, size: int) -> list[tuple[int, int, int]]:
    """(index, first row, row after the last) of each shard."""
    starts = range(0, num_rows, size)
    return [(index, start, min(start + size, num_rows)) for index, start in enumerate(starts)]
