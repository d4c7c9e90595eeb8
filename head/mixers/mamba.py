"""Mamba over a sequence: from one end, or from both, with shared weights ("v1") or own ("v2").

Parameters carry the names of Vim's fork of mamba_ssm, so that weights can be compared one by one.
Knows nothing of frames or scales: it sees a batch of sequences and their lengths.
"""

# Legend: X directions, B videos, L tokens, D width, E inner width = expand * D, N state size,
# R rank of Δ, W taps of the convolution.

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from muse.head.mixers.fused import FusableMixer, fused_mixer
from muse.head.mixers.mixer_weights import Direction, MixerParts
from muse.head.ordering import reverse_sequences
from muse.head.scan.select import ScanBackend, select_scan

BOTH_WAYS = (False, True)
"""Whether a direction begins at the end of its sequences."""
DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 1e-1, 1e-4  # [Mamba] sec. 3.6, Δ at initialisation


class Mamba(FusableMixer):
    """One selective scan, from the first token to the last; [Mamba] sec. 3.4.

    The paper's scan "none".
    """

    def __init__(
        self, dim: int, *, d_state: int, d_conv: int, expand: int, scan: ScanBackend = "auto"
    ) -> None:
        super().__init__()
        inner = expand * dim
        self.scan: ScanBackend = scan
        self.d_state, self.d_conv = d_state, d_conv
        self.dt_rank = math.ceil(dim / 16)
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv1d = _depthwise(inner, d_conv)
        self.x_proj = nn.Linear(inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, inner)
        self.A_log = _decay_rates(inner, d_state)
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, dim, bias=False)
        _init_dt_proj(self.dt_proj)

    def forward(self, tokens_BLD: Tensor, length_B: Tensor | None = None) -> Tensor:
        """The mixed sequence; see `BiMamba.forward`. What lies behind a length is never scanned
        before it, so lengths are not looked at."""
        if parts := self.fused_parts(tokens_BLD):
            return fused_mixer(tokens_BLD, parts, length_B)
        u_BLE, z_BLE = self.in_proj(tokens_BLD).chunk(2, dim=-1)
        inputs = _scan_inputs(u_BLE, self.conv1d, self.x_proj, self.dt_proj, self.d_state)
        y_XBLE = _scanned(
            self.scan,
            [tensor[None] for tensor in inputs],
            (self.A_log,),
            (self.dt_proj.bias,),
            (self.D,),
        )
        return cast(Tensor, self.out_proj(y_XBLE[0] * F.silu(z_BLE)))

    def _parts(self) -> MixerParts:
        direction = Direction(
            conv=self.conv1d, x_proj=self.x_proj, dt_proj=self.dt_proj, A_log=self.A_log, D=self.D
        )
        return MixerParts(
            in_proj=self.in_proj, directions=(direction,), out_proj=self.out_proj,
            reversed_X=(False,),
        )  # fmt: skip


class BiMambaV1(FusableMixer):
    """Two selective scans, one from each end, that differ in A alone; Vim's "v1".

    The convolution is applied once, from the front; what it gives, and Δ, B and C with it, is
    scanned from the back as well. Each scan adds its skip connection, as in Vim's kernel.
    """

    def __init__(
        self, dim: int, *, d_state: int, d_conv: int, expand: int, scan: ScanBackend = "auto"
    ) -> None:
        super().__init__()
        inner = expand * dim
        self.scan: ScanBackend = scan
        self.d_state, self.d_conv = d_state, d_conv
        self.dt_rank = math.ceil(dim / 16)
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv1d = _depthwise(inner, d_conv)
        self.x_proj = nn.Linear(inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, inner)
        self.A_log = _decay_rates(inner, d_state)
        self.A_b_log = _decay_rates(inner, d_state)
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, dim, bias=False)
        _init_dt_proj(self.dt_proj)

    def forward(self, tokens_BLD: Tensor, length_B: Tensor | None = None) -> Tensor:
        """The mixed sequence; see `BiMamba.forward`."""
        if parts := self.fused_parts(tokens_BLD):
            return fused_mixer(tokens_BLD, parts, length_B)
        u_BLE, z_BLE = self.in_proj(tokens_BLD).chunk(2, dim=-1)
        inputs = _scan_inputs(u_BLE, self.conv1d, self.x_proj, self.dt_proj, self.d_state)
        y_XBLE = _scanned(
            self.scan,
            [torch.stack((tensor, reverse_sequences(tensor, length_B))) for tensor in inputs],
            (self.A_log, self.A_b_log),
            (self.dt_proj.bias, self.dt_proj.bias),
            (self.D, self.D),
        )
        y_BLE = y_XBLE[0] + reverse_sequences(y_XBLE[1], length_B)
        return cast(Tensor, self.out_proj(y_BLE * F.silu(z_BLE)))

    def _parts(self) -> MixerParts:
        directions = tuple(
            Direction(
                conv=self.conv1d, x_proj=self.x_proj, dt_proj=self.dt_proj, A_log=A_log, D=self.D
            )
            for A_log in (self.A_log, self.A_b_log)
        )
        return MixerParts(
            in_proj=self.in_proj, directions=directions, out_proj=self.out_proj,
            reversed_X=BOTH_WAYS,
        )  # fmt: skip


