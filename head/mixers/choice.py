"""The mixers by name: the rows of the paper's tables of scans and of mixers."""

from typing import Literal

from torch import Tensor, nn

from muse.head.mixers.attention import Attention
from muse.head.mixers.gated_conv import GatedConv
from muse.head.mixers.mamba import BiMamba, BiMambaV1, Mamba
from muse.head.scan.select import ScanBackend

Mixer = Literal[
    "bimamba-v2",
    "bimamba-v1",
    "mamba",
    "transformer",
    "flash-attention",
    "mamba-out",
    "identity",
]

_SCANS = {"bimamba-v2": BiMamba, "bimamba-v1": BiMambaV1, "mamba": Mamba}


class Identity(nn.Module):
    """No mixing: the block is left with its norm and its gate."""

    def forward(self, tokens_BLD: Tensor, length_B: Tensor | None = None) -> Tensor:
        """The tokens as they are."""
        return tokens_BLD


def new_mixer(
    name: Mixer,
    dim: int,
    *,
    d_state: int,
    d_conv: int,
    expand: int,
    scan: ScanBackend = "auto",
) -> nn.Module:
    """A mixer with initial weights; what is not about a scan is read by the Mambas alone."""
    if name in _SCANS:
        return _SCANS[name](dim, d_state=d_state, d_conv=d_conv, expand=expand, scan=scan)
    if name in ("transformer", "flash-attention"):
        return Attention(dim, is_fused=name == "flash-attention")
    return GatedConv(dim) if name == "mamba-out" else Identity()
