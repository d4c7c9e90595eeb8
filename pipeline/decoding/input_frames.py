"""Pictures as what travels to an encoder: its input, or the part of each that its resize reads.

A resize takes a quarter of what decoding a short video takes, and a GPU does it in no time; but
pictures travel between processes, so they go as they are only where they are hardly larger than
their resize. Knows nothing of videos.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from muse.pipeline.encoders.pil_resize import resize_of
from muse.pipeline.encoders.preprocessing import crop_to_input
from muse.pipeline.header import Preprocessing

MOST_TIMES_INPUT = 1.5
"""That a part of a picture may have of its resize's pixels, to travel in its place."""


class InputFrames:
    """The frames of one clip, by index.

    Args:
        preprocessing: The encoder's.
        leaves_resize: Whether they may come unresized.
    """

    def __init__(self, preprocessing: Preprocessing, *, leaves_resize: bool) -> None:
        self._preprocessing = preprocessing
        self._leaves_resize = leaves_resize
        self._pictures: dict[int, NDArray[np.uint8]] = {}
        self._inputs: dict[int, NDArray[np.uint8]] = {}

    def add(self, index: int, picture_HWC: NDArray[np.uint8]) -> None:
        """Takes an upright picture, once more where it comes again."""
        if self._leaves_resize and self._is_small(picture_HWC):
            self._pictures[index] = picture_HWC
        else:
            self._inputs[index] = crop_to_input(picture_HWC, self._preprocessing)

    def stacked(self, indices: Sequence[int]) -> tuple[NDArray[np.uint8], tuple[int, int] | None]:
        """The frames in order, and the (height, width) of the pictures if they are parts of them.

        All of one kind: a video may change its size on the way.
        """
        shapes = {self._pictures[i].shape[:2] if i in self._pictures else None for i in indices}
        shape = shapes.pop() if len(shapes) == 1 else None
        if shape is None:
            return np.stack([self._input(index) for index in indices]), None
        height, width = shape
        resize = resize_of(height, width, self._preprocessing)
        parts = [resize.part_of(self._pictures[index]) for index in indices]
        return np.stack(parts), (height, width)

    def _input(self, index: int) -> NDArray[np.uint8]:
        if index in self._inputs:
            return self._inputs[index]
        return crop_to_input(self._pictures[index], self._preprocessing)

    def _is_small(self, picture_HWC: NDArray[np.uint8]) -> bool:
        height, width = picture_HWC.shape[:2]
        part_HWC = resize_of(height, width, self._preprocessing).part_of(picture_HWC)
        return part_HWC.size <= MOST_TIMES_INPUT * 3 * self._preprocessing.size**2
