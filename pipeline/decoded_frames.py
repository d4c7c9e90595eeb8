"""Frames decoded from the videos' own files whenever they are read: the view ``frames:decoded``.

For a store that keeps none. A file is decoded as extraction did it, by the store's own sampling and
in a process that may crash or hang without harm. What a store knows of a file (its size, its hash
if there is one, when the taken frames begin) has to be so still. Reads may come from several
threads: each gets a process. Knows nothing of receipts: whoever asks for a row knows that it is
committed.
"""

# Legend: N videos, T frames of a video, S side of a kept frame.

import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from muse.errors import StoreError
from muse.pipeline.chunks import RowArray
from muse.pipeline.decoding.child_process import ProcessDiedError, ProcessTimedOutError
from muse.pipeline.decoding.decoder import DecodeTask, attempt
from muse.pipeline.decoding.isolation import IsolatedFunction
from muse.pipeline.decoding.kept_frame import squares_crop
from muse.pipeline.records import Clip, Failure, SourceFile, VideoRef
from muse.pipeline.sources import source_of
from muse.pipeline.views import FRAMES_JPEG, map_of

if TYPE_CHECKING:
    from muse.pipeline.store_zarr import ZarrStore

# Twice what extraction allows unless it is told otherwise: these files were decoded before.
TIMEOUT_SECONDS = 600.0
MEMORY_BYTES = 8_000_000_000

_Decoder = IsolatedFunction[DecodeTask, Clip | Failure]


class DecodedFrames:
    """The frames of a store's videos, out of their files.

    Args:
        store: Whose videos they are.
        pts_seconds: (N, T) when the frames that were taken begin, NaN where there is none.
    """

    def __init__(self, store: "ZarrStore", pts_seconds: RowArray) -> None:
        header = store.header
        self._location, self._sampling = store.location, header.sampling
        self._crop = squares_crop(header.encoder.preprocessing)
        self._shape = map_of(FRAMES_JPEG, header.encoder, header.sampling.num_frames).shape
        self._keeping = f"extract with --views {','.join([*header.views, FRAMES_JPEG])}"
        self._videos = [
            VideoRef(video_id=video_id, path=Path(path) if path else None, window=window)
            for video_id, path, window in zip(
                store.video_ids, store.video_paths, store.windows, strict=True
            )
        ]
        self._rows: list[int] = np.flatnonzero(store.has_features_N).tolist()
        self._sources: Mapping[int, SourceFile] = store.sources
        self._pts_seconds = pts_seconds
        self._lock = threading.Lock()
        self._is_checked = False
        self._idle: list[_Decoder] = []
        self._decoders: list[_Decoder] = []
        weakref.finalize(self, _close, self._decoders)

    def require_files(self) -> None:
        """Nothing, if the file of every video with features is there, and of the size it had.

        Raises:
            StoreError: With how many are not, and the first.
        """
        gone, changed = [], []
        for row in self._rows:
            path, known = self._videos[row].path, self._sources.get(row)
            now = source_of(path) if path else None
            if now is None:
                gone.append(row)
            elif known is not None and now.size_bytes != known.size_bytes:
                changed.append(row)
        for rows, words in (
            (gone, "are not where they were when it was extracted"),
            (changed, "have another size than when it was extracted"),
        ):
            if rows:
                first = self._videos[rows[0]]
                raise StoreError(
                    f"{self._location}: view frames:decoded reads the videos' files, and "
                    f"{len(rows)} of {len(self._rows)} {words} (first: {first.video_id!r}, "
                    f"{first.path or 'without a path'}). Put them back, or {self._keeping}, "
                    "which needs them no more."
                )

    def read(self, row: int) -> NDArray[np.uint8]:
        """(T, S, S, 3) RGB of one video, zeros behind its last frame.

        What ``frames:uint8`` would have kept of it, bit for bit.

        Raises:
            StoreError: If the file is gone, damaged or another one, naming the video.
        """
        frames_TSSC = np.empty(self._shape, np.uint8)
        self.read_into([row], frames_TSSC[None])
        return frames_TSSC

    def read_into(self, rows: Sequence[int], frames_NTSSC: NDArray[np.uint8]) -> None:
        """The same of several videos, one after the other, put into an array.

        Raises:
            StoreError: As `read`; before the first of all as `require_files`.
        """
        self._check_once()
        with self._decoder() as decode:
            for row, frames_TSSC in zip(rows, frames_NTSSC, strict=True):
                clip = self._decoded(row, decode)
                self._require_same(row, clip)
                frames_TSSC[: len(clip.frames_THWC)] = clip.frames_THWC
                frames_TSSC[len(clip.frames_THWC) :] = 0

    def _check_once(self) -> None:
        with self._lock:
            if not self._is_checked:
                self.require_files()
                self._is_checked = True

    @contextmanager
    def _decoder(self) -> Iterator[_Decoder]:
        """One that nobody else uses meanwhile."""
        with self._lock:
            if not self._idle:
                new = IsolatedFunction(
                    attempt, timeout_seconds=TIMEOUT_SECONDS, memory_bytes=MEMORY_BYTES
                )
                self._idle.append(new)
                self._decoders.append(new)
            decoder = self._idle.pop()
        try:
            yield decoder
        finally:
            with self._lock:
                self._idle.append(decoder)

    def _decoded(self, row: int, decode: _Decoder) -> Clip:
        video, known = self._videos[row], self._sources.get(row)
        task = DecodeTask(
            video=video,
            sampling=self._sampling,
            preprocessing=self._crop,
            wants_sha256=known is not None and known.sha256 is not None,
        )
        try:
            found = decode(task)
        except (ProcessTimedOutError, ProcessDiedError) as error:
            words = f"{video.path}: {error}. Replace the file, or {self._keeping}."
            raise self._refused(row, words) from error
        if isinstance(found, Failure):
            raise self._refused(row, found.message)
        return found

    def _require_same(self, row: int, clip: Clip) -> None:
        """Nothing, if the clip is of the file that was extracted."""
        known, now = self._sources.get(row), clip.source
        then_T = self._pts_seconds.row(row)
        pairs: list[tuple[str, object, object]] = []
        if known is not None and now is not None:
            pairs.append(("a size in bytes of", known.size_bytes, now.size_bytes))
            if known.sha256 is not None:
                pairs.append(("the SHA-256", known.sha256, now.sha256))
        times = [seconds[np.isfinite(seconds)].tolist() for seconds in (then_T, clip.pts_seconds_T)]
        pairs.append(("frames at seconds", *times))
        for words, then, found in pairs:
            if then != found:
                raise self._refused(
                    row,
                    f"{self._videos[row].path} has changed since it was extracted: {words} "
                    f"{found}, then {then}. Put the old file back, or `muse extract --changed stat`"
                    " extracts it again.",
                )

    def _refused(self, row: int, words: str) -> StoreError:
        return StoreError(
            f"{self._location}: video {self._videos[row].video_id!r} (row {row}): {words}"
        )


def _close(decoders: Sequence[_Decoder]) -> None:
    for decoder in decoders:
        decoder.close()
