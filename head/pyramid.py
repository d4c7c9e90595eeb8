"""Multi-scale patch features of a frame: the class token's companions at 3x3, 7x7 and 14x14.

Each frame is treated alone. Knows nothing of time, order or padding.
"""

# Legend: F frames, of any videos; D width; G patches along one side; S cells of a scale.

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from muse.errors import UsageError

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)


def cells_per_scale(grid: int, factors: Sequence[float]) -> tuple[int, ...]:
    """How many tokens a frame has at each scale.

    Args:
        grid: G, patches along one side.
        factors: Of `FACTORS`.

    Raises:
        UsageError: If a factor is unknown or leaves nothing of this grid.
    """
    for factor in factors:
        if factor not in FACTORS:
            raise UsageError(f"pyramid factor {factor}: choose from {FACTORS}")
        if int(grid * factor) < 1:
            raise UsageError(
                f"pyramid factor {factor}: nothing is left of {grid} x {grid} patches. "
                f"Choose factors of at least {1 / grid:.2g}."
            )
    return tuple(int(grid * factor) ** 2 for factor in factors)


def factors_of_sides(grid: int, sides: Sequence[float]) -> tuple[float, ...]:
    """The factors that leave so many cells along a side, as the paper names its scales.

    Args:
        grid: G, patches along one side.
        sides: Such as 3, 7, 14 for G = 7. 1 is the class token, which is there in any case; the
            map of one cell that a factor of 0.25 leaves of G = 7 has no name here.

    Raises:
        UsageError: If no factor leaves that many.
    """
    factor_of = {int(grid * factor): factor for factor in FACTORS if int(grid * factor) > 1}
    for side in sides:
        if side != 1 and side not in factor_of:
            choices = ", ".join(map(str, (1, *factor_of)))
            raise UsageError(
                f"scale {side:g}: of {grid} x {grid} patches choose {choices} cells a side"
            )
    return tuple(factor_of[int(side)] for side in sides if side != 1)


class FeaturePyramid(nn.Module):
    """One stage a factor, all on the same map of patches; MUSE sec. 3.3.

    The published code (hrtang22/MUSE c8e44bc) keeps its stages in a Python list, where neither
    the optimiser nor the checkpoint sees them; here they are registered and trained.
    """

    def __init__(self, dim: int, factors: Sequence[float]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(PyramidStage(dim, factor) for factor in factors)

    def forward(self, patches_FDGG: Tensor) -> list[Tensor]:
        """The tokens of each scale, in the order of the factors.

        Args:
            patches_FDGG: (F, D, G, G); fastest in the channels-last memory format.

        Returns:
            A list of (F, S, D), raster order inside a frame.
        """
        return [stage(patches_FDGG) for stage in self.stages]


class PyramidStage(nn.Module):
    """(F, D, G, G) -> (F, S, D): resize, 1x1 conv, LN, GELU, 3x3 conv, LN.

    The ladder of ViTDet's SimpleFeaturePyramid with two changes of the published code: biases
    stay beside the norms, and a GELU stands between the two convolutions.
    """

    def __init__(self, dim: int, factor: float) -> None:
        super().__init__()
        self.resize, width = _resize(dim, factor)
        self.mix = nn.Conv2d(width, dim, kernel_size=1)
        self.mix_norm = ChannelNorm(dim)
        self.spread = nn.Conv2d(dim, dim, kernel_size=3, padding=1)
        self.spread_norm = ChannelNorm(dim)

    def forward(self, patches_FDGG: Tensor) -> Tensor:
        """The tokens of this scale, (F, S, D)."""
        cells_FDHW: Tensor = F.gelu(self.mix_norm(self.mix(self.resize(patches_FDGG))))
        cells_FDHW = self.spread_norm(self.spread(cells_FDHW))
        return cells_FDHW.flatten(2).transpose(1, 2)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map, at each position."""

    def forward(self, map_FDHW: Tensor) -> Tensor:
        """(F, D, H, W), channels last in memory, where no copy is made."""
        return super().forward(map_FDHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _resize(dim: int, factor: float) -> tuple[nn.Module, int]:
    """The front part of a stage, and how many channels it leaves."""
    if factor == 0.25:
        return nn.MaxPool2d(4), dim
    if factor == 0.5:
        return nn.MaxPool2d(2), dim  # an odd grid loses its last row and column
    if factor == 1.0:
        return nn.Identity(), dim
    if factor == 2.0:
        return nn.ConvTranspose2d(dim, dim // 2, kernel_size=2, stride=2), dim // 2
    if factor == 4.0:
        half, quarter = dim // 2, dim // 4
        double = nn.ConvTranspose2d(dim, half, kernel_size=2, stride=2)
        quadruple = nn.ConvTranspose2d(half, quarter, kernel_size=2, stride=2)
        return nn.Sequential(double, ChannelNorm(half), nn.GELU(), quadruple), quarter
    raise UsageError(f"pyramid factor {factor}: choose from {FACTORS}")
