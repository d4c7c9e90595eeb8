"""The resize as matrix products, against PIL's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from muse.errors import UsageError
from muse.pipeline.encoders.exact_resize import input_levels, is_exact_on, resized_levels
from muse.pipeline.encoders.pil_resize import Resize, goes_down_first, resize_of, span_of
from muse.pipeline.encoders.preprocessing import crop_to_input
from muse.pipeline.header import Preprocessing

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def noise(height: int, width: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """Black, white and what lies between, so that sums overshoot."""
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.where(rng.random((height, width, 1)) < 0.5, levels, (levels > 127) * np.uint8(255))


def preprocessing(size: int, resize_to: int, interpolation: str = "bicubic") -> Preprocessing:
    return Preprocessing(
        size=size, resize_to=resize_to, interpolation=interpolation, mean=(0, 0, 0), std=(1, 1, 1)
    )


@settings(max_examples=50)
@given(
    source=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    target=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    filter_name=st.sampled_from(sorted(FILTERS)),
    seed=st.integers(0, 5),
)
def test_every_size_is_resized_as_pil_resizes_it(
    source: tuple[int, int], target: tuple[int, int], filter_name: str, seed: int
) -> None:
    picture = noise(*source, seed=seed)
    height, width = target
    wanted = np.asarray(Image.fromarray(picture).resize((width, height), FILTERS[filter_name]))
    resize = Resize(
        down=span_of(source[0], height, 0, height, filter_name),
        across=span_of(source[1], width, 0, width, filter_name),
        down_first=goes_down_first(source, target),
    )
    found = resized_levels(torch.from_numpy(resize.part_of(picture))[None], resize)
    assert np.array_equal(found[0].permute(1, 2, 0).numpy(), wanted)


@pytest.mark.parametrize(
    ("height", "width"),
    [
        (240, 320),
        (320, 240),
        (360, 640),
        (224, 224),
        (225, 224),
        (97, 1001),
        (50, 60),
    ],
)
@pytest.mark.parametrize("interpolation", sorted(FILTERS))
def test_an_encoder_s_input_has_the_bits_of_pil(
    height: int, width: int, interpolation: str
) -> None:
    settings = preprocessing(224, 224, interpolation)
    frames = np.stack([noise(height, width, seed=seed) for seed in range(2)])
    wanted = [crop_to_input(frame, settings) for frame in frames]
    found = input_levels(torch.from_numpy(frames), settings)
    assert np.array_equal(found.permute(0, 2, 3, 1).numpy(), np.stack(wanted))


def test_a_larger_resize_than_the_crop_has_the_bits_of_pil() -> None:
    settings, frame = preprocessing(96, 112), noise(180, 250)
    found = input_levels(torch.from_numpy(frame)[None], settings)[0]
    assert np.array_equal(found.permute(1, 2, 0).numpy(), crop_to_input(frame, settings))


def test_a_device_is_tried_against_pil() -> None:
    assert is_exact_on("cpu", preprocessing(224, 224))
    torch.set_float32_matmul_precision("medium")
    try:
        assert is_exact_on("cpu", preprocessing(224, 224))
    finally:
        torch.set_float32_matmul_precision("highest")


def test_only_what_the_crop_shows_is_read() -> None:
    resize = resize_of(240, 320, preprocessing(224, 224))
    assert (resize.down.start, resize.down.stop) == (0, 240)
    assert resize.across.start >= 35
    assert resize.across.stop <= 285


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize(("height", "width"), [(240, 320), (360, 640), (1080, 1920)])
def test_a_gpu_gives_the_bits_of_pil_too(height: int, width: int) -> None:
    settings, frame = preprocessing(224, 224), noise(height, width)
    found = input_levels(torch.from_numpy(frame)[None].cuda(), settings)[0]
    assert np.array_equal(found.permute(1, 2, 0).cpu().numpy(), crop_to_input(frame, settings))


def test_what_can_t_be_cut_or_resized_is_said() -> None:
    with pytest.raises(UsageError, match="rows 0 to 9: there are 8"):
        span_of(10, 8, 0, 9, "bicubic")
    with pytest.raises(UsageError, match="interpolation 'lanczos': choose from bicubic, bilinear"):
        span_of(10, 8, 0, 8, "lanczos")
