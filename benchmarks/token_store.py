"""Generates a feature store of random tokens, of any size, for timing what reads one.

Usage: python benchmarks/token_store.py STORE --num-videos 1024 --captions-each 20
"""

import argparse
import math
from pathlib import Path

import numpy as np

from muse.pipeline.header import EncoderInfo, Preprocessing, Sampling
from muse.pipeline.plan import header_of, sorted_listing
from muse.pipeline.records import Caption, ClipTokens, Listing, VideoRef
from muse.pipeline.store_writer import CAPTIONS_PER_SHARD, StoreWriter


def listing_of(num_videos: int, captions_each: int) -> Listing:
    """Videos v000000, … with captions in split train; one in ten in split test."""
    ids = [f"v{number:06d}" for number in range(num_videos)]
    captions = [
        Caption(video_id=i, text=f"caption {c} of {i}", split="test" if n % 10 == 9 else "train")
        for n, i in enumerate(ids)
        for c in range(captions_each)
    ]
    videos = tuple(VideoRef(video_id=i, path=Path(f"/{i}.mp4")) for i in ids)
    return sorted_listing(Listing(protocol="random", videos=videos, captions=tuple(captions)))


def encoder_of(grid: int, dim: int) -> EncoderInfo:
    """An encoder's description, as if these tokens had come from it."""
    unit = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    crop = Preprocessing(
        size=224, resize_to=224, interpolation="bicubic", mean=unit[0], std=unit[1]
    )
    return EncoderInfo(
        spec="random", weights_sha256="0" * 64, dim=dim, grid=grid, width=dim, num_blocks=0,
        tokens_per_frame=1 + grid * grid,
        precision="fp32", logit_scale=math.log(100), preprocessing=crop,
    )  # fmt: skip


def write_store(
    path: Path, *, num_videos: int, captions_each: int, num_frames: int, grid: int, dim: int
) -> None:
    """A finished store; a caption's embedding is near its video's mean class token."""
    listing = listing_of(num_videos, captions_each)
    header = header_of(
        listing, encoder=encoder_of(grid, dim), sampling=Sampling(num_frames=num_frames),
        shard_size=64, batch_videos=8,
    )  # fmt: skip
    writer = StoreWriter.create(path, header, listing)
    rng = np.random.default_rng(0)
    means = rng.standard_normal((num_videos, dim), dtype=np.float32)
    for index, start in enumerate(range(0, num_videos, header.shard_size)):
        writer.write_video_shard(
            index,
            start,
            [
                ClipTokens(
                    video_id=listing.videos[row].video_id,
                    tokens_TKD=(
                        means[row]
                        + rng.standard_normal((num_frames, 1 + grid * grid, dim), dtype=np.float32)
                    ).astype(np.float16),
                    valid_T=np.ones(num_frames, dtype=np.bool_),
                    pts_seconds_T=np.arange(num_frames, dtype=np.float64),
                )
                for row in range(start, min(start + header.shard_size, num_videos))
            ],
        )
    texts = np.repeat(means, captions_each, axis=0)
    texts += 3 * rng.standard_normal(texts.shape, dtype=np.float32)
    for index, start in enumerate(range(0, len(texts), CAPTIONS_PER_SHARD)):
        writer.write_caption_shard(
            index, start, texts[start : start + CAPTIONS_PER_SHARD].astype(np.float16)
        )


def main() -> None:
    """Writes the store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    for flag, default in (
        ("num-videos", 1024),
        ("captions-each", 20),
        ("num-frames", 12),
        ("grid", 7),
        ("dim", 512),
    ):
        parser.add_argument(f"--{flag}", type=int, default=default)
    flags = parser.parse_args()
    write_store(
        flags.store, num_videos=flags.num_videos, captions_each=flags.captions_each,
        num_frames=flags.num_frames, grid=flags.grid, dim=flags.dim,
    )  # fmt: skip


if __name__ == "__main__":
    main()
