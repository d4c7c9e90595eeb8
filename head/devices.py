"""Where a head computes, in which precision, and the random state there. Knows nothing of heads."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Literal, get_args

import torch
from torch import Tensor

from muse.errors import MuseError, UsageError

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16"]


def resolve_device(device: Device) -> torch.device:
    """The device that ``auto`` stands for here, or the one asked for.

    Raises:
        UsageError: If there is no such choice.
        MuseError: If CUDA was asked for and torch sees none.
    """
    if device not in get_args(Device):
        raise UsageError(f"device {device!r}: choose one of {', '.join(get_args(Device))}")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise MuseError(
            f"device cuda: torch {torch.__version__} sees no CUDA device. Use `auto` or `cpu`, "
            "or install a CUDA build of torch and its driver."
        )
    return torch.device(device)


def device_name(device: torch.device) -> str:
    """``cpu``, or what the maker calls the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """``fp32`` or ``bf16``; ``auto`` is bf16 on CUDA and fp32 elsewhere.

    Raises:
        UsageError: If there is no such choice, or bf16 was asked for elsewhere than on CUDA.
    """
    if precision not in get_args(Precision):
        raise UsageError(f"precision {precision!r}: choose one of {', '.join(get_args(Precision))}")
    if precision == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    if precision == "bf16" and device.type != "cuda":
        raise UsageError(f"precision bf16: only on CUDA, and this run is on {device.type}")
    return precision


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """Matrix products in ``precision``; what torch holds to need float32 stays there."""
    is_bf16 = precision == "bf16"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_bf16)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """State of the generators that dropout draws from, uint8 by kind of device."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Goes back to `random_state`, which may have been taken on another device."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
