"""A store read again from end to end: every hash, every receipt, every row's place.

Finds what a disk, a copy or a person has changed. Knows nothing of videos: whether a feature is
right is the golden vector's matter, whether it is still what was written is this module's.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from muse.errors import StoreError
from muse.pipeline.listing import ListedRows
from muse.pipeline.picture_files import is_thumbnails
from muse.pipeline.plan import CaptionShard, VideoShard
from muse.pipeline.receipts import Receipt, current_receipt
from muse.pipeline.records import VideoRef
from muse.pipeline.storage.files import Storage
from muse.pipeline.store import CAPTIONS_PER_SHARD
from muse.pipeline.store_writer import StoreWriter
from muse.pipeline.store_zarr import CAPTIONS_FILE, VIDEOS_FILE, ZarrStore

_READ_BYTES = 1 << 22


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Something that is not what was written."""

    name: str
    """The file in the store."""
    words: str
    receipt: Receipt | None = None
    """Of the shard to write again; None where that would not mend it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyReport:
    """What was read, and what is wrong with it."""

    root_sha256: str
    num_files: int
    num_bytes: int
    num_pending: int
    """Rows of videos that are not committed: not wrong, only unfinished."""
    problems: tuple[Problem, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Repair:
    """What was done about what is damaged."""

    num_withdrawn: int
    """Shards that the next run writes again."""
    num_without_thumbnails: int
    """Shards that were whole but for their thumbnails, and are without them now."""


def verify(
    store: ZarrStore, *, on_file: Callable[[str, int], None] = lambda name, size: None
) -> VerifyReport:
    """Re-reads every file that the header and the receipts speak of.

    Args:
        store: As it was just opened.
        on_file: Called with the name and size of each file that was read.

    Raises:
        StoreError: If the header or a receipt can't be read at all.
    """
    counted: list[int] = []

    def count(name: str, size: int) -> None:
        counted.append(size)
        on_file(name, size)

    problems = tuple(_problems(store, count))
    return VerifyReport(
        root_sha256=store.root_sha256,
        num_files=len(counted),
        num_bytes=sum(counted),
        num_pending=store.counts().pending,
        problems=problems,
    )


def repair(location: str) -> Repair:
    """Withdraws the receipts of damaged shards, so that the next run writes them again.

    Looks again while no other run can write: what a report says may be mended by then. All videos
    of a damaged shard are extracted again, and those whose files are gone end as missing. That is
    too much for a picture: where thumbnails alone are damaged, they are given up.

    Raises:
        StoreError: If something is damaged that no run can write again.
    """
    with ZarrStore.open(location).storage.lock():
        store = ZarrStore.open(location)
        problems = verify(store).problems
        lasting = [problem for problem in problems if problem.receipt is None]
        if lasting:
            raise StoreError(
                f"{location}: {lasting[0].name} {lasting[0].words}. No run can mend that: copy "
                "the store again, or extract into another --out."
            )
        receipts = {p.receipt.name: p.receipt for p in problems if p.receipt is not None}
        lost = {p.receipt.name for p in problems if p.receipt and not is_thumbnails(p.name)}
        writer = StoreWriter(store.storage, store.header)
        for name, receipt in receipts.items():
            if name in lost:
                writer.withdraw(receipt.kind, receipt.index)
            else:
                writer.give_up_thumbnails(receipt)
    return Repair(num_withdrawn=len(lost), num_without_thumbnails=len(receipts) - len(lost))


def _problems(store: ZarrStore, count: Callable[[str, int], None]) -> Iterator[Problem]:
    damaged = set()
    for name, sha256 in store.header.files.items():
        words = _difference(store.storage, name, sha256, count)
        if words and _header_files_of(store) == store.header.files:
            damaged.add(name)
            yield Problem(name=name, words=words)
    if not damaged & {VIDEOS_FILE, CAPTIONS_FILE}:  # which may not even be tables any more
        yield from _misplaced(store)
    for receipt in (*store.video_receipts, *store.caption_receipts):
        for name, sha256 in receipt.sha256.items():
            words = _difference(store.storage, name, sha256, count)
            if words and current_receipt(store.storage, receipt) == receipt:
                yield Problem(name=name, words=words, receipt=receipt)


def _header_files_of(store: ZarrStore) -> Mapping[str, str]:
    """As the header has them now: a run may have let the store grow since it was opened."""
    return ZarrStore.open(store.location).header.files


def _misplaced(store: ZarrStore) -> Iterator[Problem]:
    """Receipts whose rows or members are not those of the tables."""
    rows = ListedRows(
        protocol=store.header.protocol,
        videos=tuple(
            VideoRef(video_id=video_id, path=None, window=window)
            for video_id, window in zip(store.video_ids, store.windows, strict=True)
        ),
        duplicate_of=tuple(store.duplicate_of),
        captions=tuple(store.captions),
    )
    if rows.sha256 != store.header.listing_sha256:
        yield Problem(name=VIDEOS_FILE, words="is not the listing that store.json speaks of")
    for receipt in (*store.video_receipts, *store.caption_receipts):
        if receipt.members_sha256 != _members_sha256(store, rows, receipt):
            yield Problem(name=receipt.name, words="speaks of other rows", receipt=receipt)


def _members_sha256(store: ZarrStore, rows: ListedRows, receipt: Receipt) -> str | None:
    """Of the rows that a receipt should speak of; None if there are none at its place.

    The last shard of a store that has grown since may have had fewer rows.
    """
    first, end, index = receipt.first_row, receipt.rows.stop, receipt.index
    is_videos = receipt.kind == "videos"
    size = store.header.shard_size if is_videos else CAPTIONS_PER_SHARD
    if first != index * size or not first < end <= first + size:
        return None
    if is_videos:
        videos = rows.videos[first:end]
        return VideoShard(index=index, first_row=first, videos=videos).members_sha256
    captions = rows.captions[first:end]
    return CaptionShard(index=index, first_row=first, captions=captions).members_sha256


def _difference(
    storage: Storage, name: str, sha256: str, count: Callable[[str, int], None]
) -> str | None:
    """What is wrong with a file; None if it has the hash it should have."""
    size = storage.size(name)
    if size is None:
        return "is not there"
    digest, buffer = hashlib.sha256(), memoryview(bytearray(min(size, _READ_BYTES) or 1))
    try:
        for offset in range(0, size, len(buffer)):
            digest.update(buffer[: storage.read_into(name, buffer, offset=offset)])
    except OSError as error:
        return f"can't be read ({error.strerror or error})"
    count(name, size)
    return None if digest.hexdigest() == sha256 else "is not what was written (SHA-256 differs)"
