"""Frames of a GPU's decoder: laid out as software's, and left to software where that is not sure.

A GPU is stood in for by software whose frames are laid out as a GPU lays them out; what a real one
gives is tested where there is one (`test_nvdec_cuda`).
"""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from av.codec.hwaccel import HWAccel
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from made_clips import EXACT, OTHER, MadeClip, decoded, made, same_clip, turn_clockwise
from numpy.typing import NDArray
from unruly import crash_on_b_and_hang_on_e

from muse.errors import DecodeError
from muse.pipeline.decoding import decoder, nvdec, walk
from muse.pipeline.decoding.decoder import DecodeLimits, DecodeTask, IsolatedDecoder, attempt
from muse.pipeline.decoding.gpu_decoder import GpuDecoder
from muse.pipeline.decoding.nvdec import Nvdec, PlanarFrames, is_exact, planar_of
from muse.pipeline.header import Preprocessing, Sampling
from muse.pipeline.records import Clip, Failure, VideoRef

FULL_RANGE = 2  # AVCOL_RANGE_JPEG


@pytest.fixture(scope="module")
def clip_path(tmp_path_factory: pytest.TempPathFactory) -> Callable[[MadeClip], Path]:
    """Where a clip is, made at first."""
    folder = tmp_path_factory.mktemp("clips")

    def path_of(clip: MadeClip) -> Path:
        path = folder / clip.name
        return path if path.exists() else made(clip, folder)

    return path_of


