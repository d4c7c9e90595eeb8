"""Instants of a video to pixels: the only module that imports PyAV.

Decoding walks a stream once, from its start to the last wanted frame, on one thread: a run has
many videos, and threads inside one of them buy nothing per CPU-second. Knows nothing of encoders
beyond a function that crops a frame, and of failures only that they are a `DecodeError`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import av.error
import av.logging
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from muse.errors import DecodeError
from muse.pipeline.decoding.announced_size import announced_end
from muse.pipeline.decoding.kept_frame import square_of, squares_as
from muse.pipeline.decoding.picture import upright, without_far_ends
from muse.pipeline.decoding.selection import frames_to_take, frames_to_walk, require_at_most
from muse.pipeline.decoding.thumbnail import thumbnail_of
from muse.pipeline.decoding.timeline import PacketTimes, Timeline, ends_early, timeline_of
from muse.pipeline.decoding.video_file import claim_or_want, existing_file, readable_bytes
from muse.pipeline.encoders.preprocessing import crop_to_input
from muse.pipeline.header import Preprocessing, Sampling
from muse.pipeline.records import Clip, FailureReason, VideoRef

_PYAV = int(av.__version__.partition(".")[0])
PLAYLISTS = frozenset({"concat", "dash", "hls"})
"""Formats of libav that are texts which name other files."""


def decode_clip(
    video: VideoRef,
    *,
    sampling: Sampling,
    preprocessing: Preprocessing,
    max_duration_seconds: float | None = None,
    thumbnail_side: int = 0,
    frame_views: tuple[str, ...] = (),
) -> Clip:
    """The sampled frames of one video, cropped to an encoder's input.

    Args:
        video: A still image counts as a video of one frame, whatever its name says. Of one with
            a window only the frames that begin within it are looked at.
        sampling: Which instants are looked at.
        preprocessing: The encoder's.
        max_duration_seconds: A longer video is refused before any of its frames is decoded.
        thumbnail_side: Pixels of the shorter edge of small pictures of them; 0 makes none.
        frame_views: Of `muse.pipeline.views.FRAME_VIEWS`, which the clip then has too.

    Raises:
        DecodeError: With one of `FAILURE_REASONS`; its message ends in libav's own words.
    """
    path = existing_file(video)
    timeline = read_timeline(path)
    require_at_most(max_duration_seconds, timeline, path)
    settings = (sampling, preprocessing, thumbnail_side, frame_views)
    try:
        return _sampled(video, path, timeline, *settings)
    except _LateStartError as late:
        return _sampled(video, path, timeline.from_frame(late.first), *settings)


def _sampled(
    video: VideoRef,
    path: Path,
    timeline: Timeline,
    sampling: Sampling,
    preprocessing: Preprocessing,
    thumbnail_side: int,
    frame_views: tuple[str, ...],
) -> Clip:
    wanted = frames_to_take(timeline, sampling, video.window, path=path)
    taken = set(wanted.tolist())
    frames: dict[int, NDArray[np.uint8]] = {}
    thumbnails: dict[int, bytes] = {}
    squares: dict[int, NDArray[np.uint8]] = {}
    # Some come twice, where the first walk's time stamps prove false.
    for index, frame in _wanted_frames(path, timeline, frames_to_walk(wanted, video.window)):
        if index in taken:
            picture_HWC = _rgb(frame)
            frames[index] = crop_to_input(picture_HWC, preprocessing)
            if thumbnail_side:
                thumbnails[index] = thumbnail_of(picture_HWC, side=thumbnail_side)
            if frame_views:
                squares[index] = square_of(picture_HWC, preprocessing)
    return Clip(
        video_id=video.video_id,
        frames_THWC=np.stack([frames[index] for index in wanted.tolist()]),
        pts_seconds_T=timeline.seconds[wanted],
        thumbnails=tuple(thumbnails[index] for index in wanted.tolist() if thumbnail_side),
        **squares_as(frame_views, [squares[i] for i in wanted.tolist() if frame_views]),
    )


def read_timeline(path: Path) -> Timeline:
    """When each frame of the first video stream begins.

    Raises:
        DecodeError: If the file can't be opened, has no video stream, no frame, or ends early.
    """
    with _open_video(path) as container:
        stream = _video_stream(container, path)
        packets = [
            PacketTimes(pts=packet.pts, dts=packet.dts, duration=packet.duration or 0)
            for packet in _packets(container, stream, path)
            if not packet.is_discard and _is_clear(packet, path)
        ]
        if not packets:
            raise DecodeError(
                f"{path}: 0 frames in its video stream. The file may be truncated; "
                "replace it, or remove it from the listing.",
                reason="zero_frames",
            )
        timeline = timeline_of(packets, time_base=stream.time_base, rate=_rate(stream))
        if stream.frames > len(packets) and ends_early(packets, _announced_end(stream)):
            raise DecodeError(
                f"{path}: the container announces {stream.frames} frames and holds "
                f"{len(packets)}. The file is truncated; replace it.",
                reason="truncated",
            )
        _require_whole(path, container, stream, timeline)
        return timeline


def _is_clear(packet: "av.Packet[VideoStream]", path: Path) -> Literal[True]:
    if packet.has_sidedata("encryption_info"):
        raise DecodeError(
            f"{path}: its video is encrypted. Replace the file by one without copy protection.",
            reason="unsupported_codec",
        )
    return True


def _rate(stream: VideoStream) -> Fraction:
    """Frames a second, as far as the container tells; "unknown" is 0/0 in PyAV 19, else None."""
    for rate in (stream.average_rate, stream.guessed_rate):
        if rate is not None and rate.numerator > 0 and rate.denominator > 0:
            return Fraction(rate.numerator, rate.denominator)
    return Fraction(25)


def _announced_end(stream: VideoStream) -> int | None:
    return None if stream.duration is None else (stream.start_time or 0) + stream.duration


def _require_whole(
    path: Path, container: InputContainer, stream: VideoStream, timeline: Timeline
) -> None:
    end, size = announced_end(path), readable_bytes(path) or 0
    if end is None or size >= end or _lost_its_index_only(container, stream, timeline):
        return
    raise DecodeError(
        f"{path}: the container announces {end} bytes and the file has {size}. "
        "The file is truncated; replace it.",
        reason="truncated",
    )


def _lost_its_index_only(
    container: InputContainer, stream: VideoStream, timeline: Timeline
) -> bool:
    """True if a Matroska file shows all the seconds that it announces: its end is no frames."""
    if container.duration is None or not container.format.name.startswith("matroska"):
        return False
    start_seconds = (stream.start_time or 0) * float(stream.time_base or 0)
    lost_seconds = container.duration / av.time_base - start_seconds - timeline.duration_seconds
    return lost_seconds <= 0.5 / float(_rate(stream))


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


class _LateStartError(Exception):
    """The stream begins within a group of pictures: its first frames lack what they refer to."""

    def __init__(self, first: int) -> None:
        super().__init__(first)
        self.first = first
        """Index of the first frame that decodes: where a player begins to show the video."""


def _walk(
    path: Path, timeline: Timeline, wanted: NDArray[np.intp], *, by_pts: bool
) -> Iterator[tuple[int, VideoFrame]]:
    pending = iter(wanted.tolist())
    target = next(pending)
    first: int | None = None
    for index, frame in _indexed_frames(path, timeline, by_pts=by_pts):
        first = index if first is None else first
        if index != target:
            continue  # one beyond it was lost in decoding, unless the stamps fall further on
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
    if by_pts and first is not None and target < first:
        raise _LateStartError(first)
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
        with _refusing(f"{path}: decoding stopped", reason="corrupt"):
            for packet in container.demux(stream):
                yield from packet.decode()


def _packets(
    container: InputContainer, stream: VideoStream, path: Path
) -> Iterator["av.Packet[VideoStream]"]:
    try:
        with _refusing(f"{path}: reading stopped", reason="truncated"):
            for packet in container.demux(stream):
                if packet.size:
                    yield packet
    except MemoryError as error:
        raise claim_or_want(error, path) from None


@contextmanager
def _refusing(what: str, *, reason: FailureReason) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise  # libav's is one too; what it means is decided where the limit is known
    except av.error.FFmpegError as error:
        raise DecodeError(
            f"{what}: {_words_of(error)}. The file may be damaged or truncated; replace it.",
            reason=reason,
        ) from error


def _open_video(path: Path) -> InputContainer:
    # PyAV prints libav's complaints to stderr from several threads; the errors carry them.
    av.logging.set_level(None)
    try:
        name = str(path.absolute())  # libav takes "12:30.mp4" for a protocol
        return av.open(name) if _PYAV >= 19 else av.open(name, metadata_errors="replace")
    except MemoryError as error:
        raise claim_or_want(error, path) from None
    except av.error.FFmpegError as error:
        size = readable_bytes(path)
        if size is None:
            raise DecodeError(
                f"{path}: can't be opened: {_words_of(error)}. Make it readable for the user that "
                "runs this, or replace it.",
                reason="unreadable",
            ) from error
        raise DecodeError(
            f"{path}: can't be opened as a video: {_words_of(error)} ({size} bytes). "
            "Replace the file.",
            reason="not_a_video",
        ) from error


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    """The first video stream that is not the cover of a song."""
    if container.format.name in PLAYLISTS:
        raise DecodeError(
            f"{path}: a list of other files ({container.format.name}) and no video. List those.",
            reason="not_a_video",
        )
    pictures = container.streams.video
    streams = [s for s in pictures if not s.disposition & Disposition.attached_pic]
    if not streams:
        kinds = {"cover image" if s in pictures else s.type for s in container.streams}
        raise DecodeError(
            f"{path}: no video stream (streams: {', '.join(sorted(kinds)) or 'none'}). "
            "Replace the file.",
            reason="no_video_stream",
        )
    if streams[0].codec_context is None:
        raise DecodeError(
            f"{path}: no decoder for its video stream. Convert it, for example with "
            "`ffmpeg -i IN -c:v libx264 OUT`.",
            reason="unsupported_codec",
        )
    return streams[0]


def _rgb(frame: VideoFrame) -> NDArray[np.uint8]:
    """(H, W, 3) uint8, turned the way a player shows it."""
    image = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
    return np.ascontiguousarray(without_far_ends(upright(image, frame.rotation)))


def _words_of(error: av.error.FFmpegError) -> str:
    return error.strerror or str(error)
