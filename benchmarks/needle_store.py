"""Generates a feature store in which one patch of one frame says which video it is: the needle.

All else is noise around one direction that all tokens share, as CLIP's do. A video has a direction
of its own, drawn at random; its captions are that direction with a little noise; its needle is a
fixed rotation of the direction plus a fixed mark that no other token has, so that a head can learn
to find it and to turn it back. One video in five is in split test, and its direction was never
trained on. Mean pooling is at chance: class tokens say nothing. With a few hundred videos a head
learns them by heart and finds nothing; hence thousands.

Usage: python benchmarks/needle_store.py STORE
"""

import argparse
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from token_store import rows_of, write_rows

NORM = 10.0  # of a token, as CLIP's
TEST_EVERY = 5
COMMON = 0.9  # of a noise token's squared length, what it shares with all others
# CLIP's ln 100 is for cosines that differ by little. Of noise they differ by a lot: a loss of
# thirties, whose gradient is about the loudest pair of a batch.
LOGIT_SCALE = math.log(10)
CAPTION_NOISE = 0.2  # length of a caption's noise over that of its direction


@dataclass(frozen=True, kw_only=True)
class NeedleWorld:
    """What all tokens and captions of a store are made of, decided by the seed."""

    num_videos: int
    num_frames: int
    grid: int
    dim: int
    seed: int = 0

    def direction(self, video: int) -> NDArray[np.float32]:
        """(D,) unit vector of a video."""
        return _units(np.random.default_rng([self.seed, 0, video]), (self.dim,))

    @cached_property
    def mark(self) -> NDArray[np.float32]:
        """(D,) unit vector: the component that only needles have."""
        return _units(np.random.default_rng([self.seed, 1]), (self.dim,))

    @cached_property
    def common(self) -> NDArray[np.float32]:
        """(D,) unit vector: what all tokens but needles share."""
        return _units(np.random.default_rng([self.seed, 6]), (self.dim,))

    @cached_property
    def turn(self) -> NDArray[np.float32]:
        """(D, D) rotation, from a direction to what a needle shows of it."""
        square = np.random.default_rng([self.seed, 2]).standard_normal((self.dim, self.dim))
        return np.linalg.qr(square)[0].astype(np.float32)

    def place(self, video: int) -> tuple[int, int]:
        """Frame and token, from 1, of a video's needle."""
        rng = np.random.default_rng([self.seed, 3, video])
        return int(rng.integers(self.num_frames)), 1 + int(rng.integers(self.grid**2))

    def tokens(self, video: int) -> NDArray[np.float32]:
        """(T, K, D) of a video, all of length `NORM`."""
        rng = np.random.default_rng([self.seed, 4, video])
        noise = _units(rng, (self.num_frames, 1 + self.grid**2, self.dim))
        noise = np.sqrt(COMMON) * self.common + np.sqrt(1 - COMMON) * noise
        noise -= (noise @ self.mark)[..., None] * self.mark
        noise[self.place(video)] = self.turn @ self.direction(video) + self.mark
        return NORM * noise / np.linalg.norm(noise, axis=-1, keepdims=True)

    def texts(self, captions_each: int) -> NDArray[np.float32]:
        """(V * captions, D), those of a video together."""
        directions = np.stack([self.direction(video) for video in range(self.num_videos)])
        texts = np.repeat(directions, captions_each, axis=0)
        return texts + CAPTION_NOISE * _units(np.random.default_rng([self.seed, 5]), texts.shape)


def write_needles(path: Path, world: NeedleWorld, *, captions_each: int) -> None:
    """A finished store."""
    write_rows(
        path, rows_of(world.num_videos, captions_each, test_every=TEST_EVERY),
        tokens_of=world.tokens, texts_QD=world.texts(captions_each),
        num_frames=world.num_frames, grid=world.grid, dim=world.dim,
        logit_scale=LOGIT_SCALE,
    )  # fmt: skip


def _units(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    drawn = rng.standard_normal(shape, dtype=np.float32)
    return drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)


def main() -> None:
    """Writes the store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    for flag, default in (
        ("num-videos", 10000),
        ("num-frames", 8),
        ("grid", 7),
        ("dim", 128),
        ("captions-each", 1),
        ("seed", 0),
    ):
        parser.add_argument(f"--{flag}", type=int, default=default)
    flags = parser.parse_args()
    world = NeedleWorld(
        num_videos=flags.num_videos, num_frames=flags.num_frames, grid=flags.grid,
        dim=flags.dim, seed=flags.seed,
    )  # fmt: skip
    write_needles(flags.store, world, captions_each=flags.captions_each)


if __name__ == "__main__":
    main()
