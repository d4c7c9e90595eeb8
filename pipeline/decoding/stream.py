"""A file's video stream, opened through PyAV; libav's errors become `DecodeError` here.

Knows nothing of which frames are wanted.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import av.error
import av.logging
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from muse.errors import DecodeError
from muse.pipeline.decoding.video_file import claim_or_want, readable_bytes
from muse.pipeline.records import FailureReason

PYAV = int(av.__version__.partition(".")[0])
"""Its major version."""
PLAYLISTS = frozenset({"concat", "dash", "hls"})
"""Formats of libav that are texts which name other files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenVideo:
    """A file of which the video stream can be read, and no other."""

    path: Path
    container: InputContainer
    stream: VideoStream
    """Decoded by one thread."""


@contextmanager
def opened_video(path: Path, accelerator: HWAccel | None = None) -> Iterator[OpenVideo]:
    """A file, opened for as long as the context lasts.

    Args:
        path: Of the file.
        accelerator: Of the device that decodes it; None decodes in software.

    Raises:
        DecodeError: If it can't be read, is none that libav knows, or has no video that can be
            decoded.
    """
    with _opened(path, accelerator) as container:
        stream = _video_stream(container, path)
        # Before it decodes: later neither can be changed.
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        yield OpenVideo(path=path, container=container, stream=stream)


def _opened(path: Path, accelerator: HWAccel | None) -> InputContainer:
    # PyAV prints libav's complaints to stderr from several threads; the errors carry them.
    av.logging.set_level(None)
    try:
        name = str(path.absolute())  # libav takes "12:30.mp4" for a protocol
        if PYAV >= 19:
            return av.open(name, hwaccel=accelerator)
        return av.open(name, hwaccel=accelerator, metadata_errors="replace")
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
    """The first that is not the cover of a song; no other is read from then on."""
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
    for other in container.streams:
        if other is not streams[0]:
            other.discard = Discard.all
    return streams[0]


def video_packets(video: OpenVideo) -> Iterator["av.Packet[VideoStream]"]:
    """The stream's packets in the order of the file, without the empty one at the end.

    Raises:
        DecodeError: If reading stops before the end.
    """
    try:
        with refusing(f"{video.path}: reading stopped", reason="truncated"):
            for packet in video.container.demux(video.stream):
                if packet.size:
                    yield packet
    except MemoryError as error:
        raise claim_or_want(error, video.path) from None


@contextmanager
def refusing(what: str, *, reason: FailureReason) -> Iterator[None]:
    """libav's errors as a `DecodeError` that begins with ``what``; a `MemoryError` stays one."""
    try:
        yield
    except MemoryError:
        raise  # libav's is one too; what it means is decided where the limit is known
    except av.error.FFmpegError as error:
        raise DecodeError(
            f"{what}: {_words_of(error)}. The file may be damaged or truncated; replace it.",
            reason=reason,
        ) from error


def _words_of(error: av.error.FFmpegError) -> str:
    return error.strerror or str(error)
