"""The norm's and QuickGELU's kernels, built for this machine, against float64."""

import pytest
import torch
from tests.host_kernels.closeness import assert_close
from torch import Tensor

from muse.pipeline.kernels import quick_gelu, row_norm

pytestmark = pytest.mark.usefixtures("host_kernels")

EPS = 1e-5
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def norm_in_words(x: Tensor, added: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    total = x + added
    centred = total - total.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    return total, centred / (variance + EPS).sqrt() * weight + bias


def check_norm(rows: int, width: int, stream: torch.dtype, half: torch.dtype) -> None:
    """Both outputs and all gradients, where both outputs are used."""
    x, added = (torch.randn(2, rows, width) + 1).unbind()
    own = [x.to(stream), added.to(half), torch.randn(width), torch.randn(width)]
    exact = [tensor.double().requires_grad_() for tensor in own]
    own = [tensor.requires_grad_() for tensor in own]
    found = row_norm._AddNorm.apply(*own, EPS, half)
    wanted = norm_in_words(*exact)
    factors = torch.randn(2, rows, width)
    gradients = [
        torch.autograd.grad(
            sum((out.to(wide) * factor).sum() for out, factor in zip(outs, factors, strict=True)),
            inputs,
        )
        for outs, inputs, wide in ((found, own, torch.float32), (wanted, exact, torch.float64))
    ]
    assert [tensor.dtype for tensor in found] == [stream, half]
    tolerance = max(TOLERANCE[stream], TOLERANCE[half])
    assert_close([*found, *gradients[0]], [*wanted, *gradients[1]], tolerance)


def check_quick_gelu(size: int, dtype: torch.dtype) -> None:
    x, dout = (3 * torch.randn(2, size)).to(dtype).unbind()
    exact = x.double().requires_grad_()
    wanted = exact * torch.sigmoid(1.702 * exact)
    (gradient,) = torch.autograd.grad(wanted, exact, dout.double())
    made = [quick_gelu.quick_gelu_forward(x), quick_gelu.quick_gelu_backward(dout, x)]
    assert_close(made, [wanted.detach(), gradient], TOLERANCE[dtype])


def test_norm_and_quick_gelu_and_their_gradients_are_those_of_float64() -> None:
    check_norm(11, 40, torch.float32, torch.bfloat16)
    check_quick_gelu(2_056, torch.bfloat16)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "width", "stream", "half"),
    [
        (1_050, 8, torch.float32, torch.bfloat16),
        (77, 768, torch.float32, torch.bfloat16),
        (9, 512, torch.bfloat16, torch.bfloat16),
        (33, 100, torch.float32, torch.float32),
        (33, 100, torch.float16, torch.float32),
        (5, 37, torch.bfloat16, torch.bfloat16),
        (5, 37, torch.float32, torch.float16),
    ],
)
def test_so_is_every_norm(rows: int, width: int, stream: torch.dtype, half: torch.dtype) -> None:
    check_norm(rows, width, stream, half)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("size", [1, 8, 255, 2_048, 4_097])
def test_so_is_quick_gelu(size: int, dtype: torch.dtype) -> None:
    check_quick_gelu(size, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("width", [512, 37])
def test_rows_are_narrowed_and_summed(width: int) -> None:
    x = torch.randn(3, 101, width)
    narrow, total = row_norm.narrow_and_sum(x, torch.bfloat16)
    assert torch.equal(narrow, x.bfloat16())
    assert_close([total], [x.double().sum((0, 1))], 1e-5)


@pytest.mark.slow
def test_large_values_stay_what_they_are() -> None:
    x = torch.tensor([-1e30, -100.0, 100.0, 1e30])
    dx = quick_gelu.quick_gelu_backward(torch.ones(4), x)
    assert quick_gelu.quick_gelu_forward(x).tolist() == [0, 0, 100, x[3].item()]
    assert dx.tolist() == [0, 0, 1, 1]


@pytest.mark.slow
def test_every_element_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    new_empty, empty_like = Tensor.new_empty, torch.empty_like

    def poisoned(tensor: Tensor, *sizes: object, **options: object) -> Tensor:
        return new_empty(tensor, *sizes, **options).fill_(float("nan"))  # type: ignore[arg-type]

    monkeypatch.setattr(Tensor, "new_empty", poisoned)
    monkeypatch.setattr(torch, "empty_like", lambda t: empty_like(t).fill_(float("nan")))
    x, weight, bias = torch.randn(21, 37), torch.randn(37), torch.randn(37)
    total, normed = row_norm.norm_forward(x, x, weight, bias, EPS, torch.bfloat16, True)
    found = row_norm.norm_backward(normed, None, total, weight, EPS, torch.bfloat16)
    sums = row_norm.narrow_and_sum(x, torch.float16)
    gelu = quick_gelu.quick_gelu_forward(x), quick_gelu.quick_gelu_backward(x, x)
    assert all(made.isfinite().all() for made in (total, normed, *found, *sums, *gelu))
