"""Wanted frames of a stream, bit for bit those of decoding all of it.

A stream whose container says which frames are keys is decoded by a plan (`frame_plan`): it jumps,
and frames that no other refers to are left out unless they are wanted. Where anything is not as
the container said, the stream is walked from its start, which finds every frame that can be found
and says what is wrong otherwise. One thread: a run has many videos, and threads inside one of them
buy nothing per CPU-second.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from muse.errors import DecodeError
from muse.pipeline.decoding.frame_plan import Stretch, planned_stretches
from muse.pipeline.decoding.nvdec import NotTakenError, Nvdec, PlanarFrames
from muse.pipeline.decoding.stream import OpenVideo, opened_video, refusing
from muse.pipeline.decoding.timeline import Timeline

_LEAVES_OUT = frozenset({"h264", "hevc", "mpeg4", "vp9"})
"""Codecs whose decoder leaves out frames that no other refers to, and changes no bit of others."""
_HANDS_OUT = frozenset({"h264", "hevc"})
"""Codecs whose decoder holds frames back, to put them in order, and hands them out when asked."""


class LateStartError(Exception):
    """The stream begins within a group of pictures: its first frames lack what they refer to."""

    def __init__(self, first: int) -> None:
        super().__init__(first)
        self.first = first
        """Index of the first frame that decodes: where a player begins to show the video."""


class _OutOfOrderError(Exception):
    """The decoder's time stamps fall, or are not the packets'."""


class _OtherThanPlannedError(Exception):
    """A keyframe is none, or a wanted frame is damaged or does not come."""


class _PerhapsHalfError(Exception):
    """A frame of two fields was asked for, of which only one may have been decoded."""


def wanted_frames(
    video: OpenVideo, timeline: Timeline, wanted: NDArray[np.intp]
) -> Iterator[tuple[int, VideoFrame]]:
    """(index, frame) of every wanted frame, in order; some come twice.

    A plan goes back in the file that is open, as opening a short one again takes a twentieth of
    what its frames do. A walk begins in a fresh one.

    A decoder puts frames out in the order in which they are shown. Their own time stamps are
    trusted while they rise; in an .avi with B-frames they do not (three of 93 real clips), and
    then the place in that order is what counts.

    Raises:
        DecodeError: If one can't be decoded.
        LateStartError: If one lies before the first that decodes.
    """
    path = video.path
    if timeline.keyframes is not None:
        try:
            plan = planned_stretches(wanted.tolist(), timeline.keyframes)
            yield from _planned(video, timeline, plan)
            return
        except _OtherThanPlannedError:
            pass
    try:
        yield from _walk(path, timeline, wanted, by_pts=timeline.has_pts)
    except _OutOfOrderError:
        yield from _walk(path, timeline, wanted, by_pts=False)


def frames_of_nvdec(
    path: Path, timeline: Timeline, wanted: NDArray[np.intp], device: Nvdec
) -> Iterator[tuple[int, VideoFrame]]:
    """The same, decoded on a GPU; what goes wrong there is software's to judge, and to name.

    It decodes what software decodes by its plan, and no stream without one. Of damage it sees what
    the container and the headers of pictures tell, not what lies within a picture: libav asks the
    GPU for none of that.

    Raises:
        NotTakenError: If a frame, or the whole stream, is left to software.
    """
    if timeline.keyframes is None:
        raise NotTakenError("no index")
    plan = planned_stretches(wanted.tolist(), timeline.keyframes)
    try:
        with opened_video(path, device.accelerator) as video:
            frames = PlanarFrames(video.stream)
            for stretch in plan:
                for index, frame in _frames_of(stretch, timeline, video, asks=False):
                    yield index, frames.planar(frame)
    except _OtherThanPlannedError as error:
        raise NotTakenError("other than planned") from error
    except (DecodeError, av.error.FFmpegError, RuntimeError, MemoryError) as error:
        raise NotTakenError(str(error)) from error


def _planned(
    video: OpenVideo, timeline: Timeline, plan: Sequence[Stretch]
) -> Iterator[tuple[int, VideoFrame]]:
    if plan[0].keyframe is None:  # one that was read can go back to keyframes only
        with opened_video(video.path) as fresh:
            yield from _frames_of_all(plan, timeline, fresh)
    else:
        yield from _frames_of_all(plan, timeline, video)


def _frames_of_all(
    plan: Sequence[Stretch], timeline: Timeline, video: OpenVideo
) -> Iterator[tuple[int, VideoFrame]]:
    may_ask = video.stream.codec_context.codec.canonical_name in _HANDS_OUT
    try:
        for stretch in plan:
            asks = may_ask and stretch.keyframe is not None  # or it can't be begun again
            try:
                yield from _frames_of(stretch, timeline, video, asks=asks)
            except _PerhapsHalfError:
                may_ask = False
                yield from _frames_of(stretch, timeline, video, asks=False)
    except MemoryError:
        raise
    except av.error.FFmpegError as error:
        raise _OtherThanPlannedError from error


def _frames_of(
    stretch: Stretch, timeline: Timeline, video: OpenVideo, *, asks: bool
) -> Iterator[tuple[int, VideoFrame]]:
    index_of = {int(timeline.starts[index]): index for index in stretch.wanted}
    key = None if stretch.keyframe is None else int(timeline.starts[stretch.keyframe])
    if key is not None:
        video.container.seek(key, stream=video.stream, backward=True)
    previous: int | None = None
    for frame in _frames_from_here(video, frozenset(index_of), asks=asks):
        if frame.pts is None or (previous is not None and frame.pts <= previous):
            raise _OtherThanPlannedError
        if previous is None and key is not None:
            if frame.pts < key:
                continue  # refers to frames before the key, which were not decoded
            if frame.pts != key or not frame.key_frame:
                raise _OtherThanPlannedError
        previous = frame.pts
        if frame.pts not in index_of:
            continue
        if frame.is_corrupt:
            raise _OtherThanPlannedError
        yield index_of.pop(frame.pts), frame
        if not index_of:
            return
    raise _OtherThanPlannedError


def _frames_from_here(
    video: OpenVideo, wanted: frozenset[int], *, asks: bool
) -> Iterator[VideoFrame]:
    """In the order in which they are shown, those that no other refers to only if they are wanted.

    A decoder that may be asked gets nothing behind the wanted frames, which saves as many as it
    holds back: of a video of which a frame a second is wanted, two of three.
    """
    context = video.stream.codec_context
    leaves_out = context.codec.canonical_name in _LEAVES_OUT
    missing = set(wanted)
    for packet in video.container.demux(video.stream):
        context.skip_frame = "NONREF" if leaves_out and packet.pts not in wanted else "DEFAULT"
        yield from packet.decode()
        missing.discard(packet.pts if packet.pts is not None else -1)
        if asks and not missing:
            for frame in context.decode(None):
                if frame.interlaced_frame:
                    raise _PerhapsHalfError
                yield frame
            return


def _walk(
    path: Path, timeline: Timeline, wanted: NDArray[np.intp], *, by_pts: bool
) -> Iterator[tuple[int, VideoFrame]]:
    pending = iter(wanted.tolist())
    target = next(pending)
    first: int | None = None
    for index, frame in _indexed_frames(path, timeline, by_pts=by_pts):
        first = index if first is None else first
        if index != target:
            continue  # one beyond it was lost in decoding, unless the stamps fall further on
        if frame.is_corrupt:
            raise DecodeError(
                f"{path}: frame {index} at {timeline.seconds[index]:.3f} s is damaged. "
                "Replace the file.",
                reason="corrupt",
            )
        yield index, frame
        following = next(pending, None)
        if following is None:
            return
        target = following
    if by_pts and first is not None and target < first:
        raise LateStartError(first)
    raise DecodeError(
        f"{path}: frame {target} of {len(timeline.starts)} at {timeline.seconds[target]:.3f} s "
        "can't be decoded. The file may be damaged; replace it.",
        reason="corrupt",
    )


def _indexed_frames(
    path: Path, timeline: Timeline, *, by_pts: bool
) -> Iterator[tuple[int, VideoFrame]]:
    """(index in the timeline, frame) of every frame that decodes."""
    index_of = {start: index for index, start in enumerate(timeline.starts.tolist())}
    previous = -1
    for order, frame in enumerate(_decoded_frames(path)):
        index = order
        if by_pts:
            index = index_of.get(frame.pts if frame.pts is not None else -1, -1)
            if index <= previous:
                raise _OutOfOrderError
            previous = index
        if index < len(timeline.starts):
            yield index, frame


def _decoded_frames(path: Path) -> Iterator[VideoFrame]:
    with opened_video(path) as video, refusing(f"{path}: decoding stopped", reason="corrupt"):
        for packet in video.container.demux(video.stream):
            yield from packet.decode()
