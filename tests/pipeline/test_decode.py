"""Decoding, against videos whose frames tell their own index."""

import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from made_clips import timeline_in
from numpy.typing import NDArray

from muse.errors import DecodeError
from muse.pipeline.decoding.decode import _rgb, decode_clip
from muse.pipeline.encoders.preprocessing import crop_to_input
from muse.pipeline.header import Preprocessing, Sampling
from muse.pipeline.records import FAILURE_REASONS, Clip, VideoRef

MakeVideo = Callable[..., Path]
FrameIndex = Callable[[NDArray[np.uint8]], int]
PREPROCESSING = Preprocessing(
    size=32, resize_to=32, interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1)
)
EVERY_FRAME = Sampling(kind="uniform", num_frames=500)
THREE_REAL_CLIPS = [
    "msvd/videos/6JnGBs88sL0_4_10.avi",
    "msvd/videos/j2Dhf-xFUxU_13_20.avi",
    "misc/videos/skateboard-dog.avi",
]


def decode(
    path: Path | None,
    sampling: Sampling = EVERY_FRAME,
    *,
    max_duration_seconds: float | None = None,
) -> Clip:
    return decode_clip(
        VideoRef(video_id="clip", path=path),
        sampling=sampling,
        preprocessing=PREPROCESSING,
        max_duration_seconds=max_duration_seconds,
    )


def refusal(path: Path | None, *, max_duration_seconds: float | None = None) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        decode(path, max_duration_seconds=max_duration_seconds)
    return caught.value


@pytest.fixture
def indices(frame_index: FrameIndex) -> Callable[..., list[int]]:
    """The indices painted on the frames that a policy chose."""

    def read(path: Path, sampling: Sampling = EVERY_FRAME) -> list[int]:
        return [frame_index(frame) for frame in decode(path, sampling).frames_THWC]

    return read


# -- which frames --------------------------------------------------------------------------------


def test_uniform_sampling_gives_the_frames_at_the_midpoints(
    indices: Callable[..., list[int]], two_second_video: Path
) -> None:
    # Parts of 0.5 s; midpoints 0.25, 0.75, 1.25 and 1.75 s; a frame every 0.1 s.
    assert indices(two_second_video, Sampling(kind="uniform", num_frames=4)) == [2, 7, 12, 17]


def test_fps_sampling_gives_the_first_frame_of_each_period(
    indices: Callable[..., list[int]], two_second_video: Path
) -> None:
    assert indices(two_second_video, Sampling(fps=2.0)) == [0, 5, 10, 15]


def test_fps_sampling_of_a_long_video_is_thinned_to_the_most_frames(
    make_video: MakeVideo, indices: Callable[..., list[int]], tmp_path: Path
) -> None:
    path = make_video(tmp_path / "long.mp4", num_frames=100)
    # Seconds 0 to 9, cut to four: 0, 3, 6 and 9.
    assert indices(path, Sampling(num_frames=4)) == [0, 30, 60, 90]


@pytest.mark.parametrize(("num_frames", "places"), [(12, [3, 9]), (2, [0, 1]), (1, [0])])
def test_the_middles_of_both_halves_are_kept_whole(
    num_frames: int, places: list[int], two_second_video: Path
) -> None:
    clip = decode_clip(
        VideoRef(video_id="clip", path=two_second_video),
        sampling=Sampling(kind="uniform", num_frames=num_frames),
        preprocessing=PREPROCESSING,
        keeps_whole=True,
    )
    assert list(clip.whole_frames) == places
    for place, whole_HWC in clip.whole_frames.items():
        assert whole_HWC.shape == (48, 64, 3)
        assert np.array_equal(crop_to_input(whole_HWC, PREPROCESSING), clip.frames_THWC[place])


def test_times_are_those_of_the_frames_shown(two_second_video: Path) -> None:
    clip = decode(two_second_video, Sampling(kind="uniform", num_frames=4))
    assert clip.pts_seconds_T.tolist() == pytest.approx([0.2, 0.7, 1.2, 1.7])


def test_a_short_video_gives_each_frame_once(
    make_video: MakeVideo, indices: Callable[..., list[int]], tmp_path: Path
) -> None:
    path = make_video(tmp_path / "short.mp4", num_frames=5)
    assert indices(path, Sampling(kind="uniform", num_frames=12)) == [0, 1, 2, 3, 4]


def test_a_video_of_one_frame_gives_that_frame(
    make_video: MakeVideo, indices: Callable[..., list[int]], tmp_path: Path
) -> None:
    assert indices(make_video(tmp_path / "one.mp4", num_frames=1), Sampling()) == [0]


