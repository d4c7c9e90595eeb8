"""Which decoder a run's videos go to, software or NVDEC: measured on its first ones.

Software has all the decoding processes of a run, NVDEC a few. NVDEC is taken only if its frames of
these videos are software's, bit for bit, and, where it is to be found out, if it decodes more of
them a second. Knows nothing of engines.
"""

import dataclasses
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from muse.errors import WorkerError
from muse.pipeline.decoding.decoder import DecodeLimits, DecodeTask, IsolatedDecoder
from muse.pipeline.decoding.gpu_decoder import GpuDecoder
from muse.pipeline.records import Clip, DecoderName, Failure
from muse.pipeline.speed.spans import LARGE_SIDE

logger = logging.getLogger(__name__)

AskedDecoder = Literal["cpu", "nvdec", "auto"]
"""``auto`` measures, where there is a GPU, and large frames or few cores."""
MOST_SESSIONS = 8
"""Processes that decode by one GPU. It has one to eight engines for that, and each process has a
CUDA context: some 300 MB of the GPU's memory, and half a second at its start."""
SESSIONS_A_CORE = 2
"""A process waits for the GPU most of the time; what it does of a core is resizing."""
FEW_DECODERS = 8
"""Where there are so many, or fewer, any video's decoding is worth a measurement."""
SAMPLE_VIDEOS = 4
_SAMPLE_SECONDS = 1.0
_RATE_SECONDS = 0.5
_LONGEST_SECONDS = 60.0  # of one video, which then tells nothing
_GAIN = 1.1  # more sessions than this many times as fast are worth their memory


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderChoice:
    """Who decodes a run's videos, and why."""

    decoder: DecoderName
    num_decoders: int
    """Processes."""
    because: str = ""
    """One line; empty where nothing was asked."""


class TrialDecoder(Protocol):
    """`IsolatedDecoder`, or what stands for it."""

    def start(self) -> None:
        """Brings its process up."""
        ...

    def __call__(self, task: DecodeTask) -> Clip | Failure:
        """The clip, or why there is none."""
        ...

    def close(self) -> None:
        """Ends its process."""
        ...


def opened_decoder(name: DecoderName, limits: DecodeLimits) -> TrialDecoder:
    """One in a process of its own."""
    return GpuDecoder(limits) if name == "nvdec" else IsolatedDecoder(limits)


def chosen_decoder(
    asked: AskedDecoder,
    tasks: Iterable[DecodeTask],
    *,
    num_decoders: int | None,
    num_cores: int,
    has_gpu: bool,
    limits: DecodeLimits,
    opened: Callable[[DecoderName, DecodeLimits], TrialDecoder] = opened_decoder,
) -> DecoderChoice:
    """Who decodes a run, after a few seconds, or what a dozen of its videos take if that is more.

    Args:
        asked: ``nvdec`` compares frames, ``auto`` rates too.
        tasks: The run's videos with a file, of which the first are tried.
        num_decoders: Processes that were asked for; None: one a core, or what NVDEC is best with.
        num_cores: Of this machine.
        has_gpu: Whether there is one that computes.
        limits: Of one video.
        opened: Makes a decoder.
    """
    software = DecoderChoice(decoder="cpu", num_decoders=num_decoders or num_cores)
    if asked == "cpu":
        return software
    most = min(MOST_SESSIONS, num_decoders or SESSIONS_A_CORE * num_cores)
    limits = dataclasses.replace(
        limits, timeout_seconds=min(_LONGEST_SECONDS, limits.timeout_seconds)
    )
    first = list(itertools.islice(tasks, SAMPLE_VIDEOS))
    with _Trial(first, lambda name: opened(name, limits)) as trial:
        choice = _tried(asked, trial, software, most_sessions=most, has_gpu=has_gpu)
    warns = choice.decoder == "cpu" and (asked == "nvdec" or bool(trial.different))
    logger.log(logging.WARNING if warns else logging.INFO, "%s", choice.because)
    return choice


def _tried(
    asked: AskedDecoder,
    trial: "_Trial",
    software: DecoderChoice,
    *,
    most_sessions: int,
    has_gpu: bool,
) -> DecoderChoice:
    if asked == "auto" and not has_gpu:
        return _software(software, "there is no CUDA device")
    first = trial.decode_in_software()
    if not first:
        return _software(software, f"none of the first {trial.num_tasks} videos decodes in time")
    if asked == "auto" and (why := _not_worth_measuring(first, software.num_decoders)):
        return _software(software, why)
    if why := trial.refusal_of_nvdec(first):
        return _software(software, why)
    if asked == "nvdec":
        because = (
            f"decoder nvdec: it takes {trial.num_taken} of the first {len(first)} videos, and "
            "gives software's bits"
        )
        return DecoderChoice(decoder="nvdec", num_decoders=most_sessions, because=because)
    return faster_choice(
        software,
        one_decoder=trial.rate("cpu", 1),
        sessions=trial.rates_of_sessions(most_sessions),
        num_videos=len(first),
    )


