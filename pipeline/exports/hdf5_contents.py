"""What the HDF5 form of a feature store holds, read with h5py: all but features and embeddings.

Of those it finds where they lie, and ``store_hdf5`` reads them. A file that was rewritten or cut
short is refused here, when it is opened. The layout is in docs/store-format.md.
"""

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from muse.errors import StoreError
from muse.pipeline.header import StoreHeader, header_from_json
from muse.pipeline.records import (
    WINDOW_COLUMNS,
    Caption,
    Failure,
    SourceFile,
    captions_of_columns,
    windows_of_columns,
)
from muse.pipeline.views import FRAMES_JPEG, ArraySpec
from muse.pipeline.window import Window

LAYOUT_VERSION = 1
FAILURE_FIELDS = ("video_id", "path", "stage", "reason", "message")
ABSENT = -1
"""For a number of a row that has none: a place, a size, a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PicturePlaces:
    """Where JPEG files lie in the file."""

    starts_NT: NDArray[np.int64]
    """Where each begins; (N, 0) in a store without such pictures."""
    num_bytes_NT: NDArray[np.int64]
    """Of each, 0 where there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hdf5Contents:
    """A file but for its features and embeddings, and the places of those."""

    header: StoreHeader
    root_sha256: str
    timestamps_sha256: str
    arrays: tuple[ArraySpec, ...]
    places: dict[str, NDArray[np.int64]]
    """By array (N,) where each row begins in the file; -1 where there is none."""
    embedding_place: int
    """Where the caption embeddings begin in the file."""
    video_ids: list[str]
    windows: list[Window | None]
    has_features_N: NDArray[np.bool_]
    valid_NT: NDArray[np.bool_]
    pts_seconds_NT: NDArray[np.float64]
    sources: list[SourceFile | None]
    captions: list[Caption]
    has_embedding_Q: NDArray[np.bool_]
    failures: list[Failure]
    failed_rows: NDArray[np.int64]
    thumbnails: PicturePlaces
    frame_pictures: PicturePlaces
    """Of the view ``frames:jpeg``."""


def read_contents(file: Path) -> tuple[Hdf5Contents, int]:
    """What a file holds, and a descriptor of it that is the caller's to close.

    Raises:
        StoreError: If `muse.pipeline.exports.hdf5_writer` did not write it, or it is damaged,
            naming what is missing.
    """
    try:
        with h5py.File(file, "r", locking=False) as content:
            contents = _contents(_Reader(content, str(file)))
            return contents, os.dup(content.id.get_vfd_handle())
    except StoreError:  # is an OSError too
        raise
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise broken_file(file, " ".join(str(error).split())) from error


def broken_file(file: Path | str, words: str) -> StoreError:
    """The error for a file that is not what was written."""
    return StoreError(
        f"{file}: not a whole file of `muse store export` ({words}). Copy it again, or export the "
        "store again."
    )


class _Reader:
    """The datasets of a file, each checked to be of the shape that the header makes it."""

    def __init__(self, content: Any, file: str) -> None:
        self._content = content
        self.file = file

    def attribute(self, name: str) -> Any:
        if name not in self._content.attrs:
            raise self.broken(f"attribute {name} is missing")
        return self._content.attrs[name]

    def has(self, name: str) -> bool:
        return name in self._content

    def column(self, name: str) -> Any:
        found = self._content.get(name)
        if not isinstance(found, h5py.Dataset):
            raise self.broken(f"dataset {name} is missing")
        return found

    def dataset(self, name: str, *shape: int) -> Any:
        found = self.column(name)
        if found.shape != shape:
            raise self.broken(f"dataset {name} has shape {found.shape}, not {shape}")
        return found

    def numbers(self, name: str, dtype: str, *shape: int) -> NDArray[Any]:
        return np.asarray(self.dataset(name, *shape)[()], dtype)

    def texts(self, name: str, num_rows: int) -> list[str]:
        texts: list[str] = self.dataset(name, num_rows).asstr()[()].tolist()
        return texts

    def broken(self, words: str) -> StoreError:
        return broken_file(self.file, words)


def _contents(reader: _Reader) -> Hdf5Contents:
    header = _header(reader)
    has_features_N = reader.numbers("videos/has_features", "bool", header.num_videos)
    has_embedding_Q = reader.numbers("captions/has_embedding", "bool", header.num_captions)
    specs = [ArraySpec(**spec) for spec in json.loads(reader.attribute("arrays"))]
    specs = [dataclasses.replace(spec, shape=tuple(spec.shape)) for spec in specs]
    failed_rows, failures = _failures(reader, header.num_videos)
    times = (header.num_videos, header.sampling.num_frames)
    contents = Hdf5Contents(
        header=header,
        root_sha256=reader.attribute("root_sha256"),
        timestamps_sha256=reader.attribute("timestamps_sha256"),
        arrays=tuple(specs),
        places={spec.name: _places(reader, spec, has_features_N) for spec in specs},
        embedding_place=_embedding_place(reader, header, has_embedding_Q),
        video_ids=reader.texts("videos/video_id", header.num_videos),
        windows=_windows(reader, header.num_videos),
        has_features_N=has_features_N,
        valid_NT=reader.numbers("videos/valid", "bool", *times),
        pts_seconds_NT=reader.numbers("videos/pts_seconds", "float64", *times),
        sources=_sources(reader, header.num_videos),
        captions=_captions(reader, header.num_captions),
        has_embedding_Q=has_embedding_Q,
        failures=failures,
        failed_rows=failed_rows,
        thumbnails=_pictures(reader, header, "thumbnails", header.thumbnail_side > 0),
        frame_pictures=_pictures(reader, header, "frames", FRAMES_JPEG in header.views),
    )
    empty = np.flatnonzero(has_features_N & ~contents.valid_NT.any(axis=1))
    if len(empty):
        raise reader.broken(f"videos/valid has no frame of row {empty[0]}")
    if FRAMES_JPEG in header.views:
        has_picture_NT = contents.frame_pictures.num_bytes_NT > 0
        lost = np.flatnonzero((has_picture_NT != contents.valid_NT).any(axis=1))
        if len(lost):
            raise reader.broken(f"frames/num_bytes has not the pictures of row {lost[0]}")
    return contents