class BiMamba(FusableMixer):
    """Two selective scans, one from each end, between shared projections; Vim's "v2".

    Each direction has its own convolution, projections to Δ, B, C, and A and D; ``in_proj``, the
    gate and ``out_proj`` are shared, and the directions are summed, not averaged.
    """

    def __init__(
        self, dim: int, *, d_state: int, d_conv: int, expand: int, scan: ScanBackend = "auto"
    ) -> None:
        super().__init__()
        inner = expand * dim
        self.scan: ScanBackend = scan
        self.d_state, self.d_conv = d_state, d_conv
        self.dt_rank = math.ceil(dim / 16)
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv1d = _depthwise(inner, d_conv)
        self.x_proj = nn.Linear(inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, inner)
        self.A_log = _decay_rates(inner, d_state)
        self.D = nn.Parameter(torch.ones(inner))
        self.conv1d_b = _depthwise(inner, d_conv)
        self.x_proj_b = nn.Linear(inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj_b = nn.Linear(self.dt_rank, inner)  # the library leaves it at Linear's own
        self.A_b_log = _decay_rates(inner, d_state)
        self.D_b = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, dim, bias=False)
        _init_dt_proj(self.dt_proj)

    def forward(self, tokens_BLD: Tensor, length_B: Tensor | None = None) -> Tensor:
        """The mixed sequence.

        Args:
            tokens_BLD: (B, L, D).
            length_B: (B,) int64, tokens of each sequence; None where all have L. No output
                within a length depends on what lies behind it.

        Returns:
            (B, L, D).
        """
        if parts := self.fused_parts(tokens_BLD):
            return fused_mixer(tokens_BLD, parts, length_B)
        u_BLE, z_BLE = self.in_proj(tokens_BLD).chunk(2, dim=-1)
        forward = _scan_inputs(u_BLE, self.conv1d, self.x_proj, self.dt_proj, self.d_state)
        backward = _scan_inputs(
            reverse_sequences(u_BLE, length_B),
            self.conv1d_b,
            self.x_proj_b,
            self.dt_proj_b,
            self.d_state,
        )
        y_XBLE = _scanned(
            self.scan,
            [torch.stack(pair) for pair in zip(forward, backward, strict=True)],
            (self.A_log, self.A_b_log),
            (self.dt_proj.bias, self.dt_proj_b.bias),
            (self.D, self.D_b),
        )
        y_BLE = y_XBLE[0] + reverse_sequences(y_XBLE[1], length_B)
        # The library gates each direction and adds; the gate is the same, so once is enough.
        return cast(Tensor, self.out_proj(y_BLE * F.silu(z_BLE)))

    def _parts(self) -> MixerParts:
        forward = Direction(
            conv=self.conv1d, x_proj=self.x_proj, dt_proj=self.dt_proj, A_log=self.A_log, D=self.D
        )
        backward = Direction(
            conv=self.conv1d_b, x_proj=self.x_proj_b, dt_proj=self.dt_proj_b, A_log=self.A_b_log,
            D=self.D_b,
        )  # fmt: skip
        return MixerParts(
            in_proj=self.in_proj, directions=(forward, backward), out_proj=self.out_proj,
            reversed_X=BOTH_WAYS,
        )  # fmt: skip


