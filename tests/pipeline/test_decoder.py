"""One video to a clip or a failure, in this process and in a child that may die or hang."""

import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from unruly import act_as_named, crash_on_b_and_hang_on_e

from muse.errors import DecodeError, UsageError
from muse.pipeline.datasets.folder import list_folder
from muse.pipeline.decoding import decoder
from muse.pipeline.decoding.decode import decode_clip
from muse.pipeline.decoding.decoder import DecodeLimits, DecodeTask, IsolatedDecoder, attempt
from muse.pipeline.header import Preprocessing, Sampling
from muse.pipeline.records import Clip, Failure, SourceFile, VideoRef


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

    monkeypatch.setattr("muse.pipeline.decoding.decoder.decode_clip", surprised)
    failure = attempt(make_task(tmp_path / "clip.mp4"))
    assert isinstance(failure, Failure)
    assert failure.reason == reason


@pytest.mark.parametrize("wrapped", [False, True])
def test_want_of_memory_is_left_to_who_can_try_again(
    make_task: Callable[[Path], DecodeTask],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrapped: bool,
) -> None:
    def starved(*args: object, **settings: object) -> Clip:
        if wrapped:
            raise DecodeError("no memory", reason="corrupt") from MemoryError()
        raise MemoryError

    monkeypatch.setattr("muse.pipeline.decoding.decoder.decode_clip", starved)
    with pytest.raises(MemoryError):
        attempt(make_task(tmp_path / "clip.mp4"))


def test_a_clip_knows_its_file(
    make_task: Callable[[Path], DecodeTask], two_second_video: Path
) -> None:
    task = make_task(two_second_video)
    plain, hashed = attempt(task), attempt(dataclasses.replace(task, wants_sha256=True))
    status = two_second_video.stat()
    assert isinstance(plain, Clip)
    assert isinstance(hashed, Clip)
    assert plain.source == SourceFile(size_bytes=status.st_size, mtime_ns=status.st_mtime_ns)
    assert hashed.source == dataclasses.replace(
        plain.source, sha256=hashlib.sha256(two_second_video.read_bytes()).hexdigest()
    )


def _grow(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b"more")


def _touch(path: Path) -> None:
    os.utime(path, ns=(0, 1))


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        (_grow, "unreadable", "changed while it was read"),
        (_touch, "unreadable", "changed while it was read"),
        (Path.unlink, "missing", "vanished while it was read"),
    ],
)
@pytest.mark.parametrize("is_decoded", [True, False])
def test_a_file_that_is_not_what_it_was_is_a_failure(
    make_task: Callable[[Path], DecodeTask],
    two_second_video: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
    reason: str,
    words: str,
    is_decoded: bool,
) -> None:
    def decoded(video: VideoRef, **settings: Any) -> Clip:
        clip = decode_clip(video, **settings)
        assert video.path is not None
        change(video.path)
        if not is_decoded:
            raise DecodeError("it ends early", reason="truncated")
        return clip

    path = tmp_path / "clip.mp4"
    shutil.copy(two_second_video, path)
    monkeypatch.setattr("muse.pipeline.decoding.decoder.decode_clip", decoded)
    failure = attempt(make_task(path))
    assert isinstance(failure, Failure)
    assert (failure.reason, words in failure.message) == (reason, True)


def test_what_a_failure_says_of_an_odd_name_is_one_line_of_utf8(
    make_task: Callable[[Path], DecodeTask], tmp_path: Path
) -> None:
    failure = attempt(make_task(tmp_path / "caf\udce9\n\x1b.mp4"))
    assert isinstance(failure, Failure)
    assert r"caf\xe9\x0a\x1b.mp4: no such file" in failure.message.encode().decode()
    assert failure.path.encode().decode().endswith("caf\\xe9\n\x1b.mp4")


@pytest.mark.parametrize(
    "setting",
    [
        {"timeout_seconds": 0.0},
        {"timeout_seconds": float("nan")},
        {"timeout_seconds": float("inf")},
        {"memory_bytes": 1_000_000},
        {"max_duration_seconds": -1.0},
    ],
)
def test_limits_out_of_range_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(setting))):
        DecodeLimits(**setting)


