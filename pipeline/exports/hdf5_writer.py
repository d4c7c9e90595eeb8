"""Writes the HDF5 form of a feature store: one file to hand on, which any h5py reads.

Knows nothing of how the store that it writes lies on disk. The layout is in docs/store-format.md;
``hdf5_contents`` and ``store_hdf5`` read it.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from muse.errors import StoreError
from muse.pipeline.exports.hdf5_contents import ABSENT, FAILURE_FIELDS, LAYOUT_VERSION
from muse.pipeline.exports.new_file import new_file
from muse.pipeline.exports.patient_file import PatientFile
from muse.pipeline.records import caption_columns, window_columns
from muse.pipeline.store import RawStore
from muse.pipeline.views import FRAMES_JPEG, ArraySpec

_LIBRARY = ("v110", "v110")  # readable since HDF5 1.10; the same bytes whichever version writes
_CAPTIONS_AT_ONCE = 4096  # 4 MB of float16 at D = 512
_TEXT = h5py.string_dtype("utf-8")

OnProgress = Callable[[int, int], None]
"""Told how many videos are written, and how many there are to write."""


def write_hdf5(
    store: RawStore,
    file: Path,
    *,
    overwrite: bool = False,
    on_progress: OnProgress = lambda done, total: None,
) -> None:
    """Writes all that is committed of a store to one file, which appears whole or not at all.

    The bytes depend on the store alone. Rows that are not committed stay empty, and a finished
    store has to be exported again.

    Raises:
        StoreError: If a row can't be read, the name is taken, or the file can't be written.
    """
    with new_file(file, overwrite=overwrite, num_bytes=_size_of(store)) as partial:
        with PatientFile(partial) as disk, h5py.File(disk, "w", libver=_LIBRARY) as content:
            for name in ("videos", "failures", "captions", "features"):
                content.create_group(name)  # made in passing, it would note the time
            _write_attributes(content, store)
            _write_tables(content, store)
            _write_captions(content, store)
            for done, total in _write_videos(content, store):
                disk.check()
                on_progress(done, total)
            if store.header.thumbnail_side:
                _write_pictures(
                    content, "thumbnails", store, lambda row: store.read_thumbnails(row) or ()
                )
            if FRAMES_JPEG in store.header.views:
                _write_pictures(content, "frames", store, store.read_frame_pictures)
        disk.check()


def _size_of(store: RawStore) -> int:
    """Bytes of the arrays alone."""
    row_bytes = sum(_bytes_of(spec) for spec in store.arrays)
    embedding = ArraySpec(name="embedding", dtype="float16", shape=(store.header.encoder.dim,))
    videos, captions = int(store.has_features_N.sum()), len(store.captions)
    return row_bytes * videos + _bytes_of(embedding) * captions


def _bytes_of(spec: ArraySpec) -> int:
    return int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize


def _write_attributes(content: Any, store: RawStore) -> None:
    content.attrs["muse_layout"] = LAYOUT_VERSION
    content.attrs["header"] = json.dumps(store.header.as_json(), sort_keys=True)
    content.attrs["root_sha256"] = store.root_sha256
    content.attrs["timestamps_sha256"] = store.timestamps_sha256
    content.attrs["arrays"] = json.dumps([dataclasses.asdict(spec) for spec in store.arrays])


def _write_tables(content: Any, store: RawStore) -> None:
    row_of = {video_id: row for row, video_id in enumerate(store.video_ids)}
    _write_texts(content, "videos/video_id", store.video_ids)
    content["videos/has_features"] = store.has_features_N
    for name, seconds in window_columns(store.windows).items():
        content[f"videos/{name}"] = np.array(seconds, np.float64)  # NaN for None
    content["failures/row"] = np.array([row_of[f.video_id] for f in store.failures], np.int64)
    for name in FAILURE_FIELDS:
        _write_texts(content, f"failures/{name}", [getattr(f, name) for f in store.failures])
    for name, texts in caption_columns(store.captions).items():
        _write_texts(content, f"captions/{name}", texts)
    content["captions/has_embedding"] = store.has_embedding_Q


def _write_texts(content: Any, name: str, texts: Sequence[str]) -> None:
    try:
        content.create_dataset(name, data=list(texts), shape=(len(texts),), dtype=_TEXT)
    except ValueError as error:  # a NUL, or half a surrogate pair
        raise StoreError(
            f"{name}: a text in it can't be held by HDF5 ({error}). Mend the captions' file and "
            "extract again, or keep the store as a folder."
        ) from error


def _write_captions(content: Any, store: RawStore) -> None:
    dim = store.header.encoder.dim
    embeddings = content.create_dataset("captions/embedding", (len(store.captions), dim), "<f2")
    for start in range(0, len(store.captions), _CAPTIONS_AT_ONCE):
        is_there = store.has_embedding_Q[start : start + _CAPTIONS_AT_ONCE]
        block = np.zeros((len(is_there), dim), np.float16)
        if is_there.any():
            block[is_there] = store.read_caption_embeddings(start + np.flatnonzero(is_there))
        embeddings[start : start + len(block)] = block


def _write_videos(content: Any, store: RawStore) -> Iterator[tuple[int, int]]:
    """Yields how many videos are written, and how many there are to write."""
    num_videos, num_frames = len(store.video_ids), store.header.sampling.num_frames
    datasets = {spec.name: _create_array(content, spec, num_videos) for spec in store.arrays}
    valid = np.zeros((num_videos, num_frames), np.bool_)
    pts_seconds = np.full((num_videos, num_frames), np.nan)
    sizes, times = np.full(num_videos, ABSENT, np.int64), np.full(num_videos, ABSENT, np.int64)
    hashes = [""] * num_videos
    rows = np.flatnonzero(store.has_features_N).tolist()
    for done, row in enumerate(rows, start=1):
        features = store.read_features(row)
        valid[row], pts_seconds[row] = features.valid_T, features.pts_seconds_T
        if features.source is not None:
            sizes[row], times[row] = features.source.size_bytes, features.source.mtime_ns
            hashes[row] = features.source.sha256 or ""
        for name, dataset in datasets.items():
            block = np.ascontiguousarray(features.arrays[name])
            assert (block.shape, block.dtype) == (dataset.shape[1:], dataset.dtype)
            dataset.id.write_direct_chunk((row,) + (0,) * block.ndim, block)
        yield done, len(rows)
    content["videos/valid"], content["videos/pts_seconds"] = valid, pts_seconds
    content["videos/source_size_bytes"], content["videos/source_mtime_ns"] = sizes, times
    _write_texts(content, "videos/source_sha256", hashes)


def _write_pictures(
    content: Any, group: str, store: RawStore, read: Callable[[int], Sequence[bytes]]
) -> None:
    """The bytes of each picture, and all pictures one after another."""
    num_bytes_NT = np.zeros((len(store.video_ids), store.header.sampling.num_frames), "<u4")
    rows = np.flatnonzero(store.has_features_N).tolist()
    # All pictures are read twice: a dataset whose size is not known before is in pieces.
    for row in rows:
        found = [len(picture) for picture in read(row)]
        num_bytes_NT[row, : len(found)] = found
    content.create_group(group)
    content[f"{group}/num_bytes"] = num_bytes_NT
    ends = np.cumsum(num_bytes_NT.sum(axis=1, dtype=np.int64)).tolist()
    pictures = content.create_dataset(f"{group}/jpeg", (ends[-1] if ends else 0,), "u1")
    for row in rows:
        joined = np.frombuffer(b"".join(read(row)), np.uint8)
        if len(joined):
            pictures[ends[row] - len(joined) : ends[row]] = joined


def _create_array(content: Any, spec: ArraySpec, num_videos: int) -> Any:
    """A dataset whose rows take no space until they are written."""
    dtype = np.dtype(spec.dtype).newbyteorder("<")
    shape, chunks = (num_videos, *spec.shape), (1, *spec.shape)
    return content.create_dataset(f"features/{spec.name}", shape, dtype, chunks=chunks)