def _header(reader: _Reader) -> StoreHeader:
    layout = reader.attribute("muse_layout")
    if layout != LAYOUT_VERSION:
        raise reader.broken(f"muse_layout is {layout}, this muse reads {LAYOUT_VERSION}")
    return header_from_json(json.loads(reader.attribute("header")), source=reader.file)


def _places(
    reader: _Reader, spec: ArraySpec, has_features_N: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """(N,) where each row begins in the file; -1 where there is none."""
    name = f"features/{spec.name}"
    dataset = reader.dataset(name, len(has_features_N), *spec.shape)
    _require_plain(reader, dataset, spec.dtype, chunks=(1, *spec.shape))
    places = np.full(len(has_features_N), ABSENT, np.int64)

    def note(chunk: Any) -> None:
        places[chunk.chunk_offset[0]] = chunk.byte_offset

    dataset.id.chunk_iter(note)
    lost = np.flatnonzero(has_features_N & (places == ABSENT))
    if len(lost):
        raise reader.broken(f"{name} has no row {lost[0]}")
    return places


def _embedding_place(
    reader: _Reader, header: StoreHeader, has_embedding_Q: NDArray[np.bool_]
) -> int:
    name = "captions/embedding"
    dataset = reader.dataset(name, header.num_captions, header.encoder.dim)
    _require_plain(reader, dataset, "float16", chunks=None)
    place = dataset.id.get_offset()  # None where there is nothing
    if place is None and has_embedding_Q.any():
        raise reader.broken(f"{name} has no rows")
    return ABSENT if place is None else int(place)


def _pictures(reader: _Reader, header: StoreHeader, group: str, is_there: bool) -> PicturePlaces:
    if not is_there:
        none_N0 = np.empty((header.num_videos, 0), np.int64)
        return PicturePlaces(starts_NT=none_N0, num_bytes_NT=none_N0)
    shape = (header.num_videos, header.sampling.num_frames)
    num_bytes_NT = reader.numbers(f"{group}/num_bytes", "int64", *shape)
    dataset = reader.dataset(f"{group}/jpeg", int(num_bytes_NT.sum()))
    _require_plain(reader, dataset, "uint8", chunks=None)
    place = dataset.id.get_offset()  # None where there is nothing
    if place is None and num_bytes_NT.any():
        raise reader.broken(f"{group}/jpeg has no pictures")
    ends = (place or 0) + np.cumsum(num_bytes_NT).reshape(shape)
    return PicturePlaces(starts_NT=ends - num_bytes_NT, num_bytes_NT=num_bytes_NT)


def _require_plain(
    reader: _Reader, dataset: Any, dtype: str, *, chunks: tuple[int, ...] | None
) -> None:
    """Returns if a row is a range of bytes in the file."""
    is_filtered = dataset.id.get_create_plist().get_nfilters() > 0
    is_same_dtype = dataset.dtype == np.dtype(dtype).newbyteorder("<")
    if dataset.chunks != chunks or is_filtered or not is_same_dtype:
        raise reader.broken(f"dataset {dataset.name} was rewritten, in another form")


def _sources(reader: _Reader, num_videos: int) -> list[SourceFile | None]:
    columns = zip(
        reader.numbers("videos/source_size_bytes", "int64", num_videos).tolist(),
        reader.numbers("videos/source_mtime_ns", "int64", num_videos).tolist(),
        reader.texts("videos/source_sha256", num_videos),
        strict=True,
    )
    return [
        None if size == ABSENT else SourceFile(size_bytes=size, mtime_ns=time, sha256=hash or None)
        for size, time, hash in columns
    ]


def _windows(reader: _Reader, num_videos: int) -> list[Window | None]:
    columns = {}
    for name in WINDOW_COLUMNS:
        if reader.has(f"videos/{name}"):
            seconds = reader.numbers(f"videos/{name}", "float64", num_videos)
            columns[name] = [None if np.isnan(second) else second for second in seconds.tolist()]
    return windows_of_columns(columns, num_videos)


def _captions(reader: _Reader, num_captions: int) -> list[Caption]:
    names = ("video_id", "text", "split", *(["axis"] if reader.has("captions/axis") else []))
    return captions_of_columns({n: reader.texts(f"captions/{n}", num_captions) for n in names})


def _failures(reader: _Reader, num_videos: int) -> tuple[NDArray[np.int64], list[Failure]]:
    """Their rows, and they."""
    num_failures = len(reader.column("failures/row"))
    columns = (reader.texts(f"failures/{name}", num_failures) for name in FAILURE_FIELDS)
    failures = [
        Failure(**dict(zip(FAILURE_FIELDS, fields, strict=True)))
        for fields in zip(*columns, strict=True)
    ]
    rows = reader.numbers("failures/row", "int64", num_failures)
    if ((rows < 0) | (rows >= num_videos)).any():
        raise reader.broken(f"failures/row names rows beyond {num_videos}")
    return rows, failures
