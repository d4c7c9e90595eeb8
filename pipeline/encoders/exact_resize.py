"""PIL's antialiased resize on any device, bit for bit.

PIL resizes 8-bit pictures in integers: across and down, each time a sum of pixels times
coefficients of 22 bits, rounded to whole levels (``Resample.c`` of Pillow). Each pass is a matrix
product here, or two of the coefficients' halves, so that float32 holds every sum exactly, whatever
the order in which a device adds. Knows nothing of encoders.
"""

# Legend: N frames, C channels, H and W of the source, S side of the output, O rows or columns of an
# output, I of an input.

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from muse.errors import UsageError
from muse.pipeline.header import Preprocessing

_COEFFICIENT_BITS, _LOW_BITS = 22, 11
_MOST_TAPS = 64  # of 255 * 2^10 each, which is what float32 adds up to without rounding
LEVELS = 255


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """The part of an axis that a crop of its resized form is made of."""

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


def input_levels(frames_NHWC: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Frames as `muse.pipeline.encoders.preprocessing.crop_to_input` makes them, bit for bit.

    Args:
        frames_NHWC: (N, H, W, 3) uint8 RGB of any size.
        preprocessing: The encoder's.

    Returns:
        (N, 3, size, size) uint8.
    """
    resize = resize_of(frames_NHWC.shape[1], frames_NHWC.shape[2], preprocessing)
    rows, columns = (slice(span.start, span.stop) for span in (resize.down, resize.across))
    return resized_levels(frames_NHWC[:, rows, columns], resize)


def resized_levels(read_NHWC: Tensor, resize: Resize) -> Tensor:
    """(N, C, S, S) uint8 of the rows and columns that a resize reads, (N, H, W, C) uint8."""
    levels_NCHW = read_NHWC.permute(0, 3, 1, 2)
    if resize.down_first:
        levels_NCHW = _pass(levels_NCHW, resize.down, is_down=True)
    levels_NCHW = _pass(levels_NCHW, resize.across, is_down=False)
    if not resize.down_first:
        levels_NCHW = _pass(levels_NCHW, resize.down, is_down=True)
    return levels_NCHW.to(torch.uint8)


def _pass(levels_NCHW: Tensor, span: Span, *, is_down: bool) -> Tensor:
    """One axis resized: int32 levels, halves up, 0 and 255 where sums overshoot."""
    dtype = _exact_dtype(span)
    pixels_NCHW = levels_NCHW.to(dtype)
    weights_OI = torch.from_numpy(span.weights_OI).to(levels_NCHW.device)
    high_OI = (weights_OI + (1 << (_LOW_BITS - 1))) >> _LOW_BITS
    with torch.autocast(levels_NCHW.device.type, enabled=False):
        high, low = (
            half_OI.to(dtype) @ pixels_NCHW if is_down else pixels_NCHW @ half_OI.to(dtype).t()
            for half_OI in (high_OI, weights_OI - (high_OI << _LOW_BITS))
        )
    sums = (high.to(torch.int32) << _LOW_BITS) + low.to(torch.int32)
    return ((sums + (1 << (_COEFFICIENT_BITS - 1))) >> _COEFFICIENT_BITS).clamp_(0, LEVELS)


def _exact_dtype(span: Span) -> torch.dtype:
    """float32 where it holds the sums, and products in it are not allowed to be of fewer bits."""
    is_whole = torch.get_float32_matmul_precision() == "highest"
    return torch.float32 if is_whole and span.num_taps <= _MOST_TAPS else torch.float64


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
    resize = Resize(down=down, across=across, down_first=True)
    own = resized_levels(torch.from_numpy(picture)[None, :, :, None], resize)
    return bool(np.array_equal(own[0, 0].numpy(), found))


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
        whole = np.eye(stop - first, dtype=np.int64) << _COEFFICIENT_BITS
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
    one = 1 << _COEFFICIENT_BITS
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
