"""Generates a feature store of random tokens, of any size, for timing what reads one.

Usage: python benchmarks/token_store.py STORE --num-videos 1024 --captions-each 20
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muse.pipeline.header import EncoderInfo, Preprocessing, Sampling
from muse.pipeline.listing import ListedRows, rows_of_new_store, sorted_listing
from muse.pipeline.plan import all_caption_shards, all_video_shards, header_of
from muse.pipeline.records import Caption, ClipFeatures, Listing, VideoRef
from muse.pipeline.store_writer import StoreWriter


def rows_of(num_videos: int, captions_each: int, *, test_every: int = 10) -> ListedRows:
    """Videos v000000, … with captions in split train; one in ``test_every`` in split test."""
    ids = [f"v{number:06d}" for number in range(num_videos)]
    splits = ["test" if n % test_every == test_every - 1 else "train" for n in range(num_videos)]
    captions = [
        Caption(video_id=i, text=f"caption {c} of {i}", split=split)
        for i, split in zip(ids, splits, strict=True)
        for c in range(captions_each)
    ]
    videos = tuple(VideoRef(video_id=i, path=Path(f"/{i}.mp4")) for i in ids)
    listing = Listing(protocol="random", videos=videos, captions=tuple(captions))
    return rows_of_new_store(sorted_listing(listing))


def encoder_of(grid: int, dim: int, *, logit_scale: float = math.log(100)) -> EncoderInfo:
    """An encoder's description, as if these tokens had come from it."""
    unit = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    crop = Preprocessing(
        size=224, resize_to=224, interpolation="bicubic", mean=unit[0], std=unit[1]
    )
    return EncoderInfo(
        spec="random", weights_sha256="0" * 64, dim=dim, grid=grid, width=dim, num_blocks=0,
        tokens_per_frame=1 + grid * grid,
        precision="fp32", logit_scale=logit_scale, preprocessing=crop,
    )  # fmt: skip


def write_rows(
    path: Path,
    rows: ListedRows,
    *,
    tokens_of: Callable[[int], NDArray[np.floating]],
    texts_QD: NDArray[np.floating],
    num_frames: int,
    grid: int,
    dim: int,
    logit_scale: float = math.log(100),
) -> None:
    """A finished store of given tokens.

    Args:
        path: A new folder.
        rows: Of `rows_of`.
        tokens_of: (T, K, D) of a video by its row; called once a row, in order.
        texts_QD: Caption embeddings by row.
        num_frames: T.
        grid: G; K is 1 + G * G.
        dim: D.
        logit_scale: Where a head's temperature begins.
    """
    write_views(
        path,
        rows,
        encoder=encoder_of(grid, dim, logit_scale=logit_scale),
        views=("tokens",),
        arrays_of_row=lambda row: {"tokens": tokens_of(row).astype(np.float16)},
        texts_QD=texts_QD,
        num_frames=num_frames,
    )


def write_views(
    path: Path,
    rows: ListedRows,
    *,
    encoder: EncoderInfo,
    views: tuple[str, ...],
    arrays_of_row: Callable[[int], dict[str, NDArray[Any]]],
    texts_QD: NDArray[np.floating],
    num_frames: int,
) -> None:
    """The same of any views: the arrays of each row are given by name."""
    header = header_of(
        rows,
        encoder=encoder,
        sampling=Sampling(num_frames=num_frames),
        shard_size=64,
        batch_videos=8,
        views=views,
    )
    writer = StoreWriter.create(path, header, rows)
    for shard in all_video_shards(rows, shard_size=header.shard_size):
        clips = [
            ClipFeatures(
                video_id=video.video_id,
                arrays=arrays_of_row(shard.first_row + place),
                valid_T=np.ones(num_frames, dtype=np.bool_),
                pts_seconds_T=np.arange(num_frames, dtype=np.float64),
            )
            for place, video in enumerate(shard.videos)
        ]
        writer.write_video_shard(shard, clips, seconds={})
    for captions in all_caption_shards(rows):
        end = captions.first_row + len(captions.captions)
        embeddings = texts_QD[captions.first_row : end].astype(np.float16)
        writer.write_caption_shard(captions, embeddings, seconds={})


def write_store(
    path: Path, *, num_videos: int, captions_each: int, num_frames: int, grid: int, dim: int
) -> None:
    """A finished store; a caption's embedding is near its video's mean class token."""
    rng = np.random.default_rng(0)
    means = rng.standard_normal((num_videos, dim), dtype=np.float32)
    shape = (num_frames, 1 + grid * grid, dim)
    noise = np.random.default_rng(1)
    texts = np.repeat(means, captions_each, axis=0)
    texts += 3 * noise.standard_normal(texts.shape, dtype=np.float32)
    write_rows(
        path, rows_of(num_videos, captions_each),
        tokens_of=lambda row: means[row] + rng.standard_normal(shape, dtype=np.float32),
        texts_QD=texts, num_frames=num_frames, grid=grid, dim=dim,
    )  # fmt: skip


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
