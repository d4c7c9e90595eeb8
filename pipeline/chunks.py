"""Rows of an uncompressed Zarr v3 array, read straight from its files.

A store's arrays have one form (docs/store-format.md): little-endian, no compression, rows along the
first axis, one row an inner chunk where there are shards. A row is then a range of bytes, and one
read gets it: several times the speed of a general reader, and no import of zarr. An array of
another form is refused. Knows nothing of stores; a row that was never written reads as the fill
value, so whoever asks has to know what was written.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muse.errors import StoreError

_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
_PLAIN_CODECS: tuple[object, ...] = ([_BYTES], [{"name": "bytes"}])  # a bool has no byte order
_INDEX_CODECS = [_BYTES, {"name": "crc32c"}]
_CHECKSUM_BYTES = 4
_ABSENT = 2**64 - 1  # offset of an inner chunk that was not written
_FILL = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
_WHOLE_CHUNK_FROM = 16  # of a chunk's rows, one in so many wanted: then it is read whole


class RowArray:
    """An array on disk whose rows can be read.

    Args:
        path: Folder of the array, the one with its ``zarr.json``.

    Raises:
        StoreError: If its metadata can't be read or describe another form.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        metadata = _read_metadata(path)
        self.shape: tuple[int, ...] = tuple(metadata["shape"])
        self.dtype = np.dtype(metadata["data_type"]).newbyteorder("<")
        self._fill_value = _FILL.get(metadata["fill_value"], metadata["fill_value"])
        self._rows_per_file, self._is_sharded = _layout(path, metadata)
        self._row_bytes = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        # Bounded: a million videos are 15,000 shards.
        self._offsets = lru_cache(maxsize=4096)(self._read_offsets)

    def row(self, index: int) -> NDArray[Any]:
        """One row, ``shape[1:]``.

        Raises:
            StoreError: If its file is cut short.
        """
        row = np.full(self.shape[1:], self._fill_value, self.dtype)
        file_index, place = divmod(index, self._rows_per_file)
        offset = self._offset(file_index, place)
        if offset is not None:
            self._read_into(row, self.file(file_index), offset)
        return row

    def has_row(self, index: int) -> bool:
        """True if the row was written."""
        return self._offset(*divmod(index, self._rows_per_file)) is not None

    def rows(self, indices: NDArray[np.intp]) -> NDArray[Any]:
        """Some rows, (len(indices), *shape[1:])."""
        found = np.empty((len(indices), *self.shape[1:]), self.dtype)
        file_of = indices // self._rows_per_file
        for file_index in np.unique(file_of).tolist():
            here = np.flatnonzero(file_of == file_index)
            if len(here) * _WHOLE_CHUNK_FROM >= self._rows_per_file and not self._is_sharded:
                start = file_index * self._rows_per_file
                found[here] = self._whole_chunk(file_index)[indices[here] - start]
            else:
                for place in here.tolist():
                    found[place] = self.row(int(indices[place]))
        return found

    def all_rows(self) -> NDArray[Any]:
        """The whole array."""
        return self.rows(np.arange(self.shape[0]))

    def file(self, index: int) -> Path:
        """The file of the rows from ``index`` times the rows a file on."""
        return self._path.joinpath("c", str(index), *["0"] * (len(self.shape) - 1))

    def _whole_chunk(self, file_index: int) -> NDArray[Any]:
        shape = (self._rows_per_file, *self.shape[1:])
        chunk = np.full(shape, self._fill_value, self.dtype)
        if self.file(file_index).is_file():
            self._read_into(chunk, self.file(file_index), 0)
        return chunk

    def _offset(self, file_index: int, place: int) -> int | None:
        """Where a row begins in its file; None if it was not written."""
        if not self._is_sharded:
            return place * self._row_bytes if self.file(file_index).is_file() else None
        offsets = self._offsets(file_index)
        offset = _ABSENT if offsets is None else int(offsets[place])
        return None if offset == _ABSENT else offset

    def _read_offsets(self, file_index: int) -> NDArray[np.uint64] | None:
        """The index at a shard's end: an offset and a length for each inner chunk."""
        file = self.file(file_index)
        if not file.is_file():
            return None
        index = np.empty((self._rows_per_file, 2), np.dtype("<u8"))
        start = file.stat().st_size - index.nbytes - _CHECKSUM_BYTES
        self._read_into(index, file, max(start, 0))
        offsets, lengths = index[:, 0], index[:, 1]
        written = offsets != _ABSENT
        ends = offsets[written] + lengths[written]
        if (lengths[written] != self._row_bytes).any() or (ends > max(start, 0)).any():
            raise _damaged(file)
        return offsets

    def _read_into(self, target: NDArray[Any], file: Path, offset: int) -> None:
        try:
            with file.open("rb", buffering=0) as stream:
                stream.seek(offset)
                buffer = target.reshape(-1).view(np.uint8).data
                num_read = 0
                while step := stream.readinto(buffer[num_read:]):  # network disks give less
                    num_read += step
        except OSError as error:
            raise StoreError(f"{file}: can't be read ({error.strerror}).") from error
        if num_read != target.nbytes:
            raise _damaged(file)


def _damaged(file: Path) -> StoreError:
    return StoreError(
        f"{file}: damaged or cut short. Remove its shard's receipt, and `muse extract` writes it "
        "again."
    )


def _read_metadata(path: Path) -> Mapping[str, Any]:
    source = path / "zarr.json"
    try:
        metadata: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
        np.dtype(metadata["data_type"]), len(metadata["shape"]), metadata["codecs"][0]["name"]
        metadata["chunk_grid"]["configuration"]["chunk_shape"][0], metadata["fill_value"]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise StoreError(
            f"{source}: can't be read as an array ({error}). Extract into another --out."
        ) from error
    return metadata


def _layout(path: Path, metadata: Mapping[str, Any]) -> tuple[int, bool]:
    """Rows a file, and whether the file is a shard.

    Raises:
        StoreError: If the array is compressed, cut along other axes, or otherwise not of our form.
    """
    shape, codecs = metadata["shape"], metadata["codecs"]
    file_shape = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    if file_shape[1:] == shape[1:] and codecs in _PLAIN_CODECS:
        return int(file_shape[0]), False
    if codecs[0]["name"] == "sharding_indexed":
        inner = codecs[0]["configuration"]
        if (
            file_shape[1:] == shape[1:]
            and inner["chunk_shape"] == [1, *shape[1:]]
            and inner["codecs"] in _PLAIN_CODECS
            and inner["index_codecs"] == _INDEX_CODECS
            and inner.get("index_location", "end") == "end"
        ):
            return int(file_shape[0]), True
    raise StoreError(
        f"{path}: its codecs are not those of a muse store ({json.dumps(codecs)[:200]}). "
        "Was it rewritten by another tool? Extract into another --out."
    )
