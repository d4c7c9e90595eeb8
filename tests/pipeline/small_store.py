"""A store that a test writes shard by shard."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from muse.pipeline import store_writer
from muse.pipeline.listing import ListedRows
from muse.pipeline.plan import CaptionShard, VideoShard
from muse.pipeline.receipts import Receipt
from muse.pipeline.records import ClipFeatures, Failure
from muse.pipeline.store_writer import StoreWriter
from muse.pipeline.store_zarr import ZarrStore


@dataclass(frozen=True)
class SmallStore:
    """A store that a test writes shard by shard."""

    writer: StoreWriter
    rows: ListedRows

    @property
    def path(self) -> Path:
        return Path(self.writer.storage.location)

    def open(self) -> ZarrStore:
        return ZarrStore.open(self.path)

    def videos(
        self, index: int, rows: Sequence[ClipFeatures | Failure], *, kept: Sequence[int] = ()
    ) -> Receipt:
        """Commits a shard; ``kept`` are places that are committed already."""
        first = index * self.writer.header.shard_size
        shard = VideoShard(
            index=index,
            first_row=first,
            videos=self.rows.videos[first : first + len(rows)],
            kept=frozenset(kept),
        )
        return self.writer.write_video_shard(shard, rows, seconds={"wait": 0.5})

    def captions(
        self, index: int, embeddings_BD: NDArray[np.float16], *, left_out: Sequence[int] = ()
    ) -> Receipt:
        first = index * store_writer.CAPTIONS_PER_SHARD
        shard = CaptionShard(
            index=index,
            first_row=first,
            captions=self.rows.captions[first : first + len(embeddings_BD)],
            left_out=tuple(left_out),
        )
        return self.writer.write_caption_shard(shard, embeddings_BD, seconds={})
