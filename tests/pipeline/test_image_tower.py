"""Kept frames as an encoder's input: what PIL makes of them, and squares cut at random."""

import dataclasses
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from muse.pipeline.decoding.kept_frame import square_of
from muse.pipeline.encoders.base import build_encoder
from muse.pipeline.encoders.image_tower import ImageTower, pixels_of, random_boxes
from muse.pipeline.encoders.open_clip import OpenClipEncoder
from muse.pipeline.encoders.preprocessing import crop_to_input
from muse.pipeline.header import Preprocessing

BICUBIC = Image.Resampling.BICUBIC
PLAIN = Preprocessing(
    size=224, resize_to=224, interpolation="bicubic", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_a_kept_frame_is_resized_as_pil_does(interpolation: Literal["bicubic", "bilinear"]) -> None:
    preprocessing = dataclasses.replace(PLAIN, interpolation=interpolation)
    frame_SSC = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    wanted_HWC = crop_to_input(frame_SSC, preprocessing)
    found_CHW = pixels_of(torch.from_numpy(frame_SSC)[None], preprocessing)[0] * 255
    assert np.array_equal(found_CHW.permute(1, 2, 0).round().numpy(), wanted_HWC)


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


@pytest.mark.slow
def test_tokens_of_kept_frames_are_those_of_the_frames() -> None:
    encoder = build_encoder("openclip:muse-nano", device="cpu", precision="fp32")
    assert isinstance(encoder, OpenClipEncoder)
    preprocessing = encoder.info.preprocessing
    coarse = np.random.default_rng(0).integers(0, 256, (8, 15, 20, 3), dtype=np.uint8)
    frames = [np.asarray(Image.fromarray(c).resize((640, 480), BICUBIC)) for c in coarse]
    direct = np.stack([crop_to_input(frame, preprocessing) for frame in frames])
    kept = torch.from_numpy(np.stack([square_of(frame, preprocessing) for frame in frames]))
    wanted_NKD = torch.from_numpy(encoder.encode_frames(direct)["tokens"]).float()
    tower = ImageTower(encoder.model.visual, preprocessing).eval()
    with torch.no_grad():
        found_NKD = tower(kept, torch.arange(len(kept)))
    assert F.cosine_similarity(found_NKD, wanted_NKD, dim=-1).min() > 0.99
