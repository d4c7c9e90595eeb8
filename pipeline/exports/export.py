"""Vectors of a store as a table that any tool reads: one a video, or one a caption.

A video's vector is `muse.pipeline.views.mean_pooled`: the store's own view ``pooled`` and, within
the rounding of float32, what the ``mean-pool`` head makes of it. A dot product of two vectors of
these files is their cosine. Knows nothing of how a store lies on disk. The HDF5 form, which holds
all of a store, is ``hdf5_writer``'s.
"""

# Legend: T frames, K tokens a frame, D width.

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from muse.errors import StoreError
from muse.pipeline.exports.new_file import new_file
from muse.pipeline.records import ClipFeatures, caption_columns
from muse.pipeline.store import FeatureStore, RawStore
from muse.pipeline.views import dequantise, mean_pooled

TableKind = Literal["parquet", "npy"]
_Row = tuple[dict[str, object], NDArray[np.float32]]
_ROWS_AT_ONCE = 4096  # 8 MB of float32 at D = 512


def write_pooled(
    store: RawStore, file: Path, *, kind: TableKind, overwrite: bool = False
) -> tuple[Path, ...]:
    """Writes the mean-pooled vector of each video that has features, in row order.

    Args:
        store: Any form.
        file: Appears whole or not at all.
        kind: ``parquet``: a table of video_id, num_frames and vector. ``npy``: (V, D) float32, and
            beside it the other columns as lists of a JSON file: ``x.npy`` has ``x.ids.json``.
        overwrite: Whether files of these names are replaced.

    Returns:
        The files.

    Raises:
        StoreError: If the store keeps no view with class tokens in it, a row can't be read, a name
            is taken, or a file can't be written.
    """
    _require_poolable(store)
    rows = np.flatnonzero(store.has_features_N).tolist()
    table = _Table(
        num_rows=len(rows),
        dim=store.header.encoder.dim,
        columns=pa.schema([("video_id", pa.string()), ("num_frames", pa.int32())]),
        rows=(_video_row(store.read_features(row)) for row in rows),
        about=_about(store, "unit mean of the frames' unit class tokens"),
    )
    return _write(table, file, kind=kind, overwrite=overwrite)


def write_captions(
    store: FeatureStore, file: Path, *, kind: TableKind, overwrite: bool = False
) -> tuple[Path, ...]:
    """Writes the unit vector of each caption that has an embedding; see `write_pooled`.

    The other columns are video_id, text and split, and axis where a caption has one.
    """
    names = tuple(caption_columns(store.captions))
    table = _Table(
        num_rows=int(store.has_embedding_Q.sum()),
        dim=store.header.encoder.dim,
        columns=pa.schema([(name, pa.string()) for name in names]),
        rows=_caption_rows(store, names),
        about=_about(store, "unit text embedding"),
    )
    return _write(table, file, kind=kind, overwrite=overwrite)


# -- rows ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Table:
    """Rows as they come, to be read once: what identifies each, and its vector."""

    num_rows: int
    dim: int
    columns: pa.Schema
    """All but the vector's."""
    rows: Iterator[_Row]
    about: dict[str, str]
    """What the vectors are and which store they are from."""


def _require_poolable(store: RawStore) -> None:
    names = [spec.name for spec in store.arrays]
    if not {"pooled", "class_tokens", "tokens", "tokens_int8"} & set(names):
        raise StoreError(
            f"{store.location}: its arrays ({', '.join(names)}) hold no class tokens to pool. "
            "Extract with --views pooled, class, tokens or int8."
        )


def _video_row(features: ClipFeatures) -> _Row:
    vector = features.arrays.get("pooled")
    if vector is None:
        vector = mean_pooled(_class_tokens(features.arrays), features.valid_T)
    num_frames = int(features.valid_T.sum())
    return {"video_id": features.video_id, "num_frames": num_frames}, vector


def _class_tokens(arrays: Any) -> NDArray[np.float16]:
    """(T, D), from the view that holds them best."""
    if "class_tokens" in arrays:
        return np.asarray(arrays["class_tokens"])
    if "tokens" in arrays:
        return np.asarray(arrays["tokens"][:, 0])
    return dequantise(arrays["tokens_int8"][:, 0], arrays["tokens_int8_scale"][:, 0])


def _caption_rows(store: FeatureStore, names: Sequence[str]) -> Iterator[_Row]:
    rows = np.flatnonzero(store.has_embedding_Q)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        block = rows[start : start + _ROWS_AT_ONCE]
        embeddings = torch.from_numpy(store.read_caption_embeddings(block).astype(np.float32))
        vectors = F.normalize(embeddings, dim=-1).numpy()
        for row, vector in zip(block.tolist(), vectors, strict=True):
            caption = store.captions[row]
            yield {name: getattr(caption, name) for name in names}, vector


def _about(store: FeatureStore, vector: str) -> dict[str, str]:
    return {
        "vector": vector,
        "encoder": store.header.encoder.spec,
        "weights_sha256": store.header.encoder.weights_sha256,
        "fingerprint": store.header.fingerprint,
        "root_sha256": store.root_sha256,
    }


# -- files ---------------------------------------------------------------------------------------


def _write(table: _Table, file: Path, *, kind: TableKind, overwrite: bool) -> tuple[Path, ...]:
    num_bytes = table.num_rows * table.dim * np.dtype(np.float32).itemsize
    if kind == "parquet":
        with new_file(file, overwrite=overwrite, num_bytes=num_bytes) as partial:
            _write_parquet(table, partial)
        return (file,)
    ids_file = file.with_suffix(".ids.json")
    with (
        new_file(ids_file, overwrite=overwrite) as ids,
        new_file(file, overwrite=overwrite, num_bytes=num_bytes) as vectors,
    ):
        _write_npy(table, ids=ids, vectors=vectors)
    return file, ids_file


def _write_parquet(table: _Table, file: Path) -> None:
    vector_type = pa.list_(pa.float32(), table.dim)
    schema = table.columns.append(pa.field("vector", vector_type)).with_metadata(table.about)
    with pq.ParquetWriter(file, schema) as writer:
        for names, vectors in _blocks(table):
            columns = [
                pa.array([row[column.name] for row in names], column.type)
                for column in table.columns
            ]
            flat = pa.array(vectors.reshape(-1))
            columns.append(pa.FixedSizeListArray.from_arrays(flat, table.dim))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _write_npy(table: _Table, *, ids: Path, vectors: Path) -> None:
    content: dict[str, Any] = {**table.about, **{name: [] for name in table.columns.names}}
    form = {"descr": "<f4", "fortran_order": False, "shape": (table.num_rows, table.dim)}
    with vectors.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, form)
        for names, block in _blocks(table):
            stream.write(np.ascontiguousarray(block, "<f4").tobytes())
            for name in table.columns.names:
                content[name] += [row[name] for row in names]
    ids.write_text(json.dumps(content, indent=0) + "\n", encoding="utf-8")


def _blocks(
    table: _Table,
) -> Iterator[tuple[Sequence[dict[str, object]], NDArray[np.float32]]]:
    """(B) identities and (B, D) vectors at a time."""
    while block := list(islice(table.rows, _ROWS_AT_ONCE)):
        names, vectors = zip(*block, strict=True)
        yield names, np.stack(vectors)
