"""The norm of a residual stream: its words on a CPU, and on a GPU its kernels against float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from muse.pipeline.kernels import row_norm
from muse.pipeline.kernels.row_norm import add_norm

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
EPS = 1e-5


def in_words(x: Tensor, added: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    total = x + added
    centred = total - total.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    return total, centred / (variance + EPS).sqrt() * weight + bias


def is_close(found: Tensor, wanted: Tensor, tolerance: float) -> bool:
    return bool((found.double() - wanted).norm() <= tolerance * wanted.norm() + 1e-30)


def drawn(rows: int, width: int, device: str) -> list[Tensor]:
    torch.manual_seed(0)
    x, added = torch.randn(2, rows, width) + 1
    return [tensor.to(device) for tensor in (x, added, torch.randn(width), torch.randn(width))]


def check(rows: int, width: int, stream: torch.dtype, half: torch.dtype, device: str) -> None:
    """Both outputs and all gradients, where both outputs are used."""
    x, added, weight, bias = drawn(rows, width, device)
    own = [x.to(stream), added.to(half), weight, bias]
    exact = [tensor.double().requires_grad_() for tensor in own]
    own = [tensor.requires_grad_() for tensor in own]
    found = add_norm(*own, EPS, half)
    wanted = in_words(*exact)
    factors = torch.randn(2, rows, width, device=device)
    assert [tensor.dtype for tensor in found] == [stream, half]
    found_gradients = torch.autograd.grad(
        sum((out.float() * factor).sum() for out, factor in zip(found, factors, strict=True)), own
    )
    wanted_gradients = torch.autograd.grad(
        sum((out * factor).sum() for out, factor in zip(wanted, factors, strict=True)), exact
    )
    tolerance = max(TOLERANCE[stream], TOLERANCE[half])
    for one, other in zip((*found, *found_gradients), (*wanted, *wanted_gradients), strict=True):
        assert is_close(one, other, tolerance)


def test_on_a_cpu_it_is_torchs_layer_norm() -> None:
    check(5, 12, torch.float32, torch.float32, "cpu")
    check(50, 12, torch.float32, torch.bfloat16, "cpu")
    x, _, weight, bias = drawn(3, 6, "cpu")
    total, normed = add_norm(x, None, weight, bias, EPS, torch.float32)
    assert total is x
    torch.testing.assert_close(normed, F.layer_norm(x, (6,), weight, bias, EPS))


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize(
    ("rows", "width"), [(9_000, 512), (77, 768), (1, 1024), (33, 100), (5, 37)]
)
@pytest.mark.parametrize("stream", list(TOLERANCE))
@pytest.mark.parametrize("half", list(TOLERANCE))
def test_kernels_are_right(rows: int, width: int, stream: torch.dtype, half: torch.dtype) -> None:
    check(rows, width, stream, half, "cuda")


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_without_a_gradient_weights_are_read_as_they_are(dtype: torch.dtype) -> None:
    own = [tensor.to(dtype) for tensor in drawn(77, 768, "cuda")]
    with torch.no_grad():
        found = add_norm(*own, EPS, dtype)
        alone, _ = add_norm(own[0], None, own[2], own[3], EPS, dtype)
    assert alone is own[0]
    with_gradient = add_norm(own[0].clone().requires_grad_(), *own[1:], EPS, dtype)
    assert all(torch.equal(*pair) for pair in zip(found, with_gradient, strict=True))
    for one, other in zip(found, in_words(*(t.double() for t in own)), strict=True):
        assert is_close(one, other, TOLERANCE[dtype])


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
def test_no_row_gives_nothing_and_an_unaligned_part_is_taken() -> None:
    x, _, weight, bias = drawn(9, 64, "cuda")
    total, normed = add_norm(x[:0], None, weight, bias, EPS, torch.bfloat16)
    assert total.shape == normed.shape == (0, 64)
    part = torch.randn(9 * 64 + 1, device="cuda")[1:].view(9, 64)
    _, normed = add_norm(part, None, weight, bias, EPS, torch.float32)
    torch.testing.assert_close(normed, F.layer_norm(part, (64,), weight, bias, EPS))


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
def test_rows_are_narrowed_and_summed() -> None:
    x = torch.randn(3, 1_001, 512, device="cuda")
    narrow, total = row_norm.narrow_and_sum(x, torch.bfloat16)
    assert torch.equal(narrow, x.bfloat16())
    assert is_close(total, x.double().sum((0, 1)), 1e-5)


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
def test_operators_say_what_they_do() -> None:
    x, added, weight, bias = drawn(9, 64, "cuda")
    for other in (None, added.bfloat16()):
        torch.library.opcheck(
            row_norm.norm_forward.registered, (x, other, weight, bias, EPS, torch.bfloat16, True)
        )
    for also in (None, torch.bfloat16):
        torch.library.opcheck(
            row_norm.norm_backward.registered, (added, None, x, weight, EPS, also)
        )
    torch.library.opcheck(row_norm.narrow_and_sum.registered, (x, torch.bfloat16))
