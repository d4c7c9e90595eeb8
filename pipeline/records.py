"""The values that pass between the stages of extraction.

Knows nothing of files, decoders, models or stores. Letters of the shapes: T frames sampled per
video, H and W pixels, K tokens per frame (1 + P, class token first), D width of the joint space
(docs/glossary.md).
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from muse.pipeline.window import Window

Stage = Literal["listing", "decode", "encode"]
DecoderName = Literal["cpu", "nvdec"]
"""libav's decoders in software, or a GPU's."""
FailureReason = Literal[
    "missing",  # listed, and no such file
    "unreadable",  # no permission, not a regular file, input/output error
    "not_a_video",  # no container format that libav knows, an empty file
    "no_video_stream",
    "unsupported_codec",
    "zero_frames",  # a video stream without one decodable frame
    "truncated",  # the stream ends before the last wanted frame
    "corrupt",  # libav reports invalid data before the last wanted frame
    "crashed",  # the decoding process died
    "timeout",  # the decoding process was killed after its time limit
    "out_of_memory",
    "empty_window",  # no frame begins in the part of the file that was asked for
    "too_long",  # longer than --max-duration: skipped, not failed
]
SKIP_REASONS: frozenset[str] = frozenset({"too_long"})
FAILURE_REASONS: tuple[str, ...] = get_args(FailureReason)
WINDOW_COLUMNS = ("start_seconds", "end_seconds")


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoRef:
    """One listed video."""

    video_id: str
    """Unique in the listing; what captions refer to."""
    path: Path | None
    """The file, or None where the listing names a video that was not found."""
    window: Window | None = None
    """The part of the file that the video is; None for all of it."""

    @property
    def hashed(self) -> object:
        """What a hash of it is taken of; without a window what it was before there were any."""
        window = self.window
        if window is None:
            return self.video_id
        return [self.video_id, window.start_seconds, window.end_seconds]


def window_columns(windows: Sequence[Window | None]) -> dict[str, list[float | None]]:
    """Starts and ends as a table has them, by row; no columns where no video has a window."""
    if not any(windows):
        return {}
    return {
        name: [None if window is None else getattr(window, name) for window in windows]
        for name in WINDOW_COLUMNS
    }


def windows_of_columns(
    columns: Mapping[str, Sequence[float | None]], num_rows: int
) -> list[Window | None]:
    """The windows that `window_columns` was given."""
    starts, ends = (columns.get(name, [None] * num_rows) for name in WINDOW_COLUMNS)
    return [
        None if start is None or end is None else Window(start_seconds=start, end_seconds=end)
        for start, end in zip(starts, ends, strict=True)
    ]


def printable(path: Path | None) -> str:
    """A path as UTF-8 text, undecodable bytes escaped; empty for None."""
    return "" if path is None else os.fsencode(path).decode("utf-8", "backslashreplace")


@dataclass(frozen=True, kw_only=True, slots=True)
class Caption:
    """One text that describes one video."""

    video_id: str
    text: str
    split: str
    """Name of the split the pair belongs to, such as ``train``, ``val`` or ``test``."""
    axis: str = ""
    """What the caption asks for, where its benchmark says; reports are broken down by it."""

    @property
    def hashed(self) -> list[str]:
        """What a hash of it is taken of; without an axis what it was before there were any."""
        return [self.video_id, self.text, self.split, *([self.axis] if self.axis else [])]


def caption_columns(captions: Sequence[Caption]) -> dict[str, list[str]]:
    """The captions by field, as a table has them; ``axis`` only where one of them has an axis."""
    names = ("video_id", "text", "split", *(["axis"] if any(c.axis for c in captions) else []))
    return {name: [getattr(caption, name) for caption in captions] for name in names}


def captions_of_columns(columns: Mapping[str, Sequence[str]]) -> list[Caption]:
    """The captions that `caption_columns` was given."""
    rows = zip(*columns.values(), strict=True)
    return [Caption(**dict(zip(columns, row, strict=True))) for row in rows]


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """What a run is about: every listed video, every caption, and where they come from.

    Videos are sorted by id and captions by the row of their video, so the order of the files that
    were read never matters.
    """

    protocol: str
    """A label for reports, such as ``MSVD test``; ``folder`` where there is none."""
    videos: tuple[VideoRef, ...]
    captions: tuple[Caption, ...]
    num_empty_captions: int = 0
    """That the files have and that were left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """A video's file as it was when it was decoded."""

    size_bytes: int
    mtime_ns: int
    sha256: str | None = None
    """Of its bytes, where they were asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """The frames sampled from one video, as the encoder's input or what is to become of it."""

    video_id: str
    frames_THWC: NDArray[np.uint8]
    """(T', H, W, 3) RGB, T' <= T: distinct frames only, none repeated. Cropped to the encoder's
    input, or the part of the pictures that its resize reads."""
    pts_seconds_T: NDArray[np.float64]
    """(T',) presentation times from the first frame of the stream, strictly increasing."""
    unresized_from: tuple[int, int] | None = None
    """(height, width) of the pictures, if the frames are parts of them that are yet to be resized
    (`muse.pipeline.encoders.pil_resize`)."""
    source: SourceFile | None = None
    """The file it came from."""
    thumbnails: tuple[bytes, ...] = ()
    """A small JPEG file of each frame, T' of them, where they were asked for."""
    squares_TSSC: NDArray[np.uint8] | None = None
    """(T', S, S, 3) RGB, the frames larger than the encoder's input, where they were asked for."""
    frame_pictures: tuple[bytes, ...] = ()
    """A JPEG file of each of these squares, T' of them, where they were asked for."""
    short_side: int = 0
    """Of the video's pictures, in pixels; 0 where nobody looked."""
    decoder: DecoderName = "cpu"
    """Whose frames these are, which have the same bits from each."""
    whole_frames: Mapping[int, NDArray[np.uint8]] = field(default_factory=dict)
    """Some of the frames as they were decoded, (H, W, 3) RGB by their place, where asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipTokens:
    """The encoded frames of one video, padded to T."""

    video_id: str
    tokens_TKD: NDArray[Any]
    """(T, K, D) float16, class token first; of a view of frames (T, S, S, 3) uint8. Zeros where
    ``valid_T`` is False."""
    valid_T: NDArray[np.bool_]
    """(T,) True for a frame, False for padding; padding is at the end."""
    pts_seconds_T: NDArray[np.float64]
    """(T,) NaN where ``valid_T`` is False."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipFeatures:
    """One video as it is stored: every array of every view, padded to T."""

    video_id: str
    arrays: Mapping[str, NDArray[Any]]
    """By the array's name in the store, one video's row each (`muse.pipeline.views`)."""
    valid_T: NDArray[np.bool_]
    """(T,) True for a frame, False for padding; padding is at the end."""
    pts_seconds_T: NDArray[np.float64]
    """(T,) NaN where ``valid_T`` is False."""
    source: SourceFile | None = None
    thumbnails: tuple[bytes, ...] = ()
    """A small JPEG file of each valid frame; empty in a store without thumbnails."""
    frame_pictures: tuple[bytes, ...] = ()
    """A JPEG file of each valid frame; empty in a store without the view ``frames:jpeg``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why a listed video has no features: it failed, or was skipped by a rule of the run."""

    video_id: str
    path: str
    stage: Stage
    reason: str
    """One of `FAILURE_REASONS`."""
    message: str
    """What was expected and found, with libav's own words where it spoke."""

    @property
    def is_skipped(self) -> bool:
        """True if nothing is wrong with the video: the run was told to leave it out."""
        return self.reason in SKIP_REASONS

    def as_json(self) -> dict[str, Any]:
        """The line of ``failures.jsonl``."""
        return {name: getattr(self, name) for name in self.__slots__}
