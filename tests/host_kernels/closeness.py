"""How near a kernel has to come to float64."""

from collections.abc import Sequence

import torch
from torch import Tensor

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 1e-2}
"""Of the norm of the difference, by that of what is right."""


def assert_close(found: Sequence[Tensor], wanted: Sequence[Tensor], tolerance: float) -> None:
    for place, (its, right) in enumerate(zip(found, wanted, strict=True)):
        distance, size = (its.double() - right).norm(), right.double().norm()
        assert distance <= tolerance * size + 1e-30, f"tensor {place}: {distance} of {size}"
