"""Rate of CLIP's image tower: open_clip's forward pass beside muse's, in TFLOP/s.

Both over the same random weights, from normalised bfloat16 pixels on the GPU to the projected
tokens of the last block, as `OpenClipEncoder` has them from either. Beside them stands what the GPU
does with large square matrices. ``--compile`` also runs open_clip's pass under torch.compile, which
takes a C compiler and tens of seconds a shape, and ``--graph`` muse's pass as a CUDA graph, which
shows what launching its kernels one by one costs. ``--training`` measures forward and backward in
autocast over float32 weights instead, counted as three forwards. ``--whole`` adds `encode_frames`:
from frames in memory to float16 tokens there, by the clock on the wall.

All in one process, medians, one JSON line a model and batch.

Usage: python benchmarks/bench_encode.py [--models ViT-B-32-quickgelu ...] [--frames 96 384 768]
           [--compile] [--graph] [--training] [--whole]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from muse.pipeline.encoders.base import build_encoder
from muse.pipeline.encoders.open_clip import OpenClipEncoder
from muse.pipeline.encoders.vit_forward import run_image_tower, run_open_clip_tower
from muse.pipeline.speed.device_probe import matrix_flops

MODELS = ["ViT-B-32-quickgelu", "ViT-B-16-quickgelu", "ViT-L-14-quickgelu"]
WARM_UP = 3
Tower = Callable[[Tensor], Tensor]


def flops_of_a_frame(visual: Any) -> int:
    """Of one frame's forward pass, two a multiplication and addition; matrix products only."""
    width, joint = visual.proj.shape
    hidden = visual.transformer.resblocks[0].mlp.c_fc.out_features
    patches = visual.grid_size[0] * visual.grid_size[1]
    tokens = 1 + patches
    embedding = 2 * patches * visual.conv1.weight[0].numel() * width
    projections = 2 * tokens * width * (3 * width + width)  # queries, keys and values; output
    scores_and_mix = 2 * (2 * tokens * tokens * width)  # over all heads
    mlp = 2 * tokens * (2 * width * hidden)
    block = projections + scores_and_mix + mlp
    return embedding + len(visual.transformer.resblocks) * block + 2 * tokens * width * joint


def towers_of(visual: Any, flags: argparse.Namespace) -> Iterator[tuple[str, Tower]]:
    """Each way from pixels to tokens, by name."""
    last = len(visual.transformer.resblocks)

    def open_clip(pixels: Tensor) -> Tensor:
        tokens: Tensor = run_open_clip_tower(visual, pixels, kept=[last])[1] @ visual.proj
        return tokens

    def muse(pixels: Tensor) -> Tensor:
        tokens: Tensor = run_image_tower(visual, pixels)[1] @ visual.proj
        return tokens

    yield "open_clip", open_clip
    yield "muse", muse
    if flags.graph and not flags.training:
        yield "muse graphed", muse
    if flags.compile:
        yield "open_clip compiled", torch.compile(open_clip, dynamic=False)


def graphed(tower: Tower, pixels: Tensor) -> Callable[[], Tensor]:
    """A forward whose launches are recorded once; what it gives is written over by the next."""
    with torch.no_grad():
        tower(pixels)  # compiles and chooses kernels, which a recording can't
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            tokens = tower(pixels)

    def replay() -> Tensor:
        graph.replay()
        return tokens

    return replay


def step_of(tower: Tower, visual: Any, pixels: Tensor, *, trains: bool) -> Callable[[], Tensor]:
    """One forward, and backward where it trains."""

    def forward() -> Tensor:
        with torch.no_grad():
            return tower(pixels)

    def train() -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            tokens = tower(pixels)
        torch.autograd.grad(tokens, used, torch.ones_like(tokens))
        return tokens.detach()

    used = [weight for weight in visual.parameters() if weight.requires_grad]
    return train if trains else forward


def milliseconds_of(step: Callable[[], Tensor], repeats: int) -> float:
    """The median, each waited for: as an encoder waits for a batch before it copies its tokens."""
    times = []
    for turn in range(WARM_UP + repeats):
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        step()
        ended.record()
        torch.cuda.synchronize()
        if turn >= WARM_UP:
            times.append(begun.elapsed_time(ended))
    return statistics.median(times)


def whole_milliseconds(encoder: OpenClipEncoder, num_frames: int, repeats: int) -> float:
    """The median of `encode_frames`."""
    size = encoder.info.preprocessing.size
    frames = np.random.default_rng(0).integers(0, 256, (num_frames, size, size, 3), np.uint8)
    times = []
    for _ in range(WARM_UP + repeats):
        started = time.perf_counter()
        encoder.encode_frames(frames)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[WARM_UP:])


def rates_of(encoder: OpenClipEncoder, num_frames: int, flags: argparse.Namespace) -> Any:
    """Milliseconds and TFLOP/s of each way, and how far its tokens are from open_clip's."""
    visual, size = encoder.model.visual, encoder.info.preprocessing.size
    pixels = torch.randn(num_frames, 3, size, size, device="cuda", dtype=visual.proj.dtype)
    flops = num_frames * flops_of_a_frame(visual) * (3 if flags.training else 1)
    found: dict[str, Any] = {}
    wanted = None
    for name, tower in towers_of(visual, flags):
        try:
            if name == "muse graphed":
                step = graphed(tower, pixels)
            else:
                step = step_of(tower, visual, pixels, trains=flags.training)
            tokens = step().float()
            taken = milliseconds_of(step, flags.repeats)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            found[name] = {"error": f"{type(error).__name__}: {str(error)[:80]}"}
            continue
        wanted = tokens if wanted is None else wanted
        off = float((tokens - wanted).norm() / wanted.norm())
        found[name] = {**rate(flops, taken), "difference": float(f"{off:.1e}")}
    if flags.whole and not flags.training:
        taken = whole_milliseconds(encoder, num_frames, flags.repeats)
        found["encode_frames"] = rate(flops, taken)
    return found


def rate(flops: int, milliseconds: float) -> dict[str, float]:
    return {"ms": round(milliseconds, 3), "tflops": round(flops / milliseconds / 1e9, 1)}


def main() -> None:
    """Prints each model's and batch's line as it is done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--frames", nargs="+", type=int, default=[96, 384, 768])
    parser.add_argument("--repeats", type=int, default=10)
    for name in ("compile", "graph", "training", "whole"):
        parser.add_argument(f"--{name}", action="store_true")
    flags = parser.parse_args()
    device, torch_version = torch.cuda.get_device_name(), torch.__version__
    limit = round(matrix_flops("cuda", torch.bfloat16) / 1e12, 1)
    for model in flags.models:
        precision = "fp32" if flags.training else "bf16"
        encoder = build_encoder(f"openclip:{model}/random:0", device="cuda", precision=precision)
        assert isinstance(encoder, OpenClipEncoder)
        for num_frames in flags.frames:
            line = {"benchmark": "encode", "model": model, "frames": num_frames}
            line |= {"training": flags.training, "device": device, "torch": torch_version}
            found = rates_of(encoder, num_frames, flags)
            print(json.dumps({**line, "matrix_tflops": limit, **found}), flush=True)
        del encoder


if __name__ == "__main__":
    main()
