"""A block that runs as one operation, against the same block step by step."""

from collections.abc import Callable

import plain_kernels
import pytest
import torch
from torch import Tensor

from muse.head.mixers import fused
from muse.head.mixers.choice import Mixer, new_mixer
from muse.head.residual import ResMambaBlock


@pytest.fixture
def fused_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Says whether blocks run fused, on the kernels' plain side."""
    plain_kernels.stand_in(monkeypatch)
    return lambda is_fused: monkeypatch.setattr(fused, "runs_fused", lambda *_, **__: is_fused)


def new_block(mixer: Mixer = "bimamba-v2", *, dropout: float = 0.0) -> ResMambaBlock:
    torch.manual_seed(0)
    block = ResMambaBlock(
        8, new_mixer(mixer, 8, d_state=8, d_conv=3, expand=2, scan="cpu"), dropout=dropout
    )
    torch.nn.init.normal_(block.gate.weight)  # a closed gate sends no gradient back
    torch.nn.init.normal_(block.norm.bias)
    return block


def steps_of(block: ResMambaBlock, tokens: Tensor, length_B: Tensor | None) -> list[Tensor]:
    """The output within the lengths and all gradients."""
    torch.manual_seed(1)  # of dropout
    own = tokens.clone().requires_grad_()
    out = block(own, length_B)
    if length_B is not None:
        out = out * (torch.arange(out.shape[1]) < length_B[:, None])[..., None]
    return [out, *torch.autograd.grad(out.square().sum(), [own, *block.parameters()])]


@pytest.mark.parametrize("mixer", ["bimamba-v2", "bimamba-v1", "mamba"])
@pytest.mark.parametrize("lengths", [None, [13, 1, 0, 7]])
def test_it_is_the_same_block(
    mixer: Mixer, lengths: list[int] | None, fused_on_a_cpu: Callable[[bool], None]
) -> None:
    block, tokens = new_block(mixer), torch.randn(4, 13, 8)
    length_B = None if lengths is None else torch.tensor(lengths)
    results = []
    for is_fused in (False, True):
        fused_on_a_cpu(is_fused)
        results.append(steps_of(block, tokens, length_B))
    for wanted, found in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_dropout_drops_in_training_alone_and_its_gradient_is_that_of_what_was_dropped(
    fused_on_a_cpu: Callable[[bool], None],
) -> None:
    fused_on_a_cpu(True)
    block, tokens = new_block(dropout=0.5), torch.randn(2, 5, 8)
    assert not torch.equal(block(tokens), block(tokens))
    # A step along the gradient changes the sum as much as the gradient says.
    _, gradient, *_ = steps_of(block, tokens, None)
    step = 1e-2 * gradient / gradient.norm()
    sums = []
    for sign in (-1, 1):
        torch.manual_seed(1)
        sums.append(block(tokens + sign * step).square().sum())
    torch.testing.assert_close(sums[1] - sums[0], 2 * (gradient * step).sum(), rtol=1e-2, atol=0)
    block.eval()
    assert torch.equal(block(tokens), block(tokens))


def test_only_input_states_and_one_sum_are_kept(fused_on_a_cpu: Callable[[bool], None]) -> None:
    fused_on_a_cpu(True)
    block, tokens = new_block(), torch.randn(2, 50, 8)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor
    ):
        block(tokens.requires_grad_())
    by_token = [tensor.shape[-1] for tensor in kept if tensor.shape[:2] == (2, 50)]
    assert sorted(by_token) == [8, 16]  # the block's input, and the sum of inner width 2 * 8
