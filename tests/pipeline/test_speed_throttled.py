"""A stage that is slowed down is the one that the report names: each in turn, in whole runs."""

import itertools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from runs import Runs, WithoutProcess, clip_of_word
from torch import Tensor

from muse.errors import StoreError, TooManyFailuresError, UsageError
from muse.pipeline import schedule_local, shards
from muse.pipeline.decoding.decoder import DecodeLimits, DecodeTask
from muse.pipeline.encoders.base import Encoder
from muse.pipeline.encoders.reference import Reference
from muse.pipeline.extract import extract
from muse.pipeline.receipts import RECEIPTS_FOLDER
from muse.pipeline.records import Clip, Failure
from muse.pipeline.redo import FailureLimit
from muse.pipeline.speed.report import SpeedReport
from muse.pipeline.speed.wording import speed_sentence
from muse.pipeline.storage.files import LocalStorage

NUM_VIDEOS = 12
DELAY = 0.06  # of one batch, one shard or two videos, which are the same number here: seconds
CAPTIONS = [(f"v{number:02d}", f"text {number}") for number in range(NUM_VIDEOS)]


@pytest.fixture
def videos(runs: Runs) -> Runs:
    """Twelve of them, in six shards."""
    runs.put(**{f"v{number:02d}": 10 * number for number in range(NUM_VIDEOS)})
    return runs


def _slow_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    class SlowDecoder(WithoutProcess):
        def __init__(self, limits: DecodeLimits) -> None:
            pass

        def __call__(self, task: DecodeTask) -> Clip | Failure:
            time.sleep(DELAY / 2)
            return clip_of_word(task)

    monkeypatch.setattr(schedule_local, "IsolatedDecoder", SlowDecoder)


def _slow_encoder(monkeypatch: pytest.MonkeyPatch, *, frames: float, texts: float) -> None:
    build = shards.build_encoder

    class SlowEncoder:
        def __init__(self, encoder: Encoder) -> None:
            self._encoder = encoder
            self.info = encoder.info

        def frame_maps(
            self, frames_BHWC: Tensor, views: Sequence[str] = ("tokens",)
        ) -> dict[str, Tensor]:
            time.sleep(frames)
            return self._encoder.frame_maps(frames_BHWC, views)

        def encode_frames(
            self, frames_BHWC: NDArray[np.uint8], views: Sequence[str] = ("tokens",)
        ) -> dict[str, NDArray[np.float16]]:
            return self._encoder.encode_frames(frames_BHWC, views)

        def encode_texts(
            self, captions: Sequence[str], text_length: int | None = None
        ) -> NDArray[np.float16]:
            time.sleep(texts)
            return self._encoder.encode_texts(captions, text_length)

        def reference(self) -> Reference:
            return self._encoder.reference()

    monkeypatch.setattr(shards, "build_encoder", lambda *a, **k: SlowEncoder(build(*a, **k)))


def _slow_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    write = LocalStorage.write

    def slow(storage: LocalStorage, name: str, content: bytes) -> None:
        if name.startswith(f"{RECEIPTS_FOLDER}/videos"):  # once a shard
            time.sleep(DELAY)
        write(storage, name, content)

    monkeypatch.setattr(LocalStorage, "write", slow)


THROTTLES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "decode": _slow_decoder,
    "encode": lambda patch: _slow_encoder(patch, frames=DELAY, texts=0.0),
    "write": _slow_storage,
    "captions": lambda patch: _slow_encoder(patch, frames=0.0, texts=6 * DELAY),
}


def speed_of(runs: Runs, **settings: Any) -> SpeedReport:
    speed = runs.run(CAPTIONS, **settings).speed
    assert speed is not None
    return speed


