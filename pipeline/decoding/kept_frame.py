"""A decoded frame as the square that views of frames keep: pixels to train an encoder on later.

Resized as the encoder's input is, and cut where it is cut, at a side that leaves room to cut at
random. Knows nothing of videos and stores. No torch: decoding processes import this.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from muse.pipeline.encoders.preprocessing import crop_to_input
from muse.pipeline.header import Preprocessing


def square_of(frame_HWC: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """(S, S, 3) uint8 RGB: the short side resized to S, the middle of the long one.

    Args:
        frame_HWC: (H, W, 3) uint8 RGB of any size.
        preprocessing: The encoder's; its filter, and S of its ``kept_side``.
    """
    side = preprocessing.kept_side
    larger = dataclasses.replace(preprocessing, size=side, resize_to=side)
    return crop_to_input(frame_HWC, larger)


def kept_frames(squares: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8] | None:
    """(T', S, S, 3) of a clip's squares; None where none were asked for."""
    return np.stack(squares) if squares else None
