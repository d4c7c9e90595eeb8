"""A Mamba mixer on the project's own CUDA kernels, whose inside is made again for the gradient.

All directions come from one pass of each kernel and from batched matrix products; nothing is
reversed or stacked. Of a sequence only three things are kept for the gradient: the mixer's input,
the states at some tokens, and the sum of the directions. All else is a few matrix products and one
pass of the convolution away, which take a twentieth of the step and would be three times the
memory (ADR 0035). What it computes is what `muse.head.mixers.mamba` does step by step.
"""

# Legend: X directions, S convolutions (X, or one that all share), B videos, L tokens, M = B * L,
# D width, E inner width, N state size, R rank of Δ, P = R + 2 N, W taps.

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from muse.head.mixers.mixer_weights import MixerParts, MixerWeights, weights_of
from muse.head.scan.cuda import bits_of, scan_backward, scan_forward
from muse.head.scan.cuda_block import (
    conv_backward,
    conv_forward,
    gate_backward,
    gate_forward,
)
from muse.head.scan.select import ScanBackend, resolve_backend


class FusableMixer(nn.Module):
    """A mixer that can run as one operation, alone or with the block around it."""

    scan: ScanBackend
    d_state: int
    d_conv: int

    def fused_parts(self, tokens_BLD: Tensor) -> MixerParts | None:
        """What it computes with, where the scan's backend brings what stands around it."""
        fuses = runs_fused(self.scan, tokens_BLD, d_state=self.d_state, d_conv=self.d_conv)
        return self._parts() if fuses else None

    def _parts(self) -> MixerParts:
        raise NotImplementedError


def runs_fused(scan: ScanBackend, tokens_BLD: Tensor, *, d_state: int, d_conv: int) -> bool:
    """Whether the scan's backend brings what stands around it."""
    return tokens_BLD.is_cuda and _is_cuda(scan, tokens_BLD.device, d_state, d_conv)


# The compiler takes the answer: it could not follow how a library is looked for.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _is_cuda(scan: ScanBackend, device: torch.device, d_state: int, d_conv: int) -> bool:
    return resolve_backend(scan, device, d_state=d_state, d_conv=d_conv) == "cuda"


def fused_mixer(tokens_BLD: Tensor, parts: MixerParts, length_B: Tensor | None = None) -> Tensor:
    """(B, L, D) -> (B, L, D), in the dtype of the products around it.

    Args:
        tokens_BLD: (B, L, D), on a CUDA device.
        parts: Of the mixer.
        length_B: (B,) tokens of each sequence; None where all have L.
    """
    dtype = product_dtype(tokens_BLD)
    weights, directions = weights_of(parts, dtype), bits_of(parts.reversed_X)
    lengths = as_lengths(length_B, tokens_BLD)
    tokens_BLD = tokens_BLD.to(dtype).contiguous()
    # Its own dtypes are the right ones: autocast would change what is float32 in here.
    with torch.autocast(tokens_BLD.device.type, enabled=False):
        if needs_gradient(tokens_BLD, *weights):
            mixed: Tensor = _Mixed.apply(tokens_BLD, lengths, directions, *weights)
            return mixed
        return mix(tokens_BLD, lengths, directions, weights, keeps_states=False)[0]


def product_dtype(tokens_BLD: Tensor) -> torch.dtype:
    """Of matrix products: autocast's, where that is on."""
    device = tokens_BLD.device.type
    return (
        torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tokens_BLD.dtype
    )


def as_lengths(length_B: Tensor | None, tokens_BLD: Tensor) -> Tensor | None:
    """As the kernels take them."""
    return None if length_B is None else length_B.to(tokens_BLD.device, torch.int32)


