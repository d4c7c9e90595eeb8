"""Spans: what one worker did from one moment to another. All that is known of a run's speed.

A worker measures a span on its own clock and hands it on with its result, so nothing is sent for
the measuring alone. Two clock readings a video and a batch: measured always, kept only where
somebody asks for a trace. Knows nothing of what follows from spans (`muse.pipeline.speed.report`).
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

StageName = Literal["decode", "encode", "write", "captions"]
"""What takes a worker's time and brings a run forward. ``encode`` lasts from one batch's rows to
those of the next, whatever the device does meanwhile, so the spans of one encoder never overlap.
``write`` is its writer's, beside it."""
LARGE_SIDE = 1080
"""From so many pixels of a short side on a GPU's decoder is worth a measurement on any machine."""
Activity = StageName | Literal["start", "wait"]
"""``start``: a decoding process comes up. ``wait``: an encoder has no clips yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """One worker, one activity, from one moment to another."""

    activity: Activity
    worker: str
    """Such as ``decoder 1``; with Ray the node and process are in it."""
    start_seconds: float
    """Since the epoch, by the clock of the worker's machine."""
    seconds: float
    what: str = ""
    """The video or the shard."""
    num_items: int = 0
    """Videos, or captions of ``captions``; those of a cut shard count where they end."""
    num_frames: int = 0
    num_bytes: int = 0
    """Of arrays, before they are written."""
    cpu_seconds: float | None = None
    """On all threads of the worker's process; None where nobody told."""
    num_on_gpu: int = 0
    """Of ``decode``: videos that a GPU decoded."""
    num_large: int = 0
    """Of ``decode``: videos with a short side from `LARGE_SIDE` pixels on."""

    @property
    def end_seconds(self) -> float:
        """Since the epoch."""
        return self.start_seconds + self.seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What workers did, as an engine reports it: before the receipt that it led to."""

    spans: tuple[Span, ...]
    remarks: tuple[str, ...] = ()
    """Warnings of a worker whose own log nobody reads: the driver repeats them."""


class Stopwatch:
    """Starts when it is made."""

    def __init__(self) -> None:
        self._start_seconds, self._started = time.time(), time.perf_counter()

    def span(
        self,
        activity: Activity,
        worker: str,
        *,
        what: str = "",
        num_items: int = 0,
        num_frames: int = 0,
        num_bytes: int = 0,
        cpu_seconds: float | None = None,
    ) -> Span:
        """From then to now."""
        return Span(
            activity=activity,
            worker=worker,
            start_seconds=self._start_seconds,
            seconds=time.perf_counter() - self._started,
            what=what,
            num_items=num_items,
            num_frames=num_frames,
            num_bytes=num_bytes,
            cpu_seconds=cpu_seconds,
        )


class SpanLog:
    """What one worker did since it was last asked."""

    def __init__(self, worker: str) -> None:
        self.worker = worker
        self._spans: list[Span] = []

    @contextmanager
    def measured(
        self,
        activity: Activity,
        *,
        what: str,
        num_items: int = 0,
        num_frames: int = 0,
        num_bytes: int = 0,
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> Iterator[None]:
        """A span of the block, with its CPU time, unless the block fails.

        Args:
            activity: What the block does.
            what: The video or the shard.
            num_items: As in `Span`.
            num_frames: As in `Span`.
            num_bytes: As in `Span`.
            cpu_clock: Of this process; of this thread, for a block that others work beside.
        """
        watch, cpu_started = Stopwatch(), cpu_clock()
        yield
        self._spans.append(
            watch.span(
                activity,
                self.worker,
                what=what,
                num_items=num_items,
                num_frames=num_frames,
                num_bytes=num_bytes,
                cpu_seconds=cpu_clock() - cpu_started,
            )
        )

    def taken(self) -> tuple[Span, ...]:
        """All since the last call."""
        spans, self._spans = tuple(self._spans), []
        return spans
