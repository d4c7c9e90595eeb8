"""What is jumped over and left out in decoding, and that it changes no bit of any frame."""

import dataclasses
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av import Packet
from av.container import InputContainer
from av.video.stream import VideoStream
from hypothesis import given
from hypothesis import strategies as st
from made_clips import decoded, timeline_in
from numpy.typing import NDArray

from muse.errors import DecodeError
from muse.pipeline.decoding import walk
from muse.pipeline.decoding.decode import read_timeline
from muse.pipeline.decoding.frame_plan import Stretch, frames_decoded, planned_stretches
from muse.pipeline.decoding.stream import opened_video
from muse.pipeline.decoding.timeline import Timeline
from muse.pipeline.header import Sampling
from muse.pipeline.sampling import sampled_frames

NUM_FRAMES = 90


def test_near_frames_are_walked_to_and_far_ones_jumped_to() -> None:
    keyframes = np.array([0, 10, 20, 30])
    assert planned_stretches([3, 12, 35], keyframes, jump_frames=8) == [
        Stretch(keyframe=0, wanted=(3, 12)),  # from 4 to the keyframe at 10 are but six frames
        Stretch(keyframe=30, wanted=(35,)),
    ]


def test_a_stream_without_keyframes_is_walked() -> None:
    plan = planned_stretches([50, 100], np.empty(0, np.intp))
    assert plan == [Stretch(keyframe=None, wanted=(50, 100))]
    assert frames_decoded(plan) == 101


def test_a_stream_that_begins_within_a_group_begins_at_its_start() -> None:
    plan = planned_stretches([3, 50], np.array([5, 40]))
    assert plan == [Stretch(keyframe=None, wanted=(3,)), Stretch(keyframe=40, wanted=(50,))]


def test_a_far_first_frame_is_jumped_to() -> None:
    assert planned_stretches([25], np.array([0, 20])) == [Stretch(keyframe=20, wanted=(25,))]


@given(
    wanted=st.sets(st.integers(0, 200), min_size=1),
    keyframes=st.sets(st.integers(0, 200)),
    jump_frames=st.integers(0, 50),
)
def test_each_wanted_frame_is_reached_once_and_never_at_more_than_a_walk(
    wanted: set[int], keyframes: set[int], jump_frames: int
) -> None:
    plan = planned_stretches(
        sorted(wanted), np.array(sorted(keyframes), np.intp), jump_frames=jump_frames
    )
    assert [index for stretch in plan for index in stretch.wanted] == sorted(wanted)
    assert frames_decoded(plan) <= max(wanted) + 1
    for stretch in plan:
        assert stretch.keyframe is None or stretch.keyframe in keyframes
        assert (stretch.keyframe or 0) <= stretch.wanted[0]


