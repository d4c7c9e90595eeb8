"""The scan's CUDA kernels, built for this machine, against float64 and the step-by-step way."""

import pytest
import torch
from tests.head.plain_kernels import scan_in_words
from tests.host_kernels.closeness import TOLERANCE, assert_close
from torch import Tensor

from muse.head.scan import cuda as cuda_scan

pytestmark = pytest.mark.usefixtures("host_kernels")

Shape = tuple[int, int, int, int]


def inputs_of(shape: Shape, num_states: int, dtype: torch.dtype) -> list[Tensor]:
    """Values as the kernel rounds them."""
    num_directions, _, _, width = shape
    projections = (*shape[:3], num_states)
    rates = torch.rand((num_directions, width, num_states))
    tensors = [
        torch.randn(shape).to(dtype), torch.randn(shape).to(dtype), -(rates * num_states + 0.1),
        torch.randn(projections).to(dtype), torch.randn(projections).to(dtype),
        torch.randn(num_directions, width), torch.randn(num_directions, width) - 3,
    ]  # fmt: skip
    return [tensor.requires_grad_() for tensor in tensors]


def check(shape: Shape, lengths: list[int] | None, num_states: int, dtype: torch.dtype) -> None:
    """The output and all seven gradients."""
    reversed_X = (False, True)[: shape[0]]
    own = inputs_of(shape, num_states, dtype)
    exact = [tensor.detach().double().requires_grad_() for tensor in own]
    length_B = None if lengths is None else torch.tensor(lengths)
    y = cuda_scan.selective_scan(*own, reversed_X=reversed_X, length_B=length_B)
    wanted = scan_in_words(exact, reversed_X, lengths)
    dy = torch.randn_like(y)
    assert y.dtype == dtype
    assert_close(
        [y, *torch.autograd.grad(y, own, dy)],
        [wanted, *torch.autograd.grad(wanted, exact, dy.double())],
        TOLERANCE[dtype],
    )


def test_output_and_all_gradients_are_those_of_float64() -> None:
    check((2, 1, 35, 24), [33], 16, torch.bfloat16)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_states", [8, 16, 32, 64])
@pytest.mark.parametrize(
    ("shape", "lengths"),
    [
        ((2, 1, 67, 72), None),
        ((2, 4, 70, 24), [70, 0, 1, 33]),
        ((1, 1, 1, 8), None),
        ((2, 1, 31, 7), None),
        ((1, 3, 64, 16), [64, 32, 63]),
    ],
)
def test_so_are_those_of_all_shapes(
    shape: Shape, lengths: list[int] | None, num_states: int, dtype: torch.dtype
) -> None:
    check(shape, lengths, num_states, dtype)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_states", "dtype"),
    [(4, torch.float32), (24, torch.bfloat16), (16, torch.float16), (64, torch.float16)],
)
def test_so_are_those_of_other_states_and_of_float16(num_states: int, dtype: torch.dtype) -> None:
    check((2, 2, 35, 24), [35, 3], num_states, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("width", [40, 13])
@pytest.mark.parametrize("num_states", [8, 16, 32, 64])
def test_every_element_is_written(
    width: int, num_states: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_empty = Tensor.new_empty

    def poisoned(tensor: Tensor, *sizes: object, **options: object) -> Tensor:
        return new_empty(tensor, *sizes, **options).fill_(float("nan"))  # type: ignore[arg-type]

    tensors = inputs_of((2, 3, 45, width), num_states, torch.float32)
    monkeypatch.setattr(Tensor, "new_empty", poisoned)
    y = cuda_scan.selective_scan(
        *tensors, reversed_X=(False, True), length_B=torch.tensor([45, 7, 0])
    )
    gradients = torch.autograd.grad(y.sum(), tensors)
    assert all(tensor.isfinite().all() for tensor in (y, *gradients))


@pytest.mark.slow
def test_steps_without_end_stay_finite() -> None:
    with torch.no_grad():
        own = inputs_of((2, 1, 70, 16), 16, torch.float32)
        own[1][:, :, ::3] = 1e4
        own[1][:, :, 1::3] = -1e4
        own[2] *= 1e3
    y = cuda_scan.selective_scan(*own, reversed_X=(False, True))
    gradients = torch.autograd.grad(y.sum(), own)
    assert all(tensor.isfinite().all() for tensor in (y, *gradients))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own check asks
def test_operators_say_what_they_do() -> None:
    tensors = inputs_of((2, 2, 40, 24), 16, torch.float32)
    torch.library.opcheck(cuda_scan.scan_forward.registered, (*tensors, None, 2, True))
    with torch.no_grad():
        y, states = cuda_scan.scan_forward(*tensors, None, 2, True)
        torch.library.opcheck(cuda_scan.scan_backward.registered, (y, states, *tensors, None, 2))
