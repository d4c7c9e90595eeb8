"""A part of a video: the seconds from one instant to another, and how people write it.

Knows nothing of files. Seconds count from a video's first frame, as the time stamps of a store do.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from muse.errors import UsageError

WindowSource = Literal["preset", "annotated", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """The frames of a video that begin from ``start_seconds`` on and before ``end_seconds``."""

    start_seconds: float
    end_seconds: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.end_seconds) and 0 <= self.start_seconds < self.end_seconds):
            raise UsageError(
                f"window from {self.start_seconds} s to {self.end_seconds} s: it starts at 0 s or "
                "later, and ends after its start"
            )

    @property
    def text(self) -> str:
        """As ``--clip-window`` takes it, such as ``0:31``."""
        return f"{_number(self.start_seconds)}:{_number(self.end_seconds)}"

    @property
    def fragment(self) -> str:
        """What a file's name gets to name a part of it, after W3C's Media Fragments: ``#t=2,4``."""
        return f"{FRAGMENT}{_number(self.start_seconds)},{_number(self.end_seconds)}"


ClipWindow = Window | WindowSource
"""What ``--clip-window`` says: one window for all videos, or where their windows come from."""
FRAGMENT = "#t="


def parse_clip_window(text: str) -> ClipWindow:
    """``preset``, ``annotated``, ``none``, or seconds such as ``0:31``.

    Raises:
        UsageError: If it is none of these.
    """
    for source in get_args(WindowSource):
        if text == source:
            found: WindowSource = source
            return found
    start, _, end = text.partition(":")
    try:
        return Window(start_seconds=float(start), end_seconds=float(end))
    except ValueError as error:
        raise UsageError(
            f"clip_window {text!r}: write START:END in seconds, such as 0:31, or one of "
            f"{', '.join(get_args(WindowSource))} ({error})"
        ) from None


def _number(seconds: float) -> str:
    return str(int(seconds)) if float(seconds).is_integer() else repr(float(seconds))
