"""The Zarr v3 form of a feature store, for reading.

What is done is read once, when it is first asked for: a store at hand is a snapshot, and one that
is still being extracted is opened again to see more. Rows are read by `muse.pipeline.chunks`, so
this module needs no zarr; ``store_writer`` writes.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from muse.errors import StoreError
from muse.pipeline.feature_rows import FEATURES_FOLDER, FeatureRows
from muse.pipeline.header import StoreHeader, header_from_json
from muse.pipeline.receipts import Receipt, ReceiptKind, read_receipts
from muse.pipeline.records import (
    WINDOW_COLUMNS,
    Caption,
    ClipFeatures,
    ClipTokens,
    Failure,
    SourceFile,
    captions_of_columns,
    windows_of_columns,
)
from muse.pipeline.sealed_json import hash_of_json, unsealed
from muse.pipeline.storage.files import Storage, open_storage
from muse.pipeline.store import HEADER_FILE, StoreCounts, counts_of, token_view_of
from muse.pipeline.views import FRAMES_DECODED, FRAMES_JPEG, ArraySpec
from muse.pipeline.window import Window

if TYPE_CHECKING:
    from muse.pipeline.decoded_frames import DecodedFrames

VIDEOS_FILE = "videos.parquet"
CAPTIONS_FILE = "captions.parquet"


class ZarrStore:
    """A store in a folder or at a URL."""

    def __init__(self, storage: Storage, header: StoreHeader, *, view: str | None = None) -> None:
        self.storage = storage
        self.header = header
        self.token_view = token_view_of(header, view)
        self._rows = FeatureRows(storage, header)
        self._done: dict[ReceiptKind, NDArray[np.bool_]] = {}

    @property
    def arrays(self) -> tuple[ArraySpec, ...]:
        """What is kept of each video."""
        return self._rows.arrays

    @property
    def location(self) -> str:
        """The folder or URL."""
        return self.storage.location

    @classmethod
    def open(cls, location: Path | str, *, view: str | None = None) -> "ZarrStore":
        """The store in a folder or at a URL.

        Args:
            location: Where it is.
            view: What `read_clip` reads; see `token_view_of`.

        Raises:
            StoreError: If its header can't be read.
        """
        storage = open_storage(location)
        try:
            content = unsealed(storage.read(HEADER_FILE))
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{storage.location}: {HEADER_FILE} can't be read ({error}). "
                "Extract into another --out."
            ) from error
        header = header_from_json(content, source=f"{storage.location}/{HEADER_FILE}")
        return cls(storage, header, view=view)

    # -- tables ------------------------------------------------------------------------------

    @cached_property
    def video_ids(self) -> Sequence[str]:
        """Of all N listed videos, in row order."""
        return self._column(VIDEOS_FILE, "video_id", self.header.num_videos)

    @cached_property
    def video_paths(self) -> Sequence[str]:
        """Where each video lay when it was listed; empty where it was missing."""
        return self._column(VIDEOS_FILE, "path", self.header.num_videos)

    @cached_property
    def windows(self) -> Sequence[Window | None]:
        """For each video the part of its file that it is; None for all of it."""
        num_rows = self.header.num_videos
        columns = self._columns(VIDEOS_FILE, ("video_id",), num_rows, optional=WINDOW_COLUMNS)
        return windows_of_columns(columns, num_rows)

    @cached_property
    def duplicate_of(self) -> Sequence[int | None]:
        """For each video the row of the one that had the same bytes when it was listed."""
        return self._column(VIDEOS_FILE, "duplicate_of", self.header.num_videos)

    @cached_property
    def captions(self) -> Sequence[Caption]:
        """All Q captions, in row order."""
        names = ("video_id", "text", "split")
        num_rows = self.header.num_captions
        columns = self._columns(CAPTIONS_FILE, names, num_rows, optional=("axis",))
        return captions_of_columns(columns)

    def _column(self, name: str, column: str, num_rows: int) -> list[Any]:
        return self._columns(name, (column,), num_rows)[column]

    def _columns(
        self, name: str, columns: Sequence[str], num_rows: int, *, optional: Sequence[str] = ()
    ) -> dict[str, list[Any]]:
        """The rows that the header counts: a growth that was cut off may have left more."""
        try:
            content = self.storage.read(name)
            file = pq.ParquetFile(pa.BufferReader(content))
            there = file.schema_arrow.names
            names = [*columns, *(column for column in optional if column in there)]
            table = file.read(columns=names)
        except (OSError, pa.ArrowException) as error:
            words = " ".join(str(error).split())
            raise StoreError(
                f"{self.location}: {name} can't be read ({words}). Extract into another --out."
            ) from error
        if len(table) < num_rows:
            raise StoreError(
                f"{self.location}: {name} has {len(table)} rows, the header says {num_rows}. "
                "Copy the store again, or extract into another --out."
            )
        return {column: table.column(column)[:num_rows].to_pylist() for column in names}

    # -- what is done ------------------------------------------------------------------------

    @cached_property
    def video_receipts(self) -> Sequence[Receipt]:
        """Of committed shards of videos, in order.

        Raises:
            StoreError: If one can't be read.
        """
        return read_receipts(self.storage, "videos")

    @cached_property
    def caption_receipts(self) -> Sequence[Receipt]:
        """Of committed shards of captions, in order."""
        return read_receipts(self.storage, "captions")

    @cached_property
    def has_features_N(self) -> NDArray[np.bool_]:
        """(N,) True where a video's shard is committed and the video did not fail."""
        done = self.done("videos").copy()
        for receipt in self.video_receipts:
            done[_below(len(done), (row for row, _ in receipt.failures))] = False
        return done

    @cached_property
    def has_embedding_Q(self) -> NDArray[np.bool_]:
        """(Q,) True where a caption's shard is committed and its video was not missing."""
        done = self.done("captions").copy()
        for receipt in self.caption_receipts:
            done[_below(len(done), receipt.left_out)] = False
        return done

    @cached_property
    def failures(self) -> Sequence[Failure]:
        """Of committed shards, failed and skipped, in row order."""
        return [failure for receipt in self.video_receipts for _, failure in receipt.failures]

    @cached_property
    def sources(self) -> dict[int, SourceFile]:
        """Row -> the file that a committed video was decoded from, or failed to be."""
        return {
            row: source
            for receipt in self.video_receipts
            for row, source in zip(receipt.rows, receipt.sources, strict=True)
            if source is not None
        }

    def with_receipts(self, changed: Sequence[Receipt]) -> "ZarrStore":
        """The store as it will be once some receipts are replaced; nothing is written."""
        by_name = {receipt.name: receipt for receipt in changed}
        store = ZarrStore(self.storage, self.header, view=self.token_view or None)
        store.video_receipts = [by_name.get(r.name, r) for r in self.video_receipts]
        store.caption_receipts = [by_name.get(r.name, r) for r in self.caption_receipts]
        return store

    def counts(self) -> StoreCounts:
        """How many videos and captions are done, failed, skipped and pending."""
        return counts_of(self, done_N=self.done("videos"))

    def size_bytes(self) -> int:
        """Of all its files."""
        return sum(self.storage.size(name) or 0 for name in self.storage.list(""))

    @property
    def root_sha256(self) -> str:
        """Of all that is committed, from header and receipts."""
        header = {
            name: getattr(self.header, name)
            for name in ("fingerprint", "views", "shard_size", "batch_videos", "listing_sha256")
        }
        if self.header.text_length is not None:
            header["text_length"] = self.header.text_length
        receipts = [*self.video_receipts, *self.caption_receipts]
        return hash_of_json([header, [receipt.lasting_part() for receipt in receipts]])

    @property
    def timestamps_sha256(self) -> str:
        """Of the videos and of the frames that were decoded of them."""
        name = f"{FEATURES_FOLDER}/pts_seconds/"
        return hash_of_json(
            [
                [receipt.members_sha256, [v for k, v in receipt.sha256.items() if name in k]]
                for receipt in self.video_receipts
            ]
        )

    def done(self, kind: ReceiptKind) -> NDArray[np.bool_]:
        """True for each row that is committed, failed ones included."""
        is_videos = kind == "videos"
        receipts = self.video_receipts if is_videos else self.caption_receipts
        num_rows = self.header.num_videos if is_videos else self.header.num_captions
        if kind in self._done:
            return self._done[kind]
        done = self._done[kind] = np.zeros(num_rows, dtype=np.bool_)
        for receipt in receipts:
            done[receipt.first_row : receipt.first_row + receipt.num_rows] = True
            done[_below(num_rows, receipt.pending)] = False
        return done

    # -- reading -----------------------------------------------------------------------------

    def read_clip(self, row: int) -> ClipTokens:
        """The tokens of one video, from ``token_view``.

        Raises:
            StoreError: If the video has no features, or the file that should hold them is gone.
        """
        self._require_frames(row)
        is_decoded, view = self.token_view == FRAMES_DECODED, self.token_view
        return ClipTokens(
            video_id=self.video_ids[row],
            tokens_TKD=self._decoded.read(row) if is_decoded else self._rows.tokens(row, view=view),
            valid_T=self._valid_NT[row],
            pts_seconds_T=self._rows.array("pts_seconds").row(row),
        )

    def read_clips_into(self, rows: Sequence[int], tokens_NTKD: NDArray[Any]) -> NDArray[np.bool_]:
        """The tokens of some videos into an array, and (N, T) True for a frame.

        Raises:
            StoreError: As `read_clip`.
        """
        rows_N = np.array(rows, dtype=np.intp)
        valid_NT = self._valid_NT[rows_N]
        if not (self.has_features_N[rows_N].all() and valid_NT.any(axis=1).all()):
            for row in rows:
                self._require_frames(row)
        if self.token_view == FRAMES_DECODED:
            self._decoded.read_into(rows, tokens_NTKD)
        else:
            self._rows.tokens_into(rows, tokens_NTKD, view=self.token_view)
        return valid_NT

    def read_features(self, row: int) -> ClipFeatures:
        """All that is kept of one video.

        Raises:
            StoreError: If the video has no features, or the file that should hold them is gone.
        """
        self._require_features(row)
        return self._rows.read(row, video_id=self.video_ids[row], source=self.sources.get(row))

    def read_caption_embeddings(self, rows: NDArray[np.intp]) -> NDArray[np.float16]:
        """(len(rows), D) text embeddings.

        Raises:
            StoreError: If a row has no embedding yet.
        """
        missing = rows[~self.has_embedding_Q[rows]]
        if len(missing):
            raise StoreError(
                f"{self.location}: {len(missing)} captions have no embedding yet. "
                "Run `muse extract` again to finish the store."
            )
        return self._rows.captions(rows)

    def read_thumbnails(self, row: int) -> tuple[bytes, ...] | None:
        """A small JPEG file of each valid frame of a video; None where it has none.

        Raises:
            StoreError: If the file that holds them is damaged.
        """
        return (self._rows.thumbnails(row) or None) if self.has_features_N[row] else None

    def read_frame_pictures(self, row: int) -> tuple[bytes, ...]:
        """A JPEG file of each valid frame of a video; empty without the view ``frames:jpeg``.

        Raises:
            StoreError: If the video has no features, or the file that should hold them is gone.
        """
        self._require_features(row)
        return self._rows.frame_pictures(row) if FRAMES_JPEG in self.header.views else ()

    def require_video_files(self) -> None:
        """Nothing, if ``frames:decoded`` can be read; see `DecodedFrames.require_files`."""
        self._decoded.require_files()

    @cached_property
    def _decoded(self) -> "DecodedFrames":
        from muse.pipeline.decoded_frames import DecodedFrames  # it loads av

        return DecodedFrames(self, self._rows.array("pts_seconds"))

    def _require_features(self, row: int) -> None:
        if not self.has_features_N[row]:
            raise StoreError(
                f"{self.location}: video {self.video_ids[row]!r} (row {row}) has no features. "
                "Rows with features are in has_features_N."
            )

    def _require_frames(self, row: int) -> None:
        self._require_features(row)
        if not self._valid_NT[row].any():
            raise self._rows.lost("valid", row)

    @cached_property
    def _valid_NT(self) -> NDArray[np.bool_]:
        return self._rows.array("valid").all_rows()  # T bytes a video


def _below(num_rows: int, rows: Iterable[int]) -> list[int]:
    """The rows that this store has: it may have grown since its header was read."""
    return [row for row in rows if row < num_rows]
