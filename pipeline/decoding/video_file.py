"""A listed video as a file that can be read, before any library looks into it.

Knows nothing of videos. A fifo, a socket or a device is refused here: reading one may never end.
"""

import stat
from pathlib import Path

import numpy as np

from muse.errors import DecodeError
from muse.pipeline.records import VideoRef


def existing_file(video: VideoRef) -> Path:
    """The path of a listed video, which is a regular file.

    Raises:
        DecodeError: Because it is missing, can't be reached, or would never end.
    """
    try:
        mode = video.path.stat().st_mode if video.path is not None else None
    except (FileNotFoundError, NotADirectoryError):
        mode = None
    except OSError as error:
        raise DecodeError(
            f"{video.path}: can't be reached: {error.strerror}. Make it readable for the user "
            "that runs this, or replace it.",
            reason="unreadable",
        ) from error
    if video.path is None or mode is None:
        raise DecodeError(
            f"{video.path or video.video_id}: no such file. Put it there, or remove it from the "
            "listing.",
            reason="missing",
        )
    if not stat.S_ISREG(mode):
        raise DecodeError(
            f"{video.path}: not a regular file. Replace it by a video.", reason="unreadable"
        )
    return video.path


def readable_bytes(path: Path) -> int | None:
    """A file's size; None if it can't be read, which libav's words alone don't tell.

    libav says "Input/output error" of a file that is cut off, too.
    """
    try:
        with path.open("rb") as stream:
            stream.read(1)
        return path.stat().st_size
    except OSError:
        return None


def claim_or_want(error: MemoryError, path: Path) -> DecodeError | MemoryError:
    """What libav had no memory for: more than the file can hold, or else the error itself."""
    if not _has_memory_for(readable_bytes(path) or 0):
        return error
    return DecodeError(
        f"{path}: its header or a packet claims to be larger than the file. The file is damaged; "
        "replace it.",
        reason="corrupt",
    )


def _has_memory_for(size_bytes: int) -> bool:
    """True if this process may take so much more memory, such as that of a whole file."""
    try:
        np.empty(size_bytes, dtype=np.uint8)
    except MemoryError:
        return False
    return True
