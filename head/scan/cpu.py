"""The selective scan where no kernel is at hand: pure PyTorch, sequential, with its own backward.

On a CPU the sequential order is the fast one: a few states fit the cache, and one fused
multiply-add advances all of them. Autograd would keep every state (N times the sequence, N = 16);
this keeps one state a chunk and computes the others again on the way back. Knows nothing of the
block around it, and runs on any device.
"""

# Legend: X directions, B videos, M = X * B sequences, L tokens, E inner width, N state size,
# K tokens a chunk. Inside the loops time leads, so that a step is one contiguous block.

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Measured on two Zen 4 cores (1 MiB of L2 each): with less than about 200 kB of states a step one
# core idles, and chunk buffers (there are three) much above 3 MB fall out of the L3 that is shared.
GROUP_BYTES = 200_000
CHUNK_BYTES = 3_000_000
CUDA_CHUNK_BYTES = 256_000_000  # launches are what costs there: one group, long chunks
MAX_CHUNK = 64
LOG2_E = 1.4426950408889634  # exp(x) = exp2(x log2 e): ATen's exp2 is 3.5 times as fast as exp


def selective_scan(
    u_XBLE: Tensor,
    delta_XBLE: Tensor,
    A_XEN: Tensor,
    B_XBLN: Tensor,
    C_XBLN: Tensor,
    D_XE: Tensor,
    delta_bias_XE: Tensor,
) -> Tensor:
    """The output of the selective state space model; see `muse.head.scan.reference`.

    Args:
        u_XBLE: (X, B, L, E) the sequence.
        delta_XBLE: (X, B, L, E) step sizes before bias and softplus.
        A_XEN: (X, E, N), negative.
        B_XBLN: (X, B, L, N) input projections.
        C_XBLN: (X, B, L, N) output projections.
        D_XE: (X, E) skip connection.
        delta_bias_XE: (X, E).

    Returns:
        (X, B, L, E) in the dtype of ``u_XBLE``.
    """
    given, num_videos = u_XBLE.dtype, u_XBLE.shape[1]
    u_XBLE, delta_XBLE, B_XBLN, C_XBLN = (
        tensor.to(A_XEN.dtype) for tensor in (u_XBLE, delta_XBLE, B_XBLN, C_XBLN)
    )
    delta_XBLE = F.softplus(delta_XBLE + delta_bias_XE[:, None, None])
    A_XBNE = A_XEN.transpose(1, 2)[:, None].expand(-1, num_videos, -1, -1)
    y_MLE: Tensor = _LinearRecurrence.apply(
        (delta_XBLE * u_XBLE).flatten(0, 1),
        delta_XBLE.flatten(0, 1),
        A_XBNE.flatten(0, 1),
        B_XBLN.flatten(0, 1),
        C_XBLN.flatten(0, 1),
    )
    return (y_MLE.view_as(u_XBLE) + u_XBLE * D_XE[:, None, None]).to(given)


class _LinearRecurrence(torch.autograd.Function):
    """h_t = exp(Δ_t A) h_{t-1} + B_t x_t and y_t = C_t h_t for M sequences, from h = 0."""

    @staticmethod
    def forward(
        ctx: Any, x_MLE: Tensor, delta_MLE: Tensor, A_MNE: Tensor, B_MLN: Tensor, C_MLN: Tensor
    ) -> Tensor:
        sequences = _Sequences(x_MLE, delta_MLE, A_MNE, B_MLN, C_MLN)
        y_MLE = torch.empty_like(x_MLE)
        kept = [
            _forward_group(sequences.rows(rows), y_MLE[rows], keep=any(ctx.needs_input_grad))
            for rows in _groups(A_MNE)
        ]
        ctx.save_for_backward(*sequences, *kept)
        return y_MLE

    @staticmethod
    def backward(ctx: Any, dy_MLE: Tensor) -> tuple[Tensor, ...]:
        saved = ctx.saved_tensors  # once: activation checkpointing gives them a single time
        sequences = _Sequences(*saved[:5])
        gradients = _Sequences(*(torch.empty_like(tensor) for tensor in sequences))
        groups = zip(_groups(sequences.A_MNE), saved[5:], strict=True)
        for rows, kept in groups:
            _backward_group(sequences.rows(rows), dy_MLE[rows], kept, gradients.rows(rows))
        return gradients


class _Sequences(NamedTuple):
    """The tensors of M recurrences, or their gradients."""

    x_MLE: Tensor
    delta_MLE: Tensor
    A_MNE: Tensor
    B_MLN: Tensor
    C_MLN: Tensor

    def rows(self, rows: slice) -> "_Sequences":
        """A group of them, as views."""
        return _Sequences(*(tensor[rows] for tensor in self))

    def steps(self, steps: slice) -> "_Sequences":
        """A chunk of them, as views in which time leads."""
        x, delta, B, C = (
            tensor[:, steps].transpose(0, 1)
            for tensor in (self.x_MLE, self.delta_MLE, self.B_MLN, self.C_MLN)
        )
        return _Sequences(x, delta, self.A_MNE, B, C)


