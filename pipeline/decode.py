"""Instants of a video to pixels: the only module that imports PyAV.

Decoding walks a stream once, from its start to the last wanted frame, on one thread: a run has
many videos, and threads inside one of them buy nothing per CPU-second. Knows nothing of encoders
beyond a function that crops a frame, and of failures only that they are a `DecodeError`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import av.error
import av.logging
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from muse.errors import DecodeError
from muse.pipeline.encoders.preprocessing import crop_to_input
from muse.pipeline.header import Preprocessing, Sampling
from muse.pipeline.records import Clip, VideoRef
from muse.pipeline.sampling import instants, shown_frames


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeline:
    """When each frame of a stream begins, read from its packets without decoding one."""

    starts: NDArray[np.int64]
    """(F,) presentation times in ``time_base`` units, ascending."""
    seconds: NDArray[np.float64]
    """(F,) the same in seconds from the first frame."""
    duration_seconds: float
    """Up to the end of the last frame."""
    has_pts: bool
    """False where the container gave no presentation times and the frame rate was used."""


def decode_clip(
    video: VideoRef,
    *,
    sampling: Sampling,
    preprocessing: Preprocessing,
    max_duration_seconds: float | None = None,
) -> Clip:
    """The sampled frames of one video, cropped to an encoder's input.

    Args:
        video: A still image counts as a video of one frame, whatever its name says.
        sampling: Which instants are looked at.
        preprocessing: The encoder's.
        max_duration_seconds: A longer video is refused before any of its frames is decoded.

    Raises:
        DecodeError: With one of `FAILURE_REASONS`; its message ends in libav's own words.
    """
    path = _existing_file(video)
    timeline = read_timeline(path)
    _require_at_most(max_duration_seconds, timeline, path)
    wanted = shown_frames(instants(timeline.duration_seconds, sampling), timeline.seconds)
    frames = {
        index: crop_to_input(_rgb(frame), preprocessing)
        for index, frame in _wanted_frames(path, timeline, wanted)
    }
    return Clip(
        video_id=video.video_id,
        frames_THWC=np.stack([frames[index] for index in wanted.tolist()]),
        pts_seconds_T=timeline.seconds[wanted],
    )


def _require_at_most(most_seconds: float | None, timeline: Timeline, path: Path) -> None:
    if most_seconds is not None and timeline.duration_seconds > most_seconds:
        raise DecodeError(
            f"{path}: {timeline.duration_seconds:.1f} s long, more than --max-duration "
            f"{most_seconds:g}. Raise the limit to take it.",
            reason="too_long",
        )


def read_timeline(path: Path) -> Timeline:
    """When each frame of the first video stream begins.

    Raises:
        DecodeError: If the file can't be opened, has no video stream, no frame, or ends early.
    """
    with _open_video(path) as container:
        stream = _video_stream(container, path)
        packets = [
            (packet.pts, packet.dts, packet.duration or 0)
            for packet in _packets(container, stream, path)
            if not packet.is_discard
        ]
        if not packets:
            raise DecodeError(
                f"{path}: 0 frames in its video stream. The file may be truncated; "
                "replace it, or remove it from the listing.",
                reason="zero_frames",
            )
        if stream.frames > len(packets) and _ends_early(packets, stream):
            raise DecodeError(
                f"{path}: the container announces {stream.frames} frames and holds "
                f"{len(packets)}. The file is truncated; replace it.",
                reason="truncated",
            )
        return _timeline_of(packets, stream)


def _ends_early(packets: list[tuple[int | None, int | None, int]], stream: VideoStream) -> bool:
    """True if the packets stop before the stream's announced end.

    Fewer packets than announced frames prove nothing alone: the count of an .mp4 that was trimmed
    without re-encoding includes the frames that its edit list hides.
    """
    ends = [pts + duration for pts, _, duration in packets if pts is not None]
    if stream.duration is None or not ends:
        return True
    tolerance = max(duration for _, _, duration in packets) / 2
    return max(ends) + tolerance < (stream.start_time or 0) + stream.duration


def _timeline_of(
    packets: list[tuple[int | None, int | None, int]], stream: VideoStream
) -> Timeline:
    rate = stream.average_rate or stream.guessed_rate or 25
    stamps = [pts if pts is not None else dts for pts, dts, _ in packets]
    known = [stamp for stamp in stamps if stamp is not None]
    has_pts = len(set(known)) == len(packets) and stream.time_base is not None
    if has_pts and stream.time_base is not None:
        starts = np.sort(np.array(known, dtype=np.int64))
        seconds = (starts - starts[0]) * float(stream.time_base)
        last_seconds = packets[-1][2] * float(stream.time_base)
    else:
        starts = np.arange(len(packets), dtype=np.int64)
        seconds, last_seconds = starts / float(rate), 0.0
    return Timeline(
        starts=starts,
        seconds=seconds,
        duration_seconds=float(seconds[-1]) + (last_seconds or 1.0 / float(rate)),
        has_pts=has_pts,
    )


def _wanted_frames(
    path: Path, timeline: Timeline, wanted: NDArray[np.intp]
) -> Iterator[tuple[int, VideoFrame]]:
    """(index, frame) of every wanted frame, in order.

    A decoder puts frames out in the order in which they are shown. Their own time stamps are
    trusted while they rise; in an .avi with B-frames they do not (three of 93 real clips), and
    then the place in that order is what counts.
    """
    try:
        yield from _walk(path, timeline, wanted, by_pts=timeline.has_pts)
    except _OutOfOrderError:
        yield from _walk(path, timeline, wanted, by_pts=False)


class _OutOfOrderError(Exception):
    """The decoder's time stamps fall, or are not the packets'."""


def _walk(
    path: Path, timeline: Timeline, wanted: NDArray[np.intp], *, by_pts: bool
) -> Iterator[tuple[int, VideoFrame]]:
    pending = iter(wanted.tolist())
    target = next(pending)
    for index, frame in _indexed_frames(path, timeline, by_pts=by_pts):
        if index < target:
            continue
        if index > target:
            continue  # it was lost in decoding, unless the stamps turn out to fall further on
        if frame.is_corrupt:
            raise DecodeError(
                f"{path}: frame {index} at {timeline.seconds[index]:.3f} s is damaged. "
                "Replace the file.",
                reason="corrupt",
            )
        yield index, frame
        following = next(pending, None)
        if following is None:
            return
        target = following
    raise DecodeError(
        f"{path}: frame {target} of {len(timeline.starts)} at {timeline.seconds[target]:.3f} s "
        "can't be decoded. The file may be damaged; replace it.",
        reason="corrupt",
    )


def _indexed_frames(
    path: Path, timeline: Timeline, *, by_pts: bool
) -> Iterator[tuple[int, VideoFrame]]:
    """(index in the timeline, frame) of every frame that decodes."""
    index_of = {start: index for index, start in enumerate(timeline.starts.tolist())}
    previous = -1
    for order, frame in enumerate(_decoded_frames(path)):
        index = order
        if by_pts:
            index = index_of.get(frame.pts if frame.pts is not None else -1, -1)
            if index <= previous:
                raise _OutOfOrderError
            previous = index
        if index < len(timeline.starts):
            yield index, frame


def _decoded_frames(path: Path) -> Iterator[VideoFrame]:
    with _open_video(path) as container:
        stream = _video_stream(container, path)
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        try:
            for packet in container.demux(stream):
                yield from packet.decode()
        except av.error.FFmpegError as error:
            raise DecodeError(
                f"{path}: decoding stopped: {_words_of(error)}. The file may be damaged or "
                "truncated; replace it.",
                reason="corrupt",
            ) from error


def _packets(
    container: InputContainer, stream: VideoStream, path: Path
) -> Iterator["av.Packet[VideoStream]"]:
    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    except av.error.FFmpegError as error:
        raise DecodeError(
            f"{path}: reading stopped: {_words_of(error)}. The file may be truncated; replace it.",
            reason="truncated",
        ) from error


def _existing_file(video: VideoRef) -> Path:
    if video.path is None or not video.path.exists():
        raise DecodeError(
            f"{video.path or video.video_id}: no such file. Put it there, or remove it from the "
            "listing.",
            reason="missing",
        )
    if not video.path.is_file():
        raise DecodeError(
            f"{video.path}: not a regular file. Replace it by a video.", reason="unreadable"
        )
    return video.path


def _open_video(path: Path) -> InputContainer:
    # PyAV prints libav's complaints to stderr from several threads; the errors carry them.
    av.logging.set_level(None)
    try:
        # Absolute, since libav takes "12:30.mp4" for a protocol. Titles are in any encoding.
        return av.open(str(path.absolute()), metadata_errors="replace")
    except av.error.FFmpegError as error:
        reason = "unreadable" if isinstance(error, OSError) else "not_a_video"
        raise DecodeError(
            f"{path}: can't be opened as a video: {_words_of(error)} "
            f"({_size_bytes(path)} bytes). Replace the file.",
            reason=reason,
        ) from error


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    streams = container.streams.video
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
        raise DecodeError(
            f"{path}: no video stream (streams: {kinds}). Replace the file.",
            reason="no_video_stream",
        )
    if streams[0].codec_context is None:
        raise DecodeError(
            f"{path}: no decoder for its video stream. Convert it, for example with "
            "`ffmpeg -i IN -c:v libx264 OUT`.",
            reason="unsupported_codec",
        )
    return streams[0]


_ROTATIONS: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    90: lambda image: np.rot90(image, 1),
    180: lambda image: np.rot90(image, 2),
    270: lambda image: np.rot90(image, 3),
}


def _rgb(frame: VideoFrame) -> NDArray[np.uint8]:
    """(H, W, 3) uint8, turned the way a player shows it."""
    image = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
    turn = _ROTATIONS.get(round(frame.rotation / 90) * 90 % 360)
    return np.ascontiguousarray(turn(image)) if turn else image


def _words_of(error: av.error.FFmpegError) -> str:
    return error.strerror or str(error)


def _size_bytes(path: Path) -> int:
    return path.stat().st_size
