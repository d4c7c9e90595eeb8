"""What bounds a run: each stage's achieved rate beside what its workers alone could do.

A stage's bound is its workers divided by the busy seconds of one video, both measured in this run
and on this machine, so its share of the bound is the share of the time that its workers are busy.
The stage with the highest share is the one that binds, if its workers hardly ever wait. Encoding
and captions have the same workers, one after the other: they bind together, and the name is that
of the longer. Knows nothing of engines; ``wording`` has the sentence.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from muse.pipeline.speed.spans import Span, StageName

if TYPE_CHECKING:
    from muse.pipeline.records import DecoderName

BINDS_FROM = 0.7  # of their time busy: below, workers wait more for others than others for them
ENCODER_STAGES = ("encode", "captions")


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceRates:
    """What the device of one encoder can do at most, beside what one frame takes."""

    matrix_flops: float
    """A second, of large matrices in the run's precision."""
    frame_flops: int
    copied_bytes: float | None
    """A second, to a GPU; None without one."""
    frame_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Workforce:
    """Who works in a run."""

    num_decoders: int
    num_encoders: int
    """Each encodes and embeds captions, one after the other, and has a writer beside it."""
    num_cores: int
    """Of the machine, or of all machines of a cluster."""
    device: str
    """Of the encoders: ``cpu`` or ``cuda``."""
    rates: DeviceRates | None = None
    """Of the device of each; None where a frame takes no matrix products."""
    decoder: "DecoderName" = "cpu"
    decoder_because: str = ""
    """A line on why, where it was not a matter of course."""

    def workers_of(self, stage: StageName) -> int:
        """How many work at it."""
        return self.num_decoders if stage == "decode" else self.num_encoders


@dataclass(frozen=True, kw_only=True, slots=True)
class StageSpeed:
    """One stage of a run. Rates are videos a second, of ``captions`` captions a second."""

    stage: StageName
    num_workers: int
    num_items: int
    num_frames: int
    num_bytes: int
    busy_seconds: float
    """Of all its workers together."""
    cpu_seconds: float | None
    """On all threads of its workers; None where the system does not tell."""
    wall_seconds: float
    """Of the run."""
    num_on_gpu: int = 0
    """Videos that a GPU decoded."""
    num_large: int = 0
    """Videos whose frames are large enough that a GPU may decode them faster."""

    @property
    def achieved(self) -> float:
        """What the run did."""
        return self.num_items / self.wall_seconds if self.wall_seconds else 0.0

    @property
    def bound(self) -> float | None:
        """What its workers could do here if they never waited; None before the first item."""
        if not self.num_items or not self.busy_seconds:
            return None
        return self.num_workers * self.num_items / self.busy_seconds

    @property
    def share(self) -> float:
        """Busy time of its workers, 0 to 1; of a bound that is known, ``achieved / bound``."""
        time = self.num_workers * self.wall_seconds
        return self.busy_seconds / time if time else 0.0

    @property
    def cores_while_busy(self) -> float | None:
        """CPU seconds of a second of work; None where nobody tells."""
        if self.cpu_seconds is None or not self.busy_seconds:
            return None
        return self.cpu_seconds / self.busy_seconds

    @property
    def bytes_per_second(self) -> float:
        """While it works."""
        return self.num_bytes / self.busy_seconds if self.busy_seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "stage": self.stage,
            "workers": self.num_workers,
            "items": self.num_items,
            "frames": self.num_frames,
            "bytes": self.num_bytes,
            "busy_seconds": round(self.busy_seconds, 3),
            "cpu_seconds": None if self.cpu_seconds is None else round(self.cpu_seconds, 3),
            "achieved_per_second": round(self.achieved, 3),
            "bound_per_second": None if self.bound is None else round(self.bound, 3),
            "share": round(self.share, 4),
            **({"on_gpu": self.num_on_gpu} if self.stage == "decode" else {}),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeedReport:
    """A run, or as much of it as is reported by now."""

    workforce: Workforce
    startup_seconds: float
    """Until the first worker began on the first video: encoder, store, Ray, decoding processes."""
    wall_seconds: float
    """From then until the last worker's last report."""
    num_shards: int
    """Of videos that are committed."""
    stages: tuple[StageSpeed, ...]
    """Those that had something to do."""

    def of(self, stage: StageName) -> StageSpeed | None:
        """One stage; None if it had nothing to do."""
        return next((speed for speed in self.stages if speed.stage == stage), None)

    @property
    def num_videos(self) -> int:
        """Committed, failed ones included."""
        written = self.of("write")
        return written.num_items if written else 0

    @property
    def num_frames(self) -> int:
        """Encoded."""
        encoded = self.of("encode")
        return encoded.num_frames if encoded else 0

    @property
    def encoder_share(self) -> float:
        """Time that encoders encode or embed captions, 0 to 1."""
        return sum(speed.share for speed in self.stages if speed.stage in ENCODER_STAGES)

    @property
    def cores_share(self) -> float | None:
        """CPU seconds of all stages by those that the cores have; None where nobody tells."""
        told = [s.cpu_seconds for s in self.stages if s.cpu_seconds is not None]
        if not told or not self.wall_seconds:
            return None
        return sum(told) / (self.workforce.num_cores * self.wall_seconds)

    @property
    def limits(self) -> dict[str, float]:
        """Videos a second that the machine allows if all but one thing were free.

        ``cores``: all CPU time of this run, on all cores. ``matrix``: the products of the valid
        frames alone, at the rate of large matrices; encoders on a CPU share it. ``pcie``: their
        pixels on the way to the GPU. ``disk``: all writers always writing, as fast as they wrote.
        """
        found: dict[str, float | None] = {}
        if self.cores_share and self.num_videos:
            found["cores"] = self.videos_per_second / self.cores_share
        encode, rates = self.of("encode"), self.workforce.rates
        if rates is not None and encode is not None and encode.num_frames:
            workforce = self.workforce
            devices = 1 if workforce.device == "cpu" else workforce.num_encoders
            videos = devices * encode.num_items / encode.num_frames  # as one frame on each
            found["matrix"] = videos * rates.matrix_flops / rates.frame_flops
            if rates.copied_bytes is not None:
                found["pcie"] = videos * rates.copied_bytes / rates.frame_bytes
        written = self.of("write")
        found["disk"] = written.bound if written else None
        return {name: rate for name, rate in found.items() if rate is not None}

    @property
    def videos_per_second(self) -> float:
        """Committed."""
        return self.num_videos / self.wall_seconds if self.wall_seconds else 0.0

    @property
    def by_share(self) -> list[StageSpeed]:
        """One stage of each kind of workers, their longest; those that wait least first."""
        of_encoders = [speed for speed in self.stages if speed.stage in ENCODER_STAGES]
        longest = sorted(of_encoders, key=lambda speed: speed.share)[-1:]
        others = [speed for speed in self.stages if speed.stage not in ENCODER_STAGES]
        return sorted([*others, *longest], key=self.share_of_workers, reverse=True)

    def share_of_workers(self, speed: StageSpeed) -> float:
        """Busy time of a stage's workers, 0 to 1, with all else that they do."""
        return self.encoder_share if speed.stage in ENCODER_STAGES else speed.share

    @property
    def busiest(self) -> StageSpeed | None:
        """The stage whose workers wait least; None of a run without any."""
        return next(iter(self.by_share), None)

    @property
    def busiest_share(self) -> float:
        """Of the workers of the busiest stage, with all that they do."""
        return self.share_of_workers(self.busiest) if self.busiest is not None else 0.0

    @property
    def binds(self) -> StageName | None:
        """The stage that bounds the run; None where all wait for each other."""
        busiest = self.busiest
        return busiest.stage if busiest is not None and self.busiest_share >= BINDS_FROM else None

    def as_json(self) -> dict[str, Any]:
        """For ``--json``; ``wording.speed_sentence`` is not in it."""
        cores = self.cores_share
        return {
            "videos": self.num_videos,
            "frames": self.num_frames,
            "startup_seconds": round(self.startup_seconds, 3),
            "wall_seconds": round(self.wall_seconds, 3),
            "stages": [speed.as_json() for speed in self.stages],
            "cores": self.workforce.num_cores,
            "cores_share": None if cores is None else round(cores, 4),
            "device": self.workforce.device,
            "decoder": self.workforce.decoder,
            "decoder_because": self.workforce.decoder_because,
            "limits_per_second": {name: round(rate, 3) for name, rate in self.limits.items()},
            "binds": self.binds,
        }

    def bound_of_workers(self, stage: StageName) -> float | None:
        """Videos a second that a stage's workers could do with all else that they do."""
        speed = self.of(stage)
        if speed is None or stage not in ENCODER_STAGES:
            return speed.bound if speed else None
        share = self.encoder_share
        return speed.achieved / share if share and speed.num_items else None