def needs_gradient(*tensors: Tensor) -> bool:
    """Whether anything must be kept."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


class _Scanned(NamedTuple):
    """What a scan reads, with one entry a convolution."""

    conv_SBLE: Tensor
    delta_SBLE: Tensor
    B_SBLN: Tensor
    C_SBLN: Tensor
    low_SMR: Tensor
    """Δ before its projection."""

    def by_direction(self, num: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """u, Δ, B and C; shared ones are repeated without being copied."""
        conv, delta, B, C = (tensor.expand(num, -1, -1, -1) for tensor in self[:4])
        return conv, delta, B, C


class _Mixed(torch.autograd.Function):
    """`mix` and its gradient."""

    @staticmethod
    def forward(
        ctx: Any, tokens_BLD: Tensor, lengths: Tensor | None, directions: int, *weights: Tensor
    ) -> Tensor:
        out_BLD, sum_BLE, states = mix(
            tokens_BLD, lengths, directions, MixerWeights(*weights), keeps_states=True
        )
        ctx.save_for_backward(tokens_BLD, lengths, sum_BLE, states, *weights)
        ctx.directions = directions
        return out_BLD

    @staticmethod
    def backward(ctx: Any, dout_BLD: Tensor) -> tuple[Tensor | None, ...]:
        tokens_BLD, lengths, sum_BLE, states, *weights = ctx.saved_tensors
        its = MixerWeights(*weights)
        with torch.autocast(tokens_BLD.device.type, enabled=False):
            dout_BLD = dout_BLD.to(tokens_BLD.dtype).contiguous()
            opened = open_gate(dout_BLD, tokens_BLD, sum_BLE, its)
            dout_weight = outer(dout_BLD, opened.through_BLE)
            dtokens_BLD, gradients = scan_gradients(
                opened.without_through(), tokens_BLD, lengths, states, ctx.directions, its
            )
        return (dtokens_BLD, None, None, *gradients._replace(out=dout_weight))


def mix(
    tokens_BLD: Tensor,
    lengths: Tensor | None,
    directions: int,
    weights: MixerWeights,
    *,
    keeps_states: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The output; the sum of the directions before the gate, and states, for the gradient."""
    u_BLE, gate_BLE = F.linear(tokens_BLD, weights.into).chunk(2, dim=-1)
    scanned = _scan_inputs(u_BLE, lengths, directions, weights)
    u, delta, B, C = scanned.by_direction(len(weights.A))
    y_XBLE, states = scan_forward(
        u, delta, weights.A, B, C, weights.skip, weights.dt_bias, lengths, directions, keeps_states
    )
    gated_BLE, sum_BLE = gate_forward(y_XBLE, gate_BLE, keeps_states)
    return F.linear(gated_BLE, weights.out), sum_BLE, states


def _scan_inputs(
    u_BLE: Tensor, lengths: Tensor | None, directions: int, weights: MixerWeights
) -> _Scanned:
    conv_SBLE = conv_forward(u_BLE, weights.conv, weights.conv_bias, lengths, directions)
    projected_SMP = torch.bmm(conv_SBLE.flatten(1, 2), weights.x.transpose(1, 2))
    rank = weights.dt.shape[-1]
    low_SMR, BC_SMN = projected_SMP[..., :rank], projected_SMP[..., rank:]
    padded = weights.A.shape[-1]
    B_SMN, C_SMN = (_with_zeros(half, padded) for half in BC_SMN.chunk(2, dim=-1))
    shape = conv_SBLE.shape[:3]
    return _Scanned(
        conv_SBLE,
        torch.bmm(low_SMR, weights.dt.transpose(1, 2)).view(*shape, -1),
        B_SMN.view(*shape, -1),
        C_SMN.view(*shape, -1),
        low_SMR,
    )


class OpenedGate(NamedTuple):
    """What the gradient has come to at the gate."""

    dy_BLE: Tensor
    """Of each direction's output: all have the same."""
    dgate_BLE: Tensor
    through_BLE: Tensor
    """What the gate let through, made again."""

    def without_through(self) -> "OpenedGate":
        """The same, with memory for the scan."""
        return self._replace(through_BLE=self.through_BLE.new_empty(0))


def open_gate(
    dout_BLD: Tensor, tokens_BLD: Tensor, sum_BLE: Tensor, weights: MixerWeights
) -> OpenedGate:
    """From the gradient of the output; see `scan_gradients` for the rest of the way."""
    gate_BLE = F.linear(tokens_BLD, weights.into[weights.out.shape[1] :])
    return OpenedGate(*gate_backward(torch.matmul(dout_BLD, weights.out), sum_BLE, gate_BLE))


