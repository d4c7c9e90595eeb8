"""A decoded frame as the square that views of frames keep: pixels to train an encoder on later.

Resized as the encoder's input is, and cut where it is cut, at a side that leaves room to cut at
random. Knows nothing of videos and stores. No torch: decoding processes import this.
"""

import dataclasses
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from muse.pipeline.encoders.preprocessing import crop_to_input
from muse.pipeline.frame_pictures import picture_of
from muse.pipeline.header import Preprocessing
from muse.pipeline.views import FRAMES_JPEG


def square_of(frame_HWC: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """(S, S, 3) uint8 RGB: the short side resized to S, the middle of the long one.

    Args:
        frame_HWC: (H, W, 3) uint8 RGB of any size.
        preprocessing: The encoder's; its filter, and S of its ``kept_side``.
    """
    return crop_to_input(frame_HWC, squares_crop(preprocessing))


def squares_crop(preprocessing: Preprocessing) -> Preprocessing:
    """What makes squares of frames where an encoder's own would make its input."""
    side = preprocessing.kept_side
    return dataclasses.replace(preprocessing, size=side, resize_to=side)


class SquareFields(TypedDict, total=False):
    """The fields of a `muse.pipeline.records.Clip` that squares of its frames go into."""

    squares_TSSC: NDArray[np.uint8]
    frame_pictures: tuple[bytes, ...]


def squares_as(views: Sequence[str], squares: Sequence[NDArray[np.uint8]]) -> SquareFields:
    """A clip's squares in the forms that views of frames keep.

    Args:
        views: Of `muse.pipeline.views.FRAME_VIEWS`.
        squares: Of `square_of`, one a frame.
    """
    fields: SquareFields = {}
    if "frames:uint8" in views:
        fields["squares_TSSC"] = np.stack(squares)
    if FRAMES_JPEG in views:
        fields["frame_pictures"] = tuple(map(picture_of, squares))
    return fields
