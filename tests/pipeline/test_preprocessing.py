"""The crop, pixel for pixel against the transforms of torchvision and of open_clip."""

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from muse.pipeline.encoders.base import normalised_input
from muse.pipeline.encoders.preprocessing import crop_to_input
from muse.pipeline.header import Preprocessing

SIZES = [(240, 320), (320, 240), (75, 101), (101, 75), (64, 64), (31, 200), (33, 32), (500, 281)]
CLIP = Preprocessing(
    size=64,
    resize_to=64,
    interpolation="bicubic",
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)


def picture(height: int, width: int) -> NDArray[np.uint8]:
    generator = np.random.default_rng(height * 1000 + width)
    return generator.integers(0, 256, size=(height, width, 3), dtype=np.uint8)


@pytest.mark.slow  # torchvision takes seconds to load
@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(("interpolation", "resize_to"), [("bicubic", 64), ("bilinear", 75)])
def test_the_crop_equals_torchvision_s(
    height: int, width: int, interpolation: str, resize_to: int
) -> None:
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    ours = dataclasses.replace(CLIP, resize_to=resize_to, interpolation=interpolation)  # type: ignore[arg-type]
    theirs = Compose([Resize(resize_to, InterpolationMode(interpolation)), CenterCrop(64)])
    frame = picture(height, width)
    expected = np.asarray(theirs(Image.fromarray(frame)))
    assert np.array_equal(crop_to_input(frame, ours), expected)


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(240, 320), (101, 75)])
def test_crop_and_normalisation_equal_open_clip_s_own_transform(height: int, width: int) -> None:
    import torch
    from open_clip.transform import image_transform

    theirs = image_transform(64, is_train=False, mean=CLIP.mean, std=CLIP.std)
    frame = picture(height, width)
    ours = normalised_input(np.stack([crop_to_input(frame, CLIP)]), CLIP, device="cpu")
    torch.testing.assert_close(ours[0], theirs(Image.fromarray(frame)), rtol=0, atol=1e-6)


def test_a_wide_frame_loses_its_sides_and_not_its_top() -> None:
    frame = np.zeros((64, 192, 3), dtype=np.uint8)
    frame[:, 64:128] = 255
    frame[:32, 64:128, 0] = 7
    assert np.array_equal(crop_to_input(frame, CLIP), frame[:, 64:128])


def test_a_tall_frame_loses_its_top_and_bottom() -> None:
    frame = np.zeros((192, 64, 3), dtype=np.uint8)
    frame[64:128] = 255
    assert int(crop_to_input(frame, CLIP).min()) == 255


def test_the_shorter_side_is_resized_and_the_centre_kept() -> None:
    frame = np.full((128, 256, 3), 9, dtype=np.uint8)
    frame[:, 128:] = 200
    crop = crop_to_input(frame, CLIP)
    assert (crop.shape, int(crop[32, 8, 0]), int(crop[32, 55, 0])) == ((64, 64, 3), 9, 200)


def test_pixels_are_scaled_then_centred_then_divided() -> None:
    frame = picture(64, 64)
    found = normalised_input(frame[None], CLIP, device="cpu")[0].numpy()
    for channel in range(3):
        expected = (frame[:, :, channel] / 255 - CLIP.mean[channel]) / CLIP.std[channel]
        np.testing.assert_allclose(found[channel], expected, atol=1e-6)
