"""The table of bench_world.py's lines: recall at 1 by axis, with intervals, and differences.

A difference is there if both its heads are.

An interval is the middle 95 % of 4,000 bootstrap means: contrast groups of the test split are drawn
with replacement, and seeds, for each head by itself. Captions of one group share their objects, so
single captions are no independent draws. A difference uses the same draw of groups for both heads.

Usage: python benchmarks/world_table.py world.jsonl --seed 1 --num-videos 3000
"""

import argparse
import json
from collections import defaultdict
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from muse.pipeline.world.facts import AXES
from muse.pipeline.world.world import world_videos

DRAWS = 4000
FULL = "muse, scales 3, 7, 14"
READOUTS = ("ends", "interleaved", "pool", "max", "attend", "attend, no blocks")
COMPARED = (
    (FULL, "mean-pool"),
    (FULL, "seq-transf, lr 1e-4"),
    (FULL, "muse, scales none"),
    (FULL, "muse, scales 7, 14"),
    (FULL, "muse, scales 3, 14"),
    (FULL, "muse, scales 3, 7"),
    ("muse, scales 14, 7, 3", FULL),
    ("muse, scales 14, 7, 3", "muse, scales none"),
    ("seq-transf, lr 1e-4", "mean-pool"),
    (f"{FULL}; foreign patches", FULL),
    *((f"muse, read-out {name}", FULL) for name in READOUTS),
    ("muse, read-out max; foreign patches", "muse, read-out max"),
    ("muse, read-out max", "muse, read-out max, scales none"),
    ("muse, read-out max, scales 14, 7, 3", "muse, read-out max, scales none"),
    ("muse, read-out max, scales 14, 7, 3", "muse, read-out max"),
)
Hits = NDArray[np.float64]  # (seeds, captions) recall at 1, in percent


class Draws:
    """One bootstrap for all heads: the same groups are drawn for each."""

    def __init__(self, groups_Q: NDArray[np.intp]) -> None:
        names, self._place_Q = np.unique(groups_Q, return_inverse=True)
        self._random = np.random.default_rng(0)
        times = self._random.multinomial(len(names), np.full(len(names), 1 / len(names)), DRAWS)
        self._weight = times[:, self._place_Q].astype(np.float64)  # (draws, captions)

    def means(self, hits: Hits, asked_Q: NDArray[np.bool_]) -> NDArray[np.float64]:
        """(draws,) means over captions that are asked and over drawn seeds."""
        weight = self._weight[:, asked_Q]
        of_seed = weight @ hits[:, asked_Q].T / weight.sum(1, keepdims=True)  # (draws, seeds)
        seeds = self._random.integers(hits.shape[0], size=of_seed.shape)
        return np.take_along_axis(of_seed, seeds, axis=1).mean(1)


def read(file: Path) -> tuple[dict[str, Hits], NDArray[np.str_], NDArray[np.intp]]:
    """Hits by arm, the axis of each caption, and the place of its video among those tested."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    hits = defaultdict(list)
    for line in sorted(lines, key=lambda line: line["seed"]):
        hits[line["arm"]].append(line["text_to_video"])
    first = lines[0]
    return (
        {arm: 100 * np.array(of_seeds) for arm, of_seeds in hits.items()},
        np.array(first["axis_of_caption"]),
        np.array(first["video_of_caption"]),
    )


def groups_of_test(seed: int, num_videos: int) -> NDArray[np.intp]:
    """The contrast group of each test video, in the order of the store's rows."""
    videos = islice(world_videos(seed), num_videos)
    return np.array([video.group for video in videos if video.split == "test"])


def interval(values: NDArray[np.float64]) -> str:
    low, high = np.percentile(values, (2.5, 97.5))
    return f"{low:.1f} to {high:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--num-videos", type=int, default=3000)
    args = parser.parse_args()
    hits, axis_Q, video_Q = read(args.results)
    draws = Draws(groups_of_test(args.seed, args.num_videos)[video_Q])
    masks = {axis: axis_Q == axis for axis in AXES} | {"all": np.full(len(axis_Q), True)}
    print("| head | seeds | " + " | ".join(masks) + " |\n|" + " --- |" * (len(masks) + 2))
    for arm, of_arm in hits.items():
        cells = [
            f"{of_arm[:, asked].mean():.1f} ({interval(draws.means(of_arm, asked))})"
            for asked in masks.values()
        ]
        print(f"| {arm} | {len(of_arm)} | " + " | ".join(cells) + " |")
    print("\n| difference | " + " | ".join(masks) + " |\n|" + " --- |" * (len(masks) + 1))
    for one, other in COMPARED:
        if one not in hits or other not in hits:
            continue
        cells = [
            f"{hits[one][:, asked].mean() - hits[other][:, asked].mean():+.1f} "
            f"({interval(draws.means(hits[one], asked) - draws.means(hits[other], asked))})"
            for asked in masks.values()
        ]
        print(f"| {one} − {other} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
