"""The parameters of a mixer as kernels take them, and the gradients back."""

import pytest
import torch
from torch import Tensor

from muse.head.mixers.choice import Mixer, new_mixer
from muse.head.mixers.fused import FusableMixer
from muse.head.mixers.mixer_weights import weights_of

MIXERS: tuple[Mixer, ...] = ("bimamba-v2", "bimamba-v1", "mamba")


def new(kind: Mixer) -> FusableMixer:
    torch.manual_seed(0)
    mixer = new_mixer(kind, 6, d_state=5, d_conv=3, expand=2, scan="cpu")
    assert isinstance(mixer, FusableMixer)
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter)
    return mixer


def factors_of(mixer: FusableMixer) -> list[Tensor]:
    return [torch.randn_like(tensor) for tensor in weights_of(mixer._parts(), torch.float32)]


def weighed(mixer: FusableMixer, factors: list[Tensor]) -> Tensor:
    """A sum with another factor before each weight."""
    pairs = zip(weights_of(mixer._parts(), torch.float32), factors, strict=True)
    return torch.stack([(weight * factor).sum() for weight, factor in pairs]).sum()


def test_directions_lie_beside_each_other_and_states_up_to_a_size_of_the_scan() -> None:
    mixer = new("bimamba-v2")
    weights = weights_of(mixer._parts(), torch.bfloat16)
    assert torch.equal(weights.skip, torch.stack([mixer.D, mixer.D_b]))
    assert torch.equal(weights.conv[1], mixer.conv1d_b.weight[:, 0])
    assert torch.equal(weights.A[0, :, :5], -mixer.A_log.exp())
    assert weights.A.shape == (2, 12, 8)
    assert not weights.A[..., 5:].any()
    assert weights.x.dtype == weights.out.dtype == torch.bfloat16
    assert weights.conv.dtype == torch.float32


@pytest.mark.parametrize("kind", MIXERS)
def test_each_gradient_goes_to_its_parameter(kind: Mixer) -> None:
    """A small step of one parameter changes the sum as its gradient says."""
    mixer = new(kind)
    factors = factors_of(mixer)
    gradients = torch.autograd.grad(weighed(mixer, factors), list(mixer.parameters()))
    for parameter, gradient in zip(mixer.parameters(), gradients, strict=True):
        sums = []
        for sign in (-1, 1):
            with torch.no_grad():
                parameter += sign * 1e-3
                sums.append(weighed(mixer, factors).double())
                parameter -= sign * 1e-3
        torch.testing.assert_close(
            (sums[1] - sums[0]) / 2e-3, gradient.sum().double(), rtol=0.05, atol=0.1
        )


@pytest.mark.slow
@pytest.mark.parametrize("kind", MIXERS)
def test_the_compiler_has_the_same_gradients(kind: Mixer) -> None:
    mixer = new(kind)
    factors, parameters = factors_of(mixer), list(mixer.parameters())
    compiled = torch.compile(lambda: weighed(mixer, factors), fullgraph=True, backend="aot_eager")
    wanted = torch.autograd.grad(weighed(mixer, factors), parameters)
    found = torch.autograd.grad(compiled(), parameters)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