def test_a_variable_frame_rate_is_sampled_by_time_and_not_by_count(
    make_video: MakeVideo, indices: Callable[..., list[int]], tmp_path: Path
) -> None:
    # Five frames in the first half second, then one a second.
    ticks = [0, 1, 2, 3, 4, 10, 20, 30, 40]
    path = make_video(tmp_path / "vfr.mkv", num_frames=9, pts=ticks)
    assert indices(path, Sampling(num_frames=5)) == [0, 5, 6, 7, 8]


def test_times_of_a_variable_frame_rate_are_the_stream_s(
    make_video: MakeVideo, tmp_path: Path
) -> None:
    ticks = [0, 1, 2, 3, 4, 10, 20, 30, 40]
    path = make_video(tmp_path / "vfr.mkv", num_frames=9, pts=ticks)
    assert timeline_in(path).seconds.tolist() == pytest.approx([tick / 10 for tick in ticks])


def test_a_stream_that_begins_late_is_timed_from_its_first_frame(
    make_video: MakeVideo, indices: Callable[..., list[int]], tmp_path: Path
) -> None:
    ticks = list(range(50, 70))
    path = make_video(tmp_path / "late.mkv", num_frames=20, pts=ticks)
    assert indices(path, Sampling(fps=2.0)) == [0, 5, 10, 15]


@pytest.mark.parametrize(
    ("name", "codec", "codec_options"),
    [
        ("bframes.mp4", "libx264", {"bf": "3", "g": "12"}),
        ("open_gop.mkv", "libx264", {"bf": "2", "x264-params": "open-gop=1:keyint=6"}),
        ("bframes.avi", "libx264", {"bf": "2", "g": "12"}),
        ("mpeg4_bframes.avi", "mpeg4", {"bf": "2", "qmax": "3"}),
        ("mpeg4.avi", "mpeg4", {"qmax": "3"}),
        ("mjpeg.avi", "mjpeg", {}),
        ("vp8.webm", "libvpx", {}),
        ("transport.ts", "libx264", {"bf": "2"}),
    ],
)
@pytest.mark.filterwarnings("default")
def test_every_frame_of_a_common_format_is_found_in_order(
    make_video: MakeVideo,
    indices: Callable[..., list[int]],
    tmp_path: Path,
    name: str,
    codec: str,
    codec_options: dict[str, str],
) -> None:
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = make_video(
        tmp_path / name, num_frames=25, codec=codec, pix_fmt=pix_fmt, codec_options=codec_options
    )
    assert indices(path) == list(range(25))


