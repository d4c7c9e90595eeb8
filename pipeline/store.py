"""What a feature store is: the contract between extraction and everything that reads features.

A store has one row per listed video and one per caption; it may grow, and a row never moves. A row
of a video that failed stays empty, and `FeatureStore.has_features_N` says so; it never reads as zeros.
Knows nothing of how arrays lie on disk: ``store_zarr`` does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from muse.errors import StoreError
from muse.pipeline.header import StoreHeader
from muse.pipeline.records import Caption, ClipFeatures, ClipTokens, Failure
from muse.pipeline.views import ArraySpec

HEADER_FILE = "store.json"
CAPTIONS_PER_SHARD = 4096  # 4 MB of float16 at D = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreCounts:
    """Where a store stands; ``listed = ok + failed + skipped + pending`` always."""

    listed: int
    ok: int
    failed: int
    skipped: int
    pending: int
    captions: int
    captions_embedded: int


class FeatureStore(Protocol):
    """A store that can be read. Letters: N videos, Q captions, T frames, K tokens, D width."""

    @property
    def location(self) -> str:
        """Where it is: a folder, a file or a URL, as it is written in messages."""
        ...

    @property
    def header(self) -> StoreHeader:
        """What the rows are and mean."""
        ...

    @property
    def video_ids(self) -> Sequence[str]:
        """Of all N listed videos, in row order."""
        ...

    @property
    def captions(self) -> Sequence[Caption]:
        """All Q captions, in row order."""
        ...

    @property
    def has_features_N(self) -> NDArray[np.bool_]:
        """(N,) True where a video's shard is committed and the video did not fail."""
        ...

    @property
    def has_embedding_Q(self) -> NDArray[np.bool_]:
        """(Q,) True where a caption's shard is committed and its video was not missing."""
        ...

    @property
    def failures(self) -> Sequence[Failure]:
        """Videos whose shard is committed without them, failed and skipped, in row order."""
        ...

    @property
    def root_sha256(self) -> str:
        """A hash over all that is committed: header, listing, every file, every failure's reason.

        Equal for two runs of the same extraction, however they were disturbed.
        """
        ...

    @property
    def timestamps_sha256(self) -> str:
        """A hash over the videos with features and the frames that were really decoded."""
        ...

    def counts(self) -> StoreCounts:
        """How many videos and captions are done, failed, skipped and pending."""
        ...

    def size_bytes(self) -> int:
        """Of all its files."""
        ...

    def read_clip(self, row: int) -> ClipTokens:
        """The tokens of one video.

        Raises:
            StoreError: If the row has no features.
        """
        ...

    def read_caption_embeddings(self, rows: NDArray[np.intp]) -> NDArray[np.float16]:
        """(len(rows), D) text embeddings, not normalised.

        Raises:
            StoreError: If a row has no embedding.
        """
        ...


class RawStore(FeatureStore, Protocol):
    """A store whose rows can be read as they are kept."""

    @property
    def arrays(self) -> Sequence[ArraySpec]:
        """What is kept of each video."""
        ...

    def read_features(self, row: int) -> ClipFeatures:
        """All that is kept of one video.

        Raises:
            StoreError: If the row has no features.
        """
        ...


def counts_of(store: FeatureStore, *, done_N: NDArray[np.bool_]) -> StoreCounts:
    """The sum of a store, from its rows.

    Args:
        store: Any form.
        done_N: (N,) True where a video's shard is committed.
    """
    skipped = sum(failure.is_skipped for failure in store.failures)
    ok, done = int(store.has_features_N.sum()), int(done_N.sum())
    return StoreCounts(
        listed=len(done_N),
        ok=ok,
        failed=done - ok - skipped,
        skipped=skipped,
        pending=len(done_N) - done,
        captions=len(store.has_embedding_Q),
        captions_embedded=int(store.has_embedding_Q.sum()),
    )


def open_store(path: Path | str) -> FeatureStore:
    """The store in a folder, for reading.

    Raises:
        StoreError: If there is none, or its header can't be read.
    """
    folder = Path(path)
    if not (folder / HEADER_FILE).is_file():
        raise StoreError(
            f"{folder}: no feature store here ({HEADER_FILE} is missing). "
            f"Make one with `muse extract FOLDER --captions FILE --out {folder}`."
        )
    from muse.pipeline.store_zarr import ZarrStore  # this module is below it

    return ZarrStore.open(folder)


def open_raw_store(path: Path | str) -> RawStore:
    """As `open_store`, for reading rows as they are kept."""
    from muse.pipeline.store_zarr import ZarrStore

    return ZarrStore.open(path)
