"""The golden vector: what a change of the library, the resize or the weights does to it."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from muse.errors import IncompatibleStoreError
from muse.pipeline import golden
from muse.pipeline.decoding import input_frames
from muse.pipeline.encoders.base import Encoder, build_encoder
from muse.pipeline.golden import (
    measure_golden,
    relative_distance,
    require_same_golden,
    require_same_text,
)
from muse.pipeline.header import Golden, Preprocessing

Frame = NDArray[np.uint8]


@pytest.fixture(autouse=True)
def _frame_is_decoded_anew() -> Iterator[None]:
    golden._golden_frame.cache_clear()
    yield
    golden._golden_frame.cache_clear()


def refusal(found: Golden, wanted: Golden, *, precision: str = "fp32") -> str:
    with pytest.raises(IncompatibleStoreError) as caught:
        require_same_golden(found, wanted, precision=precision, what="store")
    return str(caught.value)


def bilinear(frame: Frame, crop: Preprocessing) -> Frame:
    return _resized(frame, crop, Image.Resampling.BILINEAR)


def without_antialias(frame: Frame, crop: Preprocessing) -> Frame:
    """Each pixel of the result is one pixel of the frame."""
    return _resized(frame, crop, Image.Resampling.NEAREST)


def blue_first(frame: Frame, crop: Preprocessing) -> Frame:
    return _resized(frame[:, :, ::-1], crop, Image.Resampling.BICUBIC)


def full_range(frame: Frame, crop: Preprocessing) -> Frame:
    """Black at 16 and white at 235, as where nobody says that a video is of limited range."""
    squeezed = (frame.astype(np.float64) * 219 / 255 + 16).round().astype(np.uint8)
    return _resized(squeezed, crop, Image.Resampling.BICUBIC)


def _resized(frame: Frame, crop: Preprocessing, resample: Image.Resampling) -> Frame:
    short = min(frame.shape[:2])
    height, width = (int(crop.resize_to * side / short) for side in frame.shape[:2])
    image = Image.fromarray(np.ascontiguousarray(frame)).resize((width, height), resample)
    left, top = (width - crop.size) // 2, (height - crop.size) // 2
    return np.asarray(image.crop((left, top, left + crop.size, top + crop.size)))


CHANGES = (bilinear, without_antialias, blue_first, full_range)


def test_the_same_encoder_gives_the_same_vector(plain_encoder: Callable[..., Encoder]) -> None:
    first = measure_golden(plain_encoder("plain"))
    golden._golden_frame.cache_clear()
    assert measure_golden(plain_encoder("plain")) == first
    require_same_golden(first, first, precision="fp32", what="store")


@pytest.mark.parametrize("part", golden.PARTS)
def test_a_part_that_differs_is_named_with_error_and_limit(
    part: str, plain_encoder: Callable[..., Encoder]
) -> None:
    ours = measure_golden(plain_encoder("plain"))
    vector = np.frombuffer(b"\0\0" * 4, "<f2")
    other = dataclasses.replace(ours, **{part: golden._packed(vector)})
    message = refusal(other, ours)
    assert f"golden.{part} differs from the store's by 1.0e+00 (limit 0.0015)" in message


def test_the_tolerance_is_a_share_of_the_vector_s_length() -> None:
    vector = np.array([300.0, 400.0], np.float16)
    moved = np.array([300.0, 405.0], np.float16)
    left, right = golden._packed(moved), golden._packed(vector)
    assert relative_distance(left, right) == 5 / 500


def test_another_width_is_no_match() -> None:
    short, long = (golden._packed(np.ones(size, np.float16)) for size in (3, 4))
    assert relative_distance(short, long) == np.inf


def test_a_search_compares_the_caption_alone(plain_encoder: Callable[..., Encoder]) -> None:
    encoder = plain_encoder("plain")
    wanted = measure_golden(encoder)
    nowhere = dataclasses.replace(wanted, class_token=golden._packed(np.zeros(4, np.float16)))
    require_same_text(encoder, nowhere, what="store")
    other = dataclasses.replace(wanted, text=golden._packed(np.zeros(4, np.float16)))
    with pytest.raises(IncompatibleStoreError, match=r"golden\.text"):
        require_same_text(encoder, other, what="store")


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["tiny", "openclip:ViT-B-32/random:0", "conse"])
def test_what_changes_pixels_or_weights_is_refused(
    spec: str, tiny_clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if spec == "conse":
        pytest.importorskip("transformers", reason="needs the extra 'offline'")
    encoder: Any = build_encoder(
        tiny_clip if spec == "tiny" else spec, device="cpu", precision="fp32"
    )
    wanted = measure_golden(encoder)
    for change in CHANGES:
        golden._golden_frame.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(input_frames, "crop_to_input", change)
            found = measure_golden(encoder)
        for precision in ("fp32", "bf16"):
            message = refusal(found, wanted, precision=precision)
            assert "golden.class_token" in message or "golden.mean_patch" in message, change
    golden._golden_frame.cache_clear()
    if spec != "conse":
        import open_clip

        for block in encoder._model.visual.transformer.resblocks:
            is_quick = isinstance(block.mlp.gelu, open_clip.transformer.QuickGELU)
            block.mlp.gelu = (
                open_clip.transformer.nn.GELU() if is_quick else open_clip.transformer.QuickGELU()
            )
        assert "golden.class_token" in refusal(measure_golden(encoder), wanted)
