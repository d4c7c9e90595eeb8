"""What the tokens of a frame tell of a small object: linear probes, on unseen compositions.

Draws scenes of the axis small-object, encodes one frame of each with muse-nano, and fits a softmax
regression from one token to the small object's colour, and to its shape: from the patch that it
lies in, from the mean of all patches, from the class token. Trained on compositions of split train,
asked those of split test. Chance is 10 % for both.

Usage: python benchmarks/probe_small_objects.py [--groups 700]
"""

import argparse
import json
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from muse.pipeline.encoders.base import Encoder, build_encoder
from muse.pipeline.world.dice import Dice
from muse.pipeline.world.frames import draw
from muse.pipeline.world.scenes import SIDE
from muse.pipeline.world.stories import contrast_group
from muse.pipeline.world.things import COLOURS, SHAPES, Split

SEED, BATCH, STEPS = 7, 64, 1500
LOOKED_AT = ("its patch", "mean of patches", "class token")


def samples(split: Split, groups: int) -> Iterator[tuple[np.ndarray, int, int, int]]:
    """Frame, number of the patch that the small object lies in, its colour and its shape."""
    for group in range(groups):
        dice = Dice("probe", SEED, split, group)
        for fact, scene in contrast_group("small-object", split, dice):
            moment = dice.between(0, 99) / 100
            small = fact.things[0]
            _, (x, y) = next(shown for shown in scene.shown(moment) if shown[0].thing == small)
            column, row = (min(6, max(0, value * 7 // SIDE)) for value in (x, y))
            colour, shape = list(COLOURS).index(small.colour), SHAPES.index(small.shape)
            yield draw(scene, moment), 7 * row + column, colour, shape


def features(encoder: Encoder, split: Split, groups: int) -> tuple[dict[str, Tensor], Tensor]:
    """(n, D) of each of ``LOOKED_AT``, and (n, 2) colour and shape."""
    frames, patches, colours, shapes = zip(*samples(split, groups), strict=True)
    tokens = [
        torch.from_numpy(encoder.encode_frames(np.stack(frames[i : i + BATCH]))["tokens"]).float()
        for i in range(0, len(frames), BATCH)
    ]
    tokens_nKD = torch.cat(tokens)
    here = tokens_nKD[torch.arange(len(frames)), 1 + torch.tensor(patches)]
    found = (here, tokens_nKD[:, 1:].mean(1), tokens_nKD[:, 0])
    return dict(zip(LOOKED_AT, found, strict=True)), torch.tensor([colours, shapes]).T


def percent_right(train_nD: Tensor, right_n: Tensor, test_mD: Tensor, right_m: Tensor) -> float:
    """Of a softmax regression on standardised features."""
    mean, std = train_nD.mean(0), train_nD.std(0) + 1e-6
    train_nD, test_mD = (train_nD - mean) / std, (test_mD - mean) / std
    torch.manual_seed(SEED)
    linear = torch.nn.Linear(train_nD.shape[1], 10)
    optimizer = torch.optim.AdamW(linear.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        F.cross_entropy(linear(train_nD), right_n).backward()
        optimizer.step()
    return round(100 * (linear(test_mD).argmax(1) == right_m).float().mean().item(), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=700)
    args = parser.parse_args()
    encoder = build_encoder("openclip:muse-nano", device="cpu", precision="fp32")
    train, train_right = features(encoder, "train", args.groups)
    test, test_right = features(encoder, "test", args.groups // 3)
    for look in LOOKED_AT:
        colour, shape = (
            percent_right(train[look], train_right[:, n], test[look], test_right[:, n])
            for n in (0, 1)
        )
        print(
            json.dumps({"from": look, "colour": colour, "shape": shape, "frames": len(test_right)})
        )


if __name__ == "__main__":
    main()