def trimmed(source: Path, target: Path, *, start_seconds: float) -> Path:
    """A copy of the packets that an edit list shows from some instant on."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = reader.streams.video[0]
        copy = writer.add_stream_from_template(stream)
        for packet in reader.demux(stream):
            if packet.dts is not None and packet.pts is not None and packet.time_base:
                shift = round(start_seconds / packet.time_base)
                packet.pts -= shift
                packet.dts -= shift
                packet.stream = copy
                writer.mux(packet)
    return target


@pytest.mark.parametrize("codec_options", [{"g": "10", "bf": "0"}, {"g": "10", "bf": "2"}])
def test_an_mp4_trimmed_without_re_encoding_shows_what_its_edit_list_shows(
    make_video: MakeVideo,
    indices: Callable[..., list[int]],
    tmp_path: Path,
    codec_options: dict[str, str],
) -> None:
    whole = make_video(tmp_path / "whole.mp4", num_frames=50, codec_options=codec_options)
    path = trimmed(whole, tmp_path / "trimmed.mp4", start_seconds=2.5)
    assert indices(path) == list(range(25, 50))


def test_a_name_with_a_colon_is_a_file_and_no_protocol(
    make_video: MakeVideo,
    indices: Callable[..., list[int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_video(tmp_path / "12:30.mp4", num_frames=3)
    monkeypatch.chdir(tmp_path)
    assert indices(Path("12:30.mp4")) == [0, 1, 2]


# -- which pixels --------------------------------------------------------------------------------


def corners(image: NDArray[np.uint8]) -> list[int]:
    """Which of four grey levels each corner shows: top left, top right, bottom left and right."""
    grey = image.mean(axis=2)
    places = ((8, 8), (8, -8), (-8, 8), (-8, -8))
    return [round((grey[place] - 20) / 60) for place in places]


@pytest.fixture
def corner_picture() -> NDArray[np.uint8]:
    """64 x 64, corners 0 1 / 2 3."""
    levels = np.array([[20, 80], [140, 200]], dtype=np.uint8)
    return np.repeat(np.repeat(levels, 32, axis=0), 32, axis=1)[:, :, None].repeat(3, axis=2)


# The matrix of a track header: (x, y) of a pixel is shown at (a x + c y, b x + d y), shifted into
# the picture. ISO/IEC 14496-12, 8.3.2.
@pytest.mark.parametrize(
    ("matrix_abcd", "shown"),
    [
        pytest.param((1, 0, 0, 1), [0, 1, 2, 3], id="as stored"),
        pytest.param((0, 1, -1, 0), [2, 0, 3, 1], id="a quarter turn clockwise"),
        pytest.param((-1, 0, 0, -1), [3, 2, 1, 0], id="a half turn"),
        pytest.param((0, -1, 1, 0), [1, 3, 0, 2], id="a quarter turn counter-clockwise"),
    ],
)
def test_a_rotated_video_is_turned_as_a_player_turns_it(
    make_video: MakeVideo,
    corner_picture: NDArray[np.uint8],
    tmp_path: Path,
    matrix_abcd: tuple[int, int, int, int],
    shown: list[int],
) -> None:
    path = make_video(tmp_path / "turned.mp4", num_frames=2, size=(64, 64), image=corner_picture)
    content = bytearray(path.read_bytes())
    matrix_at = content.index(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in matrix_abcd)
    content[matrix_at : matrix_at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    assert corners(decode(path).frames_THWC[0]) == shown


@pytest.mark.parametrize("size", [(67, 45), (45, 67), (33, 33)])
def test_odd_sizes_decode_to_square_inputs_without_a_border(
    make_video: MakeVideo, frame_index: FrameIndex, tmp_path: Path, size: tuple[int, int]
) -> None:
    path = make_video(
        tmp_path / "odd.mkv", num_frames=4, size=size, codec="ffv1", pix_fmt="yuv444p"
    )
    last = decode(path).frames_THWC[3]
    assert last.shape == (32, 32, 3)
    # One plain colour from edge to edge: no padding of the decoder came along.
    assert int(np.ptp(last.reshape(-1, 3).astype(int), axis=0).max()) == 0


def test_frames_are_rgb_and_not_bgr(make_video: MakeVideo, tmp_path: Path) -> None:
    red = np.zeros((48, 64, 3), dtype=np.uint8)
    red[:, :, 0] = 220
    frame = decode(make_video(tmp_path / "red.mp4", num_frames=2, image=red)).frames_THWC[0]
    assert np.abs(frame.astype(int) - [220, 0, 0]).max() < 12


# -- what can't be decoded -----------------------------------------------------------------------


def text_file(folder: Path) -> Path:
    path = folder / "notes.mp4"
    path.write_text("not a video\n" * 100, encoding="utf-8")
    return path


def empty_file(folder: Path) -> Path:
    path = folder / "empty.mp4"
    path.touch()
    return path


def a_folder(folder: Path) -> Path:
    path = folder / "folder.mp4"
    path.mkdir()
    return path


def no_file(folder: Path) -> Path:
    return folder / "nowhere.mp4"


def audio_only(folder: Path) -> Path:
    path = folder / "song.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("make_broken", "reason"),
    [
        (no_file, "missing"),
        (a_folder, "unreadable"),
        (text_file, "not_a_video"),
        (empty_file, "not_a_video"),
        (audio_only, "no_video_stream"),
    ],
)
def test_what_is_no_video_is_refused_with_its_reason_and_path(
    make_broken: Callable[[Path], Path], reason: str, tmp_path: Path
) -> None:
    path = make_broken(tmp_path)
    error = refusal(path)
    assert (error.reason, str(error).startswith(f"{path}: ")) == (reason, True)


@pytest.mark.parametrize("make_broken", [no_file, a_folder, text_file, empty_file, audio_only])
def test_a_refusal_is_one_line(make_broken: Callable[[Path], Path], tmp_path: Path) -> None:
    assert "\n" not in str(refusal(make_broken(tmp_path)))


def test_a_video_that_the_listing_did_not_find_is_missing() -> None:
    assert refusal(None).reason == "missing"


def test_an_mp4_cut_off_behind_its_index_is_truncated(
    make_video: MakeVideo, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    path = make_video(
        tmp_path / "cut.mp4",
        num_frames=60,
        image=noise,
        codec_options={"g": "5"},
        container_options={"movflags": "+faststart"},
    )
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * 0.6)])
    error = refusal(path)
    assert (error.reason, "announces 60 frames" in str(error)) == ("truncated", True)


def test_an_mp4_cut_off_before_its_index_is_no_video(make_video: MakeVideo, tmp_path: Path) -> None:
    path = make_video(tmp_path / "cut.mp4", num_frames=60)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"moov")])
    assert refusal(path).reason == "not_a_video"


def test_a_stream_without_frames_is_refused(make_video: MakeVideo, tmp_path: Path) -> None:
    path = make_video(
        tmp_path / "none.mp4", num_frames=3, container_options={"movflags": "+faststart"}
    )
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"mdat") - 4])
    assert refusal(path).reason == "zero_frames"


def test_a_damaged_frame_in_the_middle_is_refused(make_video: MakeVideo, tmp_path: Path) -> None:
    path = make_video(tmp_path / "damaged.mkv", num_frames=30, codec_options={"bf": "0", "g": "30"})
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    content = bytearray(path.read_bytes())
    position = content.index(b"\xa3", packets[14][0] or 0) + 8
    content[position : position + packets[14][1]] = b"\xff" * packets[14][1]
    path.write_bytes(content)
    assert refusal(path).reason == "corrupt"


def test_frames_before_the_damage_still_decode(
    make_video: MakeVideo, indices: Callable[..., list[int]], tmp_path: Path
) -> None:
    path = make_video(tmp_path / "damaged.mkv", num_frames=30, codec_options={"bf": "0", "g": "30"})
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    content = bytearray(path.read_bytes())
    position = content.index(b"\xa3", packets[28][0] or 0) + 8
    content[position : position + packets[28][1]] = b"\xff" * packets[28][1]
    path.write_bytes(content)
    assert indices(path, Sampling(num_frames=3)) == [0, 10, 20]


def test_a_video_longer_than_allowed_is_refused_before_a_frame_is_decoded(
    two_second_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Calling it would be a TypeError.
    monkeypatch.setattr("muse.pipeline.decoding.decode.wanted_frames", None)
    error = refusal(two_second_video, max_duration_seconds=1.5)
    assert (error.reason, "2.0 s long" in str(error)) == ("too_long", True)


def test_a_video_as_long_as_allowed_is_decoded(two_second_video: Path) -> None:
    assert len(decode(two_second_video, max_duration_seconds=2.0).frames_THWC) == 20


def no_memory(*_: object, **__: object) -> object:
    raise MemoryError


@pytest.mark.parametrize(("room_bytes", "expected"), [(10**9, DecodeError), (0, MemoryError)])
def test_want_of_memory_is_the_file_s_fault_where_there_is_room_for_all_of_it(
    two_second_video: Path,
    monkeypatch: pytest.MonkeyPatch,
    room_bytes: int,
    expected: type[Exception],
) -> None:
    monkeypatch.setattr("av.open", no_memory)
    monkeypatch.setattr(
        "muse.pipeline.decoding.video_file._has_memory_for",
        lambda size_bytes: size_bytes <= room_bytes,
    )
    with pytest.raises(expected):
        decode(two_second_video)


def test_every_reason_given_is_a_known_one(tmp_path: Path) -> None:
    broken = (no_file, a_folder, text_file, empty_file, audio_only)
    assert {refusal(make(tmp_path)).reason for make in broken} <= set(FAILURE_REASONS)


def test_a_decode_error_keeps_its_reason_between_processes() -> None:
    error = pickle.loads(pickle.dumps(DecodeError("clip.mp4: gone", reason="missing")))
    assert (str(error), error.reason) == ("clip.mp4: gone", "missing")


# -- real clips ----------------------------------------------------------------------------------


def all_frames(path: Path) -> list[NDArray[np.uint8]]:
    """Every frame in the order in which a player shows them: the oracle decodes all of them."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.slow
