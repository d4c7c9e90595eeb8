"""Clips of moving noise in the codecs and forms that decoders tell apart, and their decoding."""

import struct
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from muse.pipeline.decoding.decode import decode_clip, read_timeline
from muse.pipeline.decoding.nvdec import Nvdec
from muse.pipeline.decoding.stream import opened_video
from muse.pipeline.decoding.timeline import Timeline
from muse.pipeline.header import Preprocessing, Sampling
from muse.pipeline.records import Clip, VideoRef

PREPROCESSING = Preprocessing(
    size=64, resize_to=64, interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1)
)


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeClip:
    """How one is encoded."""

    name: str
    codec: str = "libx264"
    options: dict[str, str] = field(default_factory=dict)
    pix_fmt: str = "yuv420p"
    size: tuple[int, int] = (160, 144)
    """(width, height); NVDEC takes HEVC from 144 pixels on."""
    is_exact: bool = True
    """Whether it is 8 bits, 4:2:0, and of a codec that leaves no bit open."""


_X265 = "keyint=12:log-level=none"
_QUICK = {"preset": "ultrafast"}  # its B-frames and open groups are what is asked for
EXACT = [
    MadeClip(name="no_b.mp4", options={"bf": "0", "g": "12"}),
    MadeClip(name="b.mp4", options={"bf": "3", "g": "12"}),
    MadeClip(name="pyramid.mp4", options={"x264-params": "bframes=8:b-pyramid=strict:keyint=25"}),
    MadeClip(name="open.mkv", options={"x264-params": "open-gop=1:bframes=2:keyint=12"}),
    MadeClip(name="one_key.mp4", options={"bf": "3", "g": "999"}),
    MadeClip(name="baseline.mp4", options={"profile": "baseline", "g": "12"}),
    MadeClip(name="slices.mp4", options={"x264-params": "slices=4:keyint=12"}),
    MadeClip(name="cut.mp4", size=(158, 146), options={"g": "12"}),  # not whole macroblocks
    MadeClip(name="full.mp4", pix_fmt="yuvj420p", options={"x264-params": "fullrange=on"}),
    MadeClip(
        name="bt709.mp4",
        options={"x264-params": "colormatrix=bt709:colorprim=bt709:transfer=bt709"},
    ),
    MadeClip(
        name="hevc.mp4", codec="libx265", options=_QUICK | {"x265-params": f"{_X265}:open-gop=1"}
    ),
    MadeClip(
        name="hevc_b.mkv", codec="libx265", options=_QUICK | {"x265-params": f"{_X265}:bframes=4"}
    ),
    MadeClip(
        name="vp9.webm",
        codec="libvpx-vp9",
        options={"g": "12", "cpu-used": "8", "deadline": "realtime"},
    ),
    MadeClip(name="vp8.webm", codec="libvpx", options={"g": "12", "deadline": "realtime"}),
]
OTHER = [
    MadeClip(name="ten_bits.mp4", pix_fmt="yuv420p10le", is_exact=False),
    MadeClip(name="422.mp4", pix_fmt="yuv422p", is_exact=False),
    MadeClip(name="444.mp4", pix_fmt="yuv444p", is_exact=False),
    MadeClip(
        name="hevc_ten_bits.mp4",
        codec="libx265",
        pix_fmt="yuv420p10le",
        options=_QUICK | {"x265-params": _X265},
        is_exact=False,
    ),
    MadeClip(name="mpeg4.mp4", codec="mpeg4", options={"bf": "2", "g": "12"}, is_exact=False),
    MadeClip(name="mjpeg.mkv", codec="mjpeg", pix_fmt="yuvj420p", is_exact=False),
]


def made(clip: MadeClip, folder: Path, *, num_frames: int = 40) -> Path:
    """Writes a window that moves over a still of noise, so that no frame is its neighbour."""
    path, (width, height) = folder / clip.name, clip.size
    drawn = np.random.default_rng(0)
    still = drawn.integers(0, 256, (height + num_frames, width, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(clip.codec, rate=10, options=clip.options)
        stream.width, stream.height, stream.pix_fmt = width, height, clip.pix_fmt
        stream.codec_context.thread_count = 1  # with more, libvpx takes 1.2 s for what takes 0.03 s
        for index in range(num_frames):
            pixels = np.ascontiguousarray(still[index : index + height])
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def turn_clockwise(path: Path) -> None:
    """Writes a quarter turn to the track's header of an .mp4: ISO/IEC 14496-12, 8.3.2."""
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 40
    matrix = (0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    content[place : place + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(content)


def decoded(path: Path, device: Nvdec | None, *, num_frames: int = 7) -> Clip:
    """By a device, or by software alone."""
    return decode_clip(
        VideoRef(video_id="clip", path=path),
        sampling=Sampling(kind="uniform", num_frames=num_frames),
        preprocessing=PREPROCESSING,
        device=device,
    )


def same_clip(one: Clip, other: Clip) -> bool:
    """True if their frames and times are the same, bit for bit."""
    return np.array_equal(one.frames_THWC, other.frames_THWC) and np.array_equal(
        one.pts_seconds_T, other.pts_seconds_T
    )


def timeline_in(path: Path) -> Timeline:
    """Of a file."""
    with opened_video(path) as video:
        return read_timeline(video)
