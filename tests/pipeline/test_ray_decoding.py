"""Groups of videos as one task, without Ray: what a dead worker costs, and how large a group is."""

from collections.abc import Sequence
from typing import Any

import pytest
import ray
from ray.exceptions import OutOfMemoryError, WorkerCrashedError

from muse.pipeline import ray_decoding
from muse.pipeline.decoding.decoder import DecodeLimits, DecodeTask
from muse.pipeline.header import Preprocessing, Sampling
from muse.pipeline.ray_decoding import DecodeGroup, GroupSize
from muse.pipeline.records import Failure, VideoRef
from muse.pipeline.speed.spans import Activity, Span

PREPROCESSING = Preprocessing(
    size=32, resize_to=32, interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1)
)


def task_of(name: str) -> DecodeTask:
    video = VideoRef(video_id=name, path=None)
    return DecodeTask(video=video, sampling=Sampling(), preprocessing=PREPROCESSING)


def span(activity: Activity, seconds: float) -> Span:
    return Span(activity=activity, worker="someone", start_seconds=0.0, seconds=seconds)


# -- what comes back -------------------------------------------------------------------------------


class Deadly:
    """In place of Ray: a task dies with every video in it that is called so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
        self._error = error
        self.submitted: list[list[str]] = []
        monkeypatch.setattr(ray_decoding, "_remote_decode_videos", lambda: self)
        monkeypatch.setattr(ray, "get", self.get)

    def remote(self, tasks: Sequence[DecodeTask], limits: DecodeLimits) -> list[str]:
        names = [task.video.video_id for task in tasks]
        self.submitted.append(names)
        return names

    def get(self, names: list[str]) -> list[Any]:
        if "deadly" in names:
            raise self._error
        return [f"clip of {name}" for name in names]


def test_a_group_s_clips_are_in_the_order_of_its_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    Deadly(monkeypatch, WorkerCrashedError())
    group = DecodeGroup.submitted([task_of("a"), task_of("b")], DecodeLimits())
    found: list[Any] = group.decoded()
    assert found == ["clip of a", "clip of b"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [(WorkerCrashedError(), "crashed"), (OutOfMemoryError("full"), "out_of_memory")],
)
def test_a_worker_that_dies_is_the_failure_of_one_video(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    deadly = Deadly(monkeypatch, error)
    tasks = [task_of(name) for name in ("a", "deadly", "c")]
    found: list[Any] = DecodeGroup.submitted(tasks, DecodeLimits()).decoded()
    assert deadly.submitted == [["a", "deadly", "c"], ["a"], ["deadly"], ["c"]]
    assert (found[0], found[2]) == ("clip of a", "clip of c")
    failure = found[1].clip
    assert isinstance(failure, Failure)
    assert (failure.video_id, failure.reason) == ("deadly", reason)


def test_an_error_that_says_nothing_of_a_video_ends_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Deadly(monkeypatch, ImportError("no libav on that node"))
    with pytest.raises(ImportError, match="no libav"):
        DecodeGroup.submitted([task_of("a"), task_of("deadly")], DecodeLimits()).decoded()


# -- how large -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "num_in_flight", "num_cpus", "size"),
    [
        (0.05, 192, 2, 8),  # 0.4 s of 50 ms each
        (0.1, 192, 2, 4),
        (0.1, 192, 64, 1),  # each CPU has two of 1.5 videos
        (0.1, 192, 32, 3),
        (3.0, 192, 2, 1),
        (0.001, 10_000, 2, 8),  # no more, however short
    ],
)
def test_a_group_takes_a_fraction_of_a_second_and_leaves_work_for_every_cpu(
    seconds: float, num_in_flight: int, num_cpus: int, size: int
) -> None:
    sizes = GroupSize()
    sizes.saw([span("decode", seconds), span("wait", 100.0), span("decode", seconds)])
    assert sizes.of(num_in_flight, num_cpus=num_cpus) == size


def test_videos_go_one_by_one_until_it_is_known_what_they_take() -> None:
    sizes = GroupSize()
    assert sizes.of(1000, num_cpus=1) == 1
    sizes.saw([span("encode", 0.001)])
    assert sizes.of(1000, num_cpus=1) == 1
