"""Which frames of a video are taken, and which are walked over to take them.

Knows a video by its timeline alone, and its path for what it says of it.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from muse.errors import DecodeError
from muse.pipeline.decoding.timeline import Timeline
from muse.pipeline.header import Sampling
from muse.pipeline.sampling import sampled_frames
from muse.pipeline.window import Window


def frames_to_take(
    timeline: Timeline, sampling: Sampling, window: Window | None, *, path: Path
) -> NDArray[np.intp]:
    """(T',) indices of the frames that a sampling looks at, strictly increasing.

    Raises:
        DecodeError: If no frame begins within the window.
    """
    wanted = sampled_frames(
        timeline.seconds,
        timeline.duration_seconds,
        sampling,
        window=window,
        keyframes=timeline.keyframes,
    )
    if window is not None and not len(wanted):
        raise DecodeError(
            f"{path}: no frame begins between {window.start_seconds:g} s and "
            f"{window.end_seconds:g} s; the video is {timeline.duration_seconds:.1f} s long. "
            "Correct the window, or leave the video out.",
            reason="empty_window",
        )
    return wanted


def frames_to_walk(wanted: NDArray[np.intp], window: Window | None) -> NDArray[np.intp]:
    """The wanted frames, and for a window the video's first one.

    Whether that one decodes decides where a video's seconds begin, for a part of it as for all.
    """
    return wanted if window is None else np.union1d([0], wanted)


def require_at_most(most_seconds: float | None, timeline: Timeline, path: Path) -> None:
    """Nothing, unless a video is longer than ``--max-duration``.

    Raises:
        DecodeError: With the reason ``too_long``.
    """
    if most_seconds is not None and timeline.duration_seconds > most_seconds:
        raise DecodeError(
            f"{path}: {timeline.duration_seconds:.1f} s long, more than --max-duration "
            f"{most_seconds:g}. Raise the limit to take it.",
            reason="too_long",
        )
