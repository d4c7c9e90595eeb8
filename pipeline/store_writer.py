"""The Zarr v3 form of a feature store, for writing: the only importer of zarr.

A shard is one file, one unit of work and has one writer. It counts once its receipt exists, and a
receipt is written last, so a reader never has to guess from values whether a row is there. Files
outside ``features.zarr`` appear whole: written under a temporary name, then renamed. The layout is
in docs/store-format.md.
"""

import contextlib
import hashlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from numpy.typing import NDArray

from muse.errors import MuseError, StoreError
from muse.pipeline.header import StoreHeader
from muse.pipeline.receipts import (
    RECEIPTS_FOLDER,
    Receipt,
    ReceiptKind,
    write_json,
    write_receipt,
)
from muse.pipeline.records import ClipTokens, Failure, Listing
from muse.pipeline.store import HEADER_FILE
from muse.pipeline.store_zarr import FEATURES_FOLDER, ZarrStore

CAPTIONS_PER_SHARD = 4096  # 4 MB of float16 at D = 512


class StoreWriter:
    """Creates a store, and writes its shards whole."""

    def __init__(self, path: Path, header: StoreHeader) -> None:
        self.path = path
        self.header = header
        self._group = _open_group(path / FEATURES_FOLDER)

    @classmethod
    def open(cls, path: Path) -> "StoreWriter":
        """A writer of the store in a folder.

        Raises:
            StoreError: If its header can't be read.
        """
        return cls(path, ZarrStore.open(path).header)

    @classmethod
    def create(cls, path: Path, header: StoreHeader, listing: Listing) -> "StoreWriter":
        """A new store without rows done. The header appears last, and with it the store.

        Raises:
            StoreError: If the folder can't be written or holds something else.
        """
        _require_free(path)
        with writing(path):
            if (path / RECEIPTS_FOLDER).exists():  # of a store whose header was removed
                shutil.rmtree(path / RECEIPTS_FOLDER)
            (path / RECEIPTS_FOLDER).mkdir(parents=True)
            _create_arrays(path / FEATURES_FOLDER, header)
            _write_tables(path, listing)
            write_json(path / HEADER_FILE, header.as_json())
        return cls(path, header)

    def write_video_shard(
        self, index: int, first_row: int, rows: Sequence[ClipTokens | Failure]
    ) -> Receipt:
        """Writes and commits one shard of videos, whole."""
        span = slice(first_row, first_row + len(rows))
        clips = [(place, row) for place, row in enumerate(rows) if isinstance(row, ClipTokens)]
        failures = [
            (first_row + place, row) for place, row in enumerate(rows) if isinstance(row, Failure)
        ]
        with writing(self.path):
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
        with writing(self.path):
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

    def _shard_file(self, name: str, index: int) -> Path:
        zeros = ["0"] * (self._array(name).ndim - 1)
        return self.path.joinpath(FEATURES_FOLDER, name, "c", str(index), *zeros)

    def _array(self, name: str) -> Any:
        try:
            return self._group[name]
        except (KeyError, OSError, ValueError) as error:
            raise StoreError(
                f"{self.path / FEATURES_FOLDER}: array {name!r} can't be opened ({error}). "
                "Extract into another --out."
            ) from error


def _open_group(path: Path) -> Any:
    try:
        return zarr.open_group(path, mode="r+")
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{path}: can't be opened ({error}). Extract into another --out."
        ) from error


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
    ours = {FEATURES_FOLDER, RECEIPTS_FOLDER, "videos.parquet", "captions.parquet"}
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
def writing(path: Path) -> Iterator[None]:
    """Turns a full disk or a read-only folder into a `StoreError` of one line."""
    try:
        yield
    except MuseError:  # some are an OSError too
        raise
    except OSError as error:
        raise StoreError(
            f"{path}: can't be written ({error.strerror or error}). What was committed is safe: "
            "mend it and run the same command again."
        ) from error