def test_names_of_any_bytes_are_listed_and_decoded(
    preprocessing: Preprocessing, two_second_video: Path, tmp_path: Path
) -> None:
    names = {name: name for name in _ODD_NAMES} | {"caf\udce9.mp4": r"caf\xe9.mp4"}
    for name in names:
        shutil.copy(two_second_video, tmp_path / name)
    isolated = IsolatedDecoder(DecodeLimits(timeout_seconds=30))
    clips = [
        isolated(DecodeTask(video=video, sampling=Sampling(), preprocessing=preprocessing))
        for video in list_folder(tmp_path, None).videos
    ]
    isolated.close()
    assert all(isinstance(clip, Clip) for clip in clips), clips
    assert {clip.video_id for clip in clips} == set(names.values())


_ODD_NAMES = (
    " two  spaces.mp4",
    "new\nline.mp4",
    f"{'x' * 251}.mp4",
    "-dash.mp4",
    "12:30.mp4",
    "file:a.mp4",
    "100%.mp4",
    "%03d.mp4",
    r"back\slash.mp4",
    "été.mp4",
)


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
    # The child's first import of the decoder counts, and a busy machine takes its time.
    limits = DecodeLimits(timeout_seconds=0.5 if reason == "timeout" else 30)
    isolated = IsolatedDecoder(limits)
    failure = isolated(make_task(tmp_path / name))
    isolated.close()
    assert isinstance(failure, Failure)
    assert (failure.video_id, failure.reason, words in failure.message) == (name, reason, True)


def test_a_decoding_process_loads_neither_torch_nor_zarr_nor_ray() -> None:
    script = (
        "import sys; import muse.pipeline.decoding.decoder, muse.pipeline.decoding.decode; "
        "print(sorted({'torch', 'zarr', 'ray', 'open_clip'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "reason", "words"),
    [
        ("SIGKILL", "out_of_memory", "SIGKILL from outside in each of 3 attempts, most likely"),
        ("SIGTERM", "crashed", "SIGTERM from outside in each of 3 attempts"),
        ("allocate without end", "out_of_memory", "the limit is 0.4 GB. Raise --decode-memory"),
        ("exit", "crashed", "ended with code 7"),
    ],
)
def test_how_a_child_ended_decides_the_reason(
    make_task: Callable[[Path], DecodeTask],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    action: str,
    reason: str,
    words: str,
) -> None:
    monkeypatch.setattr(decoder, "attempt", act_as_named)
    isolated = IsolatedDecoder(DecodeLimits(timeout_seconds=20, memory_bytes=400_000_000))
    failure = isolated(make_task(tmp_path / action))
    isolated.close()
    assert isinstance(failure, Failure)
    assert failure.reason == reason
    assert words in failure.message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("codec", "pix_fmt"),
    [("mjpeg", "yuvj420p"), ("libx264", "yuv420p")],  # says ENOMEM; says that the data are invalid
)
def test_a_picture_larger_than_the_limit_of_memory_runs_out_of_it(
    make_task: Callable[[Path], DecodeTask],
    make_video: Callable[..., Path],
    tmp_path: Path,
    codec: str,
    pix_fmt: str,
) -> None:
    path = make_video(
        tmp_path / "huge.mkv",
        num_frames=2,
        size=(7680, 4320),
        codec=codec,
        pix_fmt=pix_fmt,
        codec_options={"preset": "ultrafast"} if codec == "libx264" else None,
    )
    isolated = IsolatedDecoder(DecodeLimits(timeout_seconds=60, memory_bytes=100_000_000))
    failure = isolated(make_task(path))
    isolated.close()
    assert isinstance(failure, Failure)
    assert failure.reason == "out_of_memory", failure


def test_a_video_longer_than_the_limit_is_skipped(
    make_task: Callable[[Path], DecodeTask], two_second_video: Path
) -> None:
    isolated = IsolatedDecoder(DecodeLimits(max_duration_seconds=1.5))
    failure = isolated(make_task(two_second_video))
    isolated.close()
    assert isinstance(failure, Failure)
    assert (failure.reason, failure.is_skipped) == ("too_long", True)