# -- opening ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refused", "opened"),
    [
        ((), "primary_ctx"),
        (("primary_ctx",), "current_ctx"),
        (("primary_ctx", "current_ctx"), None),
    ],
)
def test_a_context_that_torch_has_opened_is_taken_as_it_is(
    refused: tuple[str, ...], opened: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Accelerator:
        def __init__(self, name: str, *, options: dict[str, str], **_: object) -> None:
            (self.option,) = options

        def create(self, codec: object) -> "Accelerator":
            if self.option in refused:
                raise av.error.NotImplementedError(95, "Operation not supported")
            return self

    monkeypatch.setattr(nvdec, "HWAccel", Accelerator)
    found = nvdec.nvdec.__wrapped__()
    assert (found and found.context.option) == opened


# -- layout ----------------------------------------------------------------------------------------


def plane_of(frame: VideoFrame, place: int, width: int) -> NDArray[np.uint8]:
    plane = frame.planes[place]
    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
    return rows[:, :width]


def fill(frame: VideoFrame, place: int, values: NDArray[np.uint8]) -> None:
    plane = frame.planes[place]
    rows = np.zeros((plane.height, plane.line_size), np.uint8)
    rows[:, : values.shape[1]] = values
    plane.update(rows.tobytes())


def two_layouts(width: int, height: int) -> tuple[VideoFrame, VideoFrame]:
    """The same noise as NV12 and as yuv420p."""
    drawn = np.random.default_rng(0)
    half = ((height + 1) // 2, (width + 1) // 2)
    y, u, v = (drawn.integers(0, 256, s, dtype=np.uint8) for s in ((height, width), half, half))
    nv12, planar = VideoFrame(width, height, "nv12"), VideoFrame(width, height, "yuv420p")
    fill(nv12, 0, y)
    fill(nv12, 1, np.stack([u, v], axis=-1).reshape(half[0], -1))  # u0 v0 u1 v1 ...
    for place, values in enumerate((y, u, v)):
        fill(planar, place, values)
    return nv12, planar


@pytest.mark.parametrize("size", [(64, 48), (1920, 1080), (66, 50), (175, 143), (30, 2)])
@pytest.mark.parametrize("color_range", [0, 1, FULL_RANGE])
def test_bytes_change_their_places_and_nothing_else(
    size: tuple[int, int], color_range: int
) -> None:
    nv12, planar = two_layouts(*size)
    nv12.color_range = color_range
    found = planar_of(nv12, VideoReformatter())
    assert (found.format.name, found.width, found.height) == ("yuv420p", *size)
    for place, width in enumerate((size[0], (size[0] + 1) // 2, (size[0] + 1) // 2)):
        assert np.array_equal(plane_of(found, place, width), plane_of(planar, place, width))


@pytest.mark.parametrize("colorspace", [1, 2, 5, 6, 9])  # BT.709, unknown, two of 601, BT.2020
@pytest.mark.parametrize("color_range", [1, FULL_RANGE])
def test_a_frame_of_either_layout_has_the_same_rgb(colorspace: int, color_range: int) -> None:
    nv12, planar = two_layouts(64, 48)
    for frame in (nv12, planar):
        frame.colorspace, frame.color_range = colorspace, color_range
    found = planar_of(nv12, VideoReformatter()).to_ndarray(format="rgb24")
    assert np.array_equal(found, planar.to_ndarray(format="rgb24"))


def test_a_full_range_gives_the_rgb_of_software_s_own_format_for_it() -> None:
    nv12, planar = two_layouts(64, 48)
    full = VideoFrame(64, 48, "yuvj420p")
    for place, width in enumerate((64, 32, 32)):
        fill(full, place, plane_of(planar, place, width))
    nv12.color_range = full.color_range = FULL_RANGE
    found = planar_of(nv12, VideoReformatter()).to_ndarray(format="rgb24")
    assert np.array_equal(found, full.to_ndarray(format="rgb24"))


# -- which streams ---------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [*EXACT, *OTHER], ids=lambda clip: clip.name)
@pytest.mark.filterwarnings("default")
def test_streams_of_one_decoding_are_known_by_their_profiles(
    clip_path: Callable[[MadeClip], Path], clip: MadeClip
) -> None:
    with av.open(str(clip_path(clip))) as container:
        context = container.streams.video[0].codec_context
        assert is_exact(context.codec.canonical_name, context.profile) == clip.is_exact


# -- a GPU that is stood in for --------------------------------------------------------------------


class _StandIn(PlanarFrames):
    """Takes software's frames, and lays them out as a GPU's first."""

    def __init__(self, stream: av.VideoStream) -> None:
        context = stream.codec_context
        if not is_exact(context.codec.canonical_name, context.profile):
            raise nvdec.NotTakenError("another codec")
        self._size = (context.width, context.height)
        self._reformatter = VideoReformatter()

    def planar(self, frame: VideoFrame) -> VideoFrame:
        return super().planar(frame.reformat(format="nv12"))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Nvdec:
    """One that decodes in software."""
    monkeypatch.setattr(walk, "PlanarFrames", _StandIn)
    opened = walk.opened_video
    monkeypatch.setattr(walk, "opened_video", lambda path, accelerator=None: opened(path))
    unopened = HWAccel("cuda")
    return Nvdec(accelerator=unopened, context=unopened)


@pytest.mark.parametrize("clip", EXACT, ids=lambda clip: clip.name)
@pytest.mark.filterwarnings("default")
def test_frames_by_way_of_nv12_have_the_bits_of_software_s(
    clip_path: Callable[[MadeClip], Path], device: Nvdec, clip: MadeClip
) -> None:
    path = clip_path(clip)
    found = decoded(path, device)
    assert found.decoder == "nvdec"
    assert same_clip(found, decoded(path, None))


@pytest.mark.parametrize("clip", OTHER, ids=lambda clip: clip.name)
@pytest.mark.filterwarnings("default")
def test_other_streams_are_software_s(
    clip_path: Callable[[MadeClip], Path], device: Nvdec, clip: MadeClip
) -> None:
    path = clip_path(clip)
    found = decoded(path, device)
    assert found.decoder == "cpu"
    assert same_clip(found, decoded(path, None))


def test_a_turned_video_is_turned(
    tmp_path: Path, device: Nvdec, make_video: Callable[..., Path]
) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, :32] = 200  # bright at the left, and after a quarter turn clockwise at the top
    path = make_video(tmp_path / "a.mp4", image=image, size=(64, 64), num_frames=6)
    turn_clockwise(path)
    found = decoded(path, device)
    assert found.decoder == "nvdec"
    assert same_clip(found, decoded(path, None))
    rows = found.frames_THWC[0].mean(axis=(1, 2))
    assert rows[0] - rows[-1] > 100


@pytest.mark.parametrize(
    "error", [av.error.ExternalError(-1, "driver"), MemoryError(), RuntimeError("no stream")]
)
def test_what_fails_on_the_way_is_done_by_software_from_the_start(
    two_second_video: Path, device: Nvdec, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    given: list[VideoFrame] = []

    def fails_at_the_third(frame: VideoFrame, reformatter: VideoReformatter) -> VideoFrame:
        given.append(frame)
        if len(given) == 3:
            raise error
        return planar_of(frame, reformatter)

    monkeypatch.setattr(nvdec, "planar_of", fails_at_the_third)
    found = decoded(two_second_video, device)
    assert (len(given), found.decoder) == (3, "cpu")
    assert same_clip(found, decoded(two_second_video, None))


def test_a_frame_of_another_size_than_announced_is_software_s(
    two_second_video: Path, device: Nvdec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_at_the_right_alone(self: PlanarFrames, frame: VideoFrame) -> VideoFrame:
        return PlanarFrames.planar(self, frame.reformat(width=66, format="nv12"))

    monkeypatch.setattr(_StandIn, "planar", cut_at_the_right_alone)
    assert decoded(two_second_video, device).decoder == "cpu"


def test_a_damaged_video_is_refused_in_software_s_words(
    two_second_video: Path, tmp_path: Path, device: Nvdec
) -> None:
    with av.open(str(two_second_video)) as container:
        first = next(packet for packet in container.demux(video=0) if packet.size)
        start, size = first.pos, first.size
    content = bytearray(two_second_video.read_bytes())
    content[start : start + size] = bytes(size)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(content)
    words = []
    for each in (device, None):
        with pytest.raises(DecodeError) as caught:
            decoded(path, each)
        words.append((caught.value.reason, str(caught.value)))
    assert words[0] == words[1]


# -- no GPU ----------------------------------------------------------------------------------------


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """For child processes, also where there is one."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")


@pytest.fixture
def task(two_second_video: Path, preprocessing: Preprocessing) -> DecodeTask:
    video = VideoRef(video_id="clip", path=two_second_video)
    return DecodeTask(video=video, sampling=Sampling(), preprocessing=preprocessing)


@pytest.mark.usefixtures("no_gpu")
def test_where_no_gpu_opens_software_decodes(task: DecodeTask) -> None:
    isolated = IsolatedDecoder.on_gpu(DecodeLimits())
    clip, expected = isolated(task), attempt(task)
    isolated.close()
    assert isinstance(clip, Clip)
    assert isinstance(expected, Clip)
    assert clip.decoder == "cpu"
    assert same_clip(clip, expected)


@pytest.mark.slow
@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("name", ["b.mp4", "e.mp4"])
def test_a_video_that_ends_a_gpu_s_process_is_tried_in_software(
    task: DecodeTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    # Of b the child crashes, of e it hangs.
    monkeypatch.setattr(decoder, "attempt_on_gpu", crash_on_b_and_hang_on_e)
    assert task.video.path is not None
    path = Path(shutil.copy(task.video.path, tmp_path / name))
    video = VideoRef(video_id=name, path=path)
    both = GpuDecoder(DecodeLimits(timeout_seconds=3 if name == "e.mp4" else 60))
    clip = both(dataclasses.replace(task, video=video))
    both.close()
    assert isinstance(clip, Clip), clip
    assert clip.decoder == "cpu"


@pytest.mark.usefixtures("no_gpu")
def test_a_bad_video_needs_no_second_process(task: DecodeTask, tmp_path: Path) -> None:
    path = tmp_path / "text.mp4"
    path.write_text("not a video", encoding="utf-8")
    both = GpuDecoder(DecodeLimits())
    failure = both(dataclasses.replace(task, video=VideoRef(video_id="text", path=path)))
    has_second = both._in_software.cpu_seconds() is not None
    both.close()
    assert isinstance(failure, Failure)
    assert (failure.reason, has_second) == ("not_a_video", False)
