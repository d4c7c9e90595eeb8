"""PIL's antialiased resize on any device, bit for bit.

Each pass of PIL's resize (`pil_resize`) is two matrix products here, of the halves of its
coefficients, so that float32 holds every sum exactly, whatever the order in which a device adds.
Knows nothing of encoders.
"""

# Legend: N frames, C channels, H and W of the source, S side of the output, O rows or columns of an
# output, I of an input.

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from muse.pipeline.encoders.pil_resize import COEFFICIENT_BITS, LEVELS, Resize, Span, resize_of
from muse.pipeline.encoders.preprocessing import crop_to_input
from muse.pipeline.header import Preprocessing

_LOW_BITS = 11
_MOST_TAPS = 64  # of 255 * 2^10 each, which is what float32 adds up to without rounding
_TRIED_SIZES = ((240, 320), (360, 202), (97, 300))


def is_exact_on(device: str, preprocessing: Preprocessing) -> bool:
    """Whether a device gives PIL's bits, on pictures of noise that overshoot."""
    rng = np.random.default_rng(0)
    for height, width in _TRIED_SIZES:
        picture_HWC = rng.choice(np.array([0, 90, 255], np.uint8), (height, width, 3))
        found = input_levels(torch.from_numpy(picture_HWC)[None].to(device), preprocessing)[0]
        wanted_HWC = crop_to_input(picture_HWC, preprocessing)
        if not np.array_equal(found.permute(1, 2, 0).cpu().numpy(), wanted_HWC):
            return False
    return True


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
    halves = _halves(span, levels_NCHW.device, dtype)
    with torch.autocast(levels_NCHW.device.type, enabled=False):
        high, low = (
            half_OI @ pixels_NCHW if is_down else pixels_NCHW @ half_OI.t() for half_OI in halves
        )
    sums = (high.to(torch.int32) << _LOW_BITS) + low.to(torch.int32)
    return ((sums + (1 << (COEFFICIENT_BITS - 1))) >> COEFFICIENT_BITS).clamp_(0, LEVELS)


@lru_cache(maxsize=64)
def _halves(span: Span, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(O, I) each: the high and the low halves of a span's coefficients.

    Kept on the device: to bring them there makes the host wait for all that it computes.
    """
    weights_OI = torch.from_numpy(span.weights_OI).to(device)
    high_OI = (weights_OI + (1 << (_LOW_BITS - 1))) >> _LOW_BITS
    return high_OI.to(dtype), (weights_OI - (high_OI << _LOW_BITS)).to(dtype)


def _exact_dtype(span: Span) -> torch.dtype:
    """float32 where it holds the sums, and products in it are not allowed to be of fewer bits."""
    is_whole = torch.get_float32_matmul_precision() == "highest"
    return torch.float32 if is_whole and _has_few_taps(span) else torch.float64


@lru_cache(maxsize=64)
def _has_few_taps(span: Span) -> bool:
    return span.num_taps <= _MOST_TAPS