def moving_noise(
    path: Path, codec: str, options: dict[str, str], container_options: dict[str, str] | None = None
) -> Path:
    """A window that moves over a still of noise, so that no frame is its neighbour."""
    still = np.random.default_rng(0).integers(0, 256, (48 + NUM_FRAMES, 64, 3), dtype=np.uint8)
    with av.open(str(path), "w", container_options=container_options) as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(NUM_FRAMES):
            pixels = np.ascontiguousarray(still[index : index + 48])
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def frames_of(
    path: Path, timeline: Timeline, sampling: Sampling
) -> list[tuple[int, NDArray[np.uint8]]]:
    """As `decode_clip` gets them: of a file that was read to its end."""
    wanted = sampled_frames(timeline.seconds, timeline.duration_seconds, sampling)
    with opened_video(path) as video:
        read_timeline(video)
        found = walk.wanted_frames(video, timeline, wanted)
        return [(index, frame.to_ndarray(format="rgb24")) for index, frame in found]


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were walked from their start after all."""
    walked: list[Path] = []
    whole = walk._walk

    def noted(path, *rest, **options):
        walked.append(path)
        return whole(path, *rest, **options)

    monkeypatch.setattr(walk, "_walk", noted)
    return walked


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("no_b.mp4", "libx264", {"bf": "0", "g": "12"}),
        ("b.mp4", "libx264", {"bf": "3", "g": "12"}),
        ("pyramid.mp4", "libx264", {"x264-params": "bframes=8:b-pyramid=strict:keyint=25"}),
        ("open.mkv", "libx264", {"x264-params": "open-gop=1:bframes=2:keyint=12"}),
        ("fields.mp4", "libx264", {"flags": "+ildct+ilme", "g": "12"}),
        ("one_key.mp4", "libx264", {"bf": "3", "g": "999"}),
        ("hevc.mp4", "libx265", {"x265-params": "keyint=12:open-gop=1:log-level=none"}),
        ("mpeg4.mp4", "mpeg4", {"bf": "2", "g": "12"}),
        ("vp9.webm", "libvpx-vp9", {"g": "12", "cpu-used": "8", "deadline": "realtime"}),
        pytest.param(
            "vp8.webm", "libvpx", {"g": "12", "deadline": "realtime"}, marks=pytest.mark.slow
        ),
    ],
)
@pytest.mark.parametrize("num_frames", [3, pytest.param(12, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("default")
def test_a_plan_gives_the_bits_of_decoding_all(
    tmp_path: Path,
    walks: list[Path],
    name: str,
    codec: str,
    options: dict[str, str],
    num_frames: int,
) -> None:
    path = moving_noise(tmp_path / name, codec, options)
    timeline, sampling = timeline_in(path), Sampling(kind="uniform", num_frames=num_frames)
    assert timeline.keyframes is not None
    planned = dict(frames_of(path, timeline, sampling))  # of fields, some come twice
    assert not walks
    walked = dict(frames_of(path, dataclasses.replace(timeline, keyframes=None), sampling))
    assert list(planned) == list(walked)
    assert all(np.array_equal(planned[index], walked[index]) for index in walked)


@pytest.mark.parametrize(
    ("name", "container_options"),
    [
        ("fragments.mp4", {"movflags": "frag_keyframe+empty_moov"}),
        ("few_fragments.mp4", {"movflags": "empty_moov", "frag_duration": "4000000"}),
        ("no_cues.mkv", {"live": "1"}),
    ],
)
def test_files_without_an_index_of_the_whole_are_planned_too(
    tmp_path: Path, walks: list[Path], name: str, container_options: dict[str, str]
) -> None:
    path = moving_noise(tmp_path / name, "libx264", {"bf": "2", "g": "12"}, container_options)
    timeline, sampling = timeline_in(path), Sampling(kind="uniform", num_frames=6)
    planned = frames_of(path, timeline, sampling)
    assert not walks
    walked = frames_of(path, dataclasses.replace(timeline, keyframes=None), sampling)
    assert [index for index, _ in planned] == [index for index, _ in walked]
    assert all(np.array_equal(one[1], other[1]) for one, other in zip(planned, walked, strict=True))


def test_a_decoder_that_can_be_asked_gets_nothing_behind_a_wanted_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = moving_noise(tmp_path / "b.mp4", "libx264", {"bf": "2", "g": "12"})
    assert num_handed(path) == 2
    monkeypatch.setattr(walk, "_HANDS_OUT", frozenset())
    assert num_handed(path) >= 4


def num_handed(path: Path) -> int:
    """Packets for two keyframes, which come first in their groups."""
    timeline, handed = timeline_in(path), list[Packet]()
    assert timeline.keyframes is not None
    with opened_video(path) as video:
        read_timeline(video)
        noting = dataclasses.replace(video, container=_Noting(video.container, handed))
        wanted = timeline.keyframes[[0, 2]]
        found = walk.wanted_frames(noting, timeline, wanted)
        assert [index for index, _ in found] == wanted.tolist()
    return len(handed)


class _Noting:
    """A container that notes the packets it hands out."""

    def __init__(self, container: InputContainer, given: list[Packet]) -> None:
        self.seek, self._container, self._given = container.seek, container, given

    def demux(self, stream: VideoStream) -> Iterator[Packet]:
        for packet in self._container.demux(stream):
            self._given.append(packet)
            yield packet


def test_a_frame_of_fields_is_not_asked_for(tmp_path: Path) -> None:
    path = moving_noise(tmp_path / "f.mp4", "libx264", {"flags": "+ildct+ilme", "g": "12"})
    timeline = timeline_in(path)
    with opened_video(path) as video:
        read_timeline(video)
        with pytest.raises(walk._PerhapsHalfError):
            list(walk._frames_of(Stretch(keyframe=12, wanted=(12,)), timeline, video, asks=True))
        found = walk.wanted_frames(video, timeline, np.array([12, 36]))
        assert [index for index, _ in found] == [12, 36]


def test_a_planned_file_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, opened = moving_noise(tmp_path / "b.mp4", "libx264", {"g": "12"}), av.open
    names: list[str] = []

    def noted(name: str, **options):
        names.append(name)
        return opened(name, **options)

    monkeypatch.setattr(av, "open", noted)
    assert decoded(path, None, num_frames=6).frames_THWC.shape[0] == 6
    assert names == [str(path)]


def test_what_is_called_a_keyframe_and_is_none_is_walked_to(
    tmp_path: Path, walks: list[Path]
) -> None:
    path = moving_noise(tmp_path / "b.mp4", "libx264", {"bf": "2", "g": "30"})
    timeline, sampling = timeline_in(path), Sampling(kind="uniform", num_frames=6)
    wrong = dataclasses.replace(timeline, keyframes=np.array([0, 40, 80]))
    found = frames_of(path, wrong, sampling)[-6:]
    assert walks == [path]
    planned = frames_of(path, timeline, sampling)
    assert walks == [path]
    assert all(np.array_equal(one[1], other[1]) for one, other in zip(found, planned, strict=True))


def test_a_damaged_group_is_left_to_the_walk_that_says_so(
    tmp_path: Path, walks: list[Path]
) -> None:
    path = moving_noise(tmp_path / "b.mp4", "libx264", {"bf": "0", "g": "30"})
    timeline = timeline_in(path)
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        at = [(packet.pos, packet.size) for packet in packets]
    content = bytearray(path.read_bytes())
    start, size = at[30]
    content[start : start + size] = bytes(size)  # the second keyframe
    path.write_bytes(content)
    with pytest.raises(DecodeError, match=r"can't be decoded|decoding stopped|damaged"):
        frames_of(path, timeline, Sampling(kind="uniform", num_frames=6))
    assert walks == [path]


def test_formats_without_an_index_are_walked(tmp_path: Path) -> None:
    for name in ("stream.ts", "old.avi"):
        path = moving_noise(tmp_path / name, "libx264", {"bf": "2", "g": "12"})
        assert timeline_in(path).keyframes is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["uniform", "fps"])
@pytest.mark.parametrize("folder", ["msrvtt", "activitynet", "misc", "msvd"])
def test_every_real_clip_gives_the_bits_of_decoding_all(
    real_data: Path, folder: str, kind: str
) -> None:
    sampling = Sampling(kind=kind, num_frames=12)  # type: ignore[arg-type]
    for path in sorted((real_data / folder / "videos").iterdir()):
        timeline = timeline_in(path)
        if timeline.keyframes is None:
            continue
        planned = frames_of(path, timeline, sampling)
        walked = frames_of(path, dataclasses.replace(timeline, keyframes=None), sampling)
        assert len(planned) == len(walked), path
        for (index, one), (other_index, other) in zip(planned, walked, strict=True):
            assert index == other_index, path
            assert np.array_equal(one, other), path
