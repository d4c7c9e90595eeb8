"""MambaOut's mixer: a Mamba block without its scan; Yu and Wang 2024, sec. 3.2 and algorithm 1.

The published code of MUSE calls another thing so (a convolution of one tap, no gate, no
activation), which mixes no tokens; this is MambaOut's own.
"""

# Legend: B videos, L tokens, D width, E inner width.

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EXPANSION, KERNEL = 8 / 3, 7  # MambaOut's
CONVOLVED = 1.0  # part of D that goes through the convolution: MambaOut's conv_ratio


class GatedConv(nn.Module):
    """fc2(GELU(g) * [i, conv(c)]) with (g, i, c) = fc1(x), the convolution depthwise over L."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        inner, convolved = int(EXPANSION * dim), int(CONVOLVED * dim)
        self.widths = (inner, inner - convolved, convolved)
        self.fc1 = nn.Linear(dim, 2 * inner)
        self.conv = nn.Conv1d(convolved, convolved, KERNEL, padding=KERNEL // 2, groups=convolved)
        self.fc2 = nn.Linear(inner, dim)

    def forward(self, tokens_BLD: Tensor, length_B: Tensor | None = None) -> Tensor:
        """(B, L, D) -> (B, L, D); ``length_B`` (B,) int64, None where all have L."""
        gate_BLE, kept_BLE, convolved_BLE = self.fc1(tokens_BLD).split(self.widths, dim=-1)
        if length_B is not None:
            place_L = torch.arange(tokens_BLD.shape[1], device=tokens_BLD.device)
            behind_BL1 = (place_L >= length_B[:, None])[..., None]
            convolved_BLE = convolved_BLE.masked_fill(behind_BL1, 0.0)
        convolved_BLE = self.conv(convolved_BLE.transpose(1, 2)).transpose(1, 2)
        both_BLE = torch.cat([kept_BLE, convolved_BLE], dim=-1)
        return cast(Tensor, self.fc2(F.gelu(gate_BLE) * both_BLE))
