"""What a feature store is: the contract between extraction and everything that reads features.

A store has one row per listed video and one per caption; it may grow, and a row never moves. A row
of a video that failed stays empty, and `FeatureStore.has_features_N` says so; it never reads as
zeros.
Knows nothing of how arrays lie on disk: ``store_zarr`` and ``store_hdf5`` do.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from muse.errors import StoreError
from muse.pipeline.header import StoreHeader
from muse.pipeline.records import Caption, ClipFeatures, ClipTokens, Failure, SourceFile
from muse.pipeline.storage.files import open_storage
from muse.pipeline.views import FRAMES_DECODED, ArraySpec, map_of, readable_views
from muse.pipeline.window import Window

HEADER_FILE = "store.json"
FORECAST_FILE = "forecast.json"
HDF5_SUFFIXES = (".h5", ".hdf5")
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
TOKEN_VIEWS = ("tokens", "int8")
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
    def token_view(self) -> str:
        """The view that `read_clip` reads, such as ``tokens``; empty where a head can read none."""
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

    def read_clips_into(self, rows: Sequence[int], tokens_NTKD: NDArray[Any]) -> NDArray[np.bool_]:
        """The tokens of some videos into an array, and (N, T) True for a frame.

        Reads straight from the file into the array, and several threads may read at once.

        Args:
            rows: N of them; those that follow each other are read together.
            tokens_NTKD: (N, T, K, D) contiguous, of `clip_map`'s type; filled as `read_clip` gives
                the tokens. A file is read several times faster into memory that begins at a
                multiple of 64 bytes.

        Raises:
            StoreError: If a row has no features.
        """
        ...

    def read_caption_embeddings(self, rows: NDArray[np.intp]) -> NDArray[np.float16]:
        """(len(rows), D) text embeddings, not normalised.

        Raises:
            StoreError: If a row has no embedding.
        """
        ...

    def read_thumbnails(self, row: int) -> tuple[bytes, ...] | None:
        """A small JPEG file of each valid frame of a video, in order.

        None where it has none: no features, or extracted without ``--thumbnails``.

        Raises:
            StoreError: If the file that holds them is damaged.
        """
        ...


class RawStore(FeatureStore, Protocol):
    """A store of which all that is kept can be read, not only what a head reads."""

    @property
    def arrays(self) -> tuple[ArraySpec, ...]:
        """What is kept of each video."""
        ...

    @property
    def windows(self) -> Sequence[Window | None]:
        """For each video the part of its file that it is; None for all of it."""
        ...

    def read_frame_pictures(self, row: int) -> tuple[bytes, ...]:
        """A JPEG file of each valid frame of a video; empty without the view ``frames:jpeg``.

        Raises:
            StoreError: If the row has no features.
        """
        ...

    @property
    def sources(self) -> Mapping[int, SourceFile]:
        """Row -> the file that a video was decoded from, or failed to be, where it is known."""
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


def token_view_of(header: StoreHeader, wanted: str | None = None) -> str:
    """The view that is read: the wanted one, else ``tokens``, else ``int8``, else none.

    A head reads ``tokens`` or ``int8``; an encoder's top that is trained reads any other map.
    ``frames:decoded`` is kept by no store, and none has to say that it has it.

    Raises:
        StoreError: If the store has not the wanted one, or it is no map of frames.
    """
    if wanted == FRAMES_DECODED:
        return wanted
    have = readable_views(header.views)
    if wanted is not None and wanted not in have:
        raise StoreError(
            f"view {wanted!r}: the store has {', '.join(header.views)}, of which training and "
            f"evaluation read {', '.join(have) or 'none'}. Choose one of these, or extract with "
            f"--views {wanted}."
        )
    return wanted or next((name for name in TOKEN_VIEWS if name in have), "")


def clip_map(store: FeatureStore) -> ArraySpec:
    """What `FeatureStore.read_clip` gives of one video: shape and type.

    Raises:
        StoreError: If the store has no view that it reads.
    """
    header = store.header
    if not store.token_view:
        raise StoreError(
            f"{store.location}: no tokens in it, only the views {', '.join(header.views)}. A head "
            "needs --views tokens or int8 at extraction."
        )
    return map_of(store.token_view, header.encoder, header.sampling.num_frames)


def open_store(path: Path | str, *, view: str | None = None) -> FeatureStore:
    """The store in a folder, at a URL or in an HDF5 file, for reading.

    Args:
        path: A folder, a URL, or a file of `muse store export`.
        view: What `FeatureStore.read_clip` reads; see `token_view_of`.

    Raises:
        StoreError: If there is none, its header can't be read, it has no such view, or with
            ``frames:decoded`` files of its videos are gone.
    """
    store = open_raw_store(path, view=view)
    if view == FRAMES_DECODED:
        from muse.pipeline.store_zarr import ZarrStore  # this module is below it

        assert isinstance(store, ZarrStore), "no other form can be read as it"
        store.require_video_files()
    return store


def open_raw_store(path: Path | str, *, view: str | None = None) -> RawStore:
    """The same store as `open_store`'s, with every array of it.

    With ``frames:decoded`` the videos' files are looked for when the first frame is read.
    """
    storage = open_storage(path)
    if _is_hdf5(storage.location):
        from muse.pipeline.exports.store_hdf5 import Hdf5Store  # this module is below it

        return Hdf5Store.open(Path(storage.location), view=view)
    if storage.size(HEADER_FILE) is None:
        raise _no_store(storage.location, str(path))
    from muse.pipeline.store_zarr import ZarrStore  # this module is below it

    return ZarrStore.open(path, view=view)


def _is_hdf5(location: str) -> bool:
    """True for a file by its content, and for what is no folder by its name."""
    file = Path(location)
    with contextlib.suppress(OSError), file.open("rb") as stream:
        if stream.read(len(_HDF5_SIGNATURE)) == _HDF5_SIGNATURE:
            return True
    is_remote = "://" in location
    return file.suffix.lower() in HDF5_SUFFIXES and not is_remote and not file.is_dir()


def _no_store(location: str, path: str) -> StoreError:
    if Path(location).suffix.lower() in HDF5_SUFFIXES:
        return StoreError(f"{location}: exported files are read from a disk only. Copy it to one.")
    return StoreError(
        f"{location}: no feature store here ({HEADER_FILE} is missing). "
        f"Make one with `muse extract FOLDER --captions FILE --out {path}`."
    )
