"""Which instants of a video are looked at: pure functions of its length.

Knows nothing of files or pixels. An instant is a time in seconds from the first frame; the frame
shown at that instant is the last one that began at or before it.
"""

import math

import numpy as np
from numpy.typing import NDArray

from muse.errors import UsageError
from muse.pipeline.header import Sampling
from muse.pipeline.window import Window

_ROUNDING_SECONDS = 5e-7  # of time bases such as 1001/30000


def sampled_frames(
    frame_seconds: NDArray[np.float64],
    duration_seconds: float,
    sampling: Sampling,
    *,
    window: Window | None = None,
    keyframes: NDArray[np.intp] | None = None,
) -> NDArray[np.intp]:
    """Which frames of a video a sampling policy takes.

    Args:
        frame_seconds: (F,) time at which each frame begins, ascending, F >= 1.
        duration_seconds: Up to the end of the last frame.
        sampling: The policy.
        window: Only frames that begin within it are taken, as if it were the whole video.
        keyframes: (G,) indices of those that decoding can begin at, ascending; None if unknown.

    Returns:
        (m,) indices into ``frame_seconds``, strictly increasing, m <= T; none of them where no
        frame begins within the window.
    """
    first, stop, start, seconds = 0, len(frame_seconds), 0.0, duration_seconds
    if window is not None:
        start, end = window.start_seconds, window.end_seconds
        bounds = np.searchsorted(frame_seconds, np.array([start, end]) - _ROUNDING_SECONDS)
        first, stop, seconds = int(bounds[0]), int(bounds[1]), min(end, duration_seconds) - start
    if first == stop or seconds <= 0:
        return np.empty(0, np.intp)
    wanted_seconds = start + instants(seconds, sampling)
    if sampling.kind == "keyframes" and keyframes is not None:
        within = keyframes[(keyframes >= first) & (keyframes < stop)]
        if len(within):
            return within[nearest_frames(wanted_seconds, frame_seconds[within])]
    return shown_frames(wanted_seconds, frame_seconds[first:stop]) + first


def instants(duration_seconds: float, sampling: Sampling) -> NDArray[np.float64]:
    """The instants that a sampling policy looks at.

    Args:
        duration_seconds: Length of the video stream, > 0.
        sampling: The policy.

    Returns:
        (n,) float64 with 1 <= n <= T, seconds from the first frame, strictly increasing.

    Raises:
        UsageError: If the duration is not a positive number.
    """
    if not (math.isfinite(duration_seconds) and duration_seconds > 0):
        raise UsageError(f"duration {duration_seconds} s: a video has to be longer than 0 s")
    if sampling.kind != "fps":
        return uniform_instants(duration_seconds, num_frames=sampling.num_frames)
    return fps_instants(duration_seconds, fps=sampling.fps, num_frames=sampling.num_frames)


def uniform_instants(duration_seconds: float, *, num_frames: int) -> NDArray[np.float64]:
    """Midpoints of ``num_frames`` equal parts of a video, (T,) seconds.

    This is how X-Pool and T-MASS sample (T-MASS 417fdf1, ``video_capture.py``).
    """
    return (np.arange(num_frames, dtype=np.float64) + 0.5) * (duration_seconds / num_frames)


def fps_instants(duration_seconds: float, *, fps: float, num_frames: int) -> NDArray[np.float64]:
    """Multiples of ``1 / fps`` from 0, thinned evenly to ``num_frames`` where there are more.

    With fps = 1 this is the sampling of CLIP4Clip and MUSE (``slice_framepos 2``): the first frame
    of each second, then ``linspace`` over those, truncated to integers. A short video gives fewer
    than ``num_frames`` instants; nothing is repeated.
    """
    # A stream of exactly 3 s has seconds 0, 1, 2; the margin keeps rounding from adding a fourth.
    available = max(1, math.ceil(duration_seconds * fps - 1e-6))
    if available <= num_frames:
        return np.arange(available) / fps
    return np.linspace(0, available - 1, num_frames).astype(np.int64) / fps


def shown_frames(
    instants_seconds: NDArray[np.float64], frame_seconds: NDArray[np.float64]
) -> NDArray[np.intp]:
    """Which frames are shown at the given instants, each frame once.

    Args:
        instants_seconds: (n,) ascending.
        frame_seconds: (F,) time at which each frame begins, ascending, F >= 1.

    Returns:
        (m,) indices into ``frame_seconds``, strictly increasing, m <= n: two instants that fall
        on one frame of a short video give it once, so that nothing is repeated in silence.
    """
    latest = np.searchsorted(frame_seconds, instants_seconds + _ROUNDING_SECONDS, side="right") - 1
    return np.unique(np.clip(latest, 0, None))


def nearest_frames(
    instants_seconds: NDArray[np.float64], frame_seconds: NDArray[np.float64]
) -> NDArray[np.intp]:
    """Which frames begin nearest to the given instants, each frame once; of two the earlier.

    Args:
        instants_seconds: (n,).
        frame_seconds: (F,) time at which each frame begins, F >= 1.

    Returns:
        (m,) indices into ``frame_seconds``, strictly increasing, m <= n.
    """
    distances_nF = np.abs(instants_seconds[:, None] - frame_seconds[None, :])
    return np.unique(distances_nF.argmin(axis=1))
