"""How a worker builds its encoder, as a value. No torch: whoever only passes it on stays light."""

from dataclasses import dataclass
from typing import Literal

Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderSetting:
    """How a worker builds its encoder."""

    spec: str
    device: str
    precision: Precision
    num_threads: int
    """Of torch on the CPU. Fixed, since the split of a sum decides its last bits."""
