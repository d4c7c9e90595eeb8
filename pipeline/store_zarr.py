"""The Zarr v3 form of a feature store, for reading.

What is done is read once, when it is first asked for: a store at hand is a snapshot, and one that
is still being extracted is opened again to see more. Rows are read by `muse.pipeline.chunks`, so
this module needs no zarr; ``store_writer`` writes.
"""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from muse.errors import StoreError
from muse.pipeline.chunks import RowArray
from muse.pipeline.header import StoreHeader, header_from_json
from muse.pipeline.receipts import Receipt, ReceiptKind, read_receipts
from muse.pipeline.records import Caption, ClipTokens, Failure
from muse.pipeline.store import HEADER_FILE, StoreCounts

FEATURES_FOLDER = "features.zarr"


class ZarrStore:
    """A store in a folder."""

    def __init__(self, path: Path, header: StoreHeader) -> None:
        self.path = path
        self.header = header

    @property
    def location(self) -> str:
        """The folder."""
        return str(self.path)

    @property
    def root_sha256(self) -> str:
        """Of all that is committed."""
        raise NotImplementedError

    @property
    def timestamps_sha256(self) -> str:
        """Of the frames that were decoded."""
        raise NotImplementedError

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
            raise StoreError(
                f"{source}: can't be read ({error}). Extract into another --out."
            ) from error
        return cls(path, header_from_json(content, source=str(source)))

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
            raise StoreError(
                f"{source}: can't be read ({words}). Extract into another --out."
            ) from error
        values: list[str] = table.column(column).to_pylist()
        return values

    # -- what is done ------------------------------------------------------------------------

    @cached_property
    def video_receipts(self) -> Sequence[Receipt]:
        """Of committed shards of videos, in order.

        Raises:
            StoreError: If one can't be read.
        """
        return read_receipts(self.path, "videos")

    @cached_property
    def caption_receipts(self) -> Sequence[Receipt]:
        """Of committed shards of captions, in order."""
        return read_receipts(self.path, "captions")

    @cached_property
    def has_features_N(self) -> NDArray[np.bool_]:
        """(N,) True where a video's shard is committed and the video did not fail."""
        done = self._done("videos")
        for receipt in self.video_receipts:
            done[[row for row, _ in receipt.failures]] = False
        return done

    @cached_property
    def has_embedding_Q(self) -> NDArray[np.bool_]:
        """(Q,) True where a caption's shard is committed and its video was not missing."""
        paths = zip(self.video_ids, self.video_paths, strict=True)
        missing = {video_id for video_id, path in paths if not path}
        is_wanted = [caption.video_id not in missing for caption in self.captions]
        return self._done("captions") & np.array(is_wanted, dtype=np.bool_)

    @property
    def failures(self) -> Sequence[Failure]:
        """Of committed shards, in row order."""
        return [failure for receipt in self.video_receipts for _, failure in receipt.failures]

    def counts(self) -> StoreCounts:
        """How many videos and captions are done, failed and pending."""
        done = int(self._done("videos").sum())
        failed = len(self.failures)
        return StoreCounts(
            listed=self.header.num_videos,
            ok=done - failed,
            failed=failed,
            skipped=0,
            pending=self.header.num_videos - done,
            captions=self.header.num_captions,
            captions_embedded=int(self.has_embedding_Q.sum()),
        )

    def _done(self, kind: ReceiptKind) -> NDArray[np.bool_]:
        is_videos = kind == "videos"
        receipts = self.video_receipts if is_videos else self.caption_receipts
        num_rows = self.header.num_videos if is_videos else self.header.num_captions
        done = np.zeros(num_rows, dtype=np.bool_)
        for receipt in receipts:
            done[receipt.first_row : receipt.first_row + receipt.num_rows] = True
        return done

    # -- reading -----------------------------------------------------------------------------

    def read_clip(self, row: int) -> ClipTokens:
        """The tokens of one video.

        Raises:
            StoreError: If the video has no features, or the file that should hold them is gone.
        """
        if not self.has_features_N[row]:
            raise StoreError(
                f"{self.path}: video {self.video_ids[row]!r} (row {row}) has no features. "
                "Rows with features are in has_features_N."
            )
        if not self._tokens.has_row(row):
            raise self._lost("tokens", row)
        if not self._valid_NT[row].any():
            raise self._lost("valid", row)
        return ClipTokens(
            video_id=self.video_ids[row],
            tokens_TKD=self._tokens.row(row),
            valid_T=self._valid_NT[row],
            pts_seconds_T=self._pts_seconds.row(row),
        )

    def read_caption_embeddings(self, rows: NDArray[np.intp]) -> NDArray[np.float16]:
        """(len(rows), D) text embeddings.

        Raises:
            StoreError: If a row has no embedding yet.
        """
        missing = rows[~self.has_embedding_Q[rows]]
        if len(missing):
            raise StoreError(
                f"{self.path}: {len(missing)} captions have no embedding yet. "
                "Run `muse extract` again to finish the store."
            )
        gone = [row for row in rows.tolist() if not self._caption_embeddings.has_row(row)]
        if gone:
            raise self._lost("captions", gone[0])
        return self._caption_embeddings.rows(rows)

    def _lost(self, name: str, row: int) -> StoreError:
        return StoreError(
            f"{self.path / FEATURES_FOLDER / name}: row {row} is not in its file, but its shard is "
            "committed. Was the store copied whole? Remove the shard's receipt, and `muse extract` "
            "writes it again."
        )

    @cached_property
    def _tokens(self) -> RowArray:
        return self._array("tokens")

    @cached_property
    def _pts_seconds(self) -> RowArray:
        return self._array("pts_seconds")

    @cached_property
    def _caption_embeddings(self) -> RowArray:
        return self._array("captions")

    @cached_property
    def _valid_NT(self) -> NDArray[np.bool_]:
        return self._array("valid").all_rows()  # T bytes a video

    def _array(self, name: str) -> RowArray:
        return RowArray(self.path / FEATURES_FOLDER / name)
