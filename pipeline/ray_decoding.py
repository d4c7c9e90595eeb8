"""Decoding as tasks of Ray: several short videos each, one by one where their worker dies.

A task costs some milliseconds of CPU time, whatever it does: of a video that takes fifty that is a
tenth. So one decodes as many as take a fraction of a second together, and returns their clips as
one object. Knows nothing of shards, nor of what becomes of a clip.
"""

import functools
import math
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, WorkerCrashedError

from muse.pipeline.decoding.decoder import DecodeLimits, DecodeTask, IsolatedDecoder, decode_failure
from muse.pipeline.decoding.kept_memory import keep_freed_memory
from muse.pipeline.speed.spans import Span
from muse.pipeline.speed.timed_decoder import Decoded, timed_decode

RETRIES = 3  # of a task or actor whose worker or node died
_GROUP_SECONDS = 0.4  # of decoding: a hundred times what a task costs
_MOST_VIDEOS = 8  # of a group: beyond, nothing is gained
_GROUPS_A_CPU = 2  # at least so many are in flight: some take longer, and none should wait

_decoders: dict[DecodeLimits, IsolatedDecoder] = {}  # one a worker process, kept between tasks


def decode_videos(tasks: Sequence[DecodeTask], limits: DecodeLimits) -> list[Decoded]:
    """Videos one after the other, in a decoding process of this worker."""
    keep_freed_memory()  # of a group's clips, which are freed together
    decoder = _decoders.get(limits)
    if decoder is None:
        decoder = _decoders[limits] = IsolatedDecoder(limits)
    worker = f"decoder {process_name()}"
    return [timed_decode(decoder, task, worker=worker) for task in tasks]


@functools.cache
def _remote_decode_videos() -> Any:
    """One for all groups: each that is made is sent to the cluster again."""
    return ray.remote(num_cpus=1, max_retries=RETRIES)(decode_videos)


def process_name() -> str:
    """Of this worker, among all of a cluster."""
    return f"{platform.node()}:{os.getpid()}"


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeGroup:
    """Videos of one task, on their way."""

    tasks: tuple[DecodeTask, ...]
    limits: DecodeLimits
    reference: Any
    """Of its list of `Decoded`."""

    @classmethod
    def submitted(cls, tasks: Sequence[DecodeTask], limits: DecodeLimits) -> "DecodeGroup":
        """A group that Ray decodes on any node; only the reference of its clips comes back."""
        reference = _remote_decode_videos().remote(tasks, limits)
        return cls(tasks=tuple(tasks), limits=limits, reference=reference)

    def decoded(self) -> list[Decoded]:
        """The clips, once they are there.

        A worker that died in every try is the failure of the video that was its last one. Nothing
        else is: a node without libav or a full object store must not mark videos as broken.
        """
        try:
            decoded: list[Decoded] = ray.get(self.reference)
        except (WorkerCrashedError, OutOfMemoryError) as error:
            if len(self.tasks) > 1:  # any of them may have been the last
                alone = [DecodeGroup.submitted([task], self.limits) for task in self.tasks]
                return [decoded for group in alone for decoded in group.decoded()]
            return [_failed(self.tasks[0], error)]
        return decoded


def _failed(task: DecodeTask, error: Exception) -> Decoded:
    words = " ".join(str(error).split())[:200]
    reason = "out_of_memory" if isinstance(error, OutOfMemoryError) else "crashed"
    message = f"{task.video.path}: {words}"
    return Decoded(clip=decode_failure(task.video, reason=reason, message=message))


class GroupSize:
    """How many videos a task decodes: one, until it is known what they take."""

    def __init__(self) -> None:
        self._num_videos, self._seconds = 0, 0.0

    def saw(self, spans: Iterable[Span]) -> None:
        """Takes what was reported into account."""
        for span in spans:
            if span.activity == "decode":
                self._num_videos += 1
                self._seconds += span.seconds

    def of(self, num_in_flight: int, *, num_cpus: int) -> int:
        """Videos of a task.

        Args:
            num_in_flight: Videos that may be submitted and not yet encoded, on all nodes.
            num_cpus: Of all nodes.
        """
        if not self._num_videos:
            return 1
        by_time = _GROUP_SECONDS * self._num_videos / max(self._seconds, 1e-9)
        by_share = num_in_flight / (_GROUPS_A_CPU * max(1, num_cpus))
        return max(1, math.floor(min(by_time, by_share, _MOST_VIDEOS)))
