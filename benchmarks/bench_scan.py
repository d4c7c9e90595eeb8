"""Time of the selective scan alone, forward and backward: muse's kernels beside mamba-ssm's.

Two directions, bf16. mamba-ssm is given the second direction as further videos, already reversed,
channels first as it wants them. Where muse cuts sequences into chunks (ADR 0045), it is also
measured without. Medians, all in one process. One JSON line a shape.

Usage: python benchmarks/bench_scan.py [--shapes 128x3060 16x3060 16x16320 1x3060 1x100000]
           [--width 512] [--states 16] [--threads 128]
"""

import argparse
import contextlib
import json
import statistics
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from muse.head.scan import cuda, cuda_gradients, grid
from muse.head.scan.cuda import selective_scan
from muse.head.scan.grid import chunks_of, in_chunks, shape_of
from muse.pipeline.kernels.cuda_kernels import num_multiprocessors

WARM_UP = 3
DEFAULT_SHAPES = ["128x3060", "16x3060", "16x16320", "1x3060", "1x100000"]


def inputs_of(videos: int, length: int, flags: argparse.Namespace) -> list[Tensor]:
    """Of two directions; step sizes and rates of Mamba's initialisation."""
    wide, bf16 = (2, videos, length), {"dtype": torch.bfloat16, "device": "cuda"}
    rates = torch.arange(1.0, flags.states + 1, device="cuda")
    return [
        torch.randn(*wide, flags.width, **bf16), torch.randn(*wide, flags.width, **bf16),
        -rates.expand(2, flags.width, -1).clone(), torch.randn(*wide, flags.states, **bf16),
        torch.randn(*wide, flags.states, **bf16), torch.ones(2, flags.width, device="cuda"),
        torch.full((2, flags.width), -4.0, device="cuda"),
    ]  # fmt: skip


def muse_step(tensors: list[Tensor]) -> tuple[Callable[[], Tensor], list[Tensor]]:
    own = [tensor.requires_grad_() for tensor in tensors]
    return lambda: selective_scan(*own, reversed_X=(False, True)), own


def published_step(tensors: list[Tensor]) -> tuple[Callable[[], Tensor], list[Tensor]]:
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    u, delta, A, B, C, D, bias = tensors
    columns = [
        tensor.flatten(0, 1).transpose(1, 2).contiguous().requires_grad_()
        for tensor in (u, delta, B, C)
    ]
    own = [*columns, *(tensor[0].clone().requires_grad_() for tensor in (A, D, bias))]

    def scan() -> Tensor:
        u, delta, B, C, A, D, bias = own
        made: Tensor = selective_scan_fn(u, delta, A, B, C, D, delta_bias=bias, delta_softplus=True)
        return made

    return scan, own


def cost_of(scan: Callable[[], Tensor], own: list[Tensor], repeats: int) -> dict[str, float]:
    """Median milliseconds forward and backward."""
    times: dict[str, list[float]] = {"forward_ms": [], "backward_ms": []}
    gradient = None
    for turn in range(WARM_UP + repeats):
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(3)]
        marks[0].record()
        y = scan()
        marks[1].record()
        gradient = torch.randn_like(y) if gradient is None else gradient
        torch.autograd.grad(y, own, gradient)
        marks[2].record()
        torch.cuda.synchronize()
        if turn >= WARM_UP:
            times["forward_ms"].append(marks[0].elapsed_time(marks[1]))
            times["backward_ms"].append(marks[1].elapsed_time(marks[2]))
    return {name: round(statistics.median(values), 3) for name, values in times.items()}


def num_chunks(tensors: list[Tensor]) -> int:
    """Into which muse cuts each sequence."""
    u, _, A, *_ = tensors
    return chunks_of(shape_of(u, A, 2), A.shape[-1], num_multiprocessors(u.device)).number


def uncut_cost(tensors: list[Tensor], repeats: int) -> dict[str, float]:
    """Of muse's scan with one chunk a sequence."""
    with contextlib.ExitStack() as patches:
        for module in (cuda, cuda_gradients):
            uncut = mock.patch.object(
                module, "chunks_of", lambda shape, *_: in_chunks(shape.tiles, 1)
            )
            patches.enter_context(uncut)
        return cost_of(*muse_step(tensors), repeats)


def main() -> None:
    """Prints each shape's line as it is done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", default=DEFAULT_SHAPES)
    for name, default in {"width": 512, "states": 16, "repeats": 10}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--threads", type=int, help="Of a block, in place of what muse takes.")
    flags = parser.parse_args()
    if flags.threads:
        grid.THREADS[flags.states] = flags.threads
    for shape in flags.shapes:
        videos, length = (int(number) for number in shape.split("x"))
        found: dict[str, Any] = {}
        for name, made in (("muse", muse_step), ("mamba-ssm", published_step)):
            torch.manual_seed(0)
            try:
                found[name] = cost_of(*made(inputs_of(videos, length, flags)), flags.repeats)
            except (torch.OutOfMemoryError, ImportError) as error:
                found[name] = {"error": f"{type(error).__name__}: {str(error)[:80]}"}
        tensors = inputs_of(videos, length, flags)
        found["chunks"] = num_chunks(tensors)
        if found["chunks"] > 1:
            found["muse-uncut"] = uncut_cost(tensors, flags.repeats)
        sizes = {"videos": videos, "tokens": length, "width": flags.width, "states": flags.states}
        device = torch.cuda.get_device_name()
        print(json.dumps({"benchmark": "scan", **sizes, "device": device, **found}), flush=True)


if __name__ == "__main__":
    main()
