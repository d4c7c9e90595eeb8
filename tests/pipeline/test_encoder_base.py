"""What encoders share: names, devices, precisions, hashes and the form that is stored."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from muse.errors import EncoderError
from muse.pipeline.encoders.base import (
    as_float16,
    build_encoder,
    hash_of_weights,
    resolve_device,
    resolve_precision,
)


@pytest.mark.parametrize("spec", ["clip", "openclip", "openclip:", "conse:x", ""])
def test_an_unknown_kind_of_encoder_is_refused_with_an_example(spec: str) -> None:
    with pytest.raises(EncoderError, match="Write openclip:MODEL/PRETRAINED"):
        build_encoder(spec, device="cpu", precision="fp32")


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.ones(2, 3), "b": torch.zeros(1)},
        {"a": torch.zeros(3, 2), "b": torch.zeros(1)},
        {"a": torch.zeros(2, 3).half(), "b": torch.zeros(1)},
        {"a": torch.zeros(2, 3), "c": torch.zeros(1)},
    ],
)
def test_the_hash_is_over_names_types_shapes_and_values(other: dict[str, torch.Tensor]) -> None:
    weights = {"a": torch.zeros(2, 3), "b": torch.zeros(1)}
    assert hash_of_weights(other) != hash_of_weights(weights)


def test_the_hash_does_not_depend_on_the_order_of_names() -> None:
    forward = {"a": torch.zeros(2), "b": torch.ones(2)}
    assert hash_of_weights(forward) == hash_of_weights(dict(reversed(forward.items())))


@pytest.mark.parametrize("value", [7e4, float("nan"), float("-inf")])
def test_a_value_beyond_float16_is_refused(value: float) -> None:
    with pytest.raises(EncoderError, match="view tokens: 1 of 6 values are not finite"):
        as_float16(torch.tensor([[1.0, 2.0, 3.0], [4.0, value, 6.0]]), what="view tokens")


@pytest.mark.parametrize("value", [65504.0, -65504.0, 65519.0, 6e-8, -0.0])
def test_a_value_at_the_end_of_float16_is_stored(value: float) -> None:
    stored = as_float16(torch.tensor([1.0, value]), what="view tokens")
    assert stored.tolist() == [1.0, float(np.float16(value))]


@pytest.mark.parametrize(
    ("precision", "device", "resolved"),
    [("auto", "cpu", "fp32"), ("auto", "cuda:0", "bf16"), ("fp16", "cpu", "fp16")],
)
def test_precision_is_resolved_by_device(precision: Any, device: str, resolved: str) -> None:
    assert resolve_precision(precision, device=device) == resolved


@pytest.mark.parametrize(("available", "device"), [(True, "cuda"), (False, "cpu")])
def test_the_device_auto_is_a_gpu_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, available: bool, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert resolve_device("auto") == device


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    unavailable: Callable[[], bool] = lambda: False  # noqa: E731
    monkeypatch.setattr(torch.cuda, "is_available", unavailable)
    with pytest.raises(EncoderError, match="--device cpu"):
        resolve_device("cuda")
