"""The Zarr v3 form of a feature store, the one that is written: the only importer of zarr.

A shard is one file, one unit of work and has one writer. It counts once its receipt exists, and a
receipt is written last, so a reader never has to guess from values whether a row is there. Files
outside ``features.zarr`` appear whole: written under a temporary name, then renamed.

    STORE/store.json               the header; written last when a store is created
    STORE/videos.parquet           row, video_id, path
    STORE/captions.parquet         row, video_id, text, split
    STORE/features.zarr/tokens        (N, T, K, D) float16, one video a chunk
    STORE/features.zarr/valid         (N, T) bool
    STORE/features.zarr/pts_seconds   (N, T) float64
    STORE/features.zarr/captions      (Q, D) float16
    STORE/receipts/videos-00000.json  what a shard holds, its failures and hashes
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from numpy.typing import NDArray

from muse.errors import StoreError
from muse.pipeline.header import StoreHeader, header_from_json
from muse.pipeline.receipts import (
    RECEIPTS_FOLDER,
    Receipt,
    ReceiptKind,
    read_receipts,
    write_json,
    write_receipt,
)
from muse.pipeline.records import Caption, ClipTokens, Failure, Listing
from muse.pipeline.store import HEADER_FILE, StoreCounts

CAPTIONS_PER_SHARD = 4096  # 4 MB of float16 at D = 512

_FEATURES = "features.zarr"


class ZarrStore:
    """A store in a folder, for reading and for writing whole shards."""

    def __init__(self, path: Path, header: StoreHeader) -> None:
        self.path = path
        self.header = header

    @classmethod
    def open(cls, path: Path) -> "ZarrStore":
        """The store in a folder.

        Raises:
            StoreError: If its header can't be read.
        """
        source = path / HEADER_FILE
        try:
            content = json.loads(source.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StoreError(f"{source}: can't be read ({error}). Extract again.") from error
        return cls(path, header_from_json(content, source=str(source)))

    @classmethod
    def create(cls, path: Path, header: StoreHeader, listing: Listing) -> "ZarrStore":
        """A new store without rows done. The header appears last, and with it the store.

        Raises:
            StoreError: If the folder can't be written or holds something else.
        """
        _require_free(path)
        with _writing(path):
            (path / RECEIPTS_FOLDER).mkdir(parents=True, exist_ok=True)
            _create_arrays(path / _FEATURES, header)
            _write_tables(path, listing)
            write_json(path / HEADER_FILE, header.as_json())
        return cls(path, header)

    # -- tables ------------------------------------------------------------------------------

    @cached_property
    def video_ids(self) -> Sequence[str]:
        """Of all N listed videos, in row order."""
        return self._column("videos.parquet", "video_id")

    @cached_property
    def video_paths(self) -> Sequence[str]:
        """Where each video lay when it was listed; empty where it was missing."""
        return self._column("videos.parquet", "path")

    @cached_property
    def captions(self) -> Sequence[Caption]:
        """All Q captions, in row order."""
        columns = (self._column("captions.parquet", name) for name in ("video_id", "text", "split"))
        return [
            Caption(video_id=video_id, text=text, split=split)
            for video_id, text, split in zip(*columns, strict=True)
        ]

    def _column(self, file_name: str, column: str) -> list[str]:
        source = self.path / file_name
        try:
            table = pq.read_table(source, columns=[column])
        except (OSError, pa.ArrowException) as error:
            words = " ".join(str(error).split())
            raise StoreError(f"{source}: can't be read ({words}). Extract again.") from error
        values: list[str] = table.column(column).to_pylist()
        return values

    # -- what is done ------------------------------------------------------------------------

    def receipts(self, kind: ReceiptKind) -> list[Receipt]:
        """Of all committed shards, in order.

        Raises:
            StoreError: If one can't be read.
        """
        return read_receipts(self.path, kind)

    @property
    def has_features_N(self) -> NDArray[np.bool_]:
        """(N,) True where a video's shard is committed and the video did not fail."""
        done = self._done("videos", self.header.num_videos)
        for receipt in self.receipts("videos"):
            done[[row for row, _ in receipt.failures]] = False
        return done

    @property
    def has_embedding_Q(self) -> NDArray[np.bool_]:
        """(Q,) True where a caption's shard is committed and its video was not missing."""
        return self._done("captions", self.header.num_captions) & self._is_wanted_Q

    @cached_property
    def _is_wanted_Q(self) -> NDArray[np.bool_]:
        paths = zip(self.video_ids, self.video_paths, strict=True)
        missing = {video_id for video_id, path in paths if not path}
        return np.array([caption.video_id not in missing for caption in self.captions], np.bool_)

    @property
    def failures(self) -> Sequence[Failure]:
        """Of committed shards, in row order."""
        return [failure for receipt in self.receipts("videos") for _, failure in receipt.failures]

    def counts(self) -> StoreCounts:
        """How many videos and captions are done, failed and pending."""
        done = int(self._done("videos", self.header.num_videos).sum())
        failed = len(self.failures)
        return StoreCounts(
            listed=self.header.num_videos,
            ok=done - failed,
            failed=failed,
            pending=self.header.num_videos - done,
            captions=self.header.num_captions,
            captions_embedded=int(self.has_embedding_Q.sum()),
        )

    def _done(self, kind: ReceiptKind, num_rows: int) -> NDArray[np.bool_]:
        done = np.zeros(num_rows, dtype=np.bool_)
        for receipt in self.receipts(kind):
            done[receipt.first_row : receipt.first_row + receipt.num_rows] = True
        return done

    # -- reading -----------------------------------------------------------------------------

    def read_clip(self, row: int) -> ClipTokens:
        """The tokens of one video.

        Raises:
            StoreError: If the row is padding throughout: no features were written there.
        """
        valid_T = self._read("valid", row)
        if not valid_T.any():
            raise StoreError(
                f"{self.path}: video {self.video_ids[row]!r} (row {row}) has no features. "
                "Rows with features are in has_features_N."
            )
        file = self._shard_file("tokens", row // self.header.shard_size)
        if not file.is_file():  # Zarr would fill the gap with zeros
            raise StoreError(f"{file}: no such file, but its shard is committed. Extract again.")
        return ClipTokens(
            video_id=self.video_ids[row],
            tokens_TKD=self._read("tokens", row),
            valid_T=valid_T,
            pts_seconds_T=self._read("pts_seconds", row),
        )

    def read_caption_embeddings(self, rows: NDArray[np.intp]) -> NDArray[np.float16]:
        """(len(rows), D) text embeddings, read chunk by chunk.

        Raises:
            StoreError: If a row has no embedding yet.
        """
        missing = rows[~self.has_embedding_Q[rows]]
        if len(missing):
            raise StoreError(
                f"{self.path}: {len(missing)} captions have no embedding yet. "
                "Run `muse extract` again to finish the store."
            )
        embeddings = np.empty((len(rows), self.header.encoder.dim), dtype=np.float16)
        chunk_of = rows // CAPTIONS_PER_SHARD
        for chunk in np.unique(chunk_of).tolist():
            start = chunk * CAPTIONS_PER_SHARD
            block = self._read("captions", slice(start, start + CAPTIONS_PER_SHARD))
            here = chunk_of == chunk
            embeddings[here] = block[rows[here] - start]
        return embeddings

    def _read(self, name: str, rows: int | slice) -> NDArray[Any]:
        try:
            return np.asarray(self._array(name)[rows])
        except ValueError as error:
            raise StoreError(
                f"{self.path / _FEATURES}: array {name!r} is damaged at {rows} ({error}). "
                "Extract again."
            ) from error

    def _shard_file(self, name: str, index: int) -> Path:
        zeros = ["0"] * (self._array(name).ndim - 1)
        return self.path.joinpath(_FEATURES, name, "c", str(index), *zeros)

    def _array(self, name: str) -> Any:
        try:
            return self._group[name]
        except (KeyError, OSError, ValueError) as error:
            raise StoreError(
                f"{self.path / _FEATURES}: array {name!r} can't be opened ({error}). Extract again."
            ) from error

    @cached_property
    def _group(self) -> Any:
        return zarr.open_group(self.path / _FEATURES, mode="r+")

    # -- writing -----------------------------------------------------------------------------

    def write_video_shard(
        self, index: int, first_row: int, rows: Sequence[ClipTokens | Failure]
    ) -> Receipt:
        """Writes and commits one shard of videos, whole."""
        span = slice(first_row, first_row + len(rows))
        clips = [(place, row) for place, row in enumerate(rows) if isinstance(row, ClipTokens)]
        failures = [
            (first_row + place, row) for place, row in enumerate(rows) if isinstance(row, Failure)
        ]
        with _writing(self.path):
            for name in ("tokens", "valid", "pts_seconds"):
                array = self._array(name)
                block = np.full((len(rows), *array.shape[1:]), array.fill_value, array.dtype)
                for place, clip in clips:
                    block[place] = getattr(clip, f"{name}_{'TKD' if name == 'tokens' else 'T'}")
                # Zarr reads a last, short shard before it writes it: not one that is damaged.
                self._shard_file(name, index).unlink(missing_ok=True)
                array[span] = block
            return self._commit("videos", index, span, tuple(failures))

    def write_caption_shard(
        self, index: int, first_row: int, embeddings_BD: NDArray[np.float16]
    ) -> Receipt:
        """Writes and commits one shard of caption embeddings, whole."""
        span = slice(first_row, first_row + len(embeddings_BD))
        with _writing(self.path):
            self._shard_file("captions", index).unlink(missing_ok=True)
            self._array("captions")[span] = embeddings_BD
            return self._commit("captions", index, span, ())

    def _commit(
        self,
        kind: ReceiptKind,
        index: int,
        span: slice,
        failures: tuple[tuple[int, Failure], ...],
    ) -> Receipt:
        receipt = Receipt(
            kind=kind,
            index=index,
            first_row=span.start,
            num_rows=span.stop - span.start,
            failures=failures,
            sha256=dict(self._hashes(kind, index)),
        )
        write_receipt(self.path, receipt)
        return receipt

    def _hashes(self, kind: ReceiptKind, index: int) -> Iterator[tuple[str, str]]:
        """Of the shard's files. A shard whose videos all failed has none: it is all fill value."""
        names = ("captions",) if kind == "captions" else ("tokens", "valid", "pts_seconds")
        for name in names:
            file = self._shard_file(name, index)
            if file.is_file():
                with file.open("rb") as stream:
                    digest = hashlib.file_digest(stream, "sha256").hexdigest()
                yield str(file.relative_to(self.path)), digest


def _create_arrays(path: Path, header: StoreHeader) -> None:
    videos, frames = header.num_videos, header.sampling.num_frames
    tokens, dim = header.encoder.tokens_per_frame, header.encoder.dim
    group = zarr.create_group(path, overwrite=True, zarr_format=3)
    group.create_array(
        "tokens",
        shape=(videos, frames, tokens, dim),
        chunks=(1, frames, tokens, dim),
        shards=(header.shard_size, frames, tokens, dim),
        dtype="float16",
        compressors=None,  # CLIP tokens shrink by 8 % at several times the CPU
        fill_value=0,
        dimension_names=["video", "frame", "token", "dim"],
    )
    for name, dtype, fill_value in (("valid", "bool", False), ("pts_seconds", "float64", np.nan)):
        group.create_array(
            name,
            shape=(videos, frames),
            chunks=(header.shard_size, frames),
            dtype=dtype,
            compressors=None,
            fill_value=fill_value,
            dimension_names=["video", "frame"],
        )
    group.create_array(
        "captions",
        shape=(header.num_captions, dim),
        chunks=(CAPTIONS_PER_SHARD, dim),
        dtype="float16",
        compressors=None,
        fill_value=0,
        dimension_names=["caption", "dim"],
    )


def _write_tables(path: Path, listing: Listing) -> None:
    videos = {
        "video_id": [video.video_id for video in listing.videos],
        "path": [str(video.path or "") for video in listing.videos],
    }
    captions = {
        name: [getattr(caption, name) for caption in listing.captions]
        for name in ("video_id", "text", "split")
    }
    for name, columns in (("videos", videos), ("captions", captions)):
        table = pa.table({key: pa.array(column, pa.string()) for key, column in columns.items()})
        temporary = path / f"{name}.parquet.partial"
        pq.write_table(table, temporary)
        temporary.replace(path / f"{name}.parquet")


def _require_free(path: Path) -> None:
    """A store may be created in a new or empty folder, or over one whose creation was cut off."""
    ours = {_FEATURES, RECEIPTS_FOLDER, "videos.parquet", "captions.parquet"}
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path}: a file is in the way. Choose another --out.")
    found = {entry.name for entry in path.iterdir()} if path.exists() else set()
    strange = sorted(name for name in found - ours if not name.endswith(".partial"))
    if strange:
        raise StoreError(
            f"{path}: not a feature store, and not empty ({strange[0]} is in it). "
            "Choose another --out."
        )


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(
            f"{path}: can't be written ({error.strerror or error}). What was committed is safe: "
            "mend it and run the same command again."
        ) from error
