"""The score of a caption and a video, the same to the last bit whatever is scored beside them.

A matrix product adds in an order of its own, which changes with the size of a block and with the
machine, and rounds after each step: the same pair gets other last bits, and ties are lost or made.
Here rows are rounded once, to a grid on which float64 adds without rounding, in any order. Knows
nothing of ranks.
"""

# Legend: N rows of some embeddings, V videos, t captions and u videos of a tile, D width.

import torch
from torch import Tensor

_NORM_BITS = 26  # of a row's norm, at the least; twice that and a bit of sign fit a float64's 53
_COARSE_STEPS = 2**16  # squares of so few steps add exactly up to a width of 2^21
_HEADROOM = 1.2  # of a norm over its power of two: keeps unit vectors away from the next one
_ROWS_AT_A_TIME = 256  # whose float64 copies stay in a cache


def on_grid(rows_ND: Tensor) -> Tensor:
    """The rows, rounded so that float64 holds any sum of products of two of them exactly.

    A row of norm up to 1.2 · 2^e is rounded to multiples of 2^(e - 26), a quarter of float32's
    step just below 2^e. A product of two rows' values is a multiple of 2^(e + e' - 52), and a sum
    of such products, over all places or some, is at most the product of the norms
    (Cauchy-Schwarz), 1.44 · 2^(e + e'): less than 2^53 multiples, so that no step rounds.

    Args:
        rows_ND: (N, D) of any floating dtype, finite. What a row becomes depends on it alone.

    Returns:
        (N, D) in the same dtype, which holds the rounded values too.
    """
    rounded_ND = torch.empty_like(rows_ND)
    for start in range(0, len(rows_ND), _ROWS_AT_A_TIME):
        rows = slice(start, start + _ROWS_AT_A_TIME)
        rounded_ND[rows] = _on_grid(rows_ND[rows])
    return rounded_ND


def exact_scores(text_tD: Tensor, video_uD: Tensor) -> Tensor:
    """(t, u) float32 dot products of rows from `on_grid`: exact, then rounded once."""
    return (text_tD.double() @ video_uD.double().transpose(0, 1)).float()


def exact_paired_scores(text_ND: Tensor, video_ND: Tensor) -> Tensor:
    """(N,) float32 scores of each row with the other's: bit for bit those of `exact_scores`.

    Args:
        text_ND: (N, D) from `on_grid`.
        video_ND: (N, D) from `on_grid`.
    """
    return (text_ND.double() * video_ND.double()).sum(1).float()


def _on_grid(rows_ND: Tensor) -> Tensor:
    wide_ND = rows_ND.double()
    # The norm from few bits, which add exactly: a norm that depended on the order of its sum would
    # choose another grid now and then.
    step_N1 = _power_of_two_above(wide_ND.abs().amax(1, keepdim=True)) / _COARSE_STEPS
    norm_N1 = step_N1 * (wide_ND / step_N1).round().square().sum(1, keepdim=True).sqrt()
    unit_N1 = _power_of_two_above(norm_N1 / _HEADROOM) / 2**_NORM_BITS
    rounded_ND: Tensor = (wide_ND / unit_N1).round() * unit_N1
    return rounded_ND.to(rows_ND.dtype)


def _power_of_two_above(values: Tensor) -> Tensor:
    """The least power of two greater than each value; 1 for zeros."""
    power: Tensor = values / torch.frexp(values)[0]  # value = mantissa · power, without rounding
    return power.masked_fill(values == 0, 1.0)