def faster_choice(
    software: DecoderChoice,
    *,
    one_decoder: float,
    sessions: Mapping[int, float],
    num_videos: int,
) -> DecoderChoice:
    """NVDEC, if it is faster than all software decoders if none was in another's way.

    Args:
        software: What is chosen otherwise.
        one_decoder: Videos a second of one process in software.
        sessions: Videos a second of NVDEC, by the number of its processes.
        num_videos: That were measured.
    """
    best = max(sessions, key=lambda number: sessions[number])
    pool = one_decoder * software.num_decoders
    name: DecoderName = "nvdec" if sessions[best] > pool else "cpu"
    because = (
        f"decoder {name}: of {num_videos} videos NVDEC decodes {sessions[best]:.3g} a second in "
        f"{best} processes, software {pool:.3g} ({software.num_decoders} times {one_decoder:.3g})"
    )
    number = best if name == "nvdec" else software.num_decoders
    return DecoderChoice(decoder=name, num_decoders=number, because=because)


def _software(software: DecoderChoice, why: str) -> DecoderChoice:
    return DecoderChoice(
        decoder="cpu", num_decoders=software.num_decoders, because=f"decoder cpu: {why}"
    )


def _not_worth_measuring(clips: Mapping[int, Clip], num_decoders: int) -> str:
    largest = max(clip.short_side for clip in clips.values())
    if largest >= LARGE_SIDE or num_decoders <= FEW_DECODERS:
        return ""
    return (
        f"{num_decoders} decoders, and frames of {largest} pixels: from {LARGE_SIDE} on, or on up "
        f"to {FEW_DECODERS} decoders, NVDEC is measured"
    )


class _Trial:
    """Some videos, decoded by processes that are kept as long as it lasts."""

    def __init__(
        self, tasks: Sequence[DecodeTask], opened: Callable[[DecoderName], TrialDecoder]
    ) -> None:
        self._tasks, self._opened = tasks, opened
        self._decoders: dict[DecoderName, list[TrialDecoder]] = {"cpu": [], "nvdec": []}
        self._good: list[DecodeTask] = []
        self._open = ExitStack()
        self.num_tasks = len(tasks)
        self.num_taken = 0
        """Videos that NVDEC decoded."""
        self.different: list[str] = []
        """Ids of videos of which NVDEC gave other frames."""

    def __enter__(self) -> "_Trial":
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def decode_in_software(self) -> dict[int, Clip]:
        """The clips by their places, of as many as a second allows."""
        (decode,) = self._started("cpu", 1)
        clips: dict[int, Clip] = {}
        started = time.perf_counter()
        for place, task in enumerate(self._tasks):
            clip = decode(task)
            if isinstance(clip, Clip):
                clips[place] = clip
            if time.perf_counter() - started > _SAMPLE_SECONDS:
                break
        self._good = [self._tasks[place] for place in clips]
        return clips

    def refusal_of_nvdec(self, clips: Mapping[int, Clip]) -> str:
        """Why NVDEC must not decode this run; empty if it may."""
        try:
            (decode,) = self._started("nvdec", 1)
        except WorkerError as error:
            return f"NVDEC's process does not start: {error}"
        for place, clip in clips.items():
            other = decode(self._tasks[place])
            if isinstance(other, Clip) and other.decoder == "nvdec":
                self.num_taken += 1
                if not _same_frames(clip, other):
                    self.different.append(clip.video_id)
        if self.different:
            return (
                f"NVDEC gave other frames of {len(self.different)} of {self.num_taken} videos "
                f"(first: {self.different[0]!r})"
            )
        if not self.num_taken:
            return (
                f"NVDEC takes none of the first {len(clips)} videos: there is no GPU that decodes, "
                "or their codecs are none of its (docs/speed.md)"
            )
        return ""

    def rates_of_sessions(self, most: int) -> dict[int, float]:
        """Videos a second of NVDEC by the number of its processes, until more bring nothing."""
        rates: dict[int, float] = {}
        number = 1
        while number <= most:
            rates[number] = self.rate("nvdec", number)
            if number > 1 and rates[number] < _GAIN * rates[number // 2]:
                break
            number *= 2
        return rates

    def rate(self, name: DecoderName, number: int) -> float:
        """Videos a second of some processes, side by side; files are in memory by then."""
        decoders = self._started(name, number)
        tasks, lock = itertools.cycle(self._good), threading.Lock()
        started = time.perf_counter()

        def work(decode: TrialDecoder) -> int:
            num_decoded = 0
            while not num_decoded or time.perf_counter() - started < _RATE_SECONDS:
                with lock:
                    task = next(tasks)
                decode(task)
                num_decoded += 1
            return num_decoded

        with ThreadPoolExecutor(number) as threads:
            num_videos = sum(threads.map(work, decoders))
        return num_videos / (time.perf_counter() - started)

    def _started(self, name: DecoderName, number: int) -> Sequence[TrialDecoder]:
        decoders = self._decoders[name]
        new = [self._opened(name) for _ in range(number - len(decoders))]
        for decoder in new:
            self._open.enter_context(closing(decoder))
        decoders += new
        with ThreadPoolExecutor(number) as threads:
            list(threads.map(lambda decoder: decoder.start(), decoders[:number]))
        return decoders[:number]


def _same_frames(clip: Clip, other: Clip) -> bool:
    return (
        clip.unresized_from == other.unresized_from
        and np.array_equal(clip.frames_THWC, other.frames_THWC)
        and np.array_equal(clip.pts_seconds_T, other.pts_seconds_T)
    )
