"""One video to a clip or a failure, in this process and in a child that may die or hang."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from unruly import crash_on_b_and_hang_on_e

from muse.pipeline import decoder
from muse.pipeline.decoder import DecodeLimits, DecodeTask, IsolatedDecoder, attempt
from muse.pipeline.header import Preprocessing, Sampling
from muse.pipeline.records import Clip, Failure, VideoRef


@pytest.fixture
def make_task(preprocessing: Preprocessing) -> Callable[[Path], DecodeTask]:
    def make(path: Path) -> DecodeTask:
        video = VideoRef(video_id=path.name, path=path)
        return DecodeTask(video=video, sampling=Sampling(), preprocessing=preprocessing)

    return make


def test_an_attempt_gives_the_clip(
    make_task: Callable[[Path], DecodeTask], two_second_video: Path
) -> None:
    clip = attempt(make_task(two_second_video))
    assert isinstance(clip, Clip)
    assert len(clip.frames_THWC) == 2


def test_an_attempt_at_no_video_gives_the_reason(
    make_task: Callable[[Path], DecodeTask], tmp_path: Path
) -> None:
    path = tmp_path / "gone.mp4"
    failure = attempt(make_task(path))
    assert isinstance(failure, Failure)
    assert (failure.reason, failure.stage, failure.path) == ("missing", "decode", str(path))


def test_an_attempt_at_a_video_that_was_not_found_is_a_failure_of_the_listing(
    preprocessing: Preprocessing,
) -> None:
    video = VideoRef(video_id="gone", path=None)
    failure = attempt(DecodeTask(video=video, sampling=Sampling(), preprocessing=preprocessing))
    assert isinstance(failure, Failure)
    assert (failure.reason, failure.stage, failure.path) == ("missing", "listing", "")


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ZeroDivisionError("surprise"), "crashed"), (PermissionError("folder"), "unreadable")],
)
def test_a_surprise_in_decoding_is_a_failure_of_its_video(
    make_task: Callable[[Path], DecodeTask],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    reason: str,
) -> None:
    def surprised(*args: object, **settings: object) -> Clip:
        raise error

    monkeypatch.setattr("muse.pipeline.decoder.decode_clip", surprised)
    failure = attempt(make_task(tmp_path / "clip.mp4"))
    assert isinstance(failure, Failure)
    assert failure.reason == reason


def test_a_child_decodes_what_this_process_decodes(
    make_task: Callable[[Path], DecodeTask], two_second_video: Path
) -> None:
    isolated = IsolatedDecoder(DecodeLimits(timeout_seconds=30))
    clip, expected = isolated(make_task(two_second_video)), attempt(make_task(two_second_video))
    isolated.close()
    assert isinstance(clip, Clip)
    assert isinstance(expected, Clip)
    assert np.array_equal(clip.frames_THWC, expected.frames_THWC)


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [("b.mp4", "crashed", "SIGSEGV"), ("e.mp4", "timeout", "Raise --decode-timeout")],
)
def test_a_dead_or_hung_child_is_a_failure_of_its_video(
    make_task: Callable[[Path], DecodeTask],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    reason: str,
    words: str,
) -> None:
    monkeypatch.setattr(decoder, "attempt", crash_on_b_and_hang_on_e)
    failure = IsolatedDecoder(DecodeLimits(timeout_seconds=0.5))(make_task(tmp_path / name))
    assert isinstance(failure, Failure)
    assert (failure.video_id, failure.reason, words in failure.message) == (name, reason, True)


def test_a_decoding_process_loads_neither_torch_nor_zarr_nor_ray() -> None:
    script = (
        "import sys; import muse.pipeline.decoder, muse.pipeline.decode; "
        "print(sorted({'torch', 'zarr', 'ray', 'open_clip'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
