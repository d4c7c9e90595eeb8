"""One video to a clip or to the reason why there is none, in a process of its own.

The only place where an exception, a dead or a hung process becomes a `Failure`. A process that does
not even start is no video's fault: that ends the run. What a decoding process imports is this
module: no torch, no zarr.
"""

from dataclasses import dataclass

from muse.errors import DecodeError
from muse.pipeline.decode import decode_clip
from muse.pipeline.header import Preprocessing, Sampling
from muse.pipeline.isolation import IsolatedFunction, ProcessDiedError, ProcessTimedOutError
from muse.pipeline.records import Clip, Failure, VideoRef


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeLimits:
    timeout_seconds: float = 300.0
    memory_bytes: int | None = 4_000_000_000
    max_duration_seconds: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeTask:
    """One video to decode, with all that decides the result."""

    video: VideoRef
    sampling: Sampling
    preprocessing: Preprocessing
    wants_sha256: bool = False


def attempt(task: DecodeTask) -> Clip | Failure:
    """The clip, or why there is none: runs where a crash harms nobody."""
    try:
        return decode_clip(task.video, sampling=task.sampling, preprocessing=task.preprocessing)
    except DecodeError as error:
        return decode_failure(task.video, reason=error.reason, message=str(error))
    except MemoryError:
        message = f"{task.video.path}: memory ran out while decoding."
        return decode_failure(task.video, reason="out_of_memory", message=message)
    except Exception as error:  # noqa: BLE001  # one video's surprise must not end a run
        message = f"{task.video.path}: {type(error).__name__}: {error}"
        return decode_failure(task.video, reason="crashed", message=message)


class IsolatedDecoder:
    """`attempt` in a child process; its death or delay is a failure of that one video."""

    def __init__(self, limits) -> None:
        self._attempt = IsolatedFunction(attempt, timeout_seconds=limits.timeout_seconds)

    def __call__(self, task: DecodeTask) -> Clip | Failure:
        """The clip, or why there is none."""
        if task.video.path is None:
            message = f"{task.video.video_id}: no such file. Put it there, or leave it out."
            return decode_failure(task.video, reason="missing", message=message)
        try:
            return self._attempt(task)
        except ProcessTimedOutError as error:
            message = f"{task.video.path}: {error}. Raise --decode-timeout, or replace the file."
            return decode_failure(task.video, reason="timeout", message=message)
        except ProcessDiedError as error:
            message = f"{task.video.path}: {error}. Replace the file."
            return decode_failure(task.video, reason="crashed", message=message)

    def close(self) -> None:
        """Ends the child process."""
        self._attempt.close()


def decode_failure(video: VideoRef, *, reason: str, message: str) -> Failure:
    """A failure of the decode stage."""
    return Failure(
        video_id=video.video_id,
        path=str(video.path or ""),
        stage="decode" if video.path else "listing",
        reason=reason,
        message=message,
    )
