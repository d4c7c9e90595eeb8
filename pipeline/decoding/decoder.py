"""One video to a clip or to the reason why there is none, in a process of its own.

The only place where an exception, a dead or a hung process becomes a `Failure`. A process that does
not even start is no video's fault: that ends the run. What a decoding process imports is this
module: no torch, no zarr.
"""

import dataclasses
import math
import signal
from dataclasses import dataclass
from pathlib import Path

from muse.errors import DecodeError, UsageError
from muse.pipeline.decoding.child_process import (
    ProcessDiedError,
    ProcessKilledError,
    ProcessOutOfMemoryError,
    ProcessTimedOutError,
)
from muse.pipeline.decoding.decode import decode_clip
from muse.pipeline.decoding.isolation import MAX_ATTEMPTS, IsolatedFunction
from muse.pipeline.decoding.nvdec import Nvdec, nvdec
from muse.pipeline.header import Preprocessing, Sampling
from muse.pipeline.records import Clip, Failure, SourceFile, VideoRef, printable
from muse.pipeline.sources import source_of

MIN_MEMORY_BYTES = 64_000_000  # a frame of 4K and its references
_HIDES_WANT_OF_MEMORY = frozenset({"corrupt", "truncated", "zero_frames", "crashed"})
_CONTROL_CHARACTERS = {code: f"\\x{code:02x}" for code in (*range(32), 127)}


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeLimits:
    """What the decoding of one video may take."""

    timeout_seconds: float = 300.0
    """More is a failure."""
    memory_bytes: int | None = 4_000_000_000
    """More than this above an idle decoding process is a failure. None: no limit."""
    max_duration_seconds: float | None = None
    """A longer video is skipped. None: no limit."""

    def __post_init__(self) -> None:
        for name in ("timeout_seconds", "max_duration_seconds"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(f"{name} {value}: a finite number of seconds above 0 is needed")
        if self.memory_bytes is not None and self.memory_bytes < MIN_MEMORY_BYTES:
            raise UsageError(
                f"memory_bytes {self.memory_bytes}: at least {MIN_MEMORY_BYTES} are needed"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeTask:
    """One video to decode, with all that decides the result."""

    video: VideoRef
    sampling: Sampling
    preprocessing: Preprocessing
    wants_sha256: bool = False
    thumbnail_side: int = 0
    """Pixels of the shorter edge of the thumbnails to be made; 0 makes none."""
    frame_views: tuple[str, ...] = ()
    """Views of frames that the clip shall have."""
    leaves_resize: bool = False
    """Whether the clip may have frames that are yet to be resized (`decode_clip`)."""
    keeps_whole: bool = False
    """Whether the clip shall have some of its frames whole, too (`Clip.whole_frames`)."""
    max_duration_seconds: float | None = None
    """`IsolatedDecoder` fills in its own limit."""


def attempt(task: DecodeTask, device: Nvdec | None = None) -> Clip | Failure:
    """The clip with its source, or why there is none: runs where a crash harms nobody.

    Args:
        task: The video.
        device: Decodes what it takes; None: software does all.

    Raises:
        MemoryError: That may be the process's fault and not this video's.
    """
    path = task.video.path
    before = source_of(path, wants_sha256=task.wants_sha256) if path else None
    clip = _attempt(task, device)
    if path and before and (change := _change_since(before, path)):
        return decode_failure(task.video, reason=change[0], message=f"{path}: {change[1]}")
    return clip if isinstance(clip, Failure) else dataclasses.replace(clip, source=before)


def attempt_on_gpu(task: DecodeTask) -> Clip | Failure:
    """The same by this process's GPU, where it has one and that takes the video.

    Raises:
        MemoryError: As `attempt`.
    """
    return attempt(task, nvdec())


def _attempt(task: DecodeTask, device: Nvdec | None) -> Clip | Failure:
    try:
        return decode_clip(
            task.video,
            sampling=task.sampling,
            preprocessing=task.preprocessing,
            max_duration_seconds=task.max_duration_seconds,
            thumbnail_side=task.thumbnail_side,
            frame_views=task.frame_views,
            leaves_resize=task.leaves_resize,
            device=device,
            keeps_whole=task.keeps_whole,
        )
    except MemoryError:
        raise
    except DecodeError as error:
        if isinstance(error.__cause__, MemoryError):  # what PyAV makes of ENOMEM
            raise MemoryError(str(error)) from error
        return decode_failure(task.video, reason=error.reason, message=str(error))
    except Exception as error:  # noqa: BLE001  # one video's surprise must not end a run
        reason = "unreadable" if isinstance(error, OSError) else "crashed"
        message = f"{task.video.path}: {type(error).__name__}: {error}"
        return decode_failure(task.video, reason=reason, message=message)


def _change_since(before: SourceFile, path: Path) -> tuple[str, str] | None:
    """(reason, words) if a file is not what it was."""
    after = source_of(path)
    if after is None:
        return "missing", "vanished while it was read. Put it back, or leave it out."
    if (after.size_bytes, after.mtime_ns) != (before.size_bytes, before.mtime_ns):
        words = (
            f"changed while it was read ({before.size_bytes} bytes before, {after.size_bytes} "
            "after). Run again when it is complete."
        )
        return "unreadable", words
    return None


class IsolatedDecoder:
    """`attempt` in a child process; its death or delay is a failure of that one video."""

    def __init__(self, limits: DecodeLimits) -> None:
        self._limits = limits
        self._attempt = IsolatedFunction(
            attempt, timeout_seconds=limits.timeout_seconds, memory_bytes=limits.memory_bytes
        )

    @classmethod
    def on_gpu(cls, limits: DecodeLimits) -> "IsolatedDecoder":
        """With `attempt_on_gpu` in place of it; the GPU is opened as the process starts.

        So its memory is none of a video's, and its half second no video's time.
        """
        decoder = cls(limits)
        decoder._attempt = IsolatedFunction(
            attempt_on_gpu,
            timeout_seconds=limits.timeout_seconds,
            memory_bytes=limits.memory_bytes,
            prepare=nvdec,
        )
        return decoder

    def __call__(self, task: DecodeTask) -> Clip | Failure:
        """The clip with its source, or why there is none.

        Raises:
            WorkerError: If no child process can be started.
        """
        if task.video.path is None:
            message = f"{task.video.video_id}: no such file. Put it there, or leave it out."
            return decode_failure(task.video, reason="missing", message=message)
        task = dataclasses.replace(task, max_duration_seconds=self._limits.max_duration_seconds)
        try:
            return self._explained(self._attempt(task))
        except (ProcessTimedOutError, ProcessDiedError) as error:
            reason, words = self._reason_of(error)
            return decode_failure(task.video, reason=reason, message=f"{task.video.path}: {words}")

    def start(self) -> None:
        """Starts the child process, unless there is one; a call does it otherwise.

        Raises:
            WorkerError: If none can be started.
        """
        self._attempt.start()

    def cpu_seconds(self) -> float | None:
        """CPU time that the present child process has used so far; None without one."""
        return self._attempt.cpu_seconds

    def close(self) -> None:
        """Ends the child process, and that of a call in another thread."""
        self._attempt.close()

    def _explained(self, clip: Clip | Failure) -> Clip | Failure:
        """A failure near the limit of memory is one for want of memory.

        libav's decoder of H.264 drops a frame that it has no memory for, and then says that the
        data are invalid.
        """
        if isinstance(clip, Clip) or clip.reason not in _HIDES_WANT_OF_MEMORY:
            return clip
        if not self._attempt.is_near_limit or self._limits.memory_bytes is None:
            return clip
        words = (
            f"{clip.message} It had taken over half of the {self._limits.memory_bytes / 1e9:g} GB "
            "that it may: raise --decode-memory first."
        )
        return dataclasses.replace(clip, reason="out_of_memory", message=words)

    def _reason_of(self, error: ProcessTimedOutError | ProcessDiedError) -> tuple[str, str]:
        """(reason, words)."""
        if isinstance(error, ProcessTimedOutError):
            return "timeout", f"{error}. Raise --decode-timeout, or replace the file."
        if isinstance(error, ProcessOutOfMemoryError):
            if self._limits.memory_bytes is None:
                return "out_of_memory", f"{error}. Set fewer --num-decoders."
            limit = f"the limit is {self._limits.memory_bytes / 1e9:g} GB"
            return "out_of_memory", f"{error}; {limit}. Raise --decode-memory, or leave it out."
        if isinstance(error, ProcessKilledError):
            words = f"{error} from outside in each of {MAX_ATTEMPTS} attempts"
            if error.signal == signal.SIGKILL:
                likely = "most likely by the kernel's OOM killer. Set fewer --num-decoders"
                return "out_of_memory", f"{words}, {likely}, or lower --decode-memory."
            return "crashed", f"{words}. Find out who sends it, and run again."
        return "crashed", f"{error}. Replace the file."


def decode_failure(video: VideoRef, *, reason: str, message: str) -> Failure:
    """A failure of the decode stage; valid UTF-8, its message one line."""
    return Failure(
        video_id=video.video_id,
        path=printable(video.path),
        stage="decode" if video.path else "listing",
        reason=reason,
        message=_one_line(message),
    )


def _one_line(message: str) -> str:
    """With what a path may hold, and a line of text may not, escaped."""
    text = message.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return text.translate(_CONTROL_CHARACTERS)
