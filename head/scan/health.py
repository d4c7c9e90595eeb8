"""Whether each backend of the scan can run here, and computes what the reference does.

Knows nothing of commands.
"""

# Legend: X directions, B videos, L tokens, E inner width, N state size.

import time
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from muse.head.scan import reference
from muse.head.scan.select import (
    ScanBackend,
    SelectiveScan,
    resolve_backend,
    select_scan,
    why_not,
)

LARGEST_ERROR = 1e-4
"""Relative, in float32: output and seven gradients stay below it."""
_SIZES = (2, 2, 200, 64, 16)  # X, B, L, E, N: several tiles of the kernels, and quick on a CPU


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendHealth:
    """What was found of one backend."""

    backend: ScanBackend
    is_chosen: bool
    """Whether ``auto`` takes it."""
    why_not: str | None
    """Why it can't run; None where it ran."""
    error: float | None = None
    """The largest of output and gradients, relative to the reference's in float64."""
    milliseconds: float | None = None
    """Of output and gradients, on small data; the second time, when all is compiled."""

    @property
    def is_sound(self) -> bool:
        """Whether it agrees with the reference, or is not used."""
        return self.error is None or self.error <= LARGEST_ERROR


def backend_health(device: torch.device) -> list[BackendHealth]:
    """Of every backend but ``auto``, on fresh random data of a fixed seed."""
    chosen = resolve_backend("auto", device)
    inputs = _random_inputs()
    wanted = _output_and_gradients(reference.selective_scan, [t.double() for t in inputs])
    found = []
    for backend in get_args(ScanBackend):
        if backend == "auto":
            continue
        reason = why_not(backend, device)
        error, milliseconds = (None, None) if reason else _measured(backend, device, inputs, wanted)
        found.append(
            BackendHealth(
                backend=backend,
                is_chosen=backend == chosen,
                why_not=reason,
                error=error,
                milliseconds=milliseconds,
            )
        )
    return found


def _measured(
    backend: ScanBackend, device: torch.device, inputs: list[Tensor], wanted: list[Tensor]
) -> tuple[float, float]:
    """The largest error, and milliseconds."""
    scan, placed = select_scan(backend, device), [tensor.to(device) for tensor in inputs]
    for _ in range(2):
        start = time.perf_counter()
        found = [tensor.cpu().double() for tensor in _output_and_gradients(scan, placed)]
        milliseconds = (time.perf_counter() - start) * 1e3
    errors = [
        ((one - other).norm() / other.norm()).item()
        for one, other in zip(found, wanted, strict=True)
    ]
    return max(errors), milliseconds


def _output_and_gradients(scan: SelectiveScan, inputs: list[Tensor]) -> list[Tensor]:
    own = [tensor.detach().requires_grad_() for tensor in inputs]
    output = scan(*own)
    # A gradient that is no constant: each token's counts differently.
    above = torch.linspace(-1, 1, output.numel(), device=output.device, dtype=output.dtype)
    return [output.detach(), *torch.autograd.grad(output, own, above.view_as(output))]


def _random_inputs() -> list[Tensor]:
    num_directions, num_videos, length, width, num_states = _SIZES
    drawn = torch.Generator().manual_seed(0)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=drawn)

    wide = (num_directions, num_videos, length)
    rates = torch.rand((num_directions, width, num_states), generator=drawn)
    return [
        normal(*wide, width), normal(*wide, width), -(rates * num_states + 0.1),
        normal(*wide, num_states), normal(*wide, num_states),
        normal(num_directions, width), normal(num_directions, width) - 3,
    ]  # fmt: skip
