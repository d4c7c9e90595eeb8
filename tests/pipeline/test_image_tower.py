"""Kept frames as an encoder's input: what PIL makes of them, and squares cut at random."""

import dataclasses
from typing import Literal

import numpy as np
import pytest
import torch

from muse.pipeline.encoders.image_tower import pixels_of, random_boxes
from muse.pipeline.encoders.preprocessing import crop_to_input
from muse.pipeline.header import Preprocessing

PLAIN = Preprocessing(
    size=224, resize_to=224, interpolation="bicubic", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
)


@pytest.mark.parametrize(
    ("interpolation", "largest", "mean"), [("bicubic", 1, 0.01), ("bilinear", 2, 0.1)]
)
def test_a_kept_frame_is_resized_as_pil_does(
    interpolation: Literal["bicubic", "bilinear"], largest: int, mean: float
) -> None:
    preprocessing = dataclasses.replace(PLAIN, interpolation=interpolation)
    frame_SSC = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    wanted_HWC = crop_to_input(frame_SSC, preprocessing).astype(np.int64)
    found_CHW = pixels_of(torch.from_numpy(frame_SSC)[None], preprocessing)[0] * 255
    levels = np.abs(found_CHW.permute(1, 2, 0).round().numpy() - wanted_HWC)
    assert levels.max() <= largest
    assert levels.mean() < mean


def test_a_frame_of_the_encoder_s_size_is_not_resized() -> None:
    frame_SSC = torch.randint(0, 256, (224, 224, 3), dtype=torch.uint8)
    found_CHW = pixels_of(frame_SSC[None], PLAIN)[0]
    assert torch.equal((found_CHW * 255).round().permute(1, 2, 0).to(torch.uint8), frame_SSC)


def test_boxes_fill_their_range_and_stay_inside() -> None:
    boxes = np.array(random_boxes(2000, smallest=6, largest=8))
    tops, lefts, sides = boxes.T
    assert set(sides) == {6, 7, 8}
    assert (boxes[:, :2] >= 0).all()
    assert (tops + sides <= 8).all()
    assert (lefts + sides <= 8).all()
    for side in (6, 7, 8):
        places = set(map(tuple, boxes[sides == side, :2]))
        assert len(places) == (8 - side + 1) ** 2