def _groups(A_MNE: Tensor) -> Iterator[slice]:
    """Slices of the M sequences, small enough that the states of a step stay in the cache."""
    num_sequences = A_MNE.shape[0]
    size = num_sequences
    if A_MNE.device.type == "cpu":
        size = max(1, GROUP_BYTES // (A_MNE[0].numel() * A_MNE.element_size()))
    for start in range(0, num_sequences, size):
        yield slice(start, start + size)


def _chunk_length(A_MNE: Tensor) -> int:
    """K, such that one buffer of K steps stays in the cache."""
    limit_bytes = CHUNK_BYTES if A_MNE.device.type == "cpu" else CUDA_CHUNK_BYTES
    return max(4, min(MAX_CHUNK, limit_bytes // (A_MNE.numel() * A_MNE.element_size())))


def _forward_group(sequences: _Sequences, y_MLE: Tensor, *, keep: bool) -> Tensor:
    """Fills ``y_MLE``; returns the state before each chunk, (chunks, M, N, E), if ``keep``."""
    A_MNE = sequences.A_MNE
    length = _chunk_length(A_MNE)
    decay_KMNE = A_MNE.new_empty(length, *A_MNE.shape)
    states_KMNE = A_MNE.new_zeros(length + 1, *A_MNE.shape)
    starts = range(0, y_MLE.shape[1], length)
    kept = A_MNE.new_empty(len(starts) if keep else 0, *A_MNE.shape)
    for index, start in enumerate(starts):
        if keep:
            kept[index] = states_KMNE[0]
        steps = slice(start, start + length)
        chunk = sequences.steps(steps)
        _, after_KMNE = _run_chunk(chunk, decay_KMNE, states_KMNE)
        y_MLE[:, steps] = (chunk.C_MLN[:, :, None] @ after_KMNE).squeeze(2).transpose(0, 1)
        states_KMNE[0] = after_KMNE[-1]
    return kept


def _run_chunk(chunk: _Sequences, decay_KMNE: Tensor, states_KMNE: Tensor) -> tuple[Tensor, Tensor]:
    """The decays of a chunk's steps and the states after them, from ``states_KMNE[0]`` on.

    Both are views of the buffers, which have room for more steps than a sequence's last chunk.
    """
    length = len(chunk.x_MLE)
    decay_KMNE, after_KMNE = decay_KMNE[:length], states_KMNE[1 : length + 1]
    torch.mul(chunk.delta_MLE[:, :, None], chunk.A_MNE * LOG2_E, out=decay_KMNE).exp2_()
    torch.mul(chunk.B_MLN[..., None], chunk.x_MLE[:, :, None], out=after_KMNE)
    state_MNE = states_KMNE[0]
    for decay_MNE, next_MNE in zip(decay_KMNE.unbind(), after_KMNE.unbind(), strict=True):
        state_MNE = next_MNE.addcmul_(decay_MNE, state_MNE)
    return decay_KMNE, after_KMNE


def _backward_group(
    sequences: _Sequences, dy_MLE: Tensor, kept: Tensor, gradients: _Sequences
) -> None:
    """Fills the five gradients, chunk by chunk from the last.

    With g_t the gradient of h_t: g_t = C_t dy_t + exp(Δ_{t+1} A) g_{t+1}, and from it
    dx_t = B_t·g_t, dB_t = g_t·x_t, dC_t = h_t·dy_t, and with e_t = g_t exp(Δ_t A) h_{t-1} the
    gradient of Δ_t A: dΔ_t = Σ_N A e_t, dA = Σ_t Δ_t e_t.
    """
    A_MNE = sequences.A_MNE
    length = _chunk_length(A_MNE)
    decay_buffer = A_MNE.new_empty(length, *A_MNE.shape)
    states_buffer = A_MNE.new_empty(length + 1, *A_MNE.shape)
    gradient_buffer = A_MNE.new_empty(length, *A_MNE.shape)
    carried_MNE = torch.zeros_like(A_MNE)  # exp(Δ_{t+1} A) g_{t+1} of the chunk after this one
    gradients.A_MNE.zero_()
    for index in reversed(range(len(kept))):
        steps = slice(index * length, (index + 1) * length)
        chunk, found = sequences.steps(steps), gradients.steps(steps)
        dy_KME = dy_MLE[:, steps].transpose(0, 1)
        states_buffer[0] = kept[index]
        decay_KMNE, after_KMNE = _run_chunk(chunk, decay_buffer, states_buffer)
        before_KMNE = states_buffer[: len(after_KMNE)]
        gradient_KMNE = gradient_buffer[: len(after_KMNE)]
        _run_gradient(chunk.C_MLN, dy_KME, decay_KMNE, carried_MNE, gradient_KMNE)
        # Row vector times matrix: seven times as fast as matrix times column vector.
        found.C_MLN.copy_((dy_KME[:, :, None] @ after_KMNE.transpose(2, 3)).squeeze(2))
        found.B_MLN.copy_((chunk.x_MLE[:, :, None] @ gradient_KMNE.transpose(2, 3)).squeeze(2))
        found.x_MLE.copy_((chunk.B_MLN[:, :, None] @ gradient_KMNE).squeeze(2))
        exponent_KMNE = gradient_KMNE.mul_(decay_KMNE).mul_(before_KMNE)  # e_t
        for delta_ME, exponent_MNE in zip(chunk.delta_MLE, exponent_KMNE, strict=True):
            gradients.A_MNE.addcmul_(delta_ME[:, None], exponent_MNE)
        found.delta_MLE.copy_(exponent_KMNE.mul_(A_MNE).sum(2))


def _run_gradient(
    C_KMN: Tensor, dy_KME: Tensor, decay_KMNE: Tensor, carried_MNE: Tensor, gradient_KMNE: Tensor
) -> None:
    """Fills g_t of a chunk from its last step to its first, then what its first step carries on."""
    torch.mul(C_KMN[..., None], dy_KME[:, :, None], out=gradient_KMNE)
    gradients = gradient_KMNE.unbind(0)
    decays = decay_KMNE.unbind(0)
    gradients[-1].add_(carried_MNE)
    for step in range(len(gradients) - 2, -1, -1):
        gradients[step].addcmul_(decays[step + 1], gradients[step + 1])
    torch.mul(decays[0], gradients[0], out=carried_MNE)
