"""A decoder whose calls are measured: its process's start apart from the decoding."""

import dataclasses
from dataclasses import dataclass
from typing import Protocol

from muse.pipeline.decoding.decoder import DecodeTask
from muse.pipeline.records import Clip, Failure
from muse.pipeline.speed.spans import LARGE_SIDE, Span, Stopwatch

_START_SECONDS = 0.001  # less is no process that starts


class Decoder(Protocol):
    """`IsolatedDecoder`, or what stands for it."""

    def start(self) -> None:
        """Brings its process up, unless it is."""
        ...

    def cpu_seconds(self) -> float | None:
        """That its process has used so far; None where nobody tells."""
        ...

    def __call__(self, task: DecodeTask) -> Clip | Failure:
        """The clip, or why there is none."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """A clip, or why there is none, and what it took."""

    clip: Clip | Failure
    spans: tuple[Span, ...] = ()
    """None of a video that has no file: nothing was decoded."""


def timed_decode(decoder: Decoder, task: DecodeTask, *, worker: str) -> Decoded:
    """What a decoder makes of a video, with its spans.

    Args:
        decoder: Its process may not be there yet.
        task: The video.
        worker: How its spans name it.

    Raises:
        WorkerError: If no process can be started.
    """
    if task.video.path is None:
        return Decoded(clip=decoder(task))
    watch = Stopwatch()
    decoder.start()
    start = watch.span("start", worker)
    watch, cpu_before = Stopwatch(), decoder.cpu_seconds()
    clip = decoder(task)
    decode = watch.span(
        "decode",
        worker,
        what=task.video.video_id,
        num_items=1,
        num_frames=len(clip.frames_THWC) if isinstance(clip, Clip) else 0,
        cpu_seconds=_used(cpu_before, decoder.cpu_seconds()),
    )
    if isinstance(clip, Clip):
        decode = dataclasses.replace(
            decode,
            num_on_gpu=int(clip.decoder == "nvdec"),
            num_large=int(clip.short_side >= LARGE_SIDE),
        )
    return Decoded(
        clip=clip, spans=(start, decode) if start.seconds > _START_SECONDS else (decode,)
    )


def _used(before: float | None, after: float | None) -> float | None:
    """CPU seconds between two looks; None if another process took the place of the first."""
    if before is None or after is None or after < before:
        return None
    return after - before
