"""Decoders as a run has them, with a clock: a sample of videos, in parallel, in child processes.

Knows nothing of encoders, and nothing of what is made of its numbers.
"""

import multiprocessing
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from types import TracebackType

import numpy as np

from muse.pipeline.decoding.decoder import DecodeLimits, DecodeTask, IsolatedDecoder
from muse.pipeline.header import Preprocessing, Sampling
from muse.pipeline.records import Clip, VideoRef

_MEMORY_LINE = "VmHWM:"  # the most that a process ever had in memory


@dataclass(frozen=True, kw_only=True, slots=True)
class SizedVideo:
    """A listed video with a file."""

    video: VideoRef
    num_bytes: int
    """0 where the file can't be looked at; decoding will say why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeSample:
    """One video, decoded."""

    video_id: str
    num_bytes: int
    seconds: float
    """Wall time in its decoder, beside all others."""
    num_frames: int
    """0 if it failed."""
    has_failed: bool
    thumbnail_bytes: int = 0
    """Of all its thumbnails."""
    frame_bytes: int = 0
    """Of all its JPEG files of ``frames:jpeg``."""


def sized(video: VideoRef) -> SizedVideo:
    """The video with its file's size."""
    try:
        num_bytes = video.path.stat().st_size if video.path else 0
    except OSError:
        num_bytes = 0
    return SizedVideo(video=video, num_bytes=num_bytes)


def spread_sample(
    videos: Sequence[SizedVideo], num_samples: int, *, seed: int
) -> tuple[SizedVideo, ...]:
    """Videos of all sizes, in random order, so that any beginning of it is a fair sample too.

    Sorted by size, a video's share of a line is half its share of the files and half its share of
    the bytes; the points are evenly spaced on that line. So the few large files that take most of
    the time are in the sample, and small ones still are the majority.
    """
    by_size = sorted(videos, key=lambda video: (video.num_bytes, video.video.video_id))
    if len(by_size) > num_samples:
        total = sum(video.num_bytes for video in by_size) or 1
        ends = np.fromiter(
            accumulate(0.5 / len(by_size) + 0.5 * v.num_bytes / total for v in by_size), np.float64
        )
        offset = random.Random(seed).random()
        points = (np.arange(num_samples) + offset) / num_samples
        chosen = np.unique(np.minimum(np.searchsorted(ends, points), len(by_size) - 1))
        by_size = [by_size[place] for place in chosen.tolist()]
    random.Random(seed).shuffle(by_size)
    return tuple(by_size)


class DecoderPool:
    """As many decoders as the run will have, each a process and a thread that waits for it."""

    def __init__(
        self,
        num_decoders: int,
        *,
        limits: DecodeLimits,
        sampling: Sampling,
        preprocessing: Preprocessing,
        num_clips_kept: int,
        thumbnail_side: int = 0,
        frame_views: tuple[str, ...] = (),
        leaves_resize: bool = False,
    ) -> None:
        self._decoders = [IsolatedDecoder(limits) for _ in range(num_decoders)]
        self._threads = ThreadPoolExecutor(num_decoders)
        self._sampling, self._preprocessing = sampling, preprocessing
        self._num_clips_kept = num_clips_kept
        self._thumbnail_side, self._frame_views = thumbnail_side, frame_views
        self._leaves_resize = leaves_resize
        self.clips: list[Clip] = []
        """Some of those that were decoded."""

    def __enter__(self) -> "DecoderPool":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for decoder in self._decoders:
            decoder.close()

    def start(self) -> float:
        """Seconds until all child processes are up."""
        started = time.perf_counter()
        nothing = VideoRef(video_id="probe", path=Path(os.devnull) / "probe")
        list(self._threads.map(lambda decoder: decoder(self._task(nothing)), self._decoders))
        return time.perf_counter() - started

    def decode(
        self, videos: Iterable[SizedVideo], *, go_on: Callable[[int], bool]
    ) -> "DecodePhase":
        """Starts decoding, until videos run out or ``go_on(videos begun)`` is False."""
        source = _SharedSource(videos, go_on)
        return DecodePhase(
            [self._threads.submit(self._work, decoder, source) for decoder in self._decoders]
        )

    def _work(self, decoder: IsolatedDecoder, source: "_SharedSource") -> list[DecodeSample]:
        samples = []
        while (video := source.following()) is not None:
            started = time.perf_counter()
            clip = decoder(self._task(video.video))
            seconds = time.perf_counter() - started
            if isinstance(clip, Clip) and len(self.clips) < self._num_clips_kept:
                self.clips.append(clip)
            samples.append(
                DecodeSample(
                    video_id=video.video.video_id,
                    num_bytes=video.num_bytes,
                    seconds=seconds,
                    num_frames=len(clip.frames_THWC) if isinstance(clip, Clip) else 0,
                    has_failed=not isinstance(clip, Clip),
                    thumbnail_bytes=sum(map(len, clip.thumbnails)) if isinstance(clip, Clip) else 0,
                    frame_bytes=sum(map(len, clip.frame_pictures)) if isinstance(clip, Clip) else 0,
                )
            )
        return samples

    def _task(self, video: VideoRef) -> DecodeTask:
        return DecodeTask(
            video=video,
            sampling=self._sampling,
            preprocessing=self._preprocessing,
            thumbnail_side=self._thumbnail_side,
            frame_views=self._frame_views,
            leaves_resize=self._leaves_resize,
        )


