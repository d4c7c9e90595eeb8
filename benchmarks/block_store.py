"""Generates a store of random content in any views of a CLIP, for timing what trains its blocks.

Usage: python benchmarks/block_store.py STORE --encoder openclip:ViT-B-32/random:0
           [--views tokens block:1 frames:uint8]
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from token_store import rows_of, write_views

from muse.pipeline.encoders.base import build_encoder
from muse.pipeline.header import EncoderInfo
from muse.pipeline.views import arrays_of


def write_store(
    path: Path,
    *,
    encoder: EncoderInfo,
    views: tuple[str, ...],
    num_videos: int,
    captions_each: int,
    num_frames: int,
    test_every: int = 10,
) -> None:
    """A finished store, as if the encoder had made it; `token_store.rows_of` names the rows."""
    rng = np.random.default_rng(0)
    rows = rows_of(num_videos, captions_each, test_every=test_every)
    specs = arrays_of(views, encoder, num_frames)

    def noise(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        if dtype == "uint8":
            return rng.integers(0, 256, shape, np.uint8)
        return rng.standard_normal(shape, np.float32).astype(dtype)

    write_views(
        path,
        rows,
        encoder=encoder,
        views=views,
        arrays_of_row=lambda _: {spec.name: noise(spec.shape, spec.dtype) for spec in specs},
        texts_QD=rng.standard_normal((len(rows.captions), encoder.dim), np.float32),
        num_frames=num_frames,
    )


def main() -> None:
    """Writes the store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--encoder", default="openclip:ViT-B-32/random:0")
    parser.add_argument("--views", nargs="+", default=["tokens", "block:1"])
    for flag, default in (("num-videos", 512), ("captions-each", 2), ("num-frames", 12)):
        parser.add_argument(f"--{flag}", type=int, default=default)
    flags = parser.parse_args()
    write_store(
        flags.store,
        encoder=build_encoder(flags.encoder, device="cpu", precision="fp32").info,
        views=tuple(flags.views),
        num_videos=flags.num_videos,
        captions_each=flags.captions_each,
        num_frames=flags.num_frames,
    )


if __name__ == "__main__":
    main()
