"""The Ray engine: decode tasks on CPUs, encoding actors on GPUs, on all nodes that there are now.

A shard's clips go straight from the decode tasks to the actor that owns the shard; the driver sees
reports only. Few shards an actor are in flight, so the object store stays small whatever the number
of videos; they are more as nodes join. Knows nothing of what the stages do.
"""

import dataclasses
import functools
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import ray

from muse.errors import EncoderError, UsageError, WorkerError
from muse.pipeline.decoding.decoder import DecodeLimits, DecodeTask
from muse.pipeline.encoders.setting import EncoderSetting
from muse.pipeline.header import EncoderInfo, Golden, Parity, Sampling
from muse.pipeline.plan import CaptionShard, VideoShard
from muse.pipeline.ray_decoding import RETRIES, DecodeGroup, GroupSize
from muse.pipeline.ray_encoders import ActorLostError, RayEncoders, result_of
from muse.pipeline.receipts import Receipt
from muse.pipeline.records import Clip, Failure, VideoRef
from muse.pipeline.schedule import (
    Tick,
    Workers,
    available_cpus,
    decode_tasks,
    sample_tasks,
    shards_in_flight,
)
from muse.pipeline.speed.report import Workforce
from muse.pipeline.speed.spans import Measured

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_LOOK_SECONDS = 5.0  # between two looks at the cluster's size
_PLACING_SECONDS = 900.0  # until an actor has a place and has loaded, or downloaded, its weights
_MOVING_SECONDS = 5.0  # until Ray has noticed that a node is gone; doubled each time


class RayEngine:
    """Workers on a local Ray, started here, or on the cluster at an address."""

    def __init__(
        self, encoder: EncoderSetting, workers: Workers, *, address: str | None = None
    ) -> None:
        if encoder.device not in ("auto", "cpu", "cuda"):
            raise EncoderError(f"device {encoder.device!r}: choose auto, cpu or cuda.")
        if workers.decoder != "cpu":
            raise UsageError(
                f"--decoder {workers.decoder} needs --engine local: with Ray the GPUs are the "
                "encoders' alone."
            )
        self._encoders: RayEncoders | None = None
        self._started_ray = _connect(address, num_cpus=workers.num_decoders)
        # The cluster is asked, not this process: a driver may well have no GPU.
        num_gpus = int(ray.cluster_resources().get("GPU", 0))
        device = encoder.device
        if device == "auto":
            device = "cuda" if num_gpus else "cpu"
        on_gpu = device == "cuda"
        if on_gpu and not num_gpus:
            self.close()
            raise EncoderError(f"device {device!r}: this Ray has no GPU. Use --device cpu.")
        setting = dataclasses.replace(encoder, device=device)
        num_actors = workers.num_encoders or (num_gpus if on_gpu else 1)
        if on_gpu and num_actors > num_gpus:
            self.close()
            raise UsageError(f"num_encoders {num_actors}: this Ray has {num_gpus} GPUs.")
        follows_gpus = on_gpu and workers.num_encoders is None
        self._encoders = RayEncoders(setting, num_actors=num_actors, follows_gpus=follows_gpus)
        self._limits = workers.limits
        self._group_size = GroupSize()
        self._num_cpus = int(ray.cluster_resources().get("CPU", 1))
        self._next_look = time.monotonic() + _LOOK_SECONDS
        self._encoder_seen = time.monotonic()
        self._workforce = Workforce(
            num_decoders=self._num_cpus,
            num_encoders=num_actors,
            num_cores=available_cpus() if address is None else self._num_cpus,
            device=device,
        )

    def workforce(
        self, views: Sequence[str], videos: Sequence[VideoRef], sampling: Sampling
    ) -> Workforce:
        """Of the cluster as it was when the engine started; all devices are like the first."""
        rates = result_of(self._actors[0].device_rates.remote(views))
        return dataclasses.replace(self._workforce, rates=rates)

    def encoder_info(self) -> EncoderInfo:
        """Of the encoder that every actor has built.

        Raises:
            EncoderError: If it can't be built there.
            WorkerError: If an actor finds no place in the cluster.
        """
        pending = [actor.info.remote() for actor in self._actors]
        ready, waiting = ray.wait(pending, num_returns=len(pending), timeout=_PLACING_SECONDS)
        if waiting:
            raise WorkerError(
                f"{len(waiting)} of {len(pending)} encoding workers did not start within "
                f"{_PLACING_SECONDS:g} s: the cluster's GPUs are taken. Name fewer with "
                "--num-encoders."
            )
        infos: list[EncoderInfo] = [result_of(reference) for reference in ready]
        return infos[0]

    def golden(self) -> Golden:
        """Of the first actor's encoder; every actor compares its own when it opens a store."""
        golden: Golden = result_of(self._actors[0].golden.remote())
        return golden

    def sample(self, videos: Sequence[VideoRef], *, sampling: Sampling) -> list[Clip | Failure]:
        """By decoding tasks as those of the run."""
        tasks = sample_tasks(
            videos,
            sampling=sampling,
            preprocessing=self.encoder_info().preprocessing,
            leaves_resize=result_of(self._actors[0].resizes.remote()),
        )
        groups = [DecodeGroup.submitted([task], self._limits) for task in tasks]
        return [decoded.clip for group in groups for decoded in group.decoded()]

    def parity(self, clips: Sequence[Clip], *, num_frames: int) -> Parity:
        """Of the first actor's encoder; the others are held to its golden vector."""
        parity: Parity = result_of(self._actors[0].parity.remote(clips, num_frames=num_frames))
        return parity

    def run(
        self,
        location: str,
        *,
        sampling: Sampling,
        videos: Sequence[VideoShard],
        captions: Sequence[CaptionShard],
    ) -> Iterator[Receipt | Tick | Measured]:
        """The receipt of every shard, as they are committed."""
        todo: deque[VideoShard | CaptionShard] = deque([*videos, *captions])
        tasks_of = functools.partial(
            decode_tasks,
            sampling=sampling,
            preprocessing=self.encoder_info().preprocessing,
            leaves_resize=result_of(self._actors[0].resizes.remote()),
        )
        work = _Submission(location, tasks_of, limits=self._limits)
        shard_size = max((len(shard.to_decode) for shard in videos), default=1)
        in_flight: dict[Any, tuple[VideoShard | CaptionShard, Any]] = {}  # report -> shard, actor
        num_lost = 0  # since the last receipt
        while todo or in_flight:
            self._look_at_cluster(location)
            most = 1 + shards_in_flight(  # one is written
                shard_size, num_decoders=self._num_cpus, num_encoders=max(1, len(self._actors))
            )
            for actor in self._actors:
                while todo and _load_of(actor, in_flight.values()) < most:
                    shard = todo.popleft()
                    num_videos = most * shard_size * len(self._actors)
                    size = self._group_size.of(num_videos, num_cpus=self._num_cpus)
                    in_flight[work.submit(shard, actor, size)] = (shard, actor)
            ready = _first_of(list(in_flight))
            yield Tick(num_decoded=work.num_decoded())
            for reference in ready:
                shard, actor = in_flight.pop(reference)
                try:
                    measured, receipt = result_of(reference)
                except ActorLostError:  # with its node; its own retries end before it has moved
                    if actor not in self._actors:  # given up
                        todo.appendleft(shard)
                        continue
                    num_lost += 1
                    if num_lost > RETRIES * len(self._actors):
                        raise
                    time.sleep(_MOVING_SECONDS * 2 ** min(num_lost - 1, 3))
                    todo.appendleft(shard)
                else:
                    num_lost = 0
                    for remark in measured.remarks:
                        logger.warning("%s", remark)
                    self._group_size.saw(measured.spans)
                    yield measured
                    yield receipt

    @property
    def _actors(self) -> list[Any]:
        assert self._encoders is not None
        return self._encoders.actors

    def _look_at_cluster(self, location: str) -> None:
        """Every few seconds: nodes join and leave."""
        if time.monotonic() > self._next_look and self._encoders is not None:
            resources = ray.cluster_resources()
            self._num_cpus = int(resources.get("CPU", 1))
            self._encoders.follow(int(resources.get("GPU", 0)), location)
            self._next_look = time.monotonic() + _LOOK_SECONDS
            if self._actors:
                self._encoder_seen = time.monotonic()
            elif time.monotonic() > self._encoder_seen + _PLACING_SECONDS:
                raise WorkerError(
                    f"the cluster has had no GPU for {_PLACING_SECONDS:g} s. What was committed is "
                    "safe: run the same command again when there is one."
                )

    def close(self) -> None:
        """Ends the actors, so that none writes any more, and the Ray that was started here."""
        if self._encoders is not None:
            self._encoders.close()
        if self._started_ray:
            ray.shutdown()


