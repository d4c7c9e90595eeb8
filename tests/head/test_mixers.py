import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from muse.head.mixers.mamba import BiMamba, causal_conv
from muse.head.scan.reference import selective_scan


def bimamba(dim: int = 6, **changes) -> BiMamba:
    return BiMamba(dim, **{"d_state": 4, "d_conv": 4, "expand": 1, **changes})


def one_direction(
    mixer: BiMamba, u_LE: Tensor, z_LE: Tensor, suffix: str, A_log: Tensor, D: Tensor
) -> Tensor:
    """One direction of the block, gated, a token at a time: Vim's "v2" as its equations say."""
    conv = getattr(mixer, f"conv1d{suffix}")
    x_proj = getattr(mixer, f"x_proj{suffix}")
    dt_proj = getattr(mixer, f"dt_proj{suffix}")
    taps = conv.weight.shape[-1]
    convolved = []
    for t in range(len(u_LE)):
        total_E = conv.bias
        for k in range(taps):
            source = t - (taps - 1) + k
            if source >= 0:
                total_E = total_E + conv.weight[:, 0, k] * u_LE[source]
        convolved.append(F.silu(total_E))
    a_LE = torch.stack(convolved)
    delta_LR, B_LN, C_LN = x_proj(a_LE).split([mixer.dt_rank, mixer.d_state, mixer.d_state], -1)
    y_XBLE = selective_scan(
        a_LE[None, None],
        (delta_LR @ dt_proj.weight.T)[None, None],
        -A_log.exp()[None],
        B_LN[None, None],
        C_LN[None, None],
        D[None],
        dt_proj.bias[None],
    )
    return y_XBLE[0, 0] * F.silu(z_LE)


def child_bimamba(mixer: BiMamba, tokens_LD: Tensor) -> Tensor:
    u_LE, z_LE = mixer.in_proj(tokens_LD).chunk(2, dim=-1)
    ahead = one_direction(mixer, u_LE, z_LE, "", mixer.A_log, mixer.D)
    back = one_direction(mixer, u_LE.flip(0), z_LE.flip(0), "_b", mixer.A_b_log, mixer.D_b)
    return mixer.out_proj(ahead + back.flip(0))


def test_block_is_two_gated_scans_from_both_ends_summed() -> None:
    mixer = bimamba().double()
    tokens_BLD = torch.randn(2, 9, 6, dtype=torch.float64)
    for b in range(2):
        torch.testing.assert_close(
            mixer(tokens_BLD)[b], child_bimamba(mixer, tokens_BLD[b]), rtol=1e-10, atol=1e-12
        )


def test_ragged_batch_gives_what_each_sequence_gives_alone() -> None:
    mixer = bimamba().double()
    tokens_BLD = torch.randn(3, 9, 6, dtype=torch.float64)
    length_B = torch.tensor([9, 5, 1])
    mixed_BLD = mixer(tokens_BLD, length_B)
    for b, length in enumerate(length_B.tolist()):
        alone_LD = mixer(tokens_BLD[b : b + 1, :length])[0]
        torch.testing.assert_close(mixed_BLD[b, :length], alone_LD, rtol=1e-10, atol=1e-12)


def test_what_lies_behind_a_sequence_never_reaches_it() -> None:
    mixer = bimamba()
    tokens_BLD = torch.randn(2, 8, 6)
    length_B = torch.tensor([8, 3])
    before = mixer(tokens_BLD, length_B)[1, :3]
    tokens_BLD[1, 3:] = 1e6
    assert torch.equal(mixer(tokens_BLD, length_B)[1, :3], before)


def test_every_output_sees_the_whole_sequence() -> None:
    mixer = bimamba()
    tokens_BLD = torch.randn(1, 12, 6, requires_grad=True)
    (gradient,) = torch.autograd.grad(mixer(tokens_BLD)[0, 5].sum(), tokens_BLD)
    assert (gradient.abs().sum(-1) > 0).all()


@pytest.mark.parametrize(("dim", "count"), [(512, 908_288), (768, 2_001_408)])
def test_parameter_counts_are_those_of_the_published_model(dim: int, count: int) -> None:
    with torch.device("meta"):
        mixer = bimamba(dim, d_state=16)
    assert sum(parameter.numel() for parameter in mixer.parameters()) == count


def test_parameters_carry_the_library_names() -> None:
    assert {name for name, _ in bimamba().named_parameters()} == {
        *("A_log", "D", "A_b_log", "D_b", "in_proj.weight", "out_proj.weight"),
        *("conv1d.weight", "conv1d.bias", "x_proj.weight", "dt_proj.weight", "dt_proj.bias"),
        *("conv1d_b.weight", "conv1d_b.bias", "x_proj_b.weight"),
        *("dt_proj_b.weight", "dt_proj_b.bias"),
    }


def test_forward_steps_start_log_uniform_and_backward_ones_as_any_linear() -> None:
    mixer = bimamba(512, d_state=16)
    step_E = F.softplus(mixer.dt_proj.bias).detach()
    assert 0.99e-3 < float(step_E.min()) < 2e-3
    assert 0.05 < float(step_E.max()) < 0.1001
    assert float(step_E.log10().mean()) == pytest.approx(-2, abs=0.1)
    limit = mixer.dt_rank**-0.5
    assert float(mixer.dt_proj_b.bias.detach().abs().max()) <= limit
    assert float(mixer.dt_proj_b.bias.detach().abs().mean()) == pytest.approx(limit / 2, rel=0.2)
    assert mixer.A_log[3].exp().tolist() == pytest.approx([*range(1, 17)])
    assert torch.equal(mixer.A_b_log, mixer.A_log)


def test_convolution_sees_the_token_and_three_before_it() -> None:
    conv = torch.nn.Conv1d(2, 2, 4, groups=2)
    tokens_BLE = torch.randn(1, 7, 2)
    found = causal_conv(tokens_BLE, conv)
    for t in range(7):
        for e in range(2):
            total = conv.bias[e].item()
            for k in range(4):
                if t - 3 + k >= 0:
                    total += (conv.weight[e, 0, k] * tokens_BLE[0, t - 3 + k, e]).item()
            assert found[0, t, e].item() == pytest.approx(total, abs=1e-6)


def test_expanded_block_has_its_inner_width() -> None:
    mixer = bimamba(6, expand=2)
    assert mixer.A_log.shape == (12, 4)
    assert mixer.dt_rank == math.ceil(6 / 16)
    assert mixer(torch.randn(1, 3, 6)).shape == (1, 3, 6)
