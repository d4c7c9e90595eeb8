"""How PIL resizes a picture: which rows and columns it adds up, with which whole coefficients.

PIL resizes 8-bit pictures in integers: across and down, each time a sum of pixels times
coefficients of 22 bits, rounded to whole levels (``Resample.c`` of Pillow). Whoever makes the same
sums has the same bits (`exact_resize`). No torch here: decoding processes import this, to send what
a resize reads and no more.
"""

# Legend: O rows or columns of an output, I of an input.

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from muse.errors import UsageError
from muse.pipeline.header import Preprocessing

COEFFICIENT_BITS = 22
LEVELS = 255


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Span:
    """The part of an axis that a crop of its resized form is made of.

    `span_of` makes each once, so that one is equal to itself alone.
    """

    start: int
    """First row or column that is read."""
    weights_OI: NDArray[np.int64]
    """(O, I) coefficients, of the rows or columns from `start` on."""

    @property
    def stop(self) -> int:
        """Behind the last one."""
        return self.start + int(self.weights_OI.shape[1])

    @property
    def num_taps(self) -> int:
        """The most rows or columns that one of the output reads."""
        return int((self.weights_OI != 0).sum(axis=1).max())


@dataclass(frozen=True, kw_only=True, slots=True)
class Resize:
    """A resize and a crop of its result."""

    down: Span
    across: Span
    down_first: bool
    """Which pass comes first tells in the last level, and where sums overshoot."""

    def part_of(self, picture_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What is read of a picture."""
        down, across = self.down, self.across
        return picture_HWC[down.start : down.stop, across.start : across.stop]


def resize_of(height: int, width: int, preprocessing: Preprocessing) -> Resize:
    """How `muse.pipeline.encoders.preprocessing.crop_to_input` resizes a frame of some size."""
    short, size = min(height, width), preprocessing.size
    # Sizes and offsets round as torchvision's Resize and CenterCrop do.
    resized = [int(preprocessing.resize_to * length / short) for length in (height, width)]
    firsts = [round((length - size) / 2.0) for length in resized]
    down, across = (
        span_of(length, to, first, first + size, preprocessing.interpolation)
        for length, to, first in zip((height, width), resized, firsts, strict=True)
    )
    down_first = goes_down_first((height, width), (resized[0], resized[1]))
    return Resize(down=down, across=across, down_first=down_first)


def goes_down_first(source: tuple[int, int], target: tuple[int, int]) -> bool:
    """Whether PIL resizes (height, width) to another down before across.

    Before version 13 it never does. From then on where the height loses more than twice what the
    width does, which of frames for an encoder are those that are over twice as high as wide.
    """
    lost_height, lost_width = source[0] - target[0], source[1] - target[1]
    return lost_height > max(0, 2 * lost_width) and _pil_may_go_down_first()


@cache
def _pil_may_go_down_first() -> bool:
    picture = np.array([[0, 255], [255, 255], [0, 0], [255, 0], [255, 255]], np.uint8)
    found = np.asarray(Image.fromarray(picture).resize((3, 1), Image.Resampling.BICUBIC))
    down, across = span_of(5, 1, 0, 1, "bicubic"), span_of(2, 3, 0, 3, "bicubic")
    return bool(
        np.array_equal(_rounded(_rounded(down.weights_OI @ picture) @ across.weights_OI.T), found)
    )


def _rounded(sums: NDArray[np.int64]) -> NDArray[np.int64]:
    halves_up: NDArray[np.int64] = (sums + (1 << (COEFFICIENT_BITS - 1))) >> COEFFICIENT_BITS
    return np.clip(halves_up, 0, LEVELS)


@cache
def span_of(length: int, resized: int, first: int, stop: int, filter_name: str) -> Span:
    """Rows ``first`` to ``stop`` of an axis that is resized.

    Raises:
        UsageError: If they are not all there, or the filter is unknown.
    """
    if filter_name not in _FILTERS:
        raise UsageError(f"interpolation {filter_name!r}: choose from {', '.join(_FILTERS)}")
    if not 0 <= first < stop <= resized:
        raise UsageError(f"rows {first} to {stop}: there are {resized} after the resize")
    if resized == length:  # PIL leaves such an axis as it is
        whole = np.eye(stop - first, dtype=np.int64) << COEFFICIENT_BITS
        return Span(start=first, weights_OI=whole)
    weights_OI = np.zeros((stop - first, length), np.int64)
    for row in range(first, stop):
        start, taps = _taps(length, resized, row, *_FILTERS[filter_name])
        weights_OI[row - first, start : start + len(taps)] = taps
    used = np.flatnonzero(weights_OI.any(axis=0))
    return Span(start=int(used[0]), weights_OI=weights_OI[:, used[0] : used[-1] + 1])


def _taps(
    length: int, resized: int, row: int, kernel: Callable[[float], float], reach: float
) -> tuple[int, list[int]]:
    """(the first input row that an output row reads, its whole coefficients), as PIL has them."""
    scale = length / resized
    stretch = max(scale, 1.0)
    support, centre = reach * stretch, (row + 0.5) * scale
    start = max(int(centre - support + 0.5), 0)
    stop = min(int(centre + support + 0.5), length)
    inverse = 1.0 / stretch
    raw = [kernel((index + start - centre + 0.5) * inverse) for index in range(stop - start)]
    total = sum(raw)  # one after the other, as PIL adds them
    unit = [value / total for value in raw] if total else raw
    one = 1 << COEFFICIENT_BITS
    return start, [math.trunc((0.5 if value >= 0 else -0.5) + value * one) for value in unit]


def _bicubic(position: float) -> float:
    """With a = -0.5, as PIL's."""
    a, x = -0.5, abs(position)
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    if x < 2.0:
        return (((x - 5) * x + 8) * x - 4) * a
    return 0.0


def _bilinear(position: float) -> float:
    return max(0.0, 1.0 - abs(position))


_FILTERS: dict[str, tuple[Callable[[float], float], float]] = {
    "bicubic": (_bicubic, 2.0),
    "bilinear": (_bilinear, 1.0),
}