def scan_gradients(
    opened: OpenedGate,
    tokens_BLD: Tensor,
    lengths: Tensor | None,
    states: Tensor,
    directions: int,
    weights: MixerWeights,
) -> tuple[Tensor, MixerWeights]:
    """Of the tokens and of each weight but ``out``, whose place is empty."""
    width = weights.out.shape[1]
    u_BLE = F.linear(tokens_BLD, weights.into[:width])
    scanned = _scan_inputs(u_BLE, lengths, directions, weights)
    u, delta, B, C = scanned.by_direction(len(weights.A))
    du, ddelta, dA_XBEN, dskip_dbias_2XBE, dBC = scan_backward(
        opened.dy_BLE.expand_as(u), states, u, delta, weights.A, B, C, weights.skip,
        weights.dt_bias, lengths, directions,
    )  # fmt: skip
    num_convs = len(weights.conv)
    # A convolution that all directions share takes the sum of their gradients.
    du, ddelta, dBC = (
        tensor if len(tensor) == num_convs else tensor.sum(0, keepdim=True)
        for tensor in (du, ddelta, dBC)
    )
    dconv_SBLE, dx_weight, ddt_weight = _projection_gradients(du, ddelta, dBC, scanned, weights)
    du_BLE, dconv_weight, dconv_bias = conv_backward(
        dconv_SBLE, u_BLE, weights.conv, weights.conv_bias, lengths, directions
    )
    dtokens_MD = torch.mm(du_BLE.flatten(0, 1), weights.into[:width])
    dtokens_MD.addmm_(opened.dgate_BLE.flatten(0, 1), weights.into[width:])  # in place: no copy
    dinto = torch.cat([outer(du_BLE, tokens_BLD), outer(opened.dgate_BLE, tokens_BLD)])
    dskip, ddt_bias = dskip_dbias_2XBE.sum(2)
    return dtokens_MD.view_as(tokens_BLD), MixerWeights(
        into=dinto,
        out=weights.out.new_empty(0),
        x=dx_weight,
        dt=ddt_weight,
        conv=dconv_weight,
        conv_bias=dconv_bias,
        skip=dskip,
        dt_bias=ddt_bias,
        A=dA_XBEN.sum(1),
    )


def _projection_gradients(
    du: Tensor, ddelta: Tensor, dBC: Tensor, scanned: _Scanned, weights: MixerWeights
) -> tuple[Tensor, Tensor, Tensor]:
    """Of what the convolutions gave, (S, B, L, E), and of the projections behind them."""
    ddelta_SME = ddelta.flatten(1, 2)
    low_SBLR = scanned.low_SMR.view(*ddelta.shape[:3], -1)
    ddt_weight = _outer_by_video(ddelta, low_SBLR)
    dlow_SMR = torch.bmm(ddelta_SME, weights.dt)
    num_states = (weights.x.shape[1] - weights.dt.shape[-1]) // 2
    halves = dBC.flatten(1, 2).to(du.dtype).chunk(2, dim=-1)
    dprojected_SMP = torch.cat([dlow_SMR, *(half[..., :num_states] for half in halves)], dim=-1)
    du.flatten(1, 2).baddbmm_(dprojected_SMP, weights.x)  # du is not read again
    dx_weight = _outer_by_video(dprojected_SMP.view(*du.shape[:3], -1), scanned.conv_SBLE)
    return du, dx_weight, ddt_weight


def outer(rows_BLC: Tensor, others_BLK: Tensor) -> Tensor:
    """(C, K): a product's gradient by its weight."""
    return torch.mm(rows_BLC.flatten(0, 1).t(), others_BLK.flatten(0, 1))


def _outer_by_video(rows_SBLC: Tensor, others_SBLK: Tensor) -> Tensor:
    """(S, C, K): the same of small weights, whose few tiles would leave most of a GPU idle."""
    per_video = torch.matmul(rows_SBLC.transpose(2, 3), others_SBLK)
    return per_video.sum(1, dtype=torch.float32).to(rows_SBLC.dtype)


def _with_zeros(values_SMN: Tensor, num_states: int) -> Tensor:
    missing = num_states - values_SMN.shape[-1]
    return F.pad(values_SMN, (0, missing)) if missing else values_SMN
