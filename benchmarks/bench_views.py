"""What a second view costs, on top of tokens alone: encode and derive one batch of videos.

The runs of all views are interleaved, and the fastest of each counts: a machine's other work only
ever makes a run slower.

Usage: python benchmarks/bench_views.py --encoder openclip:ViT-B-32/random:0 --rounds 5
"""

import argparse
import json
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from muse.pipeline.encoders.base import Encoder, build_encoder, resolve_device
from muse.pipeline.views import (
    arrays_of_clip,
    dequantise,
    encoded_views,
    parse_views,
    quantise,
)

VIDEOS, FRAMES = 8, 12  # a forward pass of `muse extract`
COMPARED = ("unprojected", "block:6", "class", "pooled", "int8", "unprojected,block:6,int8")


def seconds_of(encoder: Encoder, pixels: NDArray[np.uint8], views: Sequence[str]) -> float:
    """Of one batch, from pixels to every video's arrays."""
    started = time.perf_counter()
    maps = encoder.encode_frames(pixels, encoded_views(views))
    for first in range(0, VIDEOS * FRAMES, FRAMES):
        of_clip = {name: values[first : first + FRAMES] for name, values in maps.items()}
        arrays_of_clip(views, of_clip, np.ones(FRAMES, dtype=np.bool_))
    return time.perf_counter() - started


def ratios_of_views(encoder: Encoder, rounds: int) -> dict[str, float]:
    """Seconds of tokens with another view, over those of tokens alone, by view."""
    size = encoder.info.preprocessing.size
    shape = (VIDEOS * FRAMES, size, size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    others = COMPARED if encoder.info.num_blocks else ("class", "pooled", "int8")
    lists = {name: parse_views(f"tokens,{name}") for name in others}
    seconds_of(encoder, pixels, ("tokens",))  # warm
    taken: dict[str, list[float]] = {name: [] for name in ("tokens", *lists)}
    for _ in range(rounds):
        for name, views in {"tokens": ("tokens",), **lists}.items():
            taken[name].append(seconds_of(encoder, pixels, views))
    alone = min(taken["tokens"])
    return {"tokens_seconds": round(alone, 4)} | {
        name: round(min(taken[name]) / alone, 3) for name in lists
    }


def rates_of_int8(encoder: Encoder, rounds: int) -> dict[str, float]:
    """GB of float16 that one core quantises and dequantises a second."""
    shape = (FRAMES, encoder.info.tokens_per_frame, encoder.info.dim)
    tokens = np.random.default_rng(0).standard_normal(shape).astype(np.float16)
    steps, scale = quantise(tokens)
    rates = {}
    for name, call in (
        ("quantise", lambda: quantise(tokens)),
        ("dequantise", lambda: dequantise(steps, scale)),
    ):
        fastest = float("inf")
        for _ in range(20 * rounds):
            started = time.perf_counter()
            call()
            fastest = min(fastest, time.perf_counter() - started)
        rates[f"{name}_gb_per_second"] = round(tokens.nbytes / fastest / 1e9, 2)
    return rates


def main() -> None:
    """Prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", default="openclip:ViT-B-32/random:0")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    flags = parser.parse_args()
    device = resolve_device(flags.device)
    encoder = build_encoder(flags.encoder, device=device, precision="auto")
    numbers = {**ratios_of_views(encoder, flags.rounds), **rates_of_int8(encoder, flags.rounds)}
    print(json.dumps({"encoder": flags.encoder, "device": device, **numbers}))


if __name__ == "__main__":
    main()