def causal_conv(tokens_BLE: Tensor, conv: nn.Conv1d) -> Tensor:
    """A depthwise convolution in which no token sees one after it, (B, L, E).

    Runs as a two-dimensional convolution over (L, 1): the sequence as it lies in memory is that
    map in the channels-last format, so nothing is transposed.
    """
    taps = conv.weight.shape[-1]
    padded_BLE = F.pad(tokens_BLE, (0, 0, taps - 1, 0))
    map_BEL1 = padded_BLE.unsqueeze(2).permute(0, 3, 1, 2)
    convolved_BEL1 = F.conv2d(
        map_BEL1, conv.weight.unsqueeze(-1), conv.bias, groups=tokens_BLE.shape[-1]
    )
    return convolved_BEL1.squeeze(-1).transpose(1, 2)


def _depthwise(inner: int, d_conv: int) -> nn.Conv1d:
    return nn.Conv1d(inner, inner, kernel_size=d_conv, groups=inner)


def _decay_rates(inner: int, d_state: int) -> nn.Parameter:
    """log of -A: 1..N in every channel (S4D-Real), [Mamba] sec. 3.6."""
    return nn.Parameter(torch.arange(1.0, d_state + 1).log().expand(inner, -1).clone())


@torch.no_grad()
def _init_dt_proj(dt_proj: nn.Linear) -> None:
    """The bias such that Δ = softplus(bias) is log-uniform in [DT_MIN, DT_MAX]."""
    limit = dt_proj.in_features**-0.5
    nn.init.uniform_(dt_proj.weight, -limit, limit)
    low, high = math.log(DT_MIN), math.log(DT_MAX)
    dt_E = torch.empty_like(dt_proj.bias).uniform_(low, high).exp().clamp_min(DT_FLOOR)
    dt_proj.bias.copy_(dt_E + torch.log(-torch.expm1(-dt_E)))  # the inverse of softplus


def _scan_inputs(
    u_BLE: Tensor, conv: nn.Conv1d, x_proj: nn.Linear, dt_proj: nn.Linear, d_state: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What one direction scans: the convolved sequence, Δ before its bias, B and C."""
    conv_BLE = F.silu(causal_conv(u_BLE, conv))
    delta_BLR, B_BLN, C_BLN = x_proj(conv_BLE).split(
        (dt_proj.in_features, d_state, d_state), dim=-1
    )
    # The bias belongs to the scan, which adds it in float32.
    return conv_BLE, F.linear(delta_BLR, dt_proj.weight), B_BLN, C_BLN


def _scanned(
    backend: ScanBackend,
    inputs: Sequence[Tensor],
    A_logs: Sequence[Tensor],
    biases: Sequence[Tensor],
    Ds: Sequence[Tensor],
) -> Tensor:
    """All directions at once, (X, B, L, E), before the gate.

    Args:
        backend: Of the scan.
        inputs: Those of `_scan_inputs`, (X, B, L, ...) each.
        A_logs: (E, N) for each direction.
        biases: (E,) of Δ for each direction.
        Ds: (E,) skip connection for each direction.
    """
    u_XBLE, delta_XBLE, B_XBLN, C_XBLN = inputs
    scan = select_scan(backend, u_XBLE.device, d_state=A_logs[0].shape[-1])
    # States are float32 or wider whatever the precision around.
    wide = torch.promote_types(u_XBLE.dtype, torch.float32)
    with torch.autocast(u_XBLE.device.type, enabled=False):
        A_XEN = -torch.stack(tuple(A_logs)).to(wide).exp()
        bias_XE = torch.stack(tuple(biases)).to(wide)
        D_XE = torch.stack(tuple(Ds)).to(wide)
        return scan(u_XBLE, delta_XBLE, A_XEN, B_XBLN, C_XBLN, D_XE, bias_XE)
