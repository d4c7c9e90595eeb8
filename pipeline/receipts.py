"""Receipts: the proof that a shard is committed, and the only one that counts.

A receipt is written after the files it speaks of. Before a committed shard is changed, its receipt
is replaced by an open one: the rows that will be done again are pending in it and no hash is
promised, while all other rows stay readable; the final receipt closes it. So a kill at any moment
leaves rows that are right or pending. Knows nothing of how arrays lie on disk.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

from muse.errors import StoreError
from muse.pipeline.picture_files import is_thumbnails
from muse.pipeline.records import Failure, SourceFile
from muse.pipeline.sealed_json import sealed_bytes, unsealed
from muse.pipeline.storage.files import Storage

RECEIPTS_FOLDER = "receipts"
ReceiptKind = Literal["videos", "captions"]
_READERS = 16  # an object store answers in tens of milliseconds, and a million videos have 15,625


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """Proof that a shard is committed, and what it holds. Rows are those of the store."""

    kind: ReceiptKind
    index: int
    first_row: int
    num_rows: int
    members_sha256: str
    """Over the video ids, or over the captions, of the rows: what was meant to be here."""
    failures: tuple[tuple[int, Failure], ...] = ()
    """(row, why) of videos that stay without features, skipped ones included."""
    left_out: tuple[int, ...] = ()
    """Caption rows without an embedding, since their video was missing."""
    pending: tuple[int, ...] = ()
    """Rows to be done again; a receipt that has any is open."""
    sources: tuple[SourceFile | None, ...] = ()
    """For each video row the file it was decoded from; None where there was none."""
    sha256: Mapping[str, str] = field(default_factory=dict)
    """Of each file of the shard, by its name in the store; empty while the receipt is open."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """By stage: ``wait`` for decoded clips, ``encode``, ``write``."""

    @property
    def is_open(self) -> bool:
        """True while the shard is being changed."""
        return bool(self.pending)

    @property
    def rows(self) -> range:
        """Of the store."""
        return range(self.first_row, self.first_row + self.num_rows)

    @property
    def name(self) -> str:
        """Of its file in the store."""
        return receipt_name(self.kind, self.index)

    def reopened(self, rows: Sequence[int]) -> "Receipt":
        """The open receipt that lets some rows be done again."""
        again = set(rows) | set(self.pending)
        return dataclasses.replace(
            self,
            pending=tuple(sorted(again)),
            failures=tuple(entry for entry in self.failures if entry[0] not in again),
            left_out=tuple(row for row in self.left_out if row not in again),
            sha256={},
        )

    def without_thumbnails(self) -> "Receipt":
        """The receipt that promises everything of the shard but its thumbnails."""
        kept = {name: sha256 for name, sha256 in self.sha256.items() if not is_thumbnails(name)}
        return dataclasses.replace(self, sha256=kept)

    def as_json(self) -> dict[str, Any]:
        """The content of the receipt's file."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {
            **plain,
            "sha256": dict(self.sha256),
            "seconds": dict(self.seconds),
            "failures": [{"row": row, **failure.as_json()} for row, failure in self.failures],
            "sources": _columns(self.sources),
        }

    def lasting_part(self) -> list[object]:
        """What a run that is repeated must give again: no times, no paths, no libav's words.

        No thumbnails either: they are for people, and another JPEG library makes other bytes.
        """
        reasons = [(row, failure.stage, failure.reason) for row, failure in self.failures]
        return [
            self.kind,
            self.index,
            self.first_row,
            self.num_rows,
            self.members_sha256,
            reasons,
            self.left_out,
            self.pending,
            sorted(self.without_thumbnails().sha256.items()),
        ]


def read_receipts(storage: Storage, kind: ReceiptKind) -> list[Receipt]:
    """Of all committed shards of a store, in order.

    Raises:
        StoreError: If one can't be read.
    """
    prefix = f"{RECEIPTS_FOLDER}/{kind}-"
    names = [name for name in storage.list(RECEIPTS_FOLDER) if name.startswith(prefix)]
    if len(names) < _READERS:
        return sorted((_read_receipt(storage, name) for name in names), key=lambda r: r.index)
    with ThreadPoolExecutor(_READERS) as pool:
        receipts = pool.map(lambda name: _read_receipt(storage, name), names)
        return sorted(receipts, key=lambda receipt: receipt.index)


def current_receipt(storage: Storage, receipt: Receipt) -> Receipt | None:
    """The receipt that is in the place of another one now; None if there is none.

    Raises:
        StoreError: If it can't be read.
    """
    is_there = storage.size(receipt.name) is not None
    return _read_receipt(storage, receipt.name) if is_there else None


def write_receipt(storage: Storage, receipt: Receipt) -> None:
    """Commits a shard, or opens a committed one."""
    storage.write(receipt.name, sealed_bytes(receipt.as_json()))


def receipt_name(kind: ReceiptKind, index: int) -> str:
    """Of a receipt's file in the store."""
    return f"{RECEIPTS_FOLDER}/{kind}-{index:06d}.json"


_SOURCE_FIELDS = tuple(field.name for field in dataclasses.fields(SourceFile))


def _columns(sources: Sequence[SourceFile | None]) -> dict[str, list[Any]]:
    return {name: [getattr(source, name, None) for source in sources] for name in _SOURCE_FIELDS}


def _sources(columns: Mapping[str, list[Any]]) -> tuple[SourceFile | None, ...]:
    rows = zip(*(columns[name] for name in _SOURCE_FIELDS), strict=True)
    return tuple(
        None if row[0] is None else SourceFile(**dict(zip(_SOURCE_FIELDS, row, strict=True)))
        for row in rows
    )


def _read_receipt(storage: Storage, name: str) -> Receipt:
    try:
        fields = unsealed(storage.read(name))
        failures = tuple(
            (failure.pop("row"), Failure(**failure)) for failure in fields.pop("failures")
        )
        sources = _sources(fields.pop("sources"))
        for key in ("left_out", "pending"):
            fields[key] = tuple(fields[key])
        receipt = Receipt(**fields, failures=failures, sources=sources)
        if receipt.name != name:  # moved or copied: it would commit another shard twice
            raise ValueError(f"it is that of {receipt.name}")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(
            f"{storage.location}: {name} is no receipt ({error}). Remove it, and `muse extract` "
            "writes its shard again."
        ) from error
    return receipt
