"""The bidirectional mixer as it is published: mamba-ssm's scan and causal-conv1d's convolution.

What muse's own kernels are measured against. The same weights as `muse.head.mixers.mamba.BiMamba`,
composed as Vim composes them: channels first, the second direction on a reversed copy. Sequences of
one length only.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from muse.head.mixers.mamba import BiMamba


class PublishedBiMamba(BiMamba):
    """(B, L, D) -> (B, L, D) on a CUDA device."""

    def forward(self, tokens_BLD: Tensor, length_B: Tensor | None = None) -> Tensor:
        """``length_B`` is not looked at."""
        xz_BCL = self.in_proj(tokens_BLD).transpose(1, 2)
        forward_BEL = self._scanned(xz_BCL, "")
        backward_BEL = self._scanned(xz_BCL.flip(-1), "_b").flip(-1)
        return F.linear((forward_BEL + backward_BEL).transpose(1, 2), self.out_proj.weight)

    def fused_parts(self, tokens_BLD: Tensor) -> None:
        """None: it is not to run as muse's own."""

    def _scanned(self, xz_BCL: Tensor, suffix: str) -> Tensor:
        """One direction, gated."""
        from causal_conv1d import causal_conv1d_fn
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

        conv, x_proj, dt_proj = (
            getattr(self, f"{name}{suffix}") for name in ("conv1d", "x_proj", "dt_proj")
        )
        A_log, D = (self.A_b_log, self.D_b) if suffix else (self.A_log, self.D)
        x_BEL, z_BEL = xz_BCL.chunk(2, dim=1)
        dtype = x_BEL.dtype
        conv_BEL = causal_conv1d_fn(
            x_BEL, conv.weight[:, 0].to(dtype), conv.bias.to(dtype), activation="silu"
        )
        projected_BLP = x_proj(conv_BEL.transpose(1, 2))
        low_BLR, B_BLN, C_BLN = projected_BLP.split(
            (dt_proj.in_features, self.d_state, self.d_state), dim=-1
        )
        delta_BEL = F.linear(low_BLR, dt_proj.weight).transpose(1, 2)
        y_BEL: Tensor = selective_scan_fn(
            conv_BEL, delta_BEL, -torch.exp(A_log.float()),
            B_BLN.transpose(1, 2).contiguous(), C_BLN.transpose(1, 2).contiguous(), D.float(),
            z=z_BEL, delta_bias=dt_proj.bias.float(), delta_softplus=True,
        )  # fmt: skip
        return y_BEL
