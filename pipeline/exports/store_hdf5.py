"""The HDF5 form of a feature store, for reading: one file, as `muse store export` writes it.

Tables, and where each row lies, are read when a store is opened (``hdf5_contents``). Rows are then
read from the file itself: they are uncompressed, one video a chunk, so that a row is a range of
bytes. No handle of the library is kept: reads need no lock, in threads and after a fork.
"""

import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muse.errors import StoreError
from muse.pipeline.exports.hdf5_contents import (
    Hdf5Contents,
    PicturePlaces,
    broken_file,
    read_contents,
)
from muse.pipeline.frame_pictures import decode_pictures
from muse.pipeline.records import Caption, ClipFeatures, ClipTokens, Failure
from muse.pipeline.store import StoreCounts, counts_of, token_view_of
from muse.pipeline.views import FRAMES_DECODED, FRAMES_JPEG, array_name, dequantise, map_of
from muse.pipeline.window import Window

_ALL_CAPTIONS_FROM = 16  # one in so many wanted: then all are read at once


class Hdf5Store:
    """A store in one file, as it was when it was opened: one put in its place is not seen."""

    def __init__(self, file: Path, contents: Hdf5Contents, descriptor: int) -> None:
        self._contents = contents
        self._descriptor = descriptor
        self._closes = weakref.finalize(self, os.close, descriptor)
        self.location = str(file)
        self.header = contents.header
        self.token_view = token_view_of(contents.header)
        self.root_sha256 = contents.root_sha256
        self.timestamps_sha256 = contents.timestamps_sha256
        self.arrays = contents.arrays
        self.video_ids: Sequence[str] = contents.video_ids
        self.windows: Sequence[Window | None] = contents.windows
        self.captions: Sequence[Caption] = contents.captions
        self.failures: Sequence[Failure] = contents.failures
        self.sources = {row: file for row, file in enumerate(contents.sources) if file is not None}
        self.has_features_N = contents.has_features_N
        self.has_embedding_Q = contents.has_embedding_Q

    @classmethod
    def open(cls, file: Path, *, view: str | None = None) -> "Hdf5Store":
        """The store in a file.

        Args:
            file: Written by `muse.pipeline.exports.hdf5_writer.write_hdf5`.
            view: What `read_clip` reads; see `muse.pipeline.store.token_view_of`.

        Raises:
            StoreError: If it is no such file or damaged, naming what is missing; or if the store
                has no such view.
        """
        if view == FRAMES_DECODED:
            raise StoreError(
                f"{file}: view {view!r}: an exported file has no paths of its videos. Name the "
                f"store it was exported from, or export one that was extracted with {FRAMES_JPEG}."
            )
        contents, descriptor = read_contents(file)
        opened = cls(file, contents, descriptor)
        opened.token_view = token_view_of(contents.header, view)
        return opened

    def __reduce__(self) -> tuple[object, ...]:
        """Opens the file again in another process: a descriptor means nothing there."""
        return (_reopened, (self.location, self.token_view or None))

    def counts(self) -> StoreCounts:
        """How many videos and captions are done, failed, skipped and pending."""
        done_N = self.has_features_N.copy()
        done_N[self._contents.failed_rows] = True
        return counts_of(self, done_N=done_N)

    def size_bytes(self) -> int:
        """Of the file."""
        return os.fstat(self._descriptor).st_size

    def read_clip(self, row: int) -> ClipTokens:
        """The tokens of one video, from ``token_view``.

        Raises:
            StoreError: If the video has no features, or the store has no tokens.
        """
        self._require_features(row)
        return ClipTokens(
            video_id=self.video_ids[row],
            tokens_TKD=self._tokens(row),
            valid_T=self._contents.valid_NT[row],
            pts_seconds_T=self._contents.pts_seconds_NT[row],
        )

    def read_clips_into(self, rows: Sequence[int], tokens_NTKD: NDArray[Any]) -> NDArray[np.bool_]:
        """The tokens of some videos into an array, and (N, T) True for a frame.

        Raises:
            StoreError: As `read_clip`.
        """
        for row, tokens_TKD in zip(rows, tokens_NTKD, strict=True):
            self._require_features(row)
            if self.token_view in ("", "int8", FRAMES_JPEG):
                tokens_TKD[...] = self._tokens(row)
            else:
                name = array_name(self.token_view)
                self._read_into(tokens_TKD, int(self._contents.places[name][row]))
        return self._contents.valid_NT[list(rows)]

    def read_features(self, row: int) -> ClipFeatures:
        """All that is kept of one video.

        Raises:
            StoreError: If the video has no features.
        """
        self._require_features(row)
        return ClipFeatures(
            video_id=self.video_ids[row],
            arrays={spec.name: self._row(spec.name, row) for spec in self.arrays},
            valid_T=self._contents.valid_NT[row],
            pts_seconds_T=self._contents.pts_seconds_NT[row],
            source=self._contents.sources[row],
            thumbnails=self.read_thumbnails(row) or (),
            frame_pictures=self.read_frame_pictures(row),
        )

    def read_caption_embeddings(self, rows: NDArray[np.intp]) -> NDArray[np.float16]:
        """(len(rows), D) text embeddings.

        Raises:
            StoreError: If a row has none.
        """
        if not self.has_embedding_Q[rows].all():
            raise StoreError(
                f"{self.location}: {int((~self.has_embedding_Q[rows]).sum())} captions had no "
                "embedding yet. Finish the store it was exported from, and export it again."
            )
        if len(rows) * _ALL_CAPTIONS_FROM >= len(self.captions):
            return self._embeddings(0, len(self.captions))[rows]
        found = np.empty((len(rows), self.header.encoder.dim), np.float16)
        for place, row in enumerate(rows.tolist()):
            found[place] = self._embeddings(row, 1)[0]
        return found

    def read_thumbnails(self, row: int) -> tuple[bytes, ...] | None:
        """A small JPEG file of each valid frame of a video; None where it has none.

        Raises:
            StoreError: If the file is cut short.
        """
        return self._pictures(self._contents.thumbnails, row) or None

    def read_frame_pictures(self, row: int) -> tuple[bytes, ...]:
        """A JPEG file of each valid frame of a video; empty without the view ``frames:jpeg``.

        Raises:
            StoreError: If the video has no features, or the file is cut short.
        """
        self._require_features(row)
        return self._pictures(self._contents.frame_pictures, row)

    def _pictures(self, places: PicturePlaces, row: int) -> tuple[bytes, ...]:
        starts_T, sizes_T = places.starts_NT[row].tolist(), places.num_bytes_NT[row].tolist()
        ends = [(at, size) for at, size in zip(starts_T, sizes_T, strict=True) if size]
        return tuple(self._read((size,), "uint8", at).tobytes() for at, size in ends)

    def _embeddings(self, first: int, num_rows: int) -> NDArray[np.float16]:
        dim = self.header.encoder.dim
        place = self._contents.embedding_place + first * dim * 2  # bytes of a float16
        return self._read((num_rows, dim), "float16", place)

    def _tokens(self, row: int) -> NDArray[Any]:
        if self.token_view == FRAMES_JPEG:
            return self._decoded(row)
        if self.token_view not in ("", "int8"):
            return self._row(array_name(self.token_view), row)
        if self.token_view == "int8":
            return dequantise(self._row("tokens_int8", row), self._row("tokens_int8_scale", row))
        raise StoreError(
            f"{self.location}: no tokens in it, only the views {', '.join(self.header.views)}. "
            "A head needs --views tokens or int8 at extraction."
        )

    def _decoded(self, row: int) -> NDArray[np.uint8]:
        """(T, S, S, 3) of a video's pictures."""
        spec = map_of(FRAMES_JPEG, self.header.encoder, self.header.sampling.num_frames)
        frames_TSSC = np.empty(spec.shape, spec.dtype)
        try:
            decode_pictures(self.read_frame_pictures(row), frames_TSSC)
        except ValueError as error:
            raise broken_file(self.location, f"row {row}: {error}") from error
        return frames_TSSC

    def _require_features(self, row: int) -> None:
        if not self.has_features_N[row]:
            raise StoreError(
                f"{self.location}: video {self.video_ids[row]!r} (row {row}) has no features. "
                "Rows with features are in has_features_N."
            )

    def _row(self, name: str, row: int) -> NDArray[Any]:
        (spec,) = (spec for spec in self.arrays if spec.name == name)
        return self._read(spec.shape, spec.dtype, int(self._contents.places[name][row]))

    def _read(self, shape: tuple[int, ...], dtype: str, place: int) -> NDArray[Any]:
        block = np.empty(shape, np.dtype(dtype).newbyteorder("<"))
        self._read_into(block, place)
        return block

    def _read_into(self, block: NDArray[Any], place: int) -> None:
        buffer, done = block.reshape(-1).view(np.uint8).data, 0
        while done < block.nbytes:
            step = os.preadv(self._descriptor, [buffer[done:]], place + done)
            if not step:
                raise broken_file(self.location, f"it ends before byte {place + block.nbytes}")
            done += step


def _reopened(location: str, view: str | None) -> Hdf5Store:
    return Hdf5Store.open(Path(location), view=view)
