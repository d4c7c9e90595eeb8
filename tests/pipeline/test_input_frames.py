"""Frames that travel unresized to the encoder, and have the bits of those that do not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from muse.pipeline.decoding.decode import decode_clip
from muse.pipeline.decoding.input_frames import InputFrames
from muse.pipeline.encoders.exact_resize import resized_levels
from muse.pipeline.encoders.pil_resize import resize_of
from muse.pipeline.encoders.preprocessing import crop_to_input
from muse.pipeline.header import Preprocessing, Sampling
from muse.pipeline.records import VideoRef

PREPROCESSING = Preprocessing(
    size=32, resize_to=32, interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1)
)


def picture(height: int, width: int, *, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def collected(*pictures: NDArray[np.uint8], leaves_resize: bool = True) -> InputFrames:
    frames = InputFrames(PREPROCESSING, leaves_resize=leaves_resize)
    for index, one in enumerate(pictures):
        frames.add(index, one)
    return frames


def test_small_pictures_travel_as_what_their_resize_reads() -> None:
    pictures = [picture(36, 50, seed=seed) for seed in range(3)]
    parts, size = collected(*pictures).stacked([0, 2])
    assert size == (36, 50)
    assert parts.shape[1] == 36
    assert parts.shape[2] < 50
    levels = resized_levels(torch.from_numpy(parts), resize_of(*size, PREPROCESSING))
    wanted = [crop_to_input(pictures[index], PREPROCESSING) for index in (0, 2)]
    assert np.array_equal(levels.permute(0, 2, 3, 1).numpy(), np.stack(wanted))


@pytest.mark.parametrize(
    "pictures",
    [[picture(480, 640)], [picture(36, 50), picture(40, 50)], [picture(36, 50), picture(480, 640)]],
)
def test_large_pictures_and_those_of_several_sizes_travel_resized(
    pictures: list[NDArray[np.uint8]],
) -> None:
    inputs, size = collected(*pictures).stacked(range(len(pictures)))
    assert size is None
    wanted = [crop_to_input(one, PREPROCESSING) for one in pictures]
    assert np.array_equal(inputs, np.stack(wanted))


def test_nothing_is_left_unless_it_may_be(two_second_video: Path) -> None:
    _, size = collected(picture(36, 50), leaves_resize=False).stacked([0])
    assert size is None
    video = VideoRef(video_id="clip", path=two_second_video)
    for leaves_resize, wanted in ((False, None), (True, (48, 64))):
        clip = decode_clip(
            video,
            sampling=Sampling(num_frames=2),
            preprocessing=Preprocessing(
                size=44, resize_to=44, interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1)
            ),
            leaves_resize=leaves_resize,
        )
        assert clip.unresized_from == wanted
