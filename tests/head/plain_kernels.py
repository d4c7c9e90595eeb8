"""What the CUDA kernels compute, in torch's own words and for any device.

In the operators' places, all that is built on them runs without a GPU; that the kernels compute the
same is for ``test_cuda_scan.py`` to show, on one.
"""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from muse.head.mixers import fused, fused_block, fused_gradients, scanned
from muse.head.scan import reference

_PLACES = {
    fused: ("scan_forward", "gate_forward"),
    scanned: ("conv_forward",),
    fused_gradients: ("scan_backward_into", "conv_backward", "gate_backward"),
    fused_block: ("norm_forward", "norm_backward", "narrow_and_sum"),
}


def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts all in the operators' places."""
    for module, names in _PLACES.items():
        for name in names:
            monkeypatch.setattr(module, name, globals()[name])


def scan_in_words(
    tensors: list[Tensor], reversed_X: tuple[bool, ...], lengths: list[int] | None
) -> Tensor:
    """Each sequence by itself: cut, turned round, scanned by the reference, turned back."""
    u, delta, A, B, C, D, bias = tensors
    rows = []
    for x, b in itertools.product(range(u.shape[0]), range(u.shape[1])):
        length = u.shape[2] if lengths is None else lengths[b]
        cut = [tensor[x : x + 1, b : b + 1, :length] for tensor in (u, delta, B, C)]
        if reversed_X[x]:
            cut = [tensor.flip(2) for tensor in cut]
        its = [tensor[x : x + 1] for tensor in (A, D, bias)]
        if length:
            y = reference.selective_scan(cut[0], cut[1], its[0], cut[2], cut[3], its[1], its[2])
        else:
            y = cut[0]
        y = y.flip(2) if reversed_X[x] else y
        rows.append(F.pad(y, (0, 0, 0, u.shape[2] - length)))
    return torch.cat(rows).view(u.shape)


def conv_in_words(
    tokens_BLE: Tensor,
    weight_XEW: Tensor,
    bias_XE: Tensor,
    reversed_X: tuple[bool, ...],
    lengths: list[int] | None,
) -> Tensor:
    """(X, B, L, E): each sequence by itself, as `scan_in_words`."""
    taps, rows = weight_XEW.shape[-1], []
    for x, b in itertools.product(range(len(weight_XEW)), range(len(tokens_BLE))):
        length = tokens_BLE.shape[1] if lengths is None else lengths[b]
        cut_LE = tokens_BLE[b, :length]
        cut_LE = cut_LE.flip(0) if reversed_X[x] else cut_LE
        if length:
            padded_EL = F.pad(cut_LE.t(), (taps - 1, 0))
            weight_E1W = weight_XEW[x, :, None]
            made_EL = F.conv1d(padded_EL, weight_E1W, bias_XE[x], groups=len(padded_EL))
            cut_LE = F.silu(made_EL.t())
        made_LE = cut_LE.flip(0) if reversed_X[x] else cut_LE
        rows.append(F.pad(made_LE, (0, 0, 0, tokens_BLE.shape[1] - length)))
    return torch.stack(rows).view(len(weight_XEW), *tokens_BLE.shape)


def gate_in_words(y_XBLE: Tensor, gate_BLE: Tensor) -> Tensor:
    return y_XBLE.sum(0) * F.silu(gate_BLE)


def _reversed(directions: int) -> tuple[bool, bool]:
    return bool(directions & 1), bool(directions & 2)


def _listed(lengths: Tensor | None) -> list[int] | None:
    return None if lengths is None else [int(length) for length in lengths]


def scan_forward(*arguments: Tensor) -> tuple[Tensor, Tensor]:
    *tensors, lengths, directions, _ = arguments
    y = scan_in_words(tensors, _reversed(directions), _listed(lengths))
    return y, torch.zeros(1)


def scan_backward(dy: Tensor, states: Tensor, *arguments: Tensor) -> tuple[Tensor, ...]:
    *tensors, lengths, directions = arguments
    u, delta, A, B, C, D, bias = tensors
    # A video's own A, D and bias give their gradients by video.
    every = [t.expand(u.shape[1], *t.shape).clone().requires_grad_() for t in (A, D, bias)]
    own = [t.clone().requires_grad_() for t in (u, delta, B, C)]
    with torch.enable_grad():
        total = torch.zeros(())
        for b in range(u.shape[1]):
            its = [t[:, b : b + 1] for t in own]
            cut = None if lengths is None else [int(lengths[b])]
            row = [its[0], its[1], every[0][b], its[2], its[3], every[1][b], every[2][b]]
            total = (
                total + (scan_in_words(row, _reversed(directions), cut) * dy[:, b : b + 1]).sum()
            )
        gradients = torch.autograd.grad(total, [*own, *every])
    du, ddelta, dB, dC, dA, dD, dbias = gradients
    by_direction = [t.transpose(0, 1).contiguous() for t in (dA, dD, dbias)]
    return (
        du, ddelta, by_direction[0], torch.stack(by_direction[1:]), torch.cat([dB, dC], dim=-1),
    )  # fmt: skip


def scan_backward_into(du: Tensor, *arguments: Tensor) -> tuple[Tensor, ...]:
    own, delta = scan_backward(*arguments), arguments[3]
    du.copy_(own[0])
    delta.copy_(own[1])
    return own[2:]


def conv_forward(
    tokens: Tensor, weight: Tensor, bias: Tensor, lengths: Tensor | None, directions: int
) -> Tensor:
    return conv_in_words(tokens, weight, bias, _reversed(directions), _listed(lengths))


def conv_backward(
    dout: Tensor, tokens: Tensor, weight: Tensor, bias: Tensor, lengths: Tensor | None,
    directions: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    own = [t.clone().requires_grad_() for t in (tokens, weight, bias)]
    with torch.enable_grad():
        made = conv_in_words(own[0], own[1], own[2], _reversed(directions), _listed(lengths))
        return torch.autograd.grad((made * dout).sum(), own)


def gate_forward(y: Tensor, gate: Tensor, keeps_sum: bool) -> tuple[Tensor, Tensor]:
    return gate_in_words(y, gate), y.sum(0) if keeps_sum else y.new_empty(0)


def gate_backward(dout: Tensor, total: Tensor, gate: Tensor) -> tuple[Tensor, ...]:
    own = [total.clone().requires_grad_(), gate.clone().requires_grad_()]
    with torch.enable_grad():
        made = gate_in_words(own[0][None], own[1])
        return (*torch.autograd.grad((made * dout).sum(), own), made.detach())


def norm_forward(
    x: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor, eps: float,
    out_dtype: torch.dtype, norms: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    total = x if added is None else (x + added).to(x.dtype)
    normed = F.layer_norm(total.float(), weight.shape, weight, bias, eps).to(out_dtype)
    return total, normed if norms else torch.zeros(0)


def norm_backward(
    dnormed: Tensor, dtotal: Tensor | None, total: Tensor, weight: Tensor, eps: float,
    also: torch.dtype | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    own = [total.detach().float(), weight.detach(), torch.zeros_like(weight)]
    with torch.enable_grad():
        own = [tensor.requires_grad_() for tensor in own]
        normed = F.layer_norm(own[0], weight.shape, own[1], own[2], eps)
    dx, dweight, dbias = torch.autograd.grad(normed, own, dnormed.float())
    dx = (dx if dtotal is None else dx + dtotal).to(total.dtype)
    return dx, torch.zeros(0) if also is None else dx.to(also), dweight, dbias


def narrow_and_sum(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return x.to(dtype), x.float().flatten(0, -2).sum(0)
