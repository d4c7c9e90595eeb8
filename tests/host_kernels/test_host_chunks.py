"""Sequences that are scanned in chunks, by the kernels built for this machine."""

from collections.abc import Callable

import pytest
import torch
from tests.host_kernels.closeness import TOLERANCE
from tests.host_kernels.test_host_scan import check, inputs_of
from torch import Tensor

from muse.head.scan import cuda as cuda_scan
from muse.head.scan import cuda_gradients
from muse.head.scan.grid import Chunks, Shape, in_chunks

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("host_kernels")]

Force = Callable[..., None]


@pytest.fixture
def force(monkeypatch: pytest.MonkeyPatch) -> Force:
    """Says how many chunks there are, and of how many tiles if not of equally many."""

    def forced(number: int, tiles: int | None = None) -> None:
        def chunks_of(shape: Shape, *_: int) -> Chunks:
            return Chunks(number, tiles) if tiles else in_chunks(shape.tiles, number)

        for module in (cuda_scan, cuda_gradients):
            monkeypatch.setattr(module, "chunks_of", chunks_of)

    return forced


def all_of(lengths: list[int] | None, num_states: int, dtype: torch.dtype) -> list[Tensor]:
    """Of 70 tokens: the output and all gradients."""
    torch.manual_seed(0)
    own = inputs_of((2, 2, 70, 24), num_states, dtype)
    length_B = None if lengths is None else torch.tensor(lengths)
    y = cuda_scan.selective_scan(*own, reversed_X=(False, True), length_B=length_B)
    return [y, *torch.autograd.grad(y, own, torch.randn_like(y))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_states", [8, 16, 32, 64])
@pytest.mark.parametrize("number", [2, 3, 7])
def test_output_and_all_gradients_are_those_of_float64(
    number: int, num_states: int, dtype: torch.dtype, force: Force
) -> None:
    force(number)
    check((2, 2, 215, 8), [215, 0], num_states, dtype)
    check((2, 1, 200, 7), [130], num_states, dtype)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("num_states", [16, 64])
@pytest.mark.parametrize("lengths", [None, [70, 33]])
def test_a_chunk_of_all_tiles_gives_the_same_bits_as_none(
    lengths: list[int] | None, num_states: int, dtype: torch.dtype, force: Force
) -> None:
    unchunked = all_of(lengths, num_states, dtype)
    force(2, {16: 3, 64: 5}[num_states])  # tiles, which are all; the second chunk has none
    assert all(map(torch.equal, all_of(lengths, num_states, dtype), unchunked))


@pytest.mark.parametrize("num_states", [16, 64])
@pytest.mark.parametrize("lengths", [None, [70, 33]])
def test_videos_that_are_done_one_by_one_give_the_same_bits(
    lengths: list[int] | None, num_states: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = all_of(lengths, num_states, torch.bfloat16)
    asked = []

    def one(shape: Shape, *_: int) -> int:
        asked.append(shape.videos)
        return 1

    monkeypatch.setattr(cuda_gradients, "videos_at_once", one)
    assert all(map(torch.equal, all_of(lengths, num_states, torch.bfloat16), together))
    assert asked == [2]


@pytest.mark.parametrize("width", [40, 13])
def test_every_element_is_written(
    width: int, force: Force, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_empty = Tensor.new_empty

    def poisoned(tensor: Tensor, *sizes: object, **options: object) -> Tensor:
        return new_empty(tensor, *sizes, **options).fill_(float("nan"))  # type: ignore[arg-type]

    force(4)
    tensors = inputs_of((2, 3, 130, width), 16, torch.float32)
    monkeypatch.setattr(Tensor, "new_empty", poisoned)
    y = cuda_scan.selective_scan(
        *tensors, reversed_X=(False, True), length_B=torch.tensor([130, 40, 0])
    )
    gradients = torch.autograd.grad(y.sum(), tensors)
    assert all(tensor.isfinite().all() for tensor in (y, *gradients))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own check asks
def test_operators_say_what_they_do(force: Force) -> None:
    force(3)
    tensors = inputs_of((2, 2, 70, 24), 16, torch.float32)
    torch.library.opcheck(cuda_scan.scan_forward.registered, (*tensors, None, 2, True))
    with torch.no_grad():
        y, states = cuda_scan.scan_forward(*tensors, None, 2, True)
        torch.library.opcheck(cuda_scan.scan_backward.registered, (y, states, *tensors, None, 2))
