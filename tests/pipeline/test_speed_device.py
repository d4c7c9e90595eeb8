"""What a frame takes and what a device can do: products that a child can count."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from muse.pipeline.encoders.base import Encoder
from muse.pipeline.speed import device_probe
from muse.pipeline.speed.device_probe import measure_device


class EncoderOf:
    """An encoder that does one thing with a frame."""

    def __init__(self, plain: Encoder, work: Callable[[], object]) -> None:
        self.info = plain.info
        self._plain, self._work = plain, work

    def frame_maps(
        self, frames_BHWC: Tensor, views: Sequence[str] = ("tokens",)
    ) -> dict[str, Tensor]:
        return self._plain.frame_maps(frames_BHWC, views)

    @torch.no_grad()
    def encode_frames(
        self, frames_BHWC: NDArray[np.uint8], views: Sequence[str] = ("tokens",)
    ) -> dict[str, NDArray[np.float16]]:
        self._work()
        return self._plain.encode_frames(frames_BHWC, views)

    def encode_texts(
        self, texts: Sequence[str], text_length: int | None = None
    ) -> NDArray[np.float16]:
        return self._plain.encode_texts(texts, text_length)


@pytest.fixture
def flops_of(
    plain_encoder: Callable[..., Encoder], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int | None]:
    """FLOPs of a frame, on a device that does a million a second."""
    monkeypatch.setattr(device_probe, "matrix_flops", lambda device, dtype: 1e6)

    def measured(work: Callable[[], object], views: Sequence[str] = ("tokens",)) -> int | None:
        rates = measure_device(EncoderOf(plain_encoder("plain"), work), device="cpu", views=views)
        return rates.frame_flops if rates else None

    return measured


def test_a_product_is_a_multiplication_and_an_addition_for_each_of_its_terms(
    flops_of: Callable[..., int | None],
) -> None:
    assert flops_of(lambda: torch.ones(3, 5) @ torch.ones(5, 7)) == 2 * 3 * 5 * 7


def test_fused_attention_is_counted_and_fused_again_afterwards(
    flops_of: Callable[..., int | None],
) -> None:
    attention = torch.nn.MultiheadAttention(8, 2, batch_first=True).eval()
    x = torch.ones(1, 5, 8)
    projections, products = 4 * 2 * 5 * 8 * 8, 2 * 2 * 5 * 5 * 8
    assert flops_of(lambda: attention(x, x, x, need_weights=False)) == projections + products
    assert torch.backends.mha.get_fastpath_enabled()


def test_an_encoder_without_products_has_no_rate(flops_of: Callable[..., int | None]) -> None:
    assert flops_of(lambda: None) is None


def test_a_store_of_frames_alone_encodes_none(flops_of: Callable[..., int | None]) -> None:
    assert flops_of(lambda: torch.ones(3, 5) @ torch.ones(5, 7), views=()) is None


def test_a_device_without_memory_for_it_stops_no_run(flops_of: Callable[..., int | None]) -> None:
    def full() -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert flops_of(full) is None


def test_a_rate_is_the_products_by_the_best_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_probe, "_SIDE_CPU", 10)
    monkeypatch.setattr(device_probe, "_best_seconds", lambda work, device: 0.5)
    assert device_probe.matrix_flops("cpu", torch.float32) == 2 * 10**3 / 0.5
