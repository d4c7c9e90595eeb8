"""Instants of a video to pixels.

A file is opened once and read twice: all of its packets, for when each frame begins and which are
keys, and then what has to be decoded (`walk`). Knows nothing of encoders beyond a function that
crops a frame, and of failures only that they are a `DecodeError`.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from muse.errors import DecodeError
from muse.pipeline.decoding.announced_size import announced_end
from muse.pipeline.decoding.input_frames import InputFrames
from muse.pipeline.decoding.kept_frame import square_of, squares_as
from muse.pipeline.decoding.nvdec import NotTakenError, Nvdec
from muse.pipeline.decoding.picture import upright, without_far_ends
from muse.pipeline.decoding.selection import frames_to_take, frames_to_walk, require_at_most
from muse.pipeline.decoding.stream import OpenVideo, opened_video, video_packets
from muse.pipeline.decoding.thumbnail import thumbnail_of
from muse.pipeline.decoding.timeline import PacketTimes, Timeline, ends_early, timeline_of
from muse.pipeline.decoding.video_file import existing_file, readable_bytes
from muse.pipeline.decoding.walk import LateStartError, frames_of_nvdec, wanted_frames
from muse.pipeline.header import Preprocessing, Sampling
from muse.pipeline.records import Clip, VideoRef

_INDEXED = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"})
"""Formats that have an index of their keyframes, and presentation times of every frame."""


def decode_clip(
    video: VideoRef,
    *,
    sampling: Sampling,
    preprocessing: Preprocessing,
    max_duration_seconds: float | None = None,
    thumbnail_side: int = 0,
    frame_views: tuple[str, ...] = (),
    leaves_resize: bool = False,
    device: Nvdec | None = None,
    keeps_whole: bool = False,
) -> Clip:
    """The sampled frames of one video, cropped to an encoder's input.

    Args:
        video: A still image counts as a video of one frame, whatever its name says. Of one with
            a window only the frames that begin within it are looked at.
        sampling: Which instants are looked at.
        preprocessing: The encoder's.
        max_duration_seconds: A longer video is refused before any of its frames is decoded.
        thumbnail_side: Pixels of the shorter edge of small pictures of them; 0 makes none.
        frame_views: Of `muse.pipeline.views.FRAME_VIEWS`, which the clip then has too.
        leaves_resize: Whether frames may come as what their resize reads, where that is little
            more than its result (`Clip.unresized_from`).
        device: Decodes what it takes; without one, and all else, software does.
        keeps_whole: Whether the clip has two of its frames whole, too.

    Raises:
        DecodeError: With one of `FAILURE_REASONS`; its message ends in libav's own words.
    """
    path = existing_file(video)
    wants = _Wants(
        preprocessing=preprocessing,
        thumbnail_side=thumbnail_side,
        frame_views=frame_views,
        leaves_resize=leaves_resize,
        keeps_whole=keeps_whole,
    )
    with opened_video(path) as opened:
        timeline = read_timeline(opened)
        require_at_most(max_duration_seconds, timeline, path)
        try:
            return _sampled(video, opened, timeline, sampling, wants, device)
        except LateStartError as late:
            timeline = timeline.from_frame(late.first)
            return _sampled(video, opened, timeline, sampling, wants, device)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wants:
    """What is made of each frame: see `decode_clip`."""

    preprocessing: Preprocessing
    thumbnail_side: int
    frame_views: tuple[str, ...]
    leaves_resize: bool
    keeps_whole: bool


def _sampled(
    video: VideoRef,
    opened: OpenVideo,
    timeline: Timeline,
    sampling: Sampling,
    wants: _Wants,
    device: Nvdec | None,
) -> Clip:
    wanted = frames_to_take(timeline, sampling, video.window, path=opened.path)
    walked, seconds_T = frames_to_walk(wanted, video.window), timeline.seconds[wanted]
    if device is not None:
        try:
            frames = frames_of_nvdec(opened.path, timeline, walked, device)
            clip = _clip_of(video.video_id, frames, wanted, seconds_T, wants)
            return dataclasses.replace(clip, decoder="nvdec")
        except NotTakenError:
            pass
    frames = wanted_frames(opened, timeline, walked)
    return _clip_of(video.video_id, frames, wanted, seconds_T, wants)


def _clip_of(
    video_id: str,
    frames: Iterable[tuple[int, VideoFrame]],
    wanted: NDArray[np.intp],
    seconds_T: NDArray[np.float64],
    wants: _Wants,
) -> Clip:
    order = wanted.tolist()
    taken, short_side = set(order), 0
    inputs = InputFrames(wants.preprocessing, leaves_resize=wants.leaves_resize)
    thumbnails: dict[int, bytes] = {}
    squares: dict[int, NDArray[np.uint8]] = {}
    whole: dict[int, NDArray[np.uint8]] = {}
    places_whole = _places_kept_whole(len(order)) if wants.keeps_whole else ()
    indices_whole = {order[place] for place in places_whole}
    converter = VideoReformatter()  # one for all frames: it is made for a size and format
    # Some come twice, where what the container says proves false.
    for index, frame in frames:
        if index in taken:
            picture_HWC = _rgb(frame, converter)
            short_side = min(frame.width, frame.height)
            inputs.add(index, picture_HWC)
            if wants.thumbnail_side:
                thumbnails[index] = thumbnail_of(picture_HWC, side=wants.thumbnail_side)
            if wants.frame_views:
                squares[index] = square_of(picture_HWC, wants.preprocessing)
            if index in indices_whole:
                whole[index] = picture_HWC
    frames_THWC, unresized_from = inputs.stacked(order)
    return Clip(
        video_id=video_id,
        frames_THWC=frames_THWC,
        unresized_from=unresized_from,
        pts_seconds_T=seconds_T,
        short_side=short_side,
        whole_frames={place: whole[order[place]] for place in places_whole},
        thumbnails=tuple(thumbnails[index] for index in order if wants.thumbnail_side),
        **squares_as(wants.frame_views, [squares[i] for i in order if wants.frame_views]),
    )


def _places_kept_whole(num_frames: int) -> list[int]:
    """The middles of both halves: a video's first frame is often black."""
    return sorted({num_frames // 4, 3 * num_frames // 4})


def read_timeline(video: OpenVideo) -> Timeline:
    """When each frame of a video that was just opened begins; it is read to its end.

    Raises:
        DecodeError: If it has no frame, or ends early.
    """
    path, container, stream = video.path, video.container, video.stream
    packets = [
        PacketTimes(packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe)
        for packet in video_packets(video)
        if not packet.is_discard and _is_clear(packet, path)
    ]
    if not packets:
        raise DecodeError(
            f"{path}: 0 frames in its video stream. The file may be truncated; "
            "replace it, or remove it from the listing.",
            reason="zero_frames",
        )
    timeline = timeline_of(packets, time_base=stream.time_base, rate=_rate(stream))
    if stream.frames > len(packets) and ends_early(packets, _announced_end(stream)):
        raise DecodeError(
            f"{path}: the container announces {stream.frames} frames and holds "
            f"{len(packets)}. The file is truncated; replace it.",
            reason="truncated",
        )
    _require_whole(path, container, stream, timeline)
    if container.format.name not in _INDEXED:
        return timeline
    return timeline.with_keys(packets, reorders=bool(stream.codec_context.has_b_frames))


def _is_clear(packet: "av.Packet[VideoStream]", path: Path) -> Literal[True]:
    has_any = next(packet.iter_sidedata(), None) is not None  # seven times as quick as by name
    if has_any and packet.has_sidedata("encryption_info"):
        raise DecodeError(
            f"{path}: its video is encrypted. Replace the file by one without copy protection.",
            reason="unsupported_codec",
        )
    return True


def _rate(stream: VideoStream) -> Fraction:
    """Frames a second, as far as the container tells; "unknown" is 0/0 in PyAV 19, else None."""
    for rate in (stream.average_rate, stream.guessed_rate):
        if rate is not None and rate.numerator > 0 and rate.denominator > 0:
            return Fraction(rate.numerator, rate.denominator)
    return Fraction(25)


def _announced_end(stream: VideoStream) -> int | None:
    return None if stream.duration is None else (stream.start_time or 0) + stream.duration


def _require_whole(
    path: Path, container: InputContainer, stream: VideoStream, timeline: Timeline
) -> None:
    end, size = announced_end(path), readable_bytes(path) or 0
    if end is None or size >= end or _lost_its_index_only(container, stream, timeline):
        return
    raise DecodeError(
        f"{path}: the container announces {end} bytes and the file has {size}. "
        "The file is truncated; replace it.",
        reason="truncated",
    )


def _lost_its_index_only(
    container: InputContainer, stream: VideoStream, timeline: Timeline
) -> bool:
    """True if a Matroska file shows all the seconds that it announces: its end is no frames."""
    if container.duration is None or not container.format.name.startswith("matroska"):
        return False
    start_seconds = (stream.start_time or 0) * float(stream.time_base or 0)
    lost_seconds = container.duration / av.time_base - start_seconds - timeline.duration_seconds
    return lost_seconds <= 0.5 / float(_rate(stream))


def _rgb(frame: VideoFrame, converter: VideoReformatter) -> NDArray[np.uint8]:
    """(H, W, 3) uint8, turned the way a player shows it."""
    # One thread: by default a frame's bands wait for as many threads as there are cores, all of
    # which other decoders use.
    converted = converter.reformat(frame, format="rgb24", threads=1)
    image = np.asarray(converted.to_ndarray(), dtype=np.uint8)
    return np.ascontiguousarray(without_far_ends(upright(image, frame.rotation)))
