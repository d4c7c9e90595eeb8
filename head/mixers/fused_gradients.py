"""The gradient of a fused mixer, whose inside is made again.

Directions take turns where one fills the GPU: Δ, which its own gradient then replaces, and the
scan's sums over some channels are of one direction at a time (ADR 0050). Knows nothing of what is
kept, nor of a block around the mixer.
"""

# Legend: X directions, S convolutions (X, or one that all share), Y directions of a turn, B videos,
# L tokens, M = B * L, D width, E inner width, N state size, R rank of Δ, P = R + 2 N.

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from muse.head.mixers.mixer_weights import MixerWeights
from muse.head.mixers.scanned import Scanned, scan_inputs
from muse.head.scan.cuda_block import conv_backward, gate_backward
from muse.head.scan.cuda_gradients import directions_of_a_turn, scan_backward_into


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


class _ScanGradients(NamedTuple):
    """Of the weights between the convolutions and the gate, one entry a direction."""

    x: Tensor
    dt: Tensor
    skip: Tensor
    dt_bias: Tensor
    A: Tensor


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
    scanned = scan_inputs(u_BLE, lengths, directions, weights)
    dconv_SBLE, of_scan = _through_scan(opened, scanned, lengths, states, directions, weights)
    du_BLE, dconv_weight, dconv_bias = conv_backward(
        dconv_SBLE, u_BLE, weights.conv, weights.conv_bias, lengths, directions
    )
    dtokens_MD = torch.mm(du_BLE.flatten(0, 1), weights.into[:width])
    dtokens_MD.addmm_(opened.dgate_BLE.flatten(0, 1), weights.into[width:])  # in place: no copy
    dinto = torch.cat([outer(du_BLE, tokens_BLD), outer(opened.dgate_BLE, tokens_BLD)])
    return dtokens_MD.view_as(tokens_BLD), MixerWeights(
        into=dinto,
        out=weights.out.new_empty(0),
        conv=dconv_weight,
        conv_bias=dconv_bias,
        **of_scan._asdict(),
    )


def _through_scan(
    opened: OpenedGate,
    scanned: Scanned,
    lengths: Tensor | None,
    states: Tensor,
    directions: int,
    weights: MixerWeights,
) -> tuple[Tensor, _ScanGradients]:
    """Of what the convolutions gave, (S, B, L, E), and of the weights behind them."""
    num, num_convs = len(weights.A), len(weights.conv)
    du_XBLE = scanned.conv_SBLE.new_empty((num, *scanned.conv_SBLE.shape[1:]))
    number = directions_of_a_turn(du_XBLE, weights.A)
    turns = [slice(first, first + number) for first in range(0, num, number)]
    parts = [
        _of_turn(
            du_XBLE[turn], opened.dy_BLE, scanned.of(turn, num), lengths, states[turn],
            directions >> turn.start, _weights_of(weights, turn),
        )
        for turn in turns
    ]  # fmt: skip
    its = _ScanGradients(*map(_beside, zip(*parts, strict=True)))
    if num_convs == num:
        return du_XBLE, its
    # What all directions share takes the sum of their gradients.
    of_shared = (tensor.sum(0, keepdim=True) for tensor in (du_XBLE, its.x, its.dt))
    dconv_SBLE, dx_weight, ddt_weight = of_shared
    return dconv_SBLE, its._replace(x=dx_weight, dt=ddt_weight)


def _of_turn(
    du_YBLE: Tensor,
    dy_BLE: Tensor,
    scanned: Scanned,
    lengths: Tensor | None,
    states: Tensor,
    directions: int,
    weights: MixerWeights,
) -> _ScanGradients:
    """Of some directions, each with a convolution's output as its own; u's goes to ``du_YBLE``."""
    u, B, C, low_YBLR = scanned
    delta = scanned.steps(weights.dt)
    dA_YBEN, dskip_dbias_2YBE, dBC = scan_backward_into(
        du_YBLE, dy_BLE.expand_as(u), states, u, delta, weights.A, B, C, weights.skip,
        weights.dt_bias, lengths, directions,
    )  # fmt: skip
    ddelta = delta  # its place
    num_states = (weights.x.shape[1] - weights.dt.shape[-1]) // 2
    dlow_YMR = torch.bmm(ddelta.flatten(1, 2), weights.dt)
    halves = dBC.flatten(1, 2).to(u.dtype).chunk(2, dim=-1)
    dprojected_YMP = torch.cat([dlow_YMR, *(half[..., :num_states] for half in halves)], dim=-1)
    du_YBLE.flatten(1, 2).baddbmm_(dprojected_YMP, weights.x)  # du is not read again
    dskip, ddt_bias = dskip_dbias_2YBE.sum(2)
    return _ScanGradients(
        x=_outer_by_video(dprojected_YMP.view(*u.shape[:3], -1), u),
        dt=_outer_by_video(ddelta, low_YBLR),
        skip=dskip,
        dt_bias=ddt_bias,
        A=dA_YBEN.sum(1),
    )


def _weights_of(weights: MixerWeights, turn: slice) -> MixerWeights:
    """Of some directions, repeated where all share them; those of no direction are as they are."""
    num = len(weights.A)
    of_all = {
        name: tensor.expand(num, *tensor.shape[1:])[turn]
        for name, tensor in weights._asdict().items()
        if name not in ("into", "out")
    }
    return weights._replace(**of_all)


def _beside(tensors: tuple[Tensor, ...]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def outer(rows_BLC: Tensor, others_BLK: Tensor) -> Tensor:
    """(C, K): a product's gradient by its weight."""
    return torch.mm(rows_BLC.flatten(0, 1).t(), others_BLK.flatten(0, 1))


def _outer_by_video(rows_SBLC: Tensor, others_SBLK: Tensor) -> Tensor:
    """(S, C, K): the same of small weights, whose few tiles would leave most of a GPU idle."""
    per_video = torch.matmul(rows_SBLC.transpose(2, 3), others_SBLK)
    return per_video.sum(1, dtype=torch.float32).to(rows_SBLC.dtype)
