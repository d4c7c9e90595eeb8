"""The Zarr v3 form of a feature store, for writing.

A shard is one file an array, one unit of work, and has one writer. Every file appears whole
(`muse.pipeline.storage`), and a shard counts once its receipt says so, which is written last: a
reader never has to guess from values whether a row is there. The layout is in docs/store-format.md.
"""

import contextlib
import dataclasses
import hashlib
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from muse.errors import MuseError, StoreError
from muse.pipeline.chunks import chunk_content, chunk_name, shard_content
from muse.pipeline.feature_rows import FEATURES_FOLDER
from muse.pipeline.header import StoreHeader
from muse.pipeline.listing import ListedRows
from muse.pipeline.picture_files import (
    FRAMES_FOLDER,
    THUMBNAILS_FOLDER,
    pictures_content,
    pictures_name,
)
from muse.pipeline.plan import CaptionShard, VideoShard
from muse.pipeline.receipts import (
    RECEIPTS_FOLDER,
    Receipt,
    ReceiptKind,
    receipt_name,
    write_receipt,
)
from muse.pipeline.records import (
    ClipFeatures,
    Failure,
    SourceFile,
    caption_columns,
    printable,
    window_columns,
)
from muse.pipeline.sealed_json import sealed_bytes
from muse.pipeline.sources import source_of
from muse.pipeline.storage.files import Storage, open_storage
from muse.pipeline.store import CAPTIONS_PER_SHARD, FORECAST_FILE, HEADER_FILE
from muse.pipeline.store_zarr import CAPTIONS_FILE, VIDEOS_FILE, ZarrStore
from muse.pipeline.views import FRAMES_JPEG, ArraySpec, arrays_of

FAILURES_FILE = "failures.jsonl"
RUN_FILE = "run.json"

_Content = bytes | Sequence[bytes | memoryview]


