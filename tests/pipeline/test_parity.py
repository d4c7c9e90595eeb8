"""The parity certificate: what it says of a run, and what it lets pass."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from own_reference import PERFECT
from PIL import Image
from torch import Tensor, nn

from muse.errors import ParityError
from muse.pipeline import parity, shards
from muse.pipeline.encoders.base import Encoder, build_encoder
from muse.pipeline.encoders.batches import BatchEncoder, FrameBatch, FramePart
from muse.pipeline.encoders.preprocessing import crop_to_input
from muse.pipeline.encoders.setting import EncoderSetting
from muse.pipeline.header import Parity, Preprocessing
from muse.pipeline.parity import measure_parity, require_parity
from muse.pipeline.records import Clip

Frame = NDArray[np.uint8]
Crop = Callable[[Frame, Preprocessing], Frame]


@pytest.fixture(scope="module")
def pictures() -> list[Frame]:
    """Two of another colour in each coarse square, and some noise."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 200, (2, 9, 12, 3), dtype=np.uint8).repeat(10, 1).repeat(10, 2)
    return list(coarse + rng.integers(0, 50, coarse.shape, dtype=np.uint8))


def measured(encoder: Encoder, pictures: Sequence[Frame], crop: Crop = crop_to_input) -> Parity:
    """The certificate of frames that a run would crop so."""
    frames = np.stack([crop(picture, encoder.info.preprocessing) for picture in pictures])
    batch = FrameBatch(
        num_frames=len(frames) + 1,
        parts=[FramePart(first=place, frames_NHWC=frames[[place]]) for place in range(len(frames))],
    )
    batch_encoder = BatchEncoder(encoder, device="cpu")
    return measure_parity(encoder, batch_encoder, batch, pictures, num_videos=1, device="cpu")


def refusal(found: Parity) -> str:
    with pytest.raises(ParityError) as caught:
        require_parity(found, what="this")
    return str(caught.value)


# -- what is measured ------------------------------------------------------------------------------


def test_the_same_path_twice_is_no_distance_apart(
    plain_encoder: Callable[..., Encoder], pictures: list[Frame]
) -> None:
    found = measured(plain_encoder("plain"), pictures)
    assert found == dataclasses.replace(PERFECT, num_videos=1, num_frames=2)
    require_parity(found, what="this")


def test_pixels_that_are_two_levels_brighter_are_two_levels_apart(
    plain_encoder: Callable[..., Encoder],
) -> None:
    def brighter(picture: Frame, crop: Preprocessing) -> Frame:
        return crop_to_input(picture, crop) + np.uint8(2)

    grey = np.full((40, 50, 3), 100, np.uint8)
    found = measured(plain_encoder("plain"), [grey], brighter)
    assert found.pixels == 2.0
    assert "its input is 2 levels of 1/255 from the library's (limit 0.05)" in refusal(found)


def test_a_cosine_is_that_of_the_angle() -> None:
    found = np.array([[[3.0, 4.0], [1.0, 0.0]]], np.float16)
    wanted = np.array([[[4.0, 3.0], [0.0, 2.0]]], np.float32)
    assert np.allclose(parity._cosines(found, wanted), [[24 / 25, 0.0]])


