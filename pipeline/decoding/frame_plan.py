"""Which parts of a stream are decoded to get some of its frames: what can be jumped over is.

A pure function of the places of frames and keyframes, and so the same on every machine: what is
decoded decides which damage is noticed, and no video may fail on one machine only (ADR 0037).
Knows nothing of files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

JUMP_FRAMES = 4
"""A jump to a keyframe costs what so many frames do: the index is searched, the decoder emptied,
and frames behind the last wanted one were already in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """Frames that are reached without a jump between them."""

    keyframe: int | None
    """Where decoding begins: a frame that refers to none before it; None: at the stream's start,
    where that is no keyframe."""
    wanted: tuple[int, ...]
    """Ascending, at least one."""


def planned_stretches(
    wanted: Sequence[int], keyframes: NDArray[np.intp], *, jump_frames: int = JUMP_FRAMES
) -> list[Stretch]:
    """What to decode, in order.

    Args:
        wanted: Indices of frames in the order in which they are shown, ascending.
        keyframes: (G,) those that decoding can begin at, ascending.
        jump_frames: Of frames in between, that make a jump worth while.
    """
    stretches: list[Stretch] = []
    first = 0 if len(keyframes) and keyframes[0] == 0 else None
    reached = 0  # the next frame that decoding on would give
    for index in wanted:
        place = int(np.searchsorted(keyframes, index, side="right")) - 1
        keyframe = int(keyframes[place]) if place >= 0 else 0
        if keyframe - reached > jump_frames:
            stretches.append(Stretch(keyframe=keyframe, wanted=(index,)))
        elif stretches:
            last = stretches[-1]
            stretches[-1] = Stretch(keyframe=last.keyframe, wanted=(*last.wanted, index))
        else:
            stretches.append(Stretch(keyframe=first, wanted=(index,)))
        reached = index + 1
    return stretches


def frames_decoded(stretches: Sequence[Stretch]) -> int:
    """How many frames a plan goes through, wanted or not."""
    return sum(stretch.wanted[-1] + 1 - (stretch.keyframe or 0) for stretch in stretches)
