"""A Mamba mixer on the project's own CUDA kernels, whose inside is made again for the gradient.

All directions come from one pass of each kernel and from batched matrix products; nothing is
reversed or stacked. Of a sequence only three things are kept for the gradient: the mixer's input,
the states at some tokens, and the sum of the directions. All else is a few matrix products and one
pass of the convolution away, which take a twentieth of the step and would be three times the
memory (ADR 0035). What it computes is what `muse.head.mixers.mamba` does step by step.
"""

# Legend: X directions, B videos, L tokens, D width, E inner width.

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from muse.head.mixers.fused_gradients import open_gate, outer, scan_gradients
from muse.head.mixers.mixer_weights import MixerParts, MixerWeights, weights_of
from muse.head.mixers.scanned import scan_inputs
from muse.head.scan.cuda import bits_of, scan_forward
from muse.head.scan.cuda_block import gate_forward
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
    scanned = scan_inputs(u_BLE, lengths, directions, weights)
    num = len(weights.A)
    delta = scanned.steps(weights.dt).expand(num, -1, -1, -1)
    u, B, C, _ = scanned.of(slice(num), num)
    y_XBLE, states = scan_forward(
        u, delta, weights.A, B, C, weights.skip, weights.dt_bias, lengths, directions, keeps_states
    )
    gated_BLE, sum_BLE = gate_forward(y_XBLE, gate_BLE, keeps_states)
    return F.linear(gated_BLE, weights.out), sum_BLE, states
