"""Time and memory of the head's blocks: muse's kernels, what is published, attention.

Blocks as `muse.head.residual.ResMambaBlock` has them, on random tokens of the paper's three scales
(255 a frame), bf16 products. "published" is mamba-ssm and causal-conv1d composed as Vim does. All
of a setting in one process, one after the other, medians; memory is what torch allocated at most
beyond weights and tokens, GiB. One JSON line a setting.

Usage: python benchmarks/bench_head.py [--settings 128x12 16x64 16x12] [--mixers muse published]
           [--inference] [--line 16]
"""

import argparse
import json
import statistics
from collections.abc import Callable
from typing import Any

import torch
from published_mixer import PublishedBiMamba
from torch import Tensor, nn

from muse.head import aggregator
from muse.head.aggregator import VIDEOS_AT_ONCE, MuseAggregator
from muse.head.head_config import HeadConfig
from muse.head.ordering import TokenSequence

TOKENS_A_FRAME = 255
WARM_UP, WHOLE = 3, 2**30


def blocks_of(mixer: str, flags: argparse.Namespace) -> MuseAggregator:
    """The head's blocks on the GPU; its pyramid is not used."""
    is_published = mixer == "published"
    name = {"muse": "bimamba-v2", "published": "bimamba-v2"}.get(mixer, mixer)
    config = HeadConfig(dim=flags.dim, depth=flags.depth, factors=(), mixer=name, dropout=0.0)
    head = MuseAggregator(config, scan="cuda" if mixer == "muse" else "auto").cuda()
    for block in head.blocks:
        nn.init.normal_(block.gate.weight, std=0.02)  # a closed gate sends no gradient back
        if is_published:
            block.mamba.__class__ = PublishedBiMamba
    # The published code passes a batch whole.
    aggregator.VIDEOS_AT_ONCE = WHOLE if is_published else VIDEOS_AT_ONCE
    return head


def passing(head: MuseAggregator, tokens_BLD: Tensor, *, trains: bool) -> Callable[[], None]:
    """One forward, and backward where it trains."""
    sequence = TokenSequence(tokens_BLD=tokens_BLD, length_B=None, places_BTR=None)

    def step() -> None:
        with torch.set_grad_enabled(trains), torch.autocast("cuda", torch.bfloat16):
            out_BLD = head._through_blocks(sequence)
        if trains:
            out_BLD.backward(gradient_BLD)
            head.zero_grad(set_to_none=True)  # as a training does
            tokens_BLD.grad = None

    gradient_BLD = torch.randn_like(tokens_BLD)
    return step


def cost_of(step: Callable[[], None], repeats: int) -> dict[str, Any]:
    """Milliseconds, median and extremes, and GiB."""
    for _ in range(WARM_UP):
        step()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        step()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    peak = torch.cuda.max_memory_allocated() - before
    return {
        "ms": round(statistics.median(times), 2),
        "ms_min": round(min(times), 2),
        "ms_max": round(max(times), 2),
        "GiB": round(peak / 2**30, 2),
    }


def measured(mixer: str, videos: int, frames: int, flags: argparse.Namespace) -> dict[str, Any]:
    """Of one mixer at one setting; why not, where it cannot run."""
    torch.manual_seed(0)
    try:
        head = blocks_of(mixer, flags).train()
        tokens_BLD = torch.randn(videos, frames * TOKENS_A_FRAME, flags.dim, device="cuda")
        tokens_BLD.requires_grad_(not flags.inference)
        step = passing(head, tokens_BLD, trains=not flags.inference)
        return cost_of(step, flags.repeats)
    except (torch.OutOfMemoryError, ImportError) as error:
        return {"error": f"{type(error).__name__}: {str(error)[:80]}"}


def main() -> None:
    """Prints each setting's line as it is done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", nargs="+", default=["128x12", "16x64", "16x12"])
    parser.add_argument("--mixers", nargs="+", default=["muse", "published", "flash-attention"])
    parser.add_argument("--inference", action="store_true")
    parser.add_argument("--line", type=int, metavar="VIDEOS", help="12 to 256 frames, muse alone.")
    for name, default in {"dim": 512, "depth": 4, "repeats": 10}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    flags = parser.parse_args()
    if flags.line:
        flags.mixers = ["muse"]
        flags.settings = [f"{flags.line}x{frames}" for frames in (12, 32, 64, 128, 256)]
    for setting in flags.settings:
        videos, frames = (int(number) for number in setting.split("x"))
        found = {mixer: measured(mixer, videos, frames, flags) for mixer in flags.mixers}
        shape = {"videos": videos, "frames": frames, "inference": flags.inference}
        device = torch.cuda.get_device_name()
        print(json.dumps({"benchmark": "head", **shape, "device": device, **found}), flush=True)


if __name__ == "__main__":
    main()
