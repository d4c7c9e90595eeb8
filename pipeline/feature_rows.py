"""Rows of a Zarr store's arrays by their number: all views of a video, or some captions.

Knows nothing of receipts: whoever asks for a row knows that it is committed.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muse.errors import StoreError
from muse.pipeline.chunks import RowArray
from muse.pipeline.frame_pictures import decode_pictures
from muse.pipeline.header import StoreHeader
from muse.pipeline.picture_files import FRAMES_FOLDER, THUMBNAILS_FOLDER, PictureFiles
from muse.pipeline.records import ClipFeatures, SourceFile
from muse.pipeline.storage.files import Storage
from muse.pipeline.views import (
    FRAMES_JPEG,
    ArraySpec,
    array_name,
    arrays_of,
    dequantise,
    map_of,
    readable_views,
)

FEATURES_FOLDER = "features.zarr"


class FeatureRows:
    """The arrays below ``features.zarr``, each opened when it is first read, and the pictures."""

    def __init__(self, storage: Storage, header: StoreHeader) -> None:
        self._storage = storage
        self._header = header
        num_frames = header.sampling.num_frames
        self.arrays: tuple[ArraySpec, ...] = arrays_of(header.views, header.encoder, num_frames)
        self._opened: dict[str, RowArray] = {}
        self._thumbnails, self._frames = (
            PictureFiles(storage, folder, shard_size=header.shard_size, num_frames=num_frames)
            for folder in (THUMBNAILS_FOLDER, FRAMES_FOLDER)
        )

    def array(self, name: str) -> RowArray:
        """One array of the store."""
        if name not in self._opened:
            self._opened[name] = RowArray(self._storage, f"{FEATURES_FOLDER}/{name}")
        return self._opened[name]

    def read(self, row: int, *, video_id: str, source: SourceFile | None) -> ClipFeatures:
        """All that is kept of one video.

        Raises:
            StoreError: If the file that should hold it is gone or damaged.
        """
        valid_T = self.array("valid").row(row)
        if not valid_T.any():
            raise self.lost("valid", row)
        return ClipFeatures(
            video_id=video_id,
            arrays={spec.name: self._row(spec.name, row) for spec in self.arrays},
            valid_T=valid_T,
            pts_seconds_T=self.array("pts_seconds").row(row),
            source=source,
            thumbnails=self.thumbnails(row),
            frame_pictures=self.frame_pictures(row) if self._has_frame_pictures else (),
        )

    def thumbnails(self, row: int) -> tuple[bytes, ...]:
        """A small JPEG file of each frame of a video; empty where the store has none of it.

        Raises:
            StoreError: If the file that holds them is damaged.
        """
        return self._thumbnails.read(row) if self._header.thumbnail_side else ()

    def frame_pictures(self, row: int) -> tuple[bytes, ...]:
        """A JPEG file of each valid frame of a video, of the view ``frames:jpeg``.

        Raises:
            StoreError: If the file that should hold them is gone or damaged.
        """
        pictures = self._frames.read(row)
        if not pictures:
            raise self._lost(f"{FRAMES_FOLDER}/", row)
        num_frames = int(self.array("valid").row(row).sum())
        if len(pictures) != num_frames:
            words = f"row {row} has {len(pictures)} pictures of {num_frames} frames"
            raise self._frames.damaged(row, words)
        return pictures

    def tokens(self, row: int, *, view: str) -> NDArray[Any]:
        """A video's map (`muse.pipeline.views.map_of`) of a view, int8 as float16.

        Raises:
            StoreError: If the store has none, or the file that should hold them is gone.
        """
        if view == FRAMES_JPEG:
            spec = map_of(view, self._header.encoder, self._header.sampling.num_frames)
            frames_TSSC = np.empty(spec.shape, spec.dtype)
            self._decode_into(row, frames_TSSC)
            return frames_TSSC
        if view != "int8":
            return self._row(self._map_name(view), row)
        return dequantise(self._row("tokens_int8", row), self._row("tokens_int8_scale", row))

    def tokens_into(self, rows: Sequence[int], tokens_NTKD: NDArray[Any], *, view: str) -> None:
        """The same of several videos, put into an array.

        Raises:
            StoreError: As `tokens`.
        """
        if view == FRAMES_JPEG:
            for row, frames_TSSC in zip(rows, tokens_NTKD, strict=True):
                self._decode_into(row, frames_TSSC)
            return
        if view != "int8":
            self._rows_into(self._map_name(view), rows, tokens_NTKD)
            return
        quantised_NTKD = np.empty(tokens_NTKD.shape, np.int8)
        scale_NTK = np.empty(tokens_NTKD.shape[:-1], np.float16)
        self._rows_into("tokens_int8", rows, quantised_NTKD)
        self._rows_into("tokens_int8_scale", rows, scale_NTK)
        for place in range(len(rows)):  # one at a time: its float32 is twice the result
            tokens_NTKD[place] = dequantise(quantised_NTKD[place], scale_NTK[place])

    def captions(self, rows: NDArray[np.intp]) -> NDArray[np.float16]:
        """(len(rows), D) text embeddings.

        Raises:
            StoreError: If the file that should hold one is gone or damaged.
        """
        embeddings = self.array("captions")
        absent = embeddings.first_absent(rows)
        if absent is not None:
            raise self.lost("captions", absent)
        return embeddings.rows(rows)

    def lost(self, name: str, row: int) -> StoreError:
        """The error for a row that a receipt promises and the file of an array does not hold."""
        return self._lost(f"{FEATURES_FOLDER}/{name}", row)

    def _lost(self, name: str, row: int) -> StoreError:
        return StoreError(
            f"{self._storage.location}/{name}: row {row} is not in its file, but "
            "its shard is committed. Was the store copied whole? `muse store verify --repair` and "
            "then `muse extract` write its shard again."
        )

    @property
    def _has_frame_pictures(self) -> bool:
        return FRAMES_JPEG in self._header.views

    def _decode_into(self, row: int, frames_TSSC: NDArray[np.uint8]) -> None:
        try:
            decode_pictures(self.frame_pictures(row), frames_TSSC)
        except ValueError as error:
            raise self._frames.damaged(row, f"row {row}: {error}") from error

    def _map_name(self, view: str) -> str:
        if view not in readable_views(self._header.views):
            raise StoreError(
                f"{self._storage.location}: no tokens in it, only the views "
                f"{', '.join(self._header.views)}. A head needs --views tokens or int8 at "
                "extraction."
            )
        return array_name(view)

    def _rows_into(self, name: str, rows: Sequence[int], target: NDArray[Any]) -> None:
        array = self.array(name)
        for start, end in array.runs_of(rows):
            if not array.read_run(rows[start], target[start:end]):
                absent = array.first_absent(np.array(rows[start:end]))
                raise self.lost(name, rows[start] if absent is None else absent)

    def _row(self, name: str, row: int) -> NDArray[Any]:
        found = self.array(name).written_row(row)
        if found is None:
            raise self.lost(name, row)
        return found
