import math

import pytest
import torch
from torch import Tensor

from muse.errors import MuseError, UsageError
from muse.head.scan import cpu, mamba_ssm, reference
from muse.head.scan import cuda as cuda_scan
from muse.head.scan.select import SelectiveScan, resolve_backend, select_scan


def scan_inputs(X: int, B: int, L: int, E: int, N: int, dtype: torch.dtype) -> list[Tensor]:
    u_XBLE = torch.randn(X, B, L, E, dtype=dtype)
    delta_XBLE = torch.randn(X, B, L, E, dtype=dtype)
    A_XEN = -torch.rand(X, E, N, dtype=dtype) * 4
    B_XBLN = torch.randn(X, B, L, N, dtype=dtype)
    C_XBLN = torch.randn(X, B, L, N, dtype=dtype)
    D_XE = torch.randn(X, E, dtype=dtype)
    bias_XE = torch.randn(X, E, dtype=dtype)
    return [u_XBLE, delta_XBLE, A_XEN, B_XBLN, C_XBLN, D_XE, bias_XE]


def output_and_gradients(scan: SelectiveScan, inputs: list[Tensor]) -> list[Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    y_XBLE = scan(*leaves)
    weight_XBLE = torch.linspace(-1, 1, y_XBLE.numel()).to(y_XBLE).view_as(y_XBLE)
    return [y_XBLE.detach(), *torch.autograd.grad((y_XBLE * weight_XBLE).sum(), leaves)]


@pytest.mark.parametrize("scan", [reference.selective_scan, cpu.selective_scan])
def test_scan_is_the_recurrence_written_with_plain_numbers(scan: SelectiveScan) -> None:
    X, B, L, E, N = 2, 2, 5, 3, 2
    inputs = scan_inputs(X, B, L, E, N, torch.float64)
    u, delta, A, B_, C, D, bias = (tensor.tolist() for tensor in inputs)
    found = scan(*inputs).tolist()
    for x in range(X):
        for b in range(B):
            for e in range(E):
                h = [0.0] * N
                for t in range(L):
                    dt = math.log(1 + math.exp(delta[x][b][t][e] + bias[x][e]))
                    y = D[x][e] * u[x][b][t][e]
                    for n in range(N):
                        kept = math.exp(dt * A[x][e][n]) * h[n]
                        h[n] = kept + dt * B_[x][b][t][n] * u[x][b][t][e]
                        y += C[x][b][t][n] * h[n]
                    assert found[x][b][t][e] == pytest.approx(y, abs=1e-12)


@pytest.mark.parametrize("length", [1, 4, 67])
def test_cpu_scan_has_the_reference_output_and_all_seven_gradients(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Buffers of two sequences and of 13 steps: groups and chunks both end in a part of one.
    monkeypatch.setattr(cpu, "GROUP_BYTES", 2 * 4 * 3 * 8)
    monkeypatch.setattr(cpu, "CHUNK_BYTES", 13 * 2 * 4 * 3 * 8)
    inputs = scan_inputs(2, 3, length, 4, 3, torch.float64)
    wanted = output_and_gradients(reference.selective_scan, inputs)
    found = output_and_gradients(cpu.selective_scan, inputs)
    assert len(found) == 1 + 7
    for found_tensor, wanted_tensor in zip(found, wanted, strict=True):
        torch.testing.assert_close(found_tensor, wanted_tensor, rtol=1e-11, atol=1e-11)


def test_cpu_scan_in_float32_stays_close_to_float64_over_a_long_sequence() -> None:
    inputs = scan_inputs(2, 1, 600, 8, 16, torch.float32)
    exact = output_and_gradients(cpu.selective_scan, [tensor.double() for tensor in inputs])
    for found, wanted in zip(output_and_gradients(cpu.selective_scan, inputs), exact, strict=True):
        assert (found.double() - wanted).norm() < 1e-5 * wanted.norm()


def test_cpu_scan_without_gradients_keeps_no_states() -> None:
    inputs = scan_inputs(2, 1, 9, 4, 3, torch.float32)
    with torch.no_grad():
        plain = cpu.selective_scan(*inputs)
    graded = cpu.selective_scan(*[tensor.requires_grad_() for tensor in inputs])
    assert plain.grad_fn is None
    assert torch.equal(plain, graded)


def test_auto_is_the_cpu_scan_where_there_is_no_gpu() -> None:
    device = torch.device("cpu")
    assert resolve_backend("auto", device) == "cpu"
    assert select_scan("auto", device) is cpu.selective_scan
    assert select_scan("reference", device) is reference.selective_scan


def test_asking_for_mamba_ssm_where_it_cannot_run_says_what_to_install() -> None:
    with pytest.raises(MuseError, match=r"scan mamba-ssm: .*pip install --no-build-isolation"):
        select_scan("mamba-ssm", torch.device("cpu"))


def test_unknown_backend_is_named_with_the_choices() -> None:
    with pytest.raises(UsageError, match=r"'triton'.*auto, reference, cpu, cuda, mamba-ssm"):
        select_scan("triton", torch.device("cpu"))  # type: ignore[arg-type]


def test_auto_takes_a_kernel_that_can_run_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr(mamba_ssm, "why_unavailable", lambda: None)
    monkeypatch.setattr(cuda_scan, "why_unavailable", lambda: None)
    assert resolve_backend("auto", gpu) == "cuda"
    assert resolve_backend("auto", gpu, d_state=65) == "mamba-ssm"
    assert resolve_backend("auto", torch.device("cpu")) == "cpu"
    with pytest.raises(MuseError, match=r"d_conv is 9, and the kernel takes up to 8"):
        resolve_backend("cuda", gpu, d_conv=9)
    monkeypatch.setattr(cuda_scan, "why_unavailable", lambda: "no NVRTC")
    assert resolve_backend("auto", gpu) == "mamba-ssm"
    monkeypatch.setattr(mamba_ssm, "why_unavailable", lambda: "not installed")
    assert resolve_backend("auto", gpu) == "cpu"


@pytest.mark.gpu
@pytest.mark.parametrize(
    "scan", [mamba_ssm.selective_scan, cuda_scan.selective_scan, cpu.selective_scan]
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 1e-2)])
def test_scan_on_the_gpu_agrees_with_the_reference(
    scan: SelectiveScan, dtype: torch.dtype, tolerance: float, cuda: torch.device
) -> None:
    if scan is mamba_ssm.selective_scan and mamba_ssm.why_unavailable() is not None:
        pytest.skip(f"mamba-ssm: {mamba_ssm.why_unavailable()}")
    u, delta, A, B, C, D, bias = scan_inputs(2, 3, 300, 32, 16, torch.float32)
    u, delta, B, C = (tensor.to(dtype) for tensor in (u, delta, B, C))  # as under autocast
    inputs = [u, delta, A, B, C, D, bias]
    exact = [tensor.double() for tensor in inputs]
    wanted = output_and_gradients(reference.selective_scan, exact)
    found = output_and_gradients(scan, [tensor.to(cuda) for tensor in inputs])
    assert found[0].dtype == dtype
    for found_tensor, wanted_tensor in zip(found, wanted, strict=True):
        difference = (found_tensor.cpu().double() - wanted_tensor).norm()
        assert difference < tolerance * wanted_tensor.norm()
