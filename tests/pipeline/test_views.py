"""Views of a video: their names, shapes, and what follows from the tokens."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from muse.errors import EncoderError, UsageError
from muse.head.model import MeanPoolHead
from muse.pipeline.header import EncoderInfo
from muse.pipeline.views import (
    arrays_of,
    arrays_of_clip,
    dequantise,
    encoded_views,
    parse_views,
    quantise,
)

EVERY_VIEW = ("tokens", "int8", "class", "pooled", "unprojected", "block:1", "block:2")


@pytest.fixture
def tokens() -> NDArray[np.float16]:
    """(4, 5, 32), of all sizes that float16 has; the last frame is padding."""
    rng = np.random.default_rng(0)
    sizes = 10.0 ** rng.uniform(-6, 4, (4, 5, 1))
    values = (rng.standard_normal((4, 5, 32)) * sizes).clip(-65504, 65504).astype(np.float16)
    values[3] = 0
    return values


# -- names and shapes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "views"),
    [
        ("tokens", ("tokens",)),
        (" int8 , tokens", ("tokens", "int8")),
        ("block:12,block:3,pooled", ("pooled", "block:3", "block:12")),
    ],
)
def test_views_come_in_one_order_however_they_are_written(
    text: str, views: tuple[str, ...]
) -> None:
    assert parse_views(text) == views


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "views ''"),
        ("tokens,tokens", "each once"),
        ("patches", "view 'patches'"),
        ("block:0", "view 'block:0'"),
        ("block:01", "view 'block:01'"),
        ("block:-1", "view 'block:-1'"),
        ("block:", "view 'block:'"),
    ],
)
def test_a_view_that_is_none_is_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        parse_views(text)


def test_every_view_has_arrays_of_the_shapes_that_its_clips_have(
    encoder_info: EncoderInfo,
) -> None:
    raw = {
        name: np.ones((3, 5, 4), np.float16)
        for name in ("tokens", "unprojected", "block:1", "block:2")
    }
    assert encoded_views(EVERY_VIEW) == tuple(raw)
    arrays = arrays_of_clip(EVERY_VIEW, raw, np.array([True, True, False]))
    specs = {spec.name: spec for spec in arrays_of(EVERY_VIEW, encoder_info, 3)}
    assert list(arrays) == list(specs)
    for name, array in arrays.items():
        assert (array.dtype, array.shape) == (np.dtype(specs[name].dtype), specs[name].shape)


def test_an_encoder_is_asked_for_what_the_views_need_and_no_more() -> None:
    assert encoded_views(("pooled",)) == ("tokens",)
    assert encoded_views(("block:2",)) == ("block:2",)


def test_a_block_that_the_encoder_lacks_is_refused(encoder_info: EncoderInfo) -> None:
    with pytest.raises(EncoderError, match=r"block:3.* has 2 blocks.*block:1 to block:2"):
        arrays_of(("block:3",), encoder_info, 3)


def test_an_encoder_that_is_no_transformer_has_no_inner_views(encoder_info: EncoderInfo) -> None:
    import dataclasses

    flat = dataclasses.replace(encoder_info, num_blocks=0)
    for view in ("unprojected", "block:1"):
        with pytest.raises(EncoderError, match=f"{view}.*no transformer"):
            arrays_of((view,), flat, 3)


# -- int8 ----------------------------------------------------------------------------------------


def test_no_value_is_off_by_more_than_half_its_token_s_scale(tokens: NDArray[Any]) -> None:
    quantised, scale = quantise(tokens)
    error = np.abs(quantised.astype(np.float64) * scale[..., None] - tokens)
    assert (error <= scale[..., None] * 0.5001).all()


def test_the_largest_value_of_a_token_is_within_the_range(tokens: NDArray[Any]) -> None:
    quantised, _ = quantise(tokens)
    assert quantised.dtype == np.int8
    assert int(np.abs(quantised.astype(int)).max()) <= 127
    assert int(np.abs(quantised[:3].astype(int)).max(axis=-1).min()) >= 1


def test_a_token_of_zeros_stays_zero(tokens: NDArray[Any]) -> None:
    quantised, scale = quantise(tokens)
    assert not quantised[3].any()
    assert not scale[3].any()
    assert not dequantise(quantised, scale)[3].any()


def test_a_token_is_quantised_alike_alone_and_among_others(tokens: NDArray[Any]) -> None:
    quantised, scale = quantise(tokens)
    for frame in range(4):
        alone = quantise(tokens[frame, 2])
        assert (alone[0] == quantised[frame, 2]).all()
        assert alone[1] == scale[frame, 2]


def test_a_negative_token_is_the_negative_of_the_token(tokens: NDArray[Any]) -> None:
    assert (quantise(-tokens)[0] == -quantise(tokens)[0]).all()


def test_the_largest_float16_survives() -> None:
    tokens = np.array([[65504.0, -65504.0, 1.0]], np.float16)
    found = dequantise(*quantise(tokens))
    assert np.isfinite(found).all()
    assert np.abs(found.astype(float) - tokens).max() <= float(quantise(tokens)[1][0]) / 2


def test_dequantised_is_scale_times_integer(tokens: NDArray[Any]) -> None:
    quantised, scale = quantise(tokens)
    slow = np.array(
        [[[int(v) * float(s) for v in token] for token, s in zip(*frame, strict=True)]
         for frame in zip(quantised, scale, strict=True)]
    )  # fmt: skip
    assert (dequantise(quantised, scale) == slow.astype(np.float16)).all()


@pytest.mark.parametrize("dim", [384, 512, 768])
def test_int8_takes_little_more_than_half_the_bytes(dim: int, encoder_info: EncoderInfo) -> None:
    import dataclasses

    wide = dataclasses.replace(encoder_info, dim=dim, tokens_per_frame=50)

    def num_bytes(view: str) -> int:
        specs = arrays_of((view,), wide, 12)
        return sum(int(np.prod(s.shape)) * np.dtype(s.dtype).itemsize for s in specs)

    assert num_bytes("int8") <= 0.52 * num_bytes("tokens")


# -- pooled --------------------------------------------------------------------------------------


def test_pooled_is_what_the_mean_pool_head_makes_of_the_tokens() -> None:
    rng = np.random.default_rng(1)
    tokens = rng.standard_normal((4, 5, 32)).astype(np.float16)
    valid = np.array([True, True, True, False])
    arrays = arrays_of_clip(("class", "pooled"), {"tokens": tokens}, valid)
    head = MeanPoolHead().embed_videos(
        torch.from_numpy(tokens)[None], torch.from_numpy(valid)[None]
    )
    np.testing.assert_allclose(arrays["pooled"], head[0].numpy(), atol=2e-7)
    assert (arrays["class_tokens"] == tokens[:, 0]).all()