class SpeedTally:
    """Sums of spans as they are reported.

    Args:
        workforce: Of the run.
        started_seconds: When the run began, since the epoch.
    """

    def __init__(self, workforce: Workforce, *, started_seconds: float) -> None:
        self._workforce, self._started = workforce, started_seconds
        self._sums: dict[StageName, _Sum] = {}
        self._first, self._last = float("inf"), float("-inf")
        self._num_shards = 0

    def add(self, spans: Iterable[Span]) -> None:
        """Takes reported spans into account."""
        for span in spans:
            activity = span.activity
            if activity == "start" or activity == "wait":
                continue
            self._sums.setdefault(activity, _Sum()).add(span)
            self._first = min(self._first, span.start_seconds)
            self._last = max(self._last, span.end_seconds)
            self._num_shards += activity == "write" and span.num_items > 0

    def report(self) -> SpeedReport | None:
        """As things stand; None before the first span."""
        if not self._sums:
            return None
        wall_seconds = self._last - self._first
        stages = tuple(
            self._sums[stage].speed(stage, self._workforce.workers_of(stage), wall_seconds)
            for stage in get_args(StageName)
            if stage in self._sums
        )
        return SpeedReport(
            workforce=self._workforce,
            startup_seconds=max(0.0, self._first - self._started),
            wall_seconds=wall_seconds,
            num_shards=self._num_shards,
            stages=stages,
        )


class _Sum:
    """Of the spans of one stage."""

    def __init__(self) -> None:
        self.items = self.frames = self.bytes = self.on_gpu = self.large = 0
        self.seconds = self.told_seconds = self.cpu_seconds = 0.0

    def add(self, span: Span) -> None:
        self.items += span.num_items
        self.frames += span.num_frames
        self.bytes += span.num_bytes
        self.on_gpu += span.num_on_gpu
        self.large += span.num_large
        self.seconds += span.seconds
        if span.cpu_seconds is not None:
            self.told_seconds += span.seconds
            self.cpu_seconds += span.cpu_seconds

    def speed(self, stage: StageName, num_workers: int, wall_seconds: float) -> StageSpeed:
        # A span may not tell, such as that of a decoder that crashed: it is like the others.
        told = self.told_seconds
        return StageSpeed(
            stage=stage,
            num_workers=num_workers,
            num_items=self.items,
            num_frames=self.frames,
            num_bytes=self.bytes,
            busy_seconds=self.seconds,
            cpu_seconds=self.cpu_seconds * self.seconds / told if told else None,
            wall_seconds=wall_seconds,
            num_on_gpu=self.on_gpu,
            num_large=self.large,
        )