@pytest.mark.parametrize("stage", THROTTLES)
def test_the_stage_that_is_slowed_down_is_named(
    stage: str, videos: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    THROTTLES[stage](monkeypatch)
    speed = speed_of(videos)
    assert speed.binds == stage, speed
    assert speed_sentence(speed).startswith(f"{stage} bind")


def test_a_slowed_stage_s_bound_is_what_its_delay_allows(
    videos: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    _slow_decoder(monkeypatch)
    decode = speed_of(videos).of("decode")
    assert decode is not None
    assert decode.bound is not None
    assert 0.5 * 2 / DELAY < decode.bound <= 2 / DELAY  # one decoder, two videos a delay
    assert decode.achieved <= decode.bound


def test_a_shard_is_written_while_the_next_is_encoded(
    videos: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stage in ("encode", "write"):
        THROTTLES[stage](monkeypatch)
    speed = speed_of(videos)
    # Six shards of a delay each in both: seven delays one beside the other, twelve in turns.
    assert 6 * DELAY < speed.wall_seconds < 11 * DELAY


def test_every_video_and_caption_is_counted_once(videos: Runs) -> None:
    speed = speed_of(videos)
    items = {stage.stage: stage.num_items for stage in speed.stages}
    assert items == dict.fromkeys(("decode", "encode", "write", "captions"), NUM_VIDEOS)
    assert (speed.num_videos, speed.num_frames, speed.num_shards) == (12, 24, 6)


def test_failed_videos_are_decoded_and_written_and_not_encoded(runs: Runs) -> None:
    runs.put(a=1, b="corrupt", c=3)
    speed = runs.run([("a", "x"), ("gone", "y")]).speed
    assert speed is not None
    items = {stage.stage: stage.num_items for stage in speed.stages}
    assert (items["decode"], items["encode"], items["write"]) == (
        3,
        2,
        4,
    )  # of gone no file is read


def test_a_run_with_nothing_to_do_has_no_speed(videos: Runs) -> None:
    videos.run()
    assert videos.run().speed is None


def test_progress_tells_the_speed_while_the_run_goes_on(videos: Runs) -> None:
    seen: list[SpeedReport | None] = []
    extract(videos.config(), videos.listing(), on_progress=lambda p: seen.append(p.speed))
    assert seen[0] is None
    counts = [speed.num_videos for speed in seen if speed is not None]
    assert (set(counts), counts[-1]) == ({0, 2, 4, 6, 8, 10, 12}, 12)
    assert counts == sorted(counts)


# -- the trace -------------------------------------------------------------------------------------


def events_of(path: Path) -> list[dict[str, Any]]:
    content = json.loads(path.read_text(encoding="utf-8"))
    events: list[dict[str, Any]] = content["traceEvents"]
    return events


def test_a_profiled_run_writes_what_every_worker_did(videos: Runs, tmp_path: Path) -> None:
    extract(videos.config(), videos.listing(CAPTIONS), profile=tmp_path / "trace.json")
    events = events_of(tmp_path / "trace.json")
    names = {e["tid"]: e["args"]["name"] for e in events if e["ph"] == "M"}
    assert sorted(names.values()) == ["decoder 1", "encoder 1", "writer 1"]
    did = [(names[e["tid"]], e["name"]) for e in events if e["ph"] == "X"]
    wanted = {("decoder 1", "decode"): 12, ("encoder 1", "wait"): 6, ("encoder 1", "encode"): 6,
              ("writer 1", "write"): 7, ("encoder 1", "captions"): 1}  # fmt: skip
    assert {each: did.count(each) for each in set(did)} == wanted


def test_a_worker_does_one_thing_at_a_time(videos: Runs, tmp_path: Path) -> None:
    extract(videos.config(), videos.listing(CAPTIONS), profile=tmp_path / "trace.json")
    of_row: dict[int, list[tuple[float, float]]] = {}
    for event in events_of(tmp_path / "trace.json"):
        if event["ph"] == "X":
            of_row.setdefault(event["tid"], []).append((event["ts"], event["dur"]))
    slack = 2000  # microseconds between a clock of the day and one that only runs
    for spans in of_row.values():
        spans.sort()
        for (start, duration), (following, _) in itertools.pairwise(spans):
            assert start + duration <= following + slack


def test_a_profile_changes_nothing_in_the_store(
    videos: Runs, tmp_path: Path, same_store: Callable[[Path, Path], bool]
) -> None:
    extract(videos.config(), videos.listing(CAPTIONS), profile=tmp_path / "trace.json")
    extract(videos.config(out=tmp_path / "other"), videos.listing(CAPTIONS))
    assert same_store(videos.out, tmp_path / "other")


def test_a_run_with_too_many_failures_has_a_trace_too(runs: Runs, tmp_path: Path) -> None:
    runs.put(a="corrupt", b="corrupt", c=3)
    config = runs.config(max_failures=FailureLimit.parse("0"))
    with pytest.raises(TooManyFailuresError):
        extract(config, runs.listing(), profile=tmp_path / "trace.json")
    assert [e["args"]["what"] for e in events_of(tmp_path / "trace.json") if e["name"] == "decode"]


def test_a_profile_without_a_folder_is_refused_before_anything_is_made(
    videos: Runs, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"--profile .*no.trace\.json: name a file in a folder"):
        extract(videos.config(), videos.listing(), profile=tmp_path / "no" / "trace.json")
    assert not videos.out.exists()


def test_a_profile_that_can_t_be_written_leaves_a_whole_store(
    videos: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("muse.pipeline.speed.trace.write_new", full)
    with pytest.raises(StoreError, match=r"--profile .*: can't be written \(No space left"):
        extract(videos.config(), videos.listing(), profile=tmp_path / "trace.json")
    assert videos.store.counts().pending == 0
    assert not (tmp_path / "trace.json").exists()
