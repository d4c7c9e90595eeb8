"""Pictures in a store, thumbnails or frames: of each shard of videos one file of each kind.

The pictures lie one after another, rows in order and frames in order; at the end of the file is
how many bytes each has. A row is read without the rest of its file. Knows nothing of what a picture
shows, and of receipts only that they name the file.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from muse.errors import StoreError
from muse.pipeline.storage.files import Storage

THUMBNAILS_FOLDER = "thumbnails"
"""Small pictures, for people: a store does without them where they are damaged."""
FRAMES_FOLDER = "frames"
"""The view ``frames:jpeg``: features like any other."""
_LENGTH = np.dtype("<u4")  # bytes of one picture; 0 where there is none


def pictures_name(folder: str, index: int) -> str:
    """The name of the file with one kind of pictures of a shard of videos."""
    return f"{folder}/videos-{index:06d}.jpegs"


def is_thumbnails(name: str) -> bool:
    """True for the name of a file of thumbnails."""
    return name.startswith(f"{THUMBNAILS_FOLDER}/")


def pictures_content(
    pictures: Mapping[int, Sequence[bytes]], *, rows_per_shard: int, num_frames: int
) -> list[bytes]:
    """A shard's file in pieces: its pictures in order, then the bytes of each.

    Args:
        pictures: By place in the shard, of each frame one; a row may have none.
        rows_per_shard: Places, with pictures or without.
        num_frames: T, the most frames a row can have.
    """
    lengths_ST = np.zeros((rows_per_shard, num_frames), _LENGTH)
    pieces: list[bytes] = []
    for place in sorted(pictures):
        lengths_ST[place, : len(pictures[place])] = [len(picture) for picture in pictures[place]]
        pieces += pictures[place]
    return [*pieces, lengths_ST.tobytes()]


def index_bytes(rows_per_shard: int, num_frames: int) -> int:
    """Of a shard's file without its pictures."""
    return rows_per_shard * num_frames * _LENGTH.itemsize


class PictureFiles:
    """One kind of pictures of a store, by row.

    Args:
        storage: The store's files.
        folder: `THUMBNAILS_FOLDER` or `FRAMES_FOLDER`.
        shard_size: S, rows a file.
        num_frames: T, the most frames a row can have.
    """

    def __init__(self, storage: Storage, folder: str, *, shard_size: int, num_frames: int) -> None:
        self._storage, self._folder = storage, folder
        self._shard_size, self._num_frames = shard_size, num_frames

    def read(self, row: int) -> tuple[bytes, ...]:
        """A JPEG file of each frame of a row; empty where it has none.

        Raises:
            StoreError: If the row's file is cut short or can't be read.
        """
        index, place = divmod(row, self._shard_size)
        name = pictures_name(self._folder, index)
        while (identity := self._storage.identity(name)) is not None:
            try:
                pictures = self._read(name, place)
            except StoreError:
                if self._storage.identity(name) == identity:
                    raise
            else:
                # A file that was written again meanwhile may have the row at another place.
                if self._storage.identity(name) == identity:
                    return pictures
        return ()

    def _read(self, name: str, place: int) -> tuple[bytes, ...]:
        lengths_ST = self._lengths(name)
        starts_T = np.cumsum(lengths_ST[place]) - lengths_ST[place] + lengths_ST[:place].sum()
        start, size = int(starts_T[0]), int(lengths_ST[place].sum())
        content = self._bytes(name, start, size)
        return tuple(
            content[begin - start : begin - start + length]
            for begin, length in zip(starts_T.tolist(), lengths_ST[place].tolist(), strict=True)
            if length
        )

    def _lengths(self, name: str) -> NDArray[np.int64]:
        """(S, T) bytes of each picture of a file."""
        num_bytes = index_bytes(self._shard_size, self._num_frames)
        total = self._storage.size(name) or 0
        index = self._bytes(name, max(total - num_bytes, 0), num_bytes)
        lengths_ST = np.frombuffer(index, _LENGTH).reshape(self._shard_size, self._num_frames)
        if int(lengths_ST.sum(dtype=np.int64)) + num_bytes != total:
            raise self._damaged(name, "damaged or cut short")
        return lengths_ST.astype(np.int64)

    def _bytes(self, name: str, start: int, num_bytes: int) -> bytes:
        buffer = bytearray(num_bytes)
        try:
            num_read = self._storage.read_into(name, memoryview(buffer), offset=start)
        except OSError as error:
            raise self._damaged(name, f"can't be read ({error.strerror or error})") from error
        if num_read != num_bytes:
            raise self._damaged(name, "damaged or cut short")
        return bytes(buffer)

    def damaged(self, row: int, words: str) -> StoreError:
        """The error for a row whose pictures are not what was written."""
        return self._damaged(pictures_name(self._folder, row // self._shard_size), words)

    def _damaged(self, name: str, words: str) -> StoreError:
        advice = "and then `muse extract` write its shard again"
        if self._folder == THUMBNAILS_FOLDER:
            advice = "gives these thumbnails up, and keeps the features"
        return StoreError(
            f"{self._storage.location}/{name}: {words}. `muse store verify --repair` {advice}."
        )
