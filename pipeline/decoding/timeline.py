"""When each frame of a stream begins, from the time stamps of its packets.

Pure functions of numbers that a container holds, and so of numbers that may be missing, repeated
or absurd. Knows nothing of files or libraries.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LONGEST_PAUSE_SECONDS = 86_400.0
"""A frame that stays longer is a jump of the clock that stamped the stream."""


class PacketTimes(NamedTuple):
    """The time stamps of one packet, in time base units; a video has thousands."""

    pts: int | None
    dts: int | None
    duration: int
    """0 where the container gives none."""
    is_key: bool = False
    """Whether the container says that decoding can begin with it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeline:
    """When each frame of a stream begins."""

    starts: NDArray[np.int64]
    """(F,) presentation times in ``time_base`` units, ascending."""
    seconds: NDArray[np.float64]
    """(F,) the same in seconds from the first frame, strictly increasing."""
    duration_seconds: float
    """Up to the end of the last frame, > 0."""
    has_pts: bool
    """False where the container gave no usable times and the frame rate was used."""
    keyframes: NDArray[np.intp] | None = None
    """(G,) indices of the frames that decoding can begin at, ascending, as the container says;
    None where it can't be relied on to say so."""

    def from_frame(self, first: int) -> "Timeline":
        """The timeline of the same stream without the frames before ``first``."""
        keys = self.keyframes
        return Timeline(
            starts=self.starts[first:],
            seconds=self.seconds[first:] - self.seconds[first],
            duration_seconds=self.duration_seconds - float(self.seconds[first]),
            has_pts=self.has_pts,
            keyframes=None if keys is None else keys[keys >= first] - first,
        )

    def with_keys(self, packets: Sequence[PacketTimes], *, reorders: bool) -> "Timeline":
        """The same with its keyframes, if the packets' presentation times can be relied on.

        Args:
            packets: Those that this is the timeline of.
            reorders: Whether the decoder puts frames out in another order than it is given them.
        """
        stamps = [packet.pts for packet in packets if packet.pts is not None]
        if not self.has_pts or len(stamps) < len(packets):
            return self
        if not reorders and stamps != sorted(stamps):
            return self
        keys = sorted(pts for pts, packet in zip(stamps, packets, strict=True) if packet.is_key)
        return dataclasses.replace(self, keyframes=np.searchsorted(self.starts, keys))


def timeline_of(
    packets: Sequence[PacketTimes], *, time_base: Fraction | None, rate: Fraction | float
) -> Timeline:
    """The timeline of a stream of one frame a packet.

    Args:
        packets: At least one, in the order of the file.
        time_base: Seconds a unit of the time stamps.
        rate: Frames a second, for where the stamps don't tell.
    """
    by_stamps = _by_stamps(packets, time_base, 1.0 / float(rate)) if time_base else None
    if by_stamps is not None:
        return by_stamps
    starts = np.arange(len(packets), dtype=np.int64)
    seconds = starts / float(rate)
    duration_seconds = float(seconds[-1]) + 1.0 / float(rate)
    return Timeline(
        starts=starts, seconds=seconds, duration_seconds=duration_seconds, has_pts=False
    )


def _by_stamps(
    packets: Sequence[PacketTimes], time_base: Fraction, frame_seconds: float
) -> Timeline | None:
    """None unless every frame has a stamp of its own."""
    stamps = [p.pts if p.pts is not None else p.dts for p in packets]
    known = sorted({stamp for stamp in stamps if stamp is not None})
    if len(known) < len(packets):
        return None
    starts = np.array(known, dtype=np.int64)
    seconds = _seconds(starts, float(time_base))
    last_seconds = packets[-1].duration * float(time_base)
    return Timeline(
        starts=starts,
        seconds=seconds,
        duration_seconds=float(seconds[-1]) + (last_seconds if last_seconds > 0 else frame_seconds),
        has_pts=True,
    )


def _seconds(starts: NDArray[np.int64], unit_seconds: float) -> NDArray[np.float64]:
    """(F,) seconds from the first frame; where the clock jumps, an ordinary frame passes."""
    # Unsigned: no difference overflows.
    gaps = np.diff(starts.astype(np.uint64)).astype(np.float64) * unit_seconds
    is_jump = gaps > LONGEST_PAUSE_SECONDS
    if not is_jump.any():
        return np.asarray((starts - starts[0]) * unit_seconds)
    if not is_jump.all():  # a picture a day has no others
        gaps[is_jump] = np.median(gaps[~is_jump])
    return np.concatenate([[0.0], np.cumsum(gaps)])


def ends_early(packets: Sequence[PacketTimes], announced_end: int | None) -> bool:
    """True if the packets of a stream that lacks some stop before its announced end.

    Fewer packets than announced frames prove nothing alone: the count of an .mp4 that was trimmed
    without re-encoding includes the frames that its edit list hides.
    """
    ends = [packet.pts + packet.duration for packet in packets if packet.pts is not None]
    if announced_end is None or not ends:
        return True
    tolerance = max(packet.duration for packet in packets) / 2
    return max(ends) + tolerance < announced_end
