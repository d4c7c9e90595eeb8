import math

import numpy as np
import pytest
import torch
from torch import Tensor

from muse.head.scores import exact_paired_scores, exact_scores, on_grid


def unit_rows(num_rows: int, dim: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(num_rows, dim), dim=-1)


@pytest.mark.parametrize("dim", [1, 3, 100, 512, 777])
@pytest.mark.parametrize("length", [1.0, 1e-20, 3e17])
def test_a_score_is_the_exact_sum_rounded_once(dim: int, length: float) -> None:
    text_tD, video_uD = on_grid(length * unit_rows(5, dim)), on_grid(unit_rows(4, dim))
    found_tu = exact_scores(text_tD, video_uD)
    for text, scores in zip(text_tD.tolist(), found_tu.tolist(), strict=True):
        for video, score in zip(video_uD.tolist(), scores, strict=True):
            exact = math.fsum(a * b for a, b in zip(text, video, strict=True))
            assert score == float(np.float32(exact))


@pytest.mark.parametrize("dim", [16, 512])
def test_a_pair_has_the_same_bits_whatever_it_is_scored_with(dim: int) -> None:
    text_QD, video_VD = on_grid(unit_rows(67, dim)), on_grid(unit_rows(45, dim))
    whole_QV = exact_scores(text_QD, video_VD)
    for size in (1, 2, 7, 32):
        rows = [
            exact_scores(text_QD[start : start + size], video_VD) for start in range(0, 67, size)
        ]
        columns = [
            exact_scores(text_QD, video_VD[start : start + size]) for start in range(0, 45, size)
        ]
        assert torch.equal(torch.cat(rows), whole_QV)
        assert torch.equal(torch.cat(columns, 1), whole_QV)
    order = torch.randperm(dim)
    assert torch.equal(exact_scores(text_QD[:, order], video_VD[:, order]), whole_QV)
    right_Q = torch.arange(67) % 45
    own_Q = exact_paired_scores(text_QD, video_VD[right_Q])
    assert torch.equal(own_Q, whole_QV[torch.arange(67), right_Q])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_rounding_moves_a_value_by_less_than_2_to_the_minus_26_of_the_norm(
    dtype: torch.dtype,
) -> None:
    rows_ND = torch.cat([unit_rows(50, 64), torch.eye(64), 7 * torch.rand(9, 64)]).to(dtype)
    moved_ND = (on_grid(rows_ND).double() - rows_ND.double()).abs()
    assert (moved_ND <= 2**-26 * rows_ND.double().norm(dim=1, keepdim=True)).all()
    assert on_grid(rows_ND).dtype == dtype


def test_small_whole_numbers_and_zeros_stay_as_they_are() -> None:
    rows_ND = torch.tensor([[0.0, 0.0, 0.0], [1.0, -2.0, 3.0], [0.5, 0.0, 0.0]])
    assert torch.equal(on_grid(rows_ND), rows_ND)


def test_a_row_is_rounded_alike_alone_and_among_others() -> None:
    rows_ND = torch.randn(5000, 3)  # more than one chunk
    whole_ND = on_grid(rows_ND)
    for row in (0, 255, 256, 4999):
        assert torch.equal(on_grid(rows_ND[row : row + 1])[0], whole_ND[row])


@pytest.mark.gpu
def test_a_gpu_gives_the_same_bits(cuda: torch.device) -> None:
    text_QD, video_VD = unit_rows(300, 512), unit_rows(200, 512)
    here = exact_scores(on_grid(text_QD), on_grid(video_VD))
    there = exact_scores(on_grid(text_QD.to(cuda)), on_grid(video_VD.to(cuda)))
    assert torch.equal(there.cpu(), here)
