import pytest
import torch
import torch.nn.functional as F

from muse.errors import UsageError
from muse.head.pyramid import FeaturePyramid, PyramidStage, cells_per_scale, factors_of_sides


def num_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("grid", "cells"),
    [(7, (1, 9, 49, 196, 784)), (14, (9, 49, 196, 784, 3136)), (16, (16, 64, 256, 1024, 4096))],
)
def test_cells_of_each_factor_are_those_of_the_paper(grid: int, cells: tuple[int, ...]) -> None:
    assert cells_per_scale(grid, (0.25, 0.5, 1.0, 2.0, 4.0)) == cells


@pytest.mark.parametrize("grid", [4, 5, 7])
def test_pyramid_makes_as_many_cells_as_announced(grid: int) -> None:
    factors = (0.25, 0.5, 1.0, 2.0, 4.0)
    scales = FeaturePyramid(8, factors)(torch.randn(3, 8, grid, grid))
    assert [tuple(scale.shape) for scale in scales] == [
        (3, cells, 8) for cells in cells_per_scale(grid, factors)
    ]


@pytest.mark.parametrize(
    ("dim", "stages", "default"),
    [
        (512, (2_624_512, 2_624_512, 2_624_512, 3_017_984, 3_084_160), 8_267_008),
        (768, (5_902_848, 5_902_848, 5_902_848, 6_787_968, 6_936_384), 18_593_664),
    ],
)
def test_parameter_counts_are_those_of_the_published_model(
    dim: int, stages: tuple[int, ...], default: int
) -> None:
    with torch.device("meta"):
        for factor, count in zip((0.25, 0.5, 1.0, 2.0, 4.0), stages, strict=True):
            assert num_parameters(PyramidStage(dim, factor)) == count
        assert num_parameters(FeaturePyramid(dim, (0.5, 1.0, 2.0))) == default


def test_half_scale_is_the_published_chain_cell_by_cell() -> None:
    stage = PyramidStage(4, 0.5)
    patches_FDGG = torch.randn(1, 4, 5, 5)
    mixed = torch.empty(1, 4, 2, 2)
    for row in range(2):  # the fifth row and column are left out
        for column in range(2):
            window = patches_FDGG[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            pooled_D = window.amax(dim=(1, 2))
            cell_D = stage.mix.weight[:, :, 0, 0] @ pooled_D + stage.mix.bias
            normed_D = (cell_D - cell_D.mean()) / (cell_D.var(correction=0) + 1e-5).sqrt()
            mixed[0, :, row, column] = F.gelu(normed_D)
    spread = F.conv2d(mixed, stage.spread.weight, stage.spread.bias, padding=1)
    for row in range(2):
        for column in range(2):
            cell_D = spread[0, :, row, column]
            wanted_D = (cell_D - cell_D.mean()) / (cell_D.var(correction=0) + 1e-5).sqrt()
            found_D = stage(patches_FDGG)[0, 2 * row + column]  # raster order
            torch.testing.assert_close(found_D, wanted_D, rtol=1e-4, atol=1e-5)


def test_channels_last_maps_give_what_contiguous_ones_give() -> None:
    pyramid = FeaturePyramid(8, (0.5, 2.0, 4.0))
    patches_FDGG = torch.randn(2, 8, 4, 4)
    last = patches_FDGG.to(memory_format=torch.channels_last)
    for found, wanted in zip(pyramid(last), pyramid(patches_FDGG), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_every_stage_is_trained() -> None:
    pyramid = FeaturePyramid(8, (0.25, 0.5, 1.0, 2.0, 4.0))
    sum(scale.square().sum() for scale in pyramid(torch.randn(2, 8, 4, 4))).backward()
    assert all(parameter.grad is not None for parameter in pyramid.parameters())


def test_factor_that_leaves_nothing_of_the_grid_is_refused() -> None:
    with pytest.raises(UsageError, match=r"factor 0\.25: nothing is left of 3 x 3"):
        cells_per_scale(3, (0.5, 0.25))


def test_unknown_factor_is_refused_with_the_choices() -> None:
    with pytest.raises(UsageError, match=r"factor 3\.0: choose from \(0\.25, 0\.5"):
        cells_per_scale(7, (3.0,))


@pytest.mark.parametrize(
    ("grid", "sides", "factors"),
    [
        (7, (1, 3, 7, 14), (0.5, 1.0, 2.0)),
        (7, (28, 3), (4.0, 0.5)),
        (7, (1,), ()),
        (14, (3, 14, 56), (0.25, 1.0, 4.0)),
        (16, (8, 16, 32), (0.5, 1.0, 2.0)),
    ],
)
def test_scales_are_named_by_their_cells_a_side(
    grid: int, sides: tuple[float, ...], factors: tuple[float, ...]
) -> None:
    assert factors_of_sides(grid, sides) == factors


def test_a_scale_that_no_factor_leaves_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"scale 5: of 7 x 7 patches choose 1, 3, 7, 14, 28 cells"):
        factors_of_sides(7, (5,))
