"""The mixer that makes its inside again for the gradient, against the one that keeps it."""

from collections.abc import Callable
from unittest.mock import patch

import plain_kernels
import pytest
import torch
from torch import Tensor, nn

from muse.head.mixers import fused
from muse.head.mixers.choice import Mixer, new_mixer


def steps_of(mixer: nn.Module, tokens: Tensor, length_B: Tensor | None) -> list[Tensor]:
    """The output within the lengths and all gradients."""
    own = tokens.clone().requires_grad_()
    out = mixer(own, length_B)
    if length_B is not None:
        out = out * (torch.arange(out.shape[1]) < length_B[:, None])[..., None]
    gradients = torch.autograd.grad(out.square().sum(), [own, *mixer.parameters()])
    return [out, *gradients]


@pytest.fixture
def fused_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Says whether mixers run fused, on the kernels' plain side."""
    plain_kernels.stand_in(monkeypatch)
    return lambda is_fused: monkeypatch.setattr(fused, "runs_fused", lambda *_, **__: is_fused)


@pytest.mark.parametrize("mixer", ["bimamba-v2", "bimamba-v1", "mamba"])
@pytest.mark.parametrize("lengths", [None, [13, 1, 0, 7]])
@pytest.mark.parametrize("d_state", [8, 5])
def test_it_is_the_same_mixer(
    mixer: Mixer, lengths: list[int] | None, d_state: int, fused_on_a_cpu: Callable[[bool], None]
) -> None:
    torch.manual_seed(0)
    its = new_mixer(mixer, 8, d_state=d_state, d_conv=3, expand=2, scan="cpu")
    tokens = torch.randn(4, 13, 8)
    length_B = None if lengths is None else torch.tensor(lengths)
    results = []
    for is_fused in (False, True):
        fused_on_a_cpu(is_fused)
        results.append(steps_of(its, tokens, length_B))
    for wanted, found in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_only_input_states_and_one_sum_are_kept(fused_on_a_cpu: Callable[[bool], None]) -> None:
    fused_on_a_cpu(True)
    mixer = new_mixer("bimamba-v2", 8, d_state=8, d_conv=3, expand=2, scan="cpu")
    tokens, weights = torch.randn(2, 50, 8), {p.shape for p in mixer.parameters()}
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor
    ):
        mixer(tokens.requires_grad_(), None)
    by_token = [t.shape[-1] for t in kept if t.shape[:2] == (2, 50) and t.shape not in weights]
    assert sorted(by_token) == [8, 16]  # the tokens, and the sum of inner width 2 * 8


def test_without_a_gradient_nothing_is_kept(fused_on_a_cpu: Callable[[bool], None]) -> None:
    fused_on_a_cpu(True)
    mixer = new_mixer("bimamba-v2", 8, d_state=8, d_conv=3, expand=1, scan="cpu")
    tokens = torch.randn(2, 9, 8)
    with torch.no_grad(), patch.object(fused, "scan_forward", wraps=fused.scan_forward) as scan:
        alone = mixer(tokens, None)
    assert scan.call_args.args[-1] is False
    torch.testing.assert_close(alone, mixer(tokens, None))
