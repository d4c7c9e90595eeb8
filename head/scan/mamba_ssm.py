"""The selective scan of mamba-ssm's CUDA kernel, where that package is installed.

The only module that imports mamba_ssm or selective_scan_cuda, and only inside its functions.
Knows nothing of the block around the scan.
"""

# Legend: X directions, B videos, L tokens, E inner width, N state size, W taps of the convolution.

from functools import cache

import torch
from torch import Tensor

INSTALL_HINT = (
    "Install it with `pip install --no-build-isolation 'muse-retrieval[cuda]'` "
    "(it needs nvcc), or leave the scan on `auto`."
)


@cache
def why_unavailable() -> str | None:
    """The reason why the kernel can't run here, or None if it can.

    Probes the compiled module itself: a mamba_ssm built without it may import all the same.
    """
    if not torch.cuda.is_available():
        return "no CUDA device"
    try:
        import selective_scan_cuda  # noqa: F401
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn  # noqa: F401
    except ImportError as error:
        return f"{error.name or 'mamba_ssm'} can't be imported ({error})"
    return None


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

    All directions share one launch: their channels lie side by side, and B and C come in X groups
    of channels, which the kernel allows.

    Args:
        u_XBLE: (X, B, L, E) on a CUDA device.
        delta_XBLE: (X, B, L, E) step sizes before bias and softplus.
        A_XEN: (X, E, N) float32, negative.
        B_XBLN: (X, B, L, N) input projections.
        C_XBLN: (X, B, L, N) output projections.
        D_XE: (X, E) float32 skip connection.
        delta_bias_XE: (X, E) float32.

    Returns:
        (X, B, L, E) in the dtype of ``u_XBLE``.
    """
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    num_directions, num_videos, length, width = u_XBLE.shape
    y_BCL: Tensor = selective_scan_fn(
        _channels_first(u_XBLE).flatten(1, 2),
        _channels_first(delta_XBLE).flatten(1, 2),
        A_XEN.flatten(0, 1).contiguous(),
        _channels_first(B_XBLN).contiguous(),
        _channels_first(C_XBLN).contiguous(),
        D=D_XE.flatten().contiguous(),
        delta_bias=delta_bias_XE.flatten().contiguous(),
        delta_softplus=True,
    )
    y_BXEL = y_BCL.view(num_videos, num_directions, width, length)
    return y_BXEL.permute(1, 0, 3, 2)


def _channels_first(tensor_XBLC: Tensor) -> Tensor:
    """(B, X, C, L), as the kernel wants it."""
    return tensor_XBLC.permute(1, 0, 3, 2)