class DecodePhase:
    """Videos that are decoded side by side. Every one that was begun is finished."""

    def __init__(self, running: Sequence[Future[list[DecodeSample]]]) -> None:
        self._running = running
        self._cpu_before = _cpu_seconds_of_children()
        self.cpu_seconds: float | None = None
        """Of all decoders together, after `wait`; None where the system does not tell."""
        self.peak_bytes = 0
        """Of the largest decoder, after `wait`; 0 where the system does not tell."""

    @property
    def is_over(self) -> bool:
        """True once all decoders are idle."""
        return all(future.done() for future in self._running)

    def wait(self) -> tuple[DecodeSample, ...]:
        """What was measured, at the end."""
        samples = [sample for future in self._running for sample in future.result()]
        if self._cpu_before is not None:
            self.cpu_seconds = (_cpu_seconds_of_children() or 0.0) - self._cpu_before
            if self.cpu_seconds <= 0:  # a decoder died and took its count along
                self.cpu_seconds = None
        self.peak_bytes = _peak_bytes_of_children()
        return tuple(samples)


class _SharedSource:
    """Videos that several threads take one by one."""

    def __init__(self, videos: Iterable[SizedVideo], go_on: Callable[[int], bool]) -> None:
        self._videos, self._go_on = iter(videos), go_on
        self._lock, self._num_begun = threading.Lock(), 0

    def following(self) -> SizedVideo | None:
        with self._lock:
            video = next(self._videos, None) if self._go_on(self._num_begun) else None
            self._num_begun += video is not None
            return video


def _cpu_seconds_of_children() -> float | None:
    """CPU time that the living child processes have used; None where there is no /proc."""
    try:
        ticks = [_ticks_of(child.pid) for child in multiprocessing.active_children()]
    except (OSError, ValueError, IndexError):
        return None
    return sum(ticks) / os.sysconf("SC_CLK_TCK") if ticks else None


def _ticks_of(pid: int | None) -> int:
    """CPU time that a process has used, in the system's ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])  # utime and stime, proc(5)


def _peak_bytes_of_children() -> int:
    children = multiprocessing.active_children()
    return max((peak_bytes(child.pid) for child in children if child.pid), default=0)


def peak_bytes(pid: int) -> int:
    """The most memory that a process ever had; 0 where the system does not tell.

    Not getrusage's: that of a child begins with what its parent had.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    lines = [line for line in status.splitlines() if line.startswith(_MEMORY_LINE)]
    return int(lines[0].split()[1]) * 1024 if lines else 0
