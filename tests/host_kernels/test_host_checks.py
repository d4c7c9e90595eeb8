"""A kernel that is wrong is found: mistakes planted in copies of the sources."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.host_kernels.host_build import KernelError
from tests.host_kernels.test_host_scan import inputs_of

from muse.head.scan import cuda as cuda_scan
from muse.head.scan import cuda_gradients, scan_kernels
from muse.head.scan.grid import in_chunks
from muse.pipeline.kernels import quick_gelu, row_norm

pytestmark = pytest.mark.usefixtures("host_kernels")

Plant = Callable[[str, str, str, int], None]
# Of the scan, by their places.
BARRIERS = [("scan_forward.cu", n) for n in (0, 1, 2)]
BARRIERS += [("scan_backward.cu", n) for n in range(6)]
BARRIERS += [("scan_chunks.cu", n) for n in (0, 1)]


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plant:
    """Replaces some words in a source, at their n-th place from 0; the copy is built instead."""
    copies = tmp_path / "kernels"

    def replace(file: str, old: str, new: str, place: int = 0) -> None:
        copied = copies / file
        parts = copied.read_text(encoding="utf-8").split(old)
        assert len(parts) > place + 1
        text = old.join(parts[: place + 1]) + new + old.join(parts[place + 1 :])
        copied.write_text(text, encoding="utf-8")

    copies.mkdir()
    for module in (cuda_scan, row_norm):
        for source in Path(module.__file__ or "").parent.glob("*.cu*"):
            shutil.copy(source, copies)
    monkeypatch.setattr(scan_kernels, "_HERE", copies)
    for module, name in ((row_norm, "row_norm.cu"), (quick_gelu, "quick_gelu.cu")):
        monkeypatch.setattr(module, "_SOURCE", copies / name)
    return replace


def norm_gradient() -> None:
    x, weight = torch.randn(20, 37), torch.randn(37)
    row_norm.norm_backward(x, None, x, weight, 1e-5, None)


def scan_gradient(num_tokens: int = 40, dtype: torch.dtype = torch.float32) -> None:
    own = inputs_of((1, 1, num_tokens, 16), 16, dtype)
    torch.autograd.grad(cuda_scan.selective_scan(*own).sum(), own)


def test_a_write_behind_an_array_is_found(plant: Plant) -> None:
    plant("quick_gelu.cu", "if (at >= size) return;", "if (at > size) return;")
    with pytest.raises(KernelError, match=r"of 4 bytes.* 0 behind the end of argument 0.*thread 5"):
        quick_gelu.quick_gelu_forward(torch.randn(5))


def test_threads_that_do_not_wait_are_found(plant: Plant) -> None:
    plant("row_norm.cu", "__syncthreads();", "")
    with pytest.raises(KernelError, match=r"argument 6 has other bits .*: threads race"):
        norm_gradient()


@pytest.mark.slow
def test_a_write_behind_a_shared_array_is_found(plant: Plant) -> None:
    plant("row_norm.cu", "if (is_there(k)) total[column(k) + i]", "total[column(k) + i]")
    with pytest.raises(KernelError, match=r"a write of 4 bytes.* 0 behind the end of total"):
        norm_gradient()


@pytest.mark.slow
def test_a_read_before_an_array_is_found(plant: Plant) -> None:
    plant("quick_gelu.cu", "(x + at)", "(x + at - 1)")
    with pytest.raises(KernelError, match=r"a read of 4 bytes.* 4 before argument 0"):
        quick_gelu.quick_gelu_forward(torch.randn(5))


@pytest.mark.slow
def test_a_barrier_that_some_do_not_reach_is_found(plant: Plant) -> None:
    plant("row_norm.cu", "v += __shfl_xor_sync", "if (threadIdx.x & 31) v += __shfl_xor_sync")
    with pytest.raises(KernelError, match="wait for lanes of their warp that do not come"):
        norm_gradient()


@pytest.mark.slow
def test_shared_memory_that_nobody_has_written_is_no_number(plant: Plant) -> None:
    plant("row_norm.cu", "(w ? total[column(k) + i] : 0.f)", "total[column(k) + i]")
    x, weight = torch.randn(20, 37), torch.randn(37)
    _, _, dweight, _ = row_norm.norm_backward(x, None, x, weight, 1e-5, None)
    assert dweight.isnan().all()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("source", "place"), BARRIERS)
def test_each_barrier_of_the_scan_is_missed(
    source: str, place: int, dtype: torch.dtype, plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(source, "__syncthreads();", ";", place)
    if source == "scan_chunks.cu":
        for module in (cuda_scan, cuda_gradients):
            monkeypatch.setattr(module, "chunks_of", lambda shape, *_: in_chunks(shape.tiles, 2))
    with pytest.raises(KernelError, match="threads race"):
        scan_gradient(100, dtype)


@pytest.mark.slow
def test_arguments_that_a_kernel_does_not_take_are_found(plant: Plant) -> None:
    plant(
        "quick_gelu.cu", "Value* __restrict__ out, i64 size)", "Value* __restrict__ out, int size)"
    )
    with pytest.raises(KernelError, match="its arguments are others"):
        quick_gelu.quick_gelu_forward(torch.randn(5))
