"""Rows of an uncompressed Zarr v3 array, straight from and to its files.

A store's arrays have one form (docs/store-format.md): little-endian, no compression, rows along the
first axis, one row an inner chunk where there are shards. A row is then a range of bytes, and one
read gets it: several times the speed of a general reader, and no import of zarr. A shard is made
whole in memory, rows in order, so that its bytes follow from its rows alone. An array of another
form is refused. Knows nothing of what rows mean; a row that was never written reads as the fill
value, so whoever asks has to know what was written.
"""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muse.errors import StoreError
from muse.pipeline.storage.files import Storage

_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
_PLAIN_CODECS: tuple[object, ...] = ([_BYTES], [{"name": "bytes"}])  # a bool has no byte order
_INDEX_CODECS = [_BYTES, {"name": "crc32c"}]
_CHECKSUM_BYTES = 4
_ABSENT = 2**64 - 1  # offset of an inner chunk that was not written
_FILL = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
_SHARDS_KEPT = 4096  # whose index is kept in memory
_WHOLE_CHUNK_FROM = 16  # of a chunk's rows, one in so many wanted: then it is read whole


class RowArray:
    """An array on disk whose rows can be read.

    Args:
        storage: Where the array is.
        folder: Its name there, the folder with its ``zarr.json``.

    Raises:
        StoreError: If its metadata can't be read or describe another form.
    """

    def __init__(self, storage: Storage, folder: str) -> None:
        self._storage = storage
        self._folder = folder
        self._where = f"{storage.location}/{folder}"
        metadata = _read_metadata(storage, folder)
        self.shape: tuple[int, ...] = tuple(metadata["shape"])
        self.dtype = np.dtype(metadata["data_type"]).newbyteorder("<")
        self._fill_value = _FILL.get(metadata["fill_value"], metadata["fill_value"])
        self._rows_per_file, self._is_sharded = _layout(self._where, metadata)
        self._row_bytes: int = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        self._offsets_of: dict[int, tuple[object, NDArray[np.uint64]]] = {}

    def row(self, index: int) -> NDArray[Any]:
        """One row, ``shape[1:]``; the fill value where it was not written.

        Raises:
            StoreError: If its file is cut short.
        """
        row = self.written_row(index)
        return np.full(self.shape[1:], self._fill_value, self.dtype) if row is None else row

    def written_row(self, index: int) -> NDArray[Any] | None:
        """One row, or None if it was not written.

        Raises:
            StoreError: If its file is cut short.
        """
        row = np.empty(self.shape[1:], self.dtype)
        return row if self.read_run(index, row[None]) else None

    def read_run(self, first: int, target: NDArray[Any]) -> bool:
        """Whether rows that follow each other were all written; then they are in ``target``.

        One read gets them where they lie side by side, as they do in every shard of ours.

        Args:
            first: The first of them.
            target: (n, *shape[1:]) of the array's type, contiguous: rows ``first`` to ``first +
                n - 1``, which must be of one file (`runs_of`).

        Raises:
            StoreError: If their file is cut short.
        """
        assert target.dtype == self.dtype, (target.dtype, self.dtype)
        file_index, place = divmod(first, self._rows_per_file)
        file = self.file(file_index)
        while True:
            identity = self._storage.identity(file)
            try:
                is_read = self._read_run(file_index, place, target, identity)
            except StoreError:
                if self._storage.identity(file) == identity:
                    raise
            else:
                # A shard that was written again meanwhile may have its rows at other places.
                if not self._is_sharded or self._storage.identity(file) == identity:
                    return is_read

    def runs_of(self, indices: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Start and end in ``indices`` of each longest run of rows that `read_run` takes."""
        start = 0
        for end in range(1, len(indices) + 1):
            if (
                end == len(indices)
                or indices[end] != indices[end - 1] + 1
                or indices[end] % self._rows_per_file == 0
            ):
                yield start, end
                start = end

    def has_row(self, index: int) -> bool:
        """True if the row was written."""
        file_index, place = divmod(index, self._rows_per_file)
        identity = self._storage.identity(self.file(file_index))
        return self._offset(file_index, place, identity) is not None

    def first_absent(self, indices: NDArray[np.intp]) -> int | None:
        """The first of some rows that was not written; None if all were."""
        file_of = indices // self._rows_per_file
        for file_index in np.unique(file_of).tolist():
            here = indices[file_of == file_index].tolist()
            for row in here if self._is_sharded else here[:1]:  # else they are there together
                if not self.has_row(row):
                    return int(row)
        return None

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

    def file(self, index: int) -> str:
        """The name of the file of the rows from ``index`` times the rows a file on."""
        return chunk_name(self._folder, index, len(self.shape))

    def _read_run(
        self, file_index: int, place: int, target: NDArray[Any], identity: object
    ) -> bool:
        offsets = []
        for number in range(len(target)):
            offset = self._offset(file_index, place + number, identity)
            if offset is None:
                return False
            offsets.append(offset)
        file = self.file(file_index)
        if all(b - a == self._row_bytes for a, b in itertools.pairwise(offsets)):
            self._read_into(target, file, offsets[0])
        else:
            for row, offset in zip(target, offsets, strict=True):
                self._read_into(row, file, offset)
        return True

    def _whole_chunk(self, file_index: int) -> NDArray[Any]:
        shape = (self._rows_per_file, *self.shape[1:])
        chunk = np.full(shape, self._fill_value, self.dtype)
        if self._storage.size(self.file(file_index)) is not None:
            self._read_into(chunk, self.file(file_index), 0)
        return chunk

    def _offset(self, file_index: int, place: int, identity: object) -> int | None:
        """Where a row begins in its file; None if it was not written."""
        if identity is None:
            return None
        if not self._is_sharded:
            return place * self._row_bytes
        offset = int(self._offsets(file_index, identity)[place])
        return None if offset == _ABSENT else offset

    def _offsets(self, file_index: int, identity: object) -> NDArray[np.uint64]:
        """Of a shard's rows, kept for as long as the file is the same one."""
        kept = self._offsets_of.get(file_index)
        if kept is None or kept[0] != identity:
            if len(self._offsets_of) >= _SHARDS_KEPT:  # a million videos are 15,625 shards
                # list() and pop() are each one step to other threads that read
                self._offsets_of.pop(next(iter(list(self._offsets_of))), None)
            offsets = self._read_offsets(self.file(file_index))
            kept = self._offsets_of[file_index] = (identity, offsets)
        return kept[1]

    def _read_offsets(self, file: str) -> NDArray[np.uint64]:
        """The index at a shard's end: an offset and a length for each inner chunk."""
        index = np.empty((self._rows_per_file, 2), np.dtype("<u8"))
        start = (self._storage.size(file) or 0) - index.nbytes - _CHECKSUM_BYTES
        self._read_into(index, file, max(start, 0))
        offsets, lengths = index[:, 0], index[:, 1]
        written = offsets != _ABSENT
        ends = offsets[written] + lengths[written]
        if (lengths[written] != self._row_bytes).any() or (ends > max(start, 0)).any():
            raise self._damaged(file)
        return offsets

    def _read_into(self, target: NDArray[Any], file: str, offset: int) -> None:
        buffer = target.reshape(-1).view(np.uint8).data
        try:
            num_read = self._storage.read_into(file, buffer, offset=offset)
        except OSError as error:
            words = error.strerror or error
            raise StoreError(
                f"{self._storage.location}/{file}: can't be read ({words})."
            ) from error
        if num_read != target.nbytes:
            raise self._damaged(file)

    def _damaged(self, file: str) -> StoreError:
        return StoreError(
            f"{self._storage.location}/{file}: damaged or cut short. `muse store verify --repair` "
            "and then `muse extract` write its shard again."
        )


def chunk_name(folder: str, index: int, num_axes: int) -> str:
    """The name of an array's file that holds shard or chunk ``index`` of the first axis."""
    return "/".join([folder, "c", str(index), *["0"] * (num_axes - 1)])


def shard_content(
    rows: Mapping[int, NDArray[Any]], *, rows_per_shard: int
) -> list[memoryview | bytes]:
    """A shard file in pieces: its rows in order, then the index of Zarr v3's sharding codec.

    Args:
        rows: By place in the shard, each of one shape and type.
        rows_per_shard: Places, written or not.
    """
    index = np.full((rows_per_shard, 2), _ABSENT, np.dtype("<u8"))
    pieces: list[memoryview | bytes] = []
    offset = 0
    for place in sorted(rows):
        row = np.ascontiguousarray(rows[place])
        index[place] = offset, row.nbytes
        offset += row.nbytes
        pieces.append(row.reshape(-1).view(np.uint8).data)
    checksum = _crc32c(index.tobytes())
    return [*pieces, index.tobytes() + checksum.to_bytes(_CHECKSUM_BYTES, "little")]


def chunk_content(block: NDArray[Any], *, rows_per_chunk: int, fill_value: object) -> bytes:
    """A whole chunk of an array without shards; rows that are not given are the fill value."""
    chunk = np.full((rows_per_chunk, *block.shape[1:]), fill_value, block.dtype)
    chunk[: len(block)] = block
    return chunk.tobytes()


def _crc32c_of_byte(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)  # Castagnoli, RFC 3720 app. B.4
    return byte


_CRC32C = tuple(map(_crc32c_of_byte, range(256)))


def _crc32c(content: bytes) -> int:
    """The checksum that Zarr's index carries; a kilobyte a shard, so plain Python will do."""
    state = 0xFFFFFFFF
    for byte in content:
        state = state >> 8 ^ _CRC32C[(state ^ byte) & 0xFF]
    return state ^ 0xFFFFFFFF


def _read_metadata(storage: Storage, folder: str) -> Mapping[str, Any]:
    try:
        metadata: dict[str, Any] = json.loads(storage.read(f"{folder}/zarr.json"))
        np.dtype(metadata["data_type"]), len(metadata["shape"]), metadata["codecs"][0]["name"]
        metadata["chunk_grid"]["configuration"]["chunk_shape"][0], metadata["fill_value"]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise StoreError(
            f"{storage.location}/{folder}/zarr.json: can't be read as an array ({error}). "
            "Extract into another --out."
        ) from error
    return metadata


def _layout(where: str, metadata: Mapping[str, Any]) -> tuple[int, bool]:
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
        f"{where}: its codecs are not those of a muse store ({json.dumps(codecs)[:200]}). "
        "Was it rewritten by another tool? Extract into another --out."
    )
