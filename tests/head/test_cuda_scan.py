"""The CUDA kernels of a Mamba block against float64 and the step-by-step way, on a GPU."""

import pytest
import torch
from plain_kernels import conv_in_words, gate_in_words, scan_in_words
from torch import Tensor, nn

from muse.errors import UsageError
from muse.head.mixers.choice import Mixer, new_mixer
from muse.head.residual import ResMambaBlock
from muse.head.scan import cuda as cuda_scan
from muse.head.scan import cuda_block
from muse.head.scan.grid import in_chunks

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("cuda")]

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 1e-2}
NAMES = ("u", "delta", "A", "B", "C", "D", "bias")


def inputs_of(
    shape: tuple[int, int, int, int], num_states: int, dtype: torch.dtype, *, seed: int = 0
) -> list[Tensor]:
    """On the GPU, values as the kernel rounds them."""
    num_directions, num_videos, length, width = shape
    drawn = torch.Generator("cuda").manual_seed(seed)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, device="cuda", generator=drawn)

    rates = torch.rand((num_directions, width, num_states), device="cuda", generator=drawn)
    wide = (num_directions, num_videos, length)
    return [
        normal(*shape).to(dtype), normal(*shape).to(dtype), -(rates * num_states + 0.1),
        normal(*wide, num_states).to(dtype), normal(*wide, num_states).to(dtype),
        normal(num_directions, width), normal(num_directions, width) - 3,
    ]  # fmt: skip


def is_close(found: Tensor, wanted: Tensor, tolerance: float) -> bool:
    return bool((found.double() - wanted).norm() <= tolerance * wanted.norm() + 1e-30)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("num_states", [4, 8, 16, 24, 32, 64])
