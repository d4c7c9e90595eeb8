"""Generates a store of random maps below the top of a CLIP, for timing what trains that top.

Usage: python benchmarks/block_store.py STORE --encoder openclip:ViT-B-32/random:0 --view block:1
"""

import argparse
from pathlib import Path

import numpy as np
from token_store import rows_of

from muse.pipeline.encoders.base import build_encoder
from muse.pipeline.header import Sampling
from muse.pipeline.plan import all_caption_shards, all_video_shards, header_of
from muse.pipeline.records import ClipFeatures
from muse.pipeline.store_writer import StoreWriter
from muse.pipeline.views import array_name


def write_store(
    path: Path, *, encoder: str, view: str, num_videos: int, captions_each: int, num_frames: int
) -> None:
    """A finished store with views ``tokens`` and ``view``, as if the encoder had made it."""
    info = build_encoder(encoder, device="cpu", precision="fp32").info
    rows = rows_of(num_videos, captions_each)
    header = header_of(
        rows,
        encoder=info,
        sampling=Sampling(num_frames=num_frames),
        views=("tokens", view),
        shard_size=64,
        batch_videos=8,
    )
    rng = np.random.default_rng(0)

    def noise(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32).astype(np.float16)

    writer = StoreWriter.create(path, header, rows)
    for shard in all_video_shards(rows, shard_size=header.shard_size):
        clips = [
            ClipFeatures(
                video_id=video.video_id,
                arrays={
                    "tokens": noise(num_frames, info.tokens_per_frame, info.dim),
                    array_name(view): noise(num_frames, info.tokens_per_frame, info.width),
                },
                valid_T=np.ones(num_frames, dtype=np.bool_),
                pts_seconds_T=np.arange(num_frames, dtype=np.float64),
            )
            for video in shard.videos
        ]
        writer.write_video_shard(shard, clips, seconds={})
    for captions in all_caption_shards(rows):
        writer.write_caption_shard(captions, noise(len(captions.captions), info.dim), seconds={})


def main() -> None:
    """Writes the store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--encoder", default="openclip:ViT-B-32/random:0")
    parser.add_argument("--view", default="block:1")
    for flag, default in (("num-videos", 512), ("captions-each", 2), ("num-frames", 12)):
        parser.add_argument(f"--{flag}", type=int, default=default)
    flags = parser.parse_args()
    write_store(
        flags.store, encoder=flags.encoder, view=flags.view, num_videos=flags.num_videos,
        captions_each=flags.captions_each, num_frames=flags.num_frames,
    )  # fmt: skip


if __name__ == "__main__":
    main()
