"""The selective scan as the paper writes it: a loop over the sequence, differentiated by autograd.

The oracle of every other backend. Takes any floating dtype, any device and any length; slow, and
its memory grows with the length. Knows nothing of the block around the scan.
"""

# Legend (docs/glossary.md): X directions scanned at once, each with parameters of its own; B
# videos in a batch; L tokens in the scan; E inner width; N state size.

import torch
import torch.nn.functional as F
from torch import Tensor


def selective_scan(
    u_XBLE: Tensor,
    delta_XBLE: Tensor,
    A_XEN: Tensor,
    B_XBLN: Tensor,
    C_XBLN: Tensor,
    D_XE: Tensor,
    delta_bias_XE: Tensor,
) -> Tensor:
    """The output of the selective state space model, [Mamba] algorithm 2.

    The recurrence, with Δ = softplus(delta + bias): h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t and
    y_t = C_t h_t + D u_t. A is discretised by a zero-order hold ([Mamba] sec. 2 eq. 4), B by
    Euler's rule instead, as the authors' kernel does.

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
    delta_XBLE = F.softplus(delta_XBLE + delta_bias_XE[:, None, None])
    state_XBEN = torch.zeros_like(u_XBLE[:, :, 0, :, None] * A_XEN[:, None])
    outputs = []
    # unbind, not indexing: the backward of an index allocates the whole sequence at every step.
    for u_XBE, delta_XBE, B_XBN, C_XBN in zip(
        u_XBLE.unbind(2), delta_XBLE.unbind(2), B_XBLN.unbind(2), C_XBLN.unbind(2), strict=True
    ):
        decay_XBEN = (delta_XBE[..., None] * A_XEN[:, None]).exp()
        input_XBEN = (delta_XBE * u_XBE)[..., None] * B_XBN[..., None, :]
        state_XBEN = decay_XBEN * state_XBEN + input_XBEN
        outputs.append((state_XBEN * C_XBN[..., None, :]).sum(-1))
    y_XBLE = torch.stack(outputs, dim=2) + u_XBLE * D_XE[:, None, None]
    return y_XBLE.to(u_XBLE.dtype)