@pytest.mark.parametrize("num_frames", [12, 60])
@pytest.mark.parametrize("name", THREE_REAL_CLIPS)
def test_an_avi_whose_time_stamps_fall_gives_the_frames_in_shown_order(
    real_data: Path, name: str, num_frames: int
) -> None:
    from muse.pipeline.encoders.preprocessing import crop_to_input
    from muse.pipeline.sampling import instants, shown_frames

    path = real_data / name
    sampling = Sampling(kind="uniform", num_frames=num_frames)
    timeline = timeline_in(path)
    wanted = shown_frames(instants(timeline.duration_seconds, sampling), timeline.seconds)
    frames = all_frames(path)
    expected = [crop_to_input(frames[index], PREPROCESSING) for index in wanted.tolist()]
    assert np.array_equal(decode(path, sampling).frames_THWC, np.stack(expected))


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["msrvtt", "activitynet", "misc"])
def test_every_real_clip_gives_twelve_rising_times(real_data: Path, folder: str) -> None:
    sampling = Sampling(kind="uniform", num_frames=12)
    for path in sorted((real_data / folder / "videos").iterdir()):
        times = decode(path, sampling).pts_seconds_T
        most = min(12, len(timeline_in(path).starts))  # one of them has 11 frames
        assert (len(times), bool((np.diff(times) > 0).all())) == (most, True), path.name


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_a_frame_becomes_rgb_without_more_threads() -> None:
    # Large enough for libav to cut it into bands; a converter keeps the threads that it started.
    frame = av.VideoFrame(1920, 1080, "yuv420p")
    converter, before = VideoReformatter(), set(Path("/proc/self/task").iterdir())
    assert _rgb(frame, converter).shape == (1080, 1920, 3)
    assert set(Path("/proc/self/task").iterdir()) <= before  # one of an earlier test may end
