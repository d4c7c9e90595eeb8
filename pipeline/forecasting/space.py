"""Whether the disk can hold what a run is going to write."""

from typing import TYPE_CHECKING

from muse.pipeline.forecasting.pending_work import PendingWork
from muse.pipeline.forecasting.store_size import (
    THUMBNAIL_BYTES,
    StoreShape,
    frame_picture_bytes,
    other_bytes,
    picture_bytes,
    require_space,
    store_bytes,
)
from muse.pipeline.header import EncoderInfo
from muse.pipeline.listing import ListedRows
from muse.pipeline.storage.files import Storage
from muse.pipeline.store_zarr import ZarrStore
from muse.pipeline.views import FRAMES_JPEG

if TYPE_CHECKING:
    from muse.pipeline.extract import ExtractConfig


def require_space_of_run(
    config: "ExtractConfig",
    rows: ListedRows,
    storage: Storage,
    store: ZarrStore | None,
    encoder: EncoderInfo,
) -> None:
    """Nothing, if the disk can hold what is still to be written, should every video decode.

    Args:
        config: Of the run.
        rows: Of the run.
        storage: Where it is written.
        store: That the run goes on with; None if it makes a new one.
        encoder: Of the run.

    Raises:
        StoreError: If it can't.
    """
    work = PendingWork.of(rows, store, shard_size=config.shard_size)
    shape = StoreShape.of(
        encoder, views=config.views, sampling=config.sampling, shard_size=config.shard_size
    )
    arrays = sum(store_bytes(shape, work.videos, work.captions).values())
    needed = arrays + other_bytes(work.videos, work.captions)
    side, frames, size = encoder.preprocessing.kept_side, shape.num_frames, shape.shard_size
    pictures = [THUMBNAIL_BYTES] if config.thumbnails else []
    pictures += [frame_picture_bytes(side)] if FRAMES_JPEG in config.views else []
    for each in pictures:
        needed += picture_bytes(work.videos, num_frames=frames, shard_size=size, frame_bytes=each)
    require_space(needed, storage.free_bytes(), storage.location)
