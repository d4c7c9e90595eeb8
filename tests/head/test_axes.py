"""Every axis of the paper: shape, gradient, and the same numbers from every backend.

The reference is float64 on the CPU with the scan as the paper writes it. The CPU's own scan must
agree to rounding; on a GPU (marked ``gpu``) the CPU's scan in float32 and mamba-ssm's kernel must
agree within what float32 allows.
"""

import copy
import functools

import pytest
import torch
from torch import Tensor

from muse.head.head_config import HeadConfig
from muse.head.model import RetrievalHead
from muse.head.scan.mamba_ssm import why_unavailable
from muse.head.scan.select import ScanBackend

AXES = {
    "default": {},
    **{f"factors {f}": {"factors": f} for f in ((), (0.25,), (2.0, 0.5), (4.0,))},
    **{f"order {o}": {"order": o} for o in ("frame", "spatial")},
    **{
        f"mixer {m}": {"mixer": m}
        for m in ("bimamba-v1", "mamba", "transformer", "flash-attention", "mamba-out", "identity")
    },
    **{f"depth {d}": {"depth": d} for d in (0, 1, 5)},
    **{f"residual {r}": {"residual": r} for r in ("plain", "none")},
    **{f"readout {r}": {"readout": r} for r in ("ends", "interleaved", "pool", "max", "attend")},
    "expand 2": {"expand": 2},
    "d_state 8": {"d_state": 8},
    "d_conv 3": {"d_conv": 3},
    "padding scanned": {"padding": "scanned"},
    "init normal": {"init": "normal"},
    "pyramid frozen": {"pyramid": "frozen"},
}
# What mixes nothing backwards leaves the class tokens, in front, blind to the cells behind them.
BLIND = ("mixer mamba", "mixer identity")
VALID_BT = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 0, 0]]).bool()
DIM = 8


def head_of(axis: str) -> RetrievalHead:
    """In float64, with every gate and last matrix open."""
    settings = {"dim": DIM, "depth": 2, "d_state": 4, "factors": (0.5, 1.0), **AXES[axis]}
    made = RetrievalHead(HeadConfig(**settings), scan="reference").double().eval()
    for name, parameter in made.named_parameters():
        if name.endswith(("gate.weight", "readout.out_proj.weight")):
            torch.nn.init.normal_(parameter, std=0.3)
    return made


def tokens_for(axis: str) -> Tensor:
    grid = 4 if 0.25 in AXES[axis].get("factors", ()) else 2
    return torch.randn(3, 3, 1 + grid**2, DIM)


def outputs(head: RetrievalHead, tokens_BTKD: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The videos' vectors, and the gradient of a weighted sum of them by parameter and input."""
    device, dtype = head.logit_scale.device, head.logit_scale.dtype
    leaf_BTKD = tokens_BTKD.to(device, dtype).requires_grad_()
    video_BD = head.embed_videos(leaf_BTKD, VALID_BT.to(device))
    weight_BD = torch.linspace(-1, 1, video_BD.numel(), dtype=dtype).view_as(video_BD)
    leaves = {"tokens": leaf_BTKD, **dict(head.aggregator.named_parameters())}
    trained = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    gradients = torch.autograd.grad((video_BD * weight_BD.to(device)).sum(), [*trained.values()])
    return video_BD, dict(zip(trained, gradients, strict=True))


@functools.cache
def by_reference(axis: str) -> tuple[RetrievalHead, Tensor, Tensor, dict[str, Tensor]]:
    """A head, tokens, and what `outputs` makes of them; which no test changes."""
    torch.manual_seed(0)
    head, tokens_BTKD = head_of(axis), tokens_for(axis)
    return head, tokens_BTKD, *outputs(head, tokens_BTKD)


def with_scan(head: RetrievalHead, scan: ScanBackend) -> RetrievalHead:
    changed = copy.deepcopy(head)
    for module in changed.modules():
        if "scan" in vars(module):
            module.scan = scan
    return changed


def agree(found: Tensor, wanted: Tensor, tolerance: float) -> bool:
    """By the norm of the whole tensor, so that small numbers among large ones may round."""
    difference = (found.detach().cpu().double() - wanted.detach()).norm()
    return bool(difference <= tolerance * wanted.norm() + 1e-12)


@pytest.mark.parametrize("axis", AXES)
def test_each_axis_gives_unit_vectors_and_a_gradient_to_all_that_is_trained(axis: str) -> None:
    head, _, video_BD, gradients = by_reference(axis)
    assert video_BD.shape == (3, DIM)
    torch.testing.assert_close(video_BD.norm(dim=-1), torch.ones(3).double())
    assert set(gradients) == {
        "tokens",
        *(name for name, p in head.aggregator.named_parameters() if p.requires_grad),
    }
    for name, gradient in gradients.items():
        assert gradient.isfinite().all(), name
        assert gradient.any() == (axis not in BLIND or "pyramid" not in name), name


@pytest.mark.parametrize("axis", AXES)
def test_each_axis_is_the_same_with_the_cpu_scan(axis: str) -> None:
    head, tokens_BTKD, wanted_BD, wanted = by_reference(axis)
    found_BD, found = outputs(with_scan(head, "cpu"), tokens_BTKD)
    assert agree(found_BD, wanted_BD, 1e-11)
    for name in wanted:
        assert agree(found[name], wanted[name], 1e-9), name


@pytest.mark.gpu
@pytest.mark.parametrize("scan", ["cpu", "cuda", "mamba-ssm"])
@pytest.mark.parametrize("axis", AXES)
def test_each_axis_is_the_same_on_the_gpu(axis: str, scan: ScanBackend, cuda: torch.device) -> None:
    if scan == "mamba-ssm" and why_unavailable() is not None:
        pytest.skip(f"mamba-ssm: {why_unavailable()}")
    head, tokens_BTKD, wanted_BD, wanted = by_reference(axis)
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False  # its ten bits would hide what is asked here
    try:
        found_BD, found = outputs(with_scan(head, scan).float().to(cuda), tokens_BTKD)
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
    assert agree(found_BD, wanted_BD, 1e-4)
    for name in wanted:
        assert agree(found[name], wanted[name], 1e-2), name
