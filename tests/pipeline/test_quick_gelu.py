"""QuickGELU against its formula, number by number; its CUDA kernels against float64."""

import math

import pytest
import torch
from torch import Tensor

from muse.pipeline.kernels import quick_gelu as kernels
from muse.pipeline.kernels.quick_gelu import quick_gelu

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-3, torch.float16: 1e-3}
ON_GPU = [pytest.mark.gpu, pytest.mark.usefixtures("cuda")]


def in_words(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def is_close(found: Tensor, wanted: Tensor) -> bool:
    return bool((found.double() - wanted).norm() <= TOLERANCE[found.dtype] * wanted.norm())


def value_and_gradient(x: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
    own = x.clone().requires_grad_()
    out = quick_gelu(own)
    (dx,) = torch.autograd.grad(out, own, dout)
    return out, dx


def test_it_is_its_formula() -> None:
    numbers = [-30.0, -2.0, -0.5, 0.0, 0.5, 2.0, 30.0]
    wanted = [number / (1 + math.exp(-1.702 * number)) for number in numbers]
    torch.testing.assert_close(quick_gelu(torch.tensor(numbers)), torch.tensor(wanted))


def test_its_gradient_is_its_slope() -> None:
    x = torch.linspace(-4, 4, 33, dtype=torch.float64)
    _, found = value_and_gradient(x, torch.ones_like(x))
    step = 1e-6
    slope = (quick_gelu(x + step) - quick_gelu(x - step)) / (2 * step)
    torch.testing.assert_close(found, slope, atol=1e-8, rtol=1e-7)


class TestKernels:
    pytestmark = ON_GPU

    @pytest.mark.parametrize("dtype", list(TOLERANCE))
    @pytest.mark.parametrize("shape", [(3, 50, 64), (1,), (7, 13), (8, 257, 4096), (0, 8)])
    def test_value_and_gradient_are_those_of_float64(
        self, dtype: torch.dtype, shape: tuple[int, ...]
    ) -> None:
        torch.manual_seed(0)
        x, dout = (torch.randn(shape, device="cuda").to(dtype) for _ in range(2))
        found = value_and_gradient(3 * x, dout)
        exact = (3 * x).double().requires_grad_()
        wanted = in_words(exact)
        (gradient,) = torch.autograd.grad(wanted, exact, dout.double())
        assert all(made.dtype == dtype for made in found)
        assert is_close(found[0], wanted)
        assert is_close(found[1], gradient)

    def test_pieces_that_lie_anywhere_are_taken(self) -> None:
        rows = torch.randn(5, 24, device="cuda")
        for piece in (rows[:, 3:11], rows.t(), rows.flatten()[1:17], rows[:1].expand(5, 24)):
            out, dx = value_and_gradient(piece, torch.ones((), device="cuda").expand_as(piece))
            assert is_close(out, in_words(piece.double()))
            assert dx.shape == piece.shape

    def test_large_values_stay_what_they_are(self) -> None:
        x = torch.tensor([-1e30, -100.0, 100.0, 1e30], device="cuda")
        out, dx = value_and_gradient(x, torch.ones_like(x))
        assert out.tolist() == [0, 0, x[2].item(), x[3].item()]
        assert dx.tolist() == [0, 0, 1, 1]

    def test_every_element_is_written(self, monkeypatch: pytest.MonkeyPatch) -> None:
        empty_like = torch.empty_like

        def poisoned(tensor: Tensor) -> Tensor:
            return empty_like(tensor).fill_(float("nan"))

        x = torch.randn(1001, device="cuda")
        monkeypatch.setattr(torch, "empty_like", poisoned)
        assert all(made.isfinite().all() for made in value_and_gradient(x, x))

    def test_operators_say_what_they_do(self) -> None:
        x = torch.randn(6, 16, device="cuda")
        torch.library.opcheck(kernels.quick_gelu_forward.registered, (x,))
        torch.library.opcheck(kernels.quick_gelu_backward.registered, (x, x))

    def test_a_compiled_step_is_the_step(self) -> None:
        x = torch.randn(6, 16, device="cuda", requires_grad=True)
        made = torch.compile(quick_gelu, fullgraph=True)(x)
        (dx,) = torch.autograd.grad(made.square().sum(), x)
        out, wanted = value_and_gradient(x.detach(), 2 * made.detach())
        torch.testing.assert_close(made, out)
        torch.testing.assert_close(dx, wanted)
