"""The kernels before and behind the scan, built for this machine, against float64."""

from collections.abc import Callable

import pytest
import torch
from tests.head.plain_kernels import conv_in_words, gate_in_words
from tests.host_kernels.closeness import TOLERANCE, assert_close
from torch import Tensor

from muse.head.mixers import fused, fused_gradients
from muse.head.mixers.choice import new_mixer
from muse.head.residual import ResMambaBlock
from muse.head.scan import cuda_block

pytestmark = pytest.mark.usefixtures("host_kernels")


def check_convolution(
    dtype: torch.dtype, taps: int, lengths: list[int] | None, width: int, directions: int = 2
) -> None:
    num_directions = 2 if directions == 2 else 1
    halves = torch.randn(3, 140, 2 * width).to(dtype)
    tokens = halves[..., width:]  # as half of a projection lies
    weight, bias = (torch.randn(num_directions, *sizes) for sizes in ((width, taps), (width,)))
    dout = torch.randn(num_directions, 3, 140, width).to(dtype)
    length_B = None if lengths is None else torch.tensor(lengths, dtype=torch.int32)
    found = [cuda_block.conv_forward(tokens, weight, bias, length_B, directions)]
    found += cuda_block.conv_backward(dout, tokens, weight, bias, length_B, directions)
    exact = [tensor.double().requires_grad_() for tensor in (tokens, weight, bias)]
    reversed_X = {0: (False,), 1: (True,), 2: (False, True)}[directions]
    wanted = conv_in_words(exact[0], exact[1], exact[2], reversed_X, lengths)
    gradients = torch.autograd.grad((wanted * dout.double()).sum(), exact)
    assert_close(found, [wanted, *gradients], TOLERANCE[dtype])


def check_gate(dtype: torch.dtype, num_directions: int, width: int) -> None:
    y = torch.randn(num_directions, 3, 20, width).to(dtype)
    gate = torch.randn(3, 20, 2 * width).to(dtype)[..., width:]
    dout = torch.randn(3, 20, width).to(dtype)
    gated, total = cuda_block.gate_forward(y, gate, True)
    exact = [y.double().requires_grad_(), gate.double().requires_grad_()]
    wanted = gate_in_words(*exact)
    dy, dgate = torch.autograd.grad((wanted * dout.double()).sum(), exact)
    found = [gated, total, *cuda_block.gate_backward(dout, total, gate)]
    right = [wanted, y.double().sum(0), dy[0], dgate, wanted]
    assert_close(found, right, TOLERANCE[dtype])


def test_convolution_and_gate_and_their_gradients_are_those_of_float64() -> None:
    check_convolution(torch.bfloat16, 4, [140, 0, 1], 8)
    check_gate(torch.bfloat16, 2, 8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "taps", "lengths", "width", "directions"),
    [
        (torch.float32, 1, None, 21, 2),
        (torch.bfloat16, 2, [140, 0, 65], 10, 2),
        (torch.float16, 3, [129, 128, 1], 7, 2),
        (torch.float32, 4, None, 6, 0),
        (torch.bfloat16, 4, None, 21, 2),
        (torch.bfloat16, 4, [129, 128, 1], 8, 1),
        (torch.float16, 4, [140, 0, 65], 10, 2),
        (torch.float32, 8, [140, 0, 65], 5, 1),
        (torch.bfloat16, 8, None, 10, 2),
    ],
)
def test_so_is_every_convolution(
    dtype: torch.dtype, taps: int, lengths: list[int] | None, width: int, directions: int
) -> None:
    check_convolution(dtype, taps, lengths, width, directions)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize(("num_directions", "width"), [(1, 40), (2, 40), (2, 7)])
def test_so_is_every_gate(dtype: torch.dtype, num_directions: int, width: int) -> None:
    check_gate(dtype, num_directions, width)


@pytest.mark.slow
@pytest.mark.parametrize("width", [40, 7])
def test_every_element_is_written(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    new_empty = Tensor.new_empty

    def poisoned(tensor: Tensor, *sizes: object, **options: object) -> Tensor:
        return new_empty(tensor, *sizes, **options).fill_(float("nan"))  # type: ignore[arg-type]

    conv = (torch.randn(2, width, 4), torch.randn(2, width))
    tokens = torch.randn(3, 145, width)
    length_B = torch.tensor([145, 7, 0], dtype=torch.int32)
    monkeypatch.setattr(Tensor, "new_empty", poisoned)
    made = cuda_block.conv_forward(tokens, *conv, length_B, 2)
    of_conv = cuda_block.conv_backward(made, tokens, *conv, length_B, 2)
    gated = cuda_block.gate_forward(made, tokens, True)
    of_gate = cuda_block.gate_backward(*gated, tokens)
    assert all(tensor.isfinite().all() for tensor in (made, *of_conv, *gated, *of_gate))


@pytest.fixture
def runs_fused(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Says whether blocks run fused, on CPU tensors too."""
    return lambda is_so: monkeypatch.setattr(fused, "runs_fused", lambda *_, **__: is_so)


def new_block(mixer: str) -> ResMambaBlock:
    block = ResMambaBlock(
        16,
        new_mixer(mixer, 16, d_state=16, d_conv=4, expand=1, scan="cpu"),  # type: ignore[arg-type]
        dropout=0.0,
    )
    torch.nn.init.normal_(block.gate.weight, std=0.2)  # a closed gate sends no gradient back
    return block


@pytest.mark.slow
@pytest.mark.parametrize("mixer", ["bimamba-v2", "bimamba-v1"])
def test_directions_may_take_turns(
    mixer: str, runs_fused: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs_fused(True)
    its = new_block(mixer)
    tokens, length_B = torch.randn(3, 70, 16), torch.tensor([70, 33, 1])
    results = []
    for number in (1, 2):
        monkeypatch.setattr(fused_gradients, "directions_of_a_turn", lambda *_, n=number: n)
        own = tokens.clone().requires_grad_()
        out = its(own, length_B)
        results.append(torch.autograd.grad(out.sum(), [own, *its.parameters()]))
    assert_close(*results, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("mixer", ["bimamba-v2", "bimamba-v1"])
def test_the_compiler_sees_one_graph_and_the_same_block(
    mixer: str, runs_fused: Callable[[bool], None]
) -> None:
    runs_fused(True)
    its = new_block(mixer)
    tokens = torch.randn(2, 40, 16)
    results = []
    for module in (its, torch.compile(its, backend="aot_eager", fullgraph=True)):
        own = tokens.clone().requires_grad_()
        out = module(own, None)
        results.append([out, *torch.autograd.grad(out.sum(), [own, *its.parameters()])])
    assert_close(*results, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mixer", ["bimamba-v2", "bimamba-v1", "mamba"])
@pytest.mark.parametrize("autocasts", [False, True])
def test_a_block_and_its_gradients_are_those_of_float64(
    mixer: str, autocasts: bool, runs_fused: Callable[[bool], None]
) -> None:
    block = new_block(mixer)
    tokens, length_B = torch.randn(3, 70, 16), torch.tensor([70, 33, 1])
    is_token = (torch.arange(70) < length_B[:, None])[..., None]
    results = []
    for is_fused, dtype in ((True, torch.float32), (False, torch.float64)):
        runs_fused(is_fused)
        block, its = block.to(dtype), tokens.to(dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocasts and is_fused):
            out = block(its, length_B) * is_token
        results.append([out, *torch.autograd.grad(out.sum(), [its, *block.parameters()])])
    assert_close(*results, 2e-2 if autocasts else 1e-4)
