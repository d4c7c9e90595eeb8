"""The inside of a Mamba mixer on the project's own CUDA kernels: nothing is reversed or stacked.

All directions come from one pass of each kernel and from batched matrix products. What it computes
is what `muse.head.mixers.mamba` does step by step. Knows nothing of in- and out-projections.
"""

# Legend: X directions, B videos, L tokens, M = B * L, E inner width, N state size, R rank of Δ,
# P = R + 2 N.

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from muse.head.scan.cuda import selective_scan
from muse.head.scan.cuda_block import MAX_TAPS, gated_sum, short_conv
from muse.head.scan.select import ScanBackend, resolve_backend

BOTH_WAYS = (False, True)
"""Whether a direction begins at the end of its sequences."""


def runs_fused(scan: ScanBackend, u_BLE: Tensor, *, d_state: int, d_conv: int) -> bool:
    """Whether the scan's backend brings what stands around it."""
    if u_BLE.device.type != "cuda":
        return False
    return resolve_backend(scan, u_BLE.device, d_state=d_state, d_conv=d_conv) == "cuda"


class FusedDirections:
    """Convolution, projections, scan and gate of all directions; weights belong to the mixer.

    Args:
        convs: Of each direction, or one that all share.
        x_projs: The same of the projections to Δ, B and C.
        dt_projs: The same of Δ.
    """

    def __init__(
        self,
        convs: Sequence[nn.Conv1d],
        x_projs: Sequence[nn.Linear],
        dt_projs: Sequence[nn.Linear],
    ) -> None:
        assert convs[0].weight.shape[-1] <= MAX_TAPS
        self.convs, self.x_projs, self.dt_projs = convs, x_projs, dt_projs

    def __call__(
        self,
        u_BLE: Tensor,
        gate_BLE: Tensor,
        A_logs: Sequence[Tensor],
        Ds: Sequence[Tensor],
        reversed_X: Sequence[bool],
        length_B: Tensor | None,
    ) -> Tensor:
        """(B, L, E) gated, before the out-projection.

        Args:
            u_BLE: (B, L, E) half of the in-projection.
            gate_BLE: (B, L, E) the other half.
            A_logs: (E, N) of each direction.
            Ds: (E,) of each direction.
            reversed_X: Whether it begins at the end.
            length_B: (B,) tokens of each sequence; None where all have L.
        """
        num_shared = len(self.convs)
        conv_XBLE = short_conv(
            u_BLE,
            torch.stack([conv.weight[:, 0] for conv in self.convs]),
            torch.stack([_bias(conv) for conv in self.convs]),
            reversed_X=reversed_X[:num_shared],
            length_B=length_B,
        )
        projected_XMP = torch.bmm(conv_XBLE.flatten(1, 2), _matrices(self.x_projs))
        rank, num_states = self.dt_projs[0].in_features, A_logs[0].shape[-1]
        low_XMR = projected_XMP[..., :rank]
        B_XMN = projected_XMP[..., rank : rank + num_states]
        C_XMN = projected_XMP[..., -num_states:]
        delta_XME = torch.bmm(low_XMR, _matrices(self.dt_projs))
        inputs = [
            tensor.view(num_shared, *u_BLE.shape[:2], -1).expand(len(A_logs), -1, -1, -1)
            for tensor in (delta_XME, B_XMN, C_XMN)
        ]
        biases = [_bias(projection) for projection in self.dt_projs]
        with torch.autocast("cuda", enabled=False):
            y_XBLE = selective_scan(
                conv_XBLE.expand(len(A_logs), -1, -1, -1),
                inputs[0],
                -torch.stack(tuple(A_logs)).float().exp(),
                inputs[1],
                inputs[2],
                torch.stack(tuple(Ds)),
                torch.stack(biases).expand(len(A_logs), -1),
                reversed_X=reversed_X,
                length_B=length_B,
            )
            return gated_sum(y_XBLE, gate_BLE)


def _matrices(projections: Sequence[nn.Linear]) -> Tensor:
    """(X, in, out)."""
    return torch.stack([projection.weight for projection in projections]).transpose(1, 2)


def _bias(layer: nn.Conv1d | nn.Linear) -> Tensor:
    assert layer.bias is not None
    return layer.bias