class StoreWriter:
    """Creates a store, lets it grow, and writes its shards whole."""

    def __init__(self, storage: Storage, header: StoreHeader) -> None:
        self.storage = storage
        self.header = header
        self._arrays = arrays_of(header.views, header.encoder, header.sampling.num_frames)

    @classmethod
    def open(cls, location: Path | str) -> "StoreWriter":
        """A writer of the store in a folder or at a URL.

        Raises:
            StoreError: If its header can't be read.
        """
        store = ZarrStore.open(location)
        return cls(store.storage, store.header)

    @classmethod
    def create(cls, location: Path | str, header: StoreHeader, rows: ListedRows) -> "StoreWriter":
        """A new store without rows done. The header appears last, and with it the store.

        Raises:
            StoreError: If the folder can't be written or holds something else.
        """
        storage = open_storage(location)
        require_free(storage)
        with writing(storage.location):
            storage.create()
            for name in storage.list(RECEIPTS_FOLDER):  # of a store whose header was removed
                storage.remove(name)
        writer = cls(storage, header)
        writer.describe(header, rows)
        return writer

    def describe(self, header: StoreHeader, rows: ListedRows) -> None:
        """Tables, array shapes, then the header: until it is there, the old one counts.

        Meanwhile the old one promises no hashes of them: a run that is cut off here leaves tables
        that are longer than it says, and a store that is sound.

        Raises:
            StoreError: If they can't be written.
        """
        from muse.pipeline.zarr_layout import array_metadata  # a writer of shards needs no zarr

        with writing(self.storage.location):
            known_paths: Sequence[str] = ()
            if self.storage.size(HEADER_FILE) is not None:
                known_paths = ZarrStore(self.storage, self.header).video_paths
            tables = _tables(rows, known_paths)
            files = {name: _parquet(columns) for name, columns in tables.items()}
            for name, content in array_metadata(header).items():
                files[f"{FEATURES_FOLDER}/{name}"] = content
            if self.storage.size(HEADER_FILE) is not None:
                self._write_header(dataclasses.replace(self.header, files={}))
            for name, content in files.items():
                self.storage.write(name, content)
            hashes = {name: _sha256(content) for name, content in files.items()}
            self._write_header(dataclasses.replace(header, files=hashes))

    def _write_header(self, header: StoreHeader) -> None:
        self.storage.write(HEADER_FILE, sealed_bytes(header.as_json()))
        self.header = header

    def write_video_shard(
        self,
        shard: VideoShard,
        rows: Sequence[ClipFeatures | Failure],
        *,
        seconds: Mapping[str, float],
    ) -> Receipt:
        """Writes and commits one shard of videos, whole."""
        clips = {place: row for place, row in enumerate(rows) if isinstance(row, ClipFeatures)}
        files = self._video_files(shard.index, clips, num_rows=len(rows))
        failures = tuple(
            (shard.first_row + place, row)
            for place, row in enumerate(rows)
            if isinstance(row, Failure)
        )
        sources = tuple(_source(shard, place, row) for place, row in enumerate(rows))
        receipt = Receipt(
            kind="videos",
            index=shard.index,
            first_row=shard.first_row,
            num_rows=len(rows),
            members_sha256=shard.members_sha256,
            failures=failures,
            sources=sources,
        )
        return self._commit(receipt, files, shard.kept, seconds)

    def write_caption_shard(
        self,
        shard: CaptionShard,
        embeddings_BD: NDArray[np.float16],
        *,
        seconds: Mapping[str, float],
    ) -> Receipt:
        """Writes and commits one shard of caption embeddings, whole."""
        name = chunk_name(f"{FEATURES_FOLDER}/captions", shard.index, 2)
        content = chunk_content(embeddings_BD, rows_per_chunk=CAPTIONS_PER_SHARD, fill_value=0)
        receipt = Receipt(
            kind="captions",
            index=shard.index,
            first_row=shard.first_row,
            num_rows=len(embeddings_BD),
            members_sha256=shard.members_sha256,
            left_out=shard.left_out,
        )
        return self._commit(receipt, {name: content}, shard.kept, seconds)

    def reopen(self, receipt: Receipt, rows: Sequence[int]) -> None:
        """Lets some rows of a committed shard be done again."""
        self.replace_receipt(receipt.reopened(rows))

    def replace_receipt(self, receipt: Receipt) -> None:
        """Says anew what of a shard is there, such as less than before."""
        with writing(self.storage.location):
            write_receipt(self.storage, receipt)

    def withdraw(self, kind: ReceiptKind, index: int) -> None:
        """Forgets a shard: the next run writes all of it again."""
        with writing(self.storage.location):
            self.storage.remove(receipt_name(kind, index))

    def give_up_thumbnails(self, receipt: Receipt) -> None:
        """Removes the thumbnails of a committed shard; its features stay."""
        with writing(self.storage.location):
            # The file first: one that no receipt speaks of would be read all the same.
            self.storage.remove(pictures_name(THUMBNAILS_FOLDER, receipt.index))
            write_receipt(self.storage, receipt.without_thumbnails())

    def _video_files(
        self, index: int, clips: Mapping[int, ClipFeatures], *, num_rows: int
    ) -> dict[str, _Content | None]:
        """Name -> content of every file of a shard; None where no row is left to be written."""
        size = self.header.shard_size
        files: dict[str, _Content | None] = {}
        for spec in self._arrays:
            name = chunk_name(f"{FEATURES_FOLDER}/{spec.name}", index, 1 + len(spec.shape))
            rows = {place: _checked(clip, spec) for place, clip in clips.items()}
            files[name] = shard_content(rows, rows_per_shard=size) if rows else None
        frames = self.header.sampling.num_frames
        valid = np.zeros((num_rows, frames), np.bool_)
        pts_seconds = np.full((num_rows, frames), np.nan)
        for place, clip in clips.items():
            valid[place], pts_seconds[place] = clip.valid_T, clip.pts_seconds_T
        for name, block, fill in (("valid", valid, False), ("pts_seconds", pts_seconds, np.nan)):
            file = chunk_name(f"{FEATURES_FOLDER}/{name}", index, 2)
            content = chunk_content(block, rows_per_chunk=size, fill_value=fill)
            files[file] = content if clips else None
        if self.header.thumbnail_side:
            thumbnails = {place: c.thumbnails for place, c in clips.items() if c.thumbnails}
            files[pictures_name(THUMBNAILS_FOLDER, index)] = self._pictures(thumbnails, clips)
        if FRAMES_JPEG in self.header.views:
            pictures = {place: clip.frame_pictures for place, clip in clips.items()}
            files[pictures_name(FRAMES_FOLDER, index)] = self._pictures(pictures, clips)
        return files

    def _pictures(
        self, pictures: Mapping[int, Sequence[bytes]], clips: Mapping[int, ClipFeatures]
    ) -> _Content | None:
        """Of a shard; None where no row has any."""
        assert all(len(pictures[place]) == clips[place].valid_T.sum() for place in pictures)
        size, frames = self.header.shard_size, self.header.sampling.num_frames
        content = pictures_content(pictures, rows_per_shard=size, num_frames=frames)
        return content if pictures else None

    def _commit(
        self,
        receipt: Receipt,
        files: Mapping[str, _Content | None],
        kept: frozenset[int],
        seconds: Mapping[str, float],
    ) -> Receipt:
        with writing(self.storage.location):
            self._require_own_store()
            if kept:  # they stay readable while the files change
                again = set(receipt.rows) - {receipt.first_row + place for place in kept}
                write_receipt(self.storage, receipt.reopened(sorted(again)))
            started, hashes = time.perf_counter(), {}
            for name, content in files.items():
                if content is None:
                    self.storage.remove(name)
                else:
                    self.storage.write(name, content)
                    hashes[name] = _sha256(content)
            written = round(time.perf_counter() - started, 4)
            final = dataclasses.replace(
                receipt, sha256=hashes, seconds={**seconds, "write": written}
            )
            write_receipt(self.storage, final)
        return final

    def _require_own_store(self) -> None:
        """Nothing, if the store is there, and is not another one that was put in its place."""
        try:
            there = ZarrStore.open(self.storage.location)
        except StoreError:
            if self.storage.size(HEADER_FILE) is not None:
                raise
            raise FileNotFoundError(f"its {HEADER_FILE} has disappeared") from None
        if there.header != self.header:
            raise StoreError(
                f"{self.storage.location}: was replaced by another store while this run was "
                "writing to it. This run stops here; start it again."
            )


