"""The ``zarr.json`` files of a feature store: the only importer of zarr.

The library describes the arrays, so that any Zarr v3 reader understands them; their rows are
written by ``store_writer`` and read by ``chunks``. Knows nothing of where a store is.
"""

from typing import Any

import numpy as np
import zarr
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from muse.pipeline.header import StoreHeader
from muse.pipeline.store import CAPTIONS_PER_SHARD
from muse.pipeline.views import ArraySpec, arrays_of

_AXES = {
    "class_tokens": ("frame", "dim"),
    "pooled": ("dim",),
    "frames": ("frame", "height", "width", "rgb"),
}


def array_metadata(header: StoreHeader) -> dict[str, bytes]:
    """The content of each ``zarr.json``, by its name below the group."""
    files: dict[str, Buffer] = {}
    group = zarr.create_group(MemoryStore(files), zarr_format=3)
    _create_views(group, header)
    _create_times(group, header)
    group.create_array(
        "captions",
        shape=(header.num_captions, header.encoder.dim),
        chunks=(CAPTIONS_PER_SHARD, header.encoder.dim),
        dtype="float16",
        compressors=None,
        fill_value=0,
        dimension_names=["caption", "dim"],
    )
    return {name: content.to_bytes() for name, content in sorted(files.items())}


def _create_views(group: Any, header: StoreHeader) -> None:
    for spec in arrays_of(header.views, header.encoder, header.sampling.num_frames):
        group.create_array(
            spec.name,
            shape=(header.num_videos, *spec.shape),
            chunks=(1, *spec.shape),
            shards=(header.shard_size, *spec.shape),
            dtype=spec.dtype,
            compressors=None,  # CLIP tokens shrink by 8 % at several times the CPU
            fill_value=0,
            dimension_names=["video", *_axes(spec)],
        )


def _axes(spec: ArraySpec) -> tuple[str, ...]:
    """Names of the axes of one video's row."""
    if spec.name in _AXES:
        return _AXES[spec.name]
    return ("frame", "token", "dim")[: len(spec.shape)]


def _create_times(group: Any, header: StoreHeader) -> None:
    frames = header.sampling.num_frames
    for name, dtype, fill_value in (("valid", "bool", False), ("pts_seconds", "float64", np.nan)):
        group.create_array(
            name,
            shape=(header.num_videos, frames),
            chunks=(header.shard_size, frames),
            dtype=dtype,
            compressors=None,
            fill_value=fill_value,
            dimension_names=["video", "frame"],
        )
