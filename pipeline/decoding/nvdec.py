"""A GPU's video decoder (NVDEC), through libav: what it is given, and its frames as software's.

The decoders of H.264, HEVC, VP8 and VP9 are exact by their standards, so the planes have the bits
of software's; they lie otherwise (NV12), and libav converts those to RGB with other rounding. So
they are laid out as software lays them out, and go its way from there. What is not surely the same
is not taken. Knows nothing of which frames are wanted.
"""

import functools
from dataclasses import dataclass

import av.error
from av.codec import Codec
from av.codec.hwaccel import HWAccel
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from muse.pipeline.decoding.stream import PYAV

_PROFILES: dict[str, frozenset[str | None]] = {
    "h264": frozenset({"Baseline", "Constrained Baseline", "Main", "High"}),
    "hevc": frozenset({"Main"}),
    "vp8": frozenset({None}),
    "vp9": frozenset({"Profile 0"}),
}
"""8 bits, 4:2:0. Not MPEG-4, MPEG-2 and VC-1: their standards leave the last bits open. AV1's
decoder in PyAV's wheels is dav1d, which hands nothing to a GPU."""
_KEEPS_FRAMES = PYAV >= 18
"""Frames that nobody asks for stay on the GPU; before, of such a frame no layout can be told."""
_CONTEXTS = ("primary_ctx", "current_ctx")
"""Of CUDA, by libav's options. The primary one is one a process, whoever asks for it. Where torch
has opened it, with flags of its own, libav refuses it by that name and takes it as the current."""


class NotTakenError(Exception):
    """This is left to software; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Nvdec:
    """The decoder of this process's first GPU."""

    accelerator: HWAccel
    """For `muse.pipeline.decoding.stream.opened_video`."""
    context: HWAccel
    """Of CUDA; kept, as each opened file would make one otherwise."""


@functools.cache
def nvdec() -> Nvdec | None:
    """This process's, opened at the first call; None if there is no driver or no GPU.

    Half a second and some hundred megabytes, of the GPU's memory too. That a context opens does
    not prove that it decodes: the driver's decoding library may be missing (in a container without
    the capability ``video``), which the first video finds out.
    """
    for option in _CONTEXTS:
        if (found := _opened(option)) is not None:
            return found
    return None


def _opened(option: str) -> Nvdec | None:
    keeps = {"is_hw_owned": True} if _KEEPS_FRAMES else {}
    options: dict[str, object] = {option: "1"}
    try:
        accelerator = HWAccel("cuda", allow_software_fallback=False, options=options, **keeps)
        context = accelerator.create(Codec("h264", "r"))
    except (av.error.FFmpegError, NotImplementedError, RuntimeError, MemoryError):
        return None
    return Nvdec(accelerator=accelerator, context=context)


def is_exact(codec: str, profile: str | None) -> bool:
    """Whether a stream of these names, as libav has them, has one decoding only, and NVDEC it."""
    return profile in _PROFILES.get(codec, ())


class PlanarFrames:
    """The frames of one stream of NVDEC, as software would give them.

    Args:
        stream: Opened with `Nvdec.accelerator`, nothing decoded yet.

    Raises:
        NotTakenError: If it is not surely decoded as by software.
    """

    def __init__(self, stream: VideoStream) -> None:
        context = stream.codec_context
        name, profile = context.codec.canonical_name, context.profile
        if not context.is_hwaccel or not is_exact(name, profile):
            raise NotTakenError(f"{name}, profile {profile}")
        self._size = (context.width, context.height)
        self._reformatter = VideoReformatter()

    def planar(self, frame: VideoFrame) -> VideoFrame:
        """A frame of yuv420p in memory, with the stamps, colours and turns of the decoded one.

        Raises:
            NotTakenError: If it is no frame of the GPU, has fields, or another size than announced,
                as where it is cut at its left: a GPU's frames are cut at the right alone.
        """
        if (layout := _layout_of(frame)) != "nv12" or frame.interlaced_frame:
            raise NotTakenError(f"a frame of {layout}, or with fields")
        if (frame.width, frame.height) != self._size:
            raise NotTakenError(f"a frame of {frame.width} x {frame.height}")
        return planar_of(frame, self._reformatter)


def _layout_of(frame: VideoFrame) -> str:
    """Of a frame in memory, or of what a frame on the GPU will be there."""
    on_gpu = frame.sw_format if _KEEPS_FRAMES else None
    return (on_gpu or frame.format).name


def planar_of(frame: VideoFrame, reformatter: VideoReformatter) -> VideoFrame:
    """NV12 as yuv420p: bytes change their places and nothing else.

    A full range is told by the frame's own mark, which gives the same RGB as yuvj420p. One thread:
    more take longer to wake than to move a frame.
    """
    return reformatter.reformat(frame, format="yuv420p", threads=1)