def _source(shard: VideoShard, place: int, row: ClipFeatures | Failure) -> SourceFile | None:
    """The file that a row tells of: a failure's as it is now, unless the row stays as it was."""
    if isinstance(row, ClipFeatures):
        return row.source
    if place in shard.kept:
        return next(r.sources[place] for r in shard.receipts if r.index == shard.index)
    path = shard.videos[place].path
    return source_of(path) if path else None


def _checked(clip: ClipFeatures, spec: ArraySpec) -> NDArray[Any]:
    row = clip.arrays[spec.name]
    assert (row.shape, str(row.dtype)) == (spec.shape, spec.dtype), (spec, row.shape, row.dtype)
    return row


def _sha256(content: _Content) -> str:
    digest = hashlib.sha256()
    for piece in [content] if isinstance(content, bytes) else content:
        digest.update(piece)
    return digest.hexdigest()


def _tables(rows: ListedRows, known_paths: Sequence[str]) -> dict[str, dict[str, pa.Array]]:
    """The columns of the tables; a video that this run does not list keeps the path it had."""
    found = (printable(video.path) for video in rows.videos)
    paths = [
        path or (known_paths[row] if row < len(known_paths) else "")
        for row, path in enumerate(found)
    ]
    videos = {
        "video_id": pa.array([video.video_id for video in rows.videos], pa.string()),
        "path": pa.array(paths, pa.string()),
        "duplicate_of": pa.array(rows.duplicate_of, pa.int64()),
    }
    for name, seconds in window_columns([video.window for video in rows.videos]).items():
        videos[name] = pa.array(seconds, pa.float64())
    captions = {
        name: pa.array(texts, pa.string()) for name, texts in caption_columns(rows.captions).items()
    }
    return {VIDEOS_FILE: videos, CAPTIONS_FILE: captions}


def _parquet(columns: Mapping[str, pa.Array]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), stream)
    return stream.getvalue()


def require_free(storage: Storage) -> None:
    """Nothing, if a store may be created: in a new folder, an empty one or a cut off creation's.

    Raises:
        StoreError: If something else is there.
    """
    folders = {FEATURES_FOLDER, RECEIPTS_FOLDER, THUMBNAILS_FOLDER, FRAMES_FOLDER}
    ours = {FORECAST_FILE, VIDEOS_FILE, CAPTIONS_FILE} | folders
    with writing(storage.location):
        strange = sorted(set(storage.entries()) - ours)
    if strange:
        raise StoreError(
            f"{storage.location}: not a feature store, and not empty ({strange[0]} is in it). "
            "Choose another --out."
        )


@contextlib.contextmanager
def writing(location: str) -> Iterator[None]:
    """Turns a full disk, a read-only folder or one that is gone into a `StoreError` of one line."""
    try:
        yield
    except MuseError:  # some are an OSError too
        raise
    except OSError as error:
        raise StoreError(
            f"{location}: can't be written ({error.strerror or error}). What was committed is "
            "safe: mend it and run the same command again."
        ) from error
