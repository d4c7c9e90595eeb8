"""Which selective scan runs: the one place that decides it.

Knows nothing of the block around the scan.
"""

from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from muse.errors import MuseError, UsageError
from muse.head.scan import cpu, cuda, mamba_ssm, reference
from muse.head.scan.cuda_block import MAX_TAPS

ScanBackend = Literal["auto", "reference", "cpu", "cuda", "mamba-ssm"]


class SelectiveScan(Protocol):
    """What every backend is; `muse.head.scan.reference` says what each argument means."""

    def __call__(
        self,
        u_XBLE: Tensor,
        delta_XBLE: Tensor,
        A_XEN: Tensor,
        B_XBLN: Tensor,
        C_XBLN: Tensor,
        D_XE: Tensor,
        delta_bias_XE: Tensor,
    ) -> Tensor:
        """(X, B, L, E)."""
        ...


_SCANS: dict[str, SelectiveScan] = {
    "reference": reference.selective_scan,
    "cpu": cpu.selective_scan,
    "cuda": cuda.selective_scan,
    "mamba-ssm": mamba_ssm.selective_scan,
}


def resolve_backend(
    backend: ScanBackend, device: torch.device, *, d_state: int = 16, d_conv: int = 4
) -> ScanBackend:
    """The backend that ``auto`` stands for on a device, or the one asked for.

    ``auto`` is the first that can run of ``cuda``, ``mamba-ssm`` and, always, ``cpu``.

    Args:
        backend: As asked for.
        device: Of the head.
        d_state: N of the head.
        d_conv: Taps of its convolution.

    Raises:
        UsageError: If there is no such backend.
        MuseError: If a kernel was asked for and can't run there, saying what to do.
    """
    if backend not in get_args(ScanBackend):
        raise UsageError(f"scan {backend!r}: choose one of {', '.join(get_args(ScanBackend))}")
    if backend == "auto":
        kernels: tuple[ScanBackend, ...] = ("cuda", "mamba-ssm")
        if device.type != "cuda":
            return "cpu"
        can_run = (k for k in kernels if why_not(k, device, d_state=d_state, d_conv=d_conv) is None)
        return next(can_run, "cpu")
    reason = why_not(backend, device, d_state=d_state, d_conv=d_conv)
    if reason is not None:
        hint = mamba_ssm.INSTALL_HINT if backend == "mamba-ssm" else "Leave the scan on auto."
        raise MuseError(f"scan {backend}: {reason}. {hint}")
    return backend


def why_not(
    backend: ScanBackend, device: torch.device, *, d_state: int = 16, d_conv: int = 4
) -> str | None:
    """The reason why a backend can't run on a device; None if it can."""
    kernels = {"cuda": cuda.why_unavailable, "mamba-ssm": mamba_ssm.why_unavailable}
    if backend not in kernels:
        return None
    reason = kernels[backend]()
    if reason is None and device.type != "cuda":
        reason = f"the head is on {device.type}, the kernel runs on CUDA only"
    if reason is None and backend == "cuda":
        for name, value, limit in (
            ("d_state", d_state, cuda.MAX_STATES),
            ("d_conv", d_conv, MAX_TAPS),
        ):
            if value > limit:
                reason = f"{name} is {value}, and the kernel takes up to {limit}"
    return reason


def select_scan(backend: ScanBackend, device: torch.device, *, d_state: int = 16) -> SelectiveScan:
    """The scan of `resolve_backend`."""
    return _SCANS[resolve_backend(backend, device, d_state=d_state)]