def _load_of(actor: Any, in_flight: Iterable[tuple[Any, Any]]) -> int:
    """Shards that an actor has in hand."""
    return sum(at == actor for _, at in in_flight)


def _first_of(reports: list[Any]) -> list[Any]:
    """The first that is there, or none after a while."""
    if not reports:  # no encoder is there to take a shard
        time.sleep(_POLL_SECONDS)
        return []
    ready, _ = ray.wait(reports, num_returns=1, timeout=_POLL_SECONDS)
    return list(ready)


class _Submission:
    """Submits shards and counts what is decoded."""

    def __init__(
        self,
        location: str,
        tasks_of: Callable[[VideoShard], list[DecodeTask]],
        *,
        limits: DecodeLimits,
    ) -> None:
        self._location = location
        self._tasks_of = tasks_of
        self._limits = limits
        self._pending: dict[Any, int] = {}  # reference of clips -> how many
        self._num_decoded = 0

    def submit(self, shard: VideoShard | CaptionShard, actor: Any, group_size: int) -> Any:
        """The reference of the shard's report."""
        if isinstance(shard, CaptionShard):
            return actor.encode_captions.remote(self._location, shard)
        tasks = self._tasks_of(shard)
        groups = [
            DecodeGroup.submitted(tasks[first : first + group_size], self._limits)
            for first in range(0, len(tasks), group_size)
        ]
        self._pending |= {group.reference: len(group.tasks) for group in groups}
        return actor.encode_videos.remote(self._location, shard, groups)

    def num_decoded(self) -> int:
        """Videos decoded so far."""
        if self._pending:
            references = list(self._pending)
            ready, _ = ray.wait(
                references, num_returns=len(references), timeout=0, fetch_local=False
            )
            self._num_decoded += sum(self._pending.pop(reference) for reference in ready)
        return self._num_decoded


def _connect(address: str | None, *, num_cpus: int | None) -> bool:
    """Connects to Ray; True if this call did it."""
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet = {"include_dashboard": False} if address is None else {}
    try:
        ray.init(
            address=address or "local",
            num_cpus=num_cpus if address is None else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **quiet,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        words = " ".join(str(error).split())[:200]
        raise UsageError(
            f"Ray at {address or 'this machine'} can't be reached: {words}. "
            "Check --ray-address, or use --engine local."
        ) from error
    return True