@pytest.mark.parametrize(
    ("shape", "lengths"),
    [
        ((2, 2, 67, 72), None),
        ((2, 4, 97, 64), [97, 0, 1, 33]),
        ((1, 1, 1, 8), None),
        ((2, 1, 31, 7), None),
        ((1, 3, 64, 128), [64, 32, 63]),
    ],
)
def test_output_and_all_gradients_are_those_of_float64(
    shape: tuple[int, int, int, int],
    lengths: list[int] | None,
    num_states: int,
    dtype: torch.dtype,
) -> None:
    tensors = inputs_of(shape, num_states, dtype)
    reversed_X = (False, True)[: shape[0]]
    length_B = None if lengths is None else torch.tensor(lengths)
    own = [tensor.requires_grad_() for tensor in tensors]
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    y = cuda_scan.selective_scan(*own, reversed_X=reversed_X, length_B=length_B)
    wanted = scan_in_words(exact, reversed_X, lengths)
    dy = torch.randn_like(y)
    found_gradients = torch.autograd.grad(y, own, dy)
    wanted_gradients = torch.autograd.grad(wanted, exact, dy.double())
    assert y.dtype == dtype
    assert is_close(y, wanted, TOLERANCE[dtype])
    for name, found, right in zip(NAMES, found_gradients, wanted_gradients, strict=True):
        assert is_close(found, right, TOLERANCE[dtype]), name


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("num_states", [8, 16, 32, 64])
@pytest.mark.parametrize("number", [2, 3, 7])
def test_chunks_make_no_difference(
    number: int, num_states: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for num_chunks in (1, number):
        monkeypatch.setattr(
            cuda_scan, "chunks_of", lambda shape, *_, n=num_chunks: in_chunks(shape.tiles, n)
        )
        own = [t.requires_grad_() for t in inputs_of((2, 3, 230, 72), num_states, dtype)]
        y = cuda_scan.selective_scan(
            *own, reversed_X=(False, True), length_B=torch.tensor([230, 0, 100])
        )
        results.append([y, *torch.autograd.grad(y.square().sum(), own)])
    for wanted, found in zip(*results, strict=True):
        assert is_close(found, wanted.double(), TOLERANCE[dtype])


@pytest.mark.parametrize("length", [3_000, 100_000])
def test_a_long_sequence_is_scanned_as_a_short_one(length: int) -> None:
    tensors = inputs_of((1, 1, length, 16), 16, torch.float32)
    tensors[2] -= 1
    y = cuda_scan.selective_scan(*tensors)
    last = [tensor[:, :, -500:].double() if tensor.ndim == 4 else tensor for tensor in tensors]
    # The states have long forgotten what lies 400 tokens back.
    wanted = scan_in_words(last, (False,), None)
    assert is_close(y[:, :, -100:], wanted[:, :, -100:], 1e-4)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("taps", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("lengths", [None, [200, 0, 1, 65]])
@pytest.mark.parametrize("width", [21, 64])
def test_the_convolution_and_its_gradient_are_those_of_float64(
    dtype: torch.dtype, taps: int, lengths: list[int] | None, width: int
) -> None:
    torch.manual_seed(0)
    halves = torch.randn(4, 200, 2 * width, device="cuda").to(dtype)
    tokens = halves[..., width:]  # as half of a projection lies
    weight, bias = (torch.randn(2, *sizes, device="cuda") for sizes in ((width, taps), (width,)))
    dout = torch.randn(2, 4, 200, width, device="cuda").to(dtype)
    length_B = None if lengths is None else torch.tensor(lengths, dtype=torch.int32, device="cuda")
    found = [cuda_block.conv_forward(tokens, weight, bias, length_B, 2)]
    found += cuda_block.conv_backward(dout, tokens, weight, bias, length_B, 2)
    exact = [tensor.double().requires_grad_() for tensor in (tokens, weight, bias)]
    wanted = conv_in_words(exact[0], exact[1], exact[2], (False, True), lengths)
    gradients = torch.autograd.grad((wanted * dout.double()).sum(), exact)
    for its, right in zip(found, [wanted, *gradients], strict=True):
        assert is_close(its, right, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize(("num_directions", "width"), [(1, 40), (2, 40), (2, 7)])
def test_the_gate_and_its_gradient_are_those_of_float64(
    dtype: torch.dtype, num_directions: int, width: int
) -> None:
    torch.manual_seed(0)
    y = torch.randn(num_directions, 3, 50, width, device="cuda").to(dtype)
    gate = torch.randn(3, 50, 2 * width, device="cuda").to(dtype)[..., width:]
    dout = torch.randn(3, 50, width, device="cuda").to(dtype)
    gated, total = cuda_block.gate_forward(y, gate, True)
    exact = [y.double().requires_grad_(), gate.double().requires_grad_()]
    wanted = gate_in_words(*exact)
    dy, dgate = torch.autograd.grad((wanted * dout.double()).sum(), exact)
    found = [gated, total, *cuda_block.gate_backward(dout, total, gate)]
    right = [wanted, y.double().sum(0), dy[0], dgate, wanted]
    assert all(is_close(*pair, TOLERANCE[dtype]) for pair in zip(found, right, strict=True))


def test_every_element_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    new_empty = Tensor.new_empty

    def poisoned(tensor: Tensor, *sizes: object, **options: object) -> Tensor:
        return new_empty(tensor, *sizes, **options).fill_(float("nan"))  # type: ignore[arg-type]

    tensors = [t.requires_grad_() for t in inputs_of((2, 3, 45, 40), 16, torch.float32)]
    conv = [torch.randn(2, 40, 4, device="cuda"), torch.randn(2, 40, device="cuda")]
    tokens = torch.randn(3, 45, 40, device="cuda")
    length_B = torch.tensor([45, 7, 0], dtype=torch.int32, device="cuda")
    monkeypatch.setattr(Tensor, "new_empty", poisoned)
    y = cuda_scan.selective_scan(*tensors, reversed_X=(False, True), length_B=length_B)
    gradients = torch.autograd.grad(y.sum(), tensors)
    made = cuda_block.conv_forward(tokens, *conv, length_B, 2)
    of_conv = cuda_block.conv_backward(made, tokens, *conv, length_B, 2)
    gated = cuda_block.gate_forward(made, tokens, True)
    of_gate = cuda_block.gate_backward(*gated, tokens)
    found = (y, *gradients, made, *of_conv, *gated, *of_gate)
    assert all(tensor.isfinite().all() for tensor in found)


def test_steps_without_end_stay_finite() -> None:
    tensors = inputs_of((2, 1, 70, 16), 16, torch.float32)
    tensors[1][:, :, ::3] = 1e4
    tensors[1][:, :, 1::3] = -1e4
    tensors[2][:] *= 1e3
    own = [tensor.requires_grad_() for tensor in tensors]
    y = cuda_scan.selective_scan(*own, reversed_X=(False, True))
    gradients = torch.autograd.grad(y.sum(), own)
    assert all(tensor.isfinite().all() for tensor in (y, *gradients))


def test_two_runs_give_the_same_bits() -> None:
    torch.manual_seed(0)
    mixer = new_mixer("bimamba-v2", 512, d_state=16, d_conv=4, expand=1, scan="cuda").cuda()
    tokens = torch.randn(8, 300, 512, device="cuda", requires_grad=True)

    def run() -> list[Tensor]:
        with torch.autocast("cuda", torch.bfloat16):
            out = mixer(tokens)
        own = [tokens, *mixer.parameters()]
        return [out, *torch.autograd.grad(out.float().square().sum(), own)]

    assert all(torch.equal(one, other) for one, other in zip(run(), run(), strict=True))


def test_operators_say_what_they_do() -> None:
    tensors = [t.requires_grad_() for t in inputs_of((2, 2, 40, 64), 16, torch.float32)]
    torch.library.opcheck(cuda_scan.scan_forward.registered, (*tensors, None, 2, True))
    with torch.no_grad():
        y, states = cuda_scan.scan_forward(*tensors, None, 2, True)
        torch.library.opcheck(cuda_scan.scan_backward.registered, (y, states, *tensors, None, 2))
    tokens = torch.randn(2, 40, 64, device="cuda")
    conv = (tokens, torch.randn(2, 64, 4, device="cuda"), torch.randn(2, 64, device="cuda"))
    torch.library.opcheck(cuda_block.conv_forward.registered, (*conv, None, 2))
    torch.library.opcheck(cuda_block.conv_backward.registered, (y.detach(), *conv, None, 2))
    torch.library.opcheck(cuda_block.gate_forward.registered, (y.detach(), tokens, True))
    torch.library.opcheck(cuda_block.gate_backward.registered, (tokens, tokens, tokens))


@pytest.mark.parametrize("mixer", ["bimamba-v2", "bimamba-v1", "mamba"])
@pytest.mark.parametrize("lengths", [None, [200, 1, 0, 129], [64, 65, 128, 200]])
@pytest.mark.parametrize(("width", "d_conv"), [(16, 4), (21, 4), (16, 1), (16, 8)])
def test_a_fused_mixer_is_the_mixer(
    mixer: Mixer, lengths: list[int] | None, width: int, d_conv: int
) -> None:
    torch.manual_seed(0)
    exact = new_mixer(mixer, width, d_state=8, d_conv=d_conv, expand=1, scan="cpu").double()
    fused = new_mixer(mixer, width, d_state=8, d_conv=d_conv, expand=1, scan="cuda").cuda()
    fused.load_state_dict(exact.state_dict())
    tokens = torch.randn(4, 200, width, dtype=torch.float64)
    length_B = None if lengths is None else torch.tensor(lengths)
    is_token = torch.arange(200) < torch.tensor(lengths or [200] * 4)[:, None]
    results = []
    for module, its in ((exact, tokens), (fused, tokens.float().cuda())):
        its = its.clone().requires_grad_()
        own = None if length_B is None else length_B.to(its.device)
        out = module(its, own) * is_token[..., None].to(its.device)
        gradients = torch.autograd.grad(out.square().sum(), [its, *module.parameters()])
        results.append([out, *gradients])
    for wanted, found in zip(*results, strict=True):
        assert is_close(found.cpu(), wanted, 1e-4)


@pytest.mark.parametrize("autocasts", [False, True])
def test_a_fused_block_is_the_block(autocasts: bool) -> None:
    torch.manual_seed(0)
    exact, fused = (
        ResMambaBlock(
            64, new_mixer("bimamba-v2", 64, d_state=16, d_conv=4, expand=1, scan=scan), dropout=0.0
        )
        for scan in ("cpu", "cuda")
    )
    nn.init.normal_(exact.gate.weight, std=0.2)  # a closed gate sends no gradient back
    exact, fused = exact.double(), fused.cuda()
    fused.load_state_dict(exact.state_dict())
    tokens, length_B = torch.randn(3, 90, 64, dtype=torch.float64), torch.tensor([90, 33, 1])
    is_token = (torch.arange(90) < length_B[:, None])[..., None]
    results = []
    for block, its in ((exact, tokens), (fused, tokens.float().cuda())):
        its = its.clone().requires_grad_()
        with torch.autocast("cuda", torch.bfloat16, enabled=autocasts and its.is_cuda):
            out = block(its, length_B.to(its.device)) * is_token.to(its.device)
        results.append([out, *torch.autograd.grad(out.sum(), [its, *block.parameters()])])
    for wanted, found in zip(*results, strict=True):
        assert is_close(found.cpu(), wanted, 2e-2 if autocasts else 1e-4)


def test_a_compiled_block_is_the_block() -> None:
    torch.manual_seed(0)
    mixer = ResMambaBlock(
        64, new_mixer("bimamba-v2", 64, d_state=16, d_conv=4, expand=1, scan="cuda"), dropout=0.0
    ).cuda()
    nn.init.normal_(mixer.gate.weight, std=0.2)
    compiled = torch.compile(mixer, fullgraph=True)
    results = []
    for module in (mixer, compiled):
        tokens = torch.randn(
            2, 70, 64, device="cuda", generator=torch.Generator("cuda").manual_seed(1)
        )
        tokens.requires_grad_()
        out = module(tokens)
        results.append(
            [out, *torch.autograd.grad(out.square().sum(), [tokens, *mixer.parameters()])]
        )
    for found, wanted in zip(*results, strict=True):
        assert is_close(found, wanted.double(), 1e-4)


def test_what_the_kernel_does_not_take_is_said() -> None:
    tensors = inputs_of((1, 1, 4, 8), 65, torch.float32)
    with pytest.raises(UsageError, match=r"65 states of torch\.float32; it takes up to 64"):
        cuda_scan.selective_scan(*tensors)
