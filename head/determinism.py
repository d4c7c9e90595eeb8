"""Training that CUDA repeats bit for bit: what has to be set, when, and put back.

Knows nothing of heads.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from muse.errors import UsageError

CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
# The two that cuBLAS documents as reproducible, the larger (24 MiB) first.
REPRODUCIBLE_WORKSPACES = (":4096:8", ":16:8")


def prepare_process() -> None:
    """Lets cuBLAS repeat its sums; it looks once, so call this before any work on CUDA.

    What the environment says already stays.
    """
    os.environ.setdefault(CUBLAS_WORKSPACE, REPRODUCIBLE_WORKSPACES[0])


@contextmanager
def deterministic_algorithms(*, is_on: bool, device: torch.device) -> Iterator[None]:
    """Within, torch chooses algorithms that repeat, and refuses those that don't.

    Nothing changes unless ``is_on`` and ``device`` is CUDA: a CPU repeats its sums as it is.

    Raises:
        UsageError: If cuBLAS was not told to repeat its sums.
    """
    if not is_on or device.type != "cuda":
        yield
        return
    if os.environ.get(CUBLAS_WORKSPACE) not in REPRODUCIBLE_WORKSPACES:
        raise UsageError(
            f"deterministic: {CUBLAS_WORKSPACE} is {os.environ.get(CUBLAS_WORKSPACE)!r}, and "
            f"cuBLAS repeats its sums with {' or '.join(REPRODUCIBLE_WORKSPACES)} alone. Call "
            "muse.head.determinism.prepare_process() before any work on CUDA."
        )
    was_on = torch.are_deterministic_algorithms_enabled()
    warned_only = torch.is_deterministic_algorithms_warn_only_enabled()
    tries_algorithms = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_on, warn_only=warned_only)
        torch.backends.cudnn.benchmark = tries_algorithms