def test_class_token_and_patches_are_told_apart(
    plain_encoder: Callable[..., Any], pictures: list[Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = plain_encoder("plain")
    reference = encoder.reference()
    maps = encoder.frame_maps

    def with_one_patch_turned_around(frames: Tensor, views: Sequence[str]) -> dict[str, Tensor]:
        tokens = maps(frames)["tokens"].clone()
        tokens[0, 3] = -tokens[0, 3]
        return {"tokens": tokens}

    monkeypatch.setattr(encoder, "frame_maps", with_one_patch_turned_around)
    monkeypatch.setattr(encoder, "reference", lambda: reference)
    found = measured(encoder, pictures)
    assert (found.class_token_mean, found.class_token_min) == (1.0, 1.0)
    assert found.patch_tokens_min == -1.0
    assert found.patch_tokens_mean == 6 / 8  # seven of eight patches are 1
    assert "patch_tokens_mean, is 0.75 (limit 0.99999)" in refusal(found)


@pytest.mark.parametrize("part", ["class_token_min", "patch_tokens_mean"])
@pytest.mark.parametrize("limit", [0.99, 0.9])
def test_a_cosine_has_to_reach_the_limit_of_its_encoder_and_precision(
    part: str, limit: float
) -> None:
    just = dataclasses.replace(PERFECT, cosine_limit=limit, **{part: limit})
    require_parity(just, what="this")
    message = refusal(dataclasses.replace(just, **{part: limit - 0.01}))
    assert f"{part}, is {limit - 0.01:g} (limit {limit:g})" in message


def test_a_value_that_is_no_number_is_too_far() -> None:
    assert "nan" in refusal(dataclasses.replace(PERFECT, class_token_min=float("nan")))


# -- a real network --------------------------------------------------------------------------------


def resized_by(resample: Image.Resampling, *, swaps: bool = False) -> Crop:
    def crop(picture: Frame, preprocessing: Preprocessing) -> Frame:
        short = min(picture.shape[:2])
        sides = [int(preprocessing.resize_to * side / short) for side in picture.shape[:2]]
        image = np.asarray(Image.fromarray(picture).resize((sides[1], sides[0]), resample))
        top, left = (round((side - preprocessing.size) / 2) for side in sides)
        square = image[top : top + preprocessing.size, left : left + preprocessing.size]
        return square[:, :, ::-1] if swaps else square

    return crop


def test_a_clip_in_float32_is_open_clip_s_own(tiny_clip: str, pictures: list[Frame]) -> None:
    encoder = build_encoder(tiny_clip, device="cpu", precision="fp32")
    found = measured(encoder, pictures, resized_by(Image.Resampling.BICUBIC))
    require_parity(found, what="this")
    assert found.pixels == 0.0
    assert found.patch_tokens_min > 0.999999


@pytest.mark.usefixtures("tiny_clip")
def test_patches_are_compared_after_their_last_norm(pictures: list[Frame]) -> None:
    spec = "openclip:muse-tiny-late-norm/random:0"
    found = measured(build_encoder(spec, device="cpu", precision="fp32"), pictures)
    require_parity(found, what="this")
    assert found.patch_tokens_min > 0.999999


def test_weights_in_another_precision_are_compared_with_those_in_float32(
    tiny_clip: str, pictures: list[Frame]
) -> None:
    found = measured(build_encoder(tiny_clip, device="cpu", precision="bf16"), pictures)
    require_parity(found, what="this")
    assert found.pixels == 0.0
    assert 0.999 < found.class_token_min < 1.0


@pytest.mark.parametrize(
    "crop",
    [
        pytest.param(resized_by(Image.Resampling.BICUBIC, swaps=True), id="blue-first"),
        pytest.param(resized_by(Image.Resampling.BILINEAR), id="bilinear"),
        pytest.param(resized_by(Image.Resampling.NEAREST), id="no-antialias"),
    ],
)
def test_pixels_of_another_kind_are_refused(
    crop: Crop, tiny_clip: str, pictures: list[Frame]
) -> None:
    encoder = build_encoder(tiny_clip, device="cpu", precision="bf16")
    assert "its input is" in refusal(measured(encoder, pictures, crop))


@pytest.mark.parametrize("field", ["mean", "std"])
def test_another_normalisation_is_refused(
    field: str, tiny_clip: str, pictures: list[Frame]
) -> None:
    encoder: Any = build_encoder(tiny_clip, device="cpu", precision="bf16")
    of_imagenet = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    crop = dataclasses.replace(encoder.info.preprocessing, **{field: of_imagenet[field]})
    encoder.info = dataclasses.replace(encoder.info, preprocessing=crop)
    assert "its input is" in refusal(measured(encoder, pictures))


class _Skipped(nn.Module):
    def forward(self, tokens: Tensor, **kwargs: Any) -> Tensor:
        return tokens


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_block_that_is_left_out_is_refused(precision: Any, pictures: list[Frame]) -> None:
    encoder: Any = build_encoder("openclip:muse-nano", device="cpu", precision=precision)
    reference = build_encoder("openclip:muse-nano", device="cpu", precision="fp32").reference()
    encoder.reference = lambda: reference
    require_parity(measured(encoder, pictures), what="this")
    for number in range(encoder.info.num_blocks):
        blocks = encoder.model.visual.transformer.resblocks
        kept, blocks[number] = blocks[number], _Skipped()
        assert "class_token_min" in refusal(measured(encoder, pictures))
        blocks[number] = kept


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_conse_is_compared_with_its_network_in_float32(
    precision: Any, pictures: list[Frame]
) -> None:
    pytest.importorskip("transformers", reason="needs the extra 'offline'")
    encoder = build_encoder("conse", device="cpu", precision=precision)
    found = measured(encoder, pictures)
    require_parity(found, what="this")
    assert found.pixels == 0.0


def test_on_a_gpu_the_batch_has_the_shape_of_the_run_s(
    plain_encoder: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def noted(encoder: Any, batches: Any, batch: FrameBatch, *args: Any, **kwargs: Any) -> Parity:
        sizes.append(batch.num_frames)
        return PERFECT

    monkeypatch.setattr(shards, "build_encoder", plain_encoder)
    monkeypatch.setattr(shards, "measure_parity", noted)
    setting = EncoderSetting(spec="plain", device="cpu", precision="fp32", num_threads=1)
    encoder = shards.ShardEncoder(setting)
    clip = Clip(
        video_id="a",
        frames_THWC=np.zeros((2, 32, 32, 3), np.uint8),
        pts_seconds_T=np.zeros(2),
        whole_frames={1: np.zeros((40, 40, 3), np.uint8)},
    )
    encoder.parity([clip], num_frames=6)
    monkeypatch.setattr(encoder, "_device", "cuda")
    encoder.parity([clip], num_frames=6)
    encoder.parity([clip] * 7, num_frames=6)
    assert sizes == [1, 6, 7]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_is_as_near_as_its_precision_allows(precision: Any, pictures: list[Frame]) -> None:
    encoder = build_encoder("openclip:muse-nano", device="cuda", precision=precision)
    frames = np.stack([crop_to_input(p, encoder.info.preprocessing) for p in pictures])
    batch = FrameBatch(num_frames=8, parts=[FramePart(first=0, frames_NHWC=frames)])
    batch_encoder = BatchEncoder(encoder, device="cuda")
    found = measure_parity(encoder, batch_encoder, batch, pictures, num_videos=1, device="cuda")
    require_parity(found, what="this")
    assert found.pixels == 0.0


@pytest.mark.gpu
def test_the_library_s_way_takes_no_memory_of_a_gpu(pictures: list[Frame]) -> None:
    encoder = build_encoder("openclip:muse-nano", device="cuda", precision="bf16")
    before = torch.cuda.memory_allocated()
    reference = encoder.reference()
    reference.tokens(reference.pixels(pictures))
    assert torch.cuda.memory_allocated() == before
