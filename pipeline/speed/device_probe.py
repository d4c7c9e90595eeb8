"""What an encoder's device can do at most: its matrix products, and its copies to a GPU.

A few tenths of a second before the first video. Counts what a frame takes from what the encoder
really runs, so no table of models is needed. Knows nothing of runs.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from muse.pipeline.encoders.base import Encoder, dtype_of
from muse.pipeline.speed.report import DeviceRates

logger = logging.getLogger(__name__)

_SIDE_CPU, _SIDE_GPU = 1024, 8192  # of square matrices: 2 GFLOP, 1.1 TFLOP
_COPIED_BYTES = 1 << 26
_TRIES = 4  # the best counts: the first one warms up


def measure_device(encoder: Encoder, *, device: str, views: Sequence[str]) -> DeviceRates | None:
    """The rates of a device beside what one frame takes; None if a frame takes no matrix products.

    None too where the device has no memory for it, or torch can't count: a report stops no run.

    Args:
        encoder: That is on it.
        device: ``cpu`` or ``cuda``.
        views: That are made of a frame (`muse.pipeline.views.encoded_views`).
    """
    if not views:
        return None
    try:
        return _measured(encoder, device, views)
    except (RuntimeError, AssertionError) as error:  # torch's counter asserts shapes that it knows
        logger.info("the device's rate of matrix products is not known: %s", error)
        return None


def _measured(encoder: Encoder, device: str, views: Sequence[str]) -> DeviceRates | None:
    frame_flops, size = _flops_of_a_frame(encoder, views), encoder.info.preprocessing.size
    if not frame_flops:
        return None
    return DeviceRates(
        matrix_flops=matrix_flops(device, dtype_of(encoder.info.precision)),
        frame_flops=frame_flops,
        copied_bytes=_copied_bytes() if device == "cuda" else None,
        frame_bytes=3 * size * size,
    )


def _flops_of_a_frame(encoder: Encoder, views: Sequence[str]) -> int:
    size = encoder.info.preprocessing.size
    frame_BHWC = np.zeros((1, size, size, 3), np.uint8)
    with _counted_attention(), FlopCounterMode(display=False) as counter:
        encoder.encode_frames(frame_BHWC, views)
    return int(counter.get_total_flops())


@contextmanager
def _counted_attention() -> Iterator[None]:
    """Attention as plain products: of the fused operators the counter knows some only."""
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was)


def matrix_flops(device: str, dtype: torch.dtype) -> float:
    """A second, of square matrices: two a multiplication and addition.

    Of random values: a GPU multiplies ones up to a tenth faster, as they take less power.
    """
    side = _SIDE_CPU if device == "cpu" else _SIDE_GPU
    drawn = torch.Generator(device).manual_seed(0)  # not the caller's random state
    left = torch.randn((side, side), device=device, generator=drawn).to(dtype)
    return 2 * side**3 / _best_seconds(lambda: left @ left, device)


def _copied_bytes() -> float:
    """A second, from pinned memory to the GPU."""
    source = torch.zeros(_COPIED_BYTES, dtype=torch.uint8).pin_memory()
    return _COPIED_BYTES / _best_seconds(lambda: source.to("cuda", non_blocking=True), "cuda")


def _best_seconds(work: Callable[[], object], device: str) -> float:
    return min(_seconds(work, device) for _ in range(_TRIES))


def _seconds(work: Callable[[], object], device: str) -> float:
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
