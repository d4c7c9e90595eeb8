"""Every mixer by name: ragged sequences, gradients, counts, and oracles a token at a time."""

import math
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from muse.head.aggregator import MuseAggregator
from muse.head.head_config import HeadConfig
from muse.head.mixers.attention import Attention
from muse.head.mixers.choice import Mixer, new_mixer
from muse.head.mixers.gated_conv import GatedConv
from muse.head.mixers.mamba import BiMambaV1, Mamba
from muse.head.scan.reference import selective_scan

MIXERS = get_args(Mixer)
EXACT = {"rtol": 1e-9, "atol": 1e-11}


def mixer(name: Mixer, dim: int = 6) -> torch.nn.Module:
    return new_mixer(name, dim, d_state=4, d_conv=4, expand=1).double().eval()


def tokens(num_videos: int, length: int, dim: int = 6) -> Tensor:
    return torch.randn(num_videos, length, dim, dtype=torch.float64)


@pytest.mark.parametrize("name", MIXERS)
def test_a_ragged_batch_gives_what_each_sequence_gives_alone(name: Mixer) -> None:
    made, given_BLD = mixer(name), tokens(4, 9)
    length_B = torch.tensor([9, 5, 1, 0])
    mixed_BLD = made(given_BLD, length_B)
    assert mixed_BLD.isfinite().all()
    for b, length in enumerate(length_B.tolist()[:3]):
        alone_LD = made(given_BLD[b : b + 1, :length])[0]
        torch.testing.assert_close(mixed_BLD[b, :length], alone_LD, **EXACT)


@pytest.mark.parametrize("name", MIXERS)
def test_what_lies_behind_a_sequence_never_reaches_it(name: Mixer) -> None:
    made, given_BLD = mixer(name), tokens(2, 8)
    length_B = torch.tensor([8, 3])
    before = made(given_BLD, length_B)[1, :3]
    given_BLD[1, 3:] = 1e6
    torch.testing.assert_close(made(given_BLD, length_B)[1, :3], before, **EXACT)


@pytest.mark.parametrize("name", [name for name in MIXERS if name != "identity"])
def test_gradient_reaches_every_parameter(name: Mixer) -> None:
    made = mixer(name)
    made(tokens(2, 9), torch.tensor([9, 4])).pow(2).sum().backward()
    for parameter_name, parameter in made.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", MIXERS)
def test_a_new_head_returns_the_class_tokens_whatever_mixes(name: Mixer) -> None:
    config = HeadConfig(dim=8, factors=(1.0,), mixer=name, depth=2, d_state=4)
    made = MuseAggregator(config)
    given_BTKD = torch.randn(2, 3, 5, 8)
    frames_BTD = made.eval()(given_BTKD, torch.ones(2, 3, dtype=torch.bool))
    assert torch.equal(frames_BTD, given_BTKD[:, :, 0])


@pytest.mark.parametrize(
    ("name", "count"), [("bimamba-v2", 908_288), ("bimamba-v1", 855_552), ("mamba", 847_360)]
)
def test_parameter_counts_are_those_of_vims_block(name: Mixer, count: int) -> None:
    with torch.device("meta"):
        made = new_mixer(name, 512, d_state=16, d_conv=4, expand=1)
    assert sum(parameter.numel() for parameter in made.parameters()) == count


def scanned(made: Mamba | BiMambaV1, u_LE: Tensor, A_log: Tensor, *, is_reversed: bool) -> Tensor:
    """The scan of what the convolution gives, a tap at a time, from one end or the other."""
    taps, convolved = made.conv1d.weight.shape[-1], []
    for t in range(len(u_LE)):
        total_E = made.conv1d.bias
        for k in range(taps):
            if t - (taps - 1) + k >= 0:
                total_E = total_E + made.conv1d.weight[:, 0, k] * u_LE[t - (taps - 1) + k]
        convolved.append(F.silu(total_E))
    a_LE = torch.stack(convolved)
    delta_LR, B_LN, C_LN = made.x_proj(a_LE).split([made.dt_rank, made.d_state, made.d_state], -1)
    sequences = [a_LE, delta_LR @ made.dt_proj.weight.T, B_LN, C_LN]
    if is_reversed:
        sequences = [sequence.flip(0) for sequence in sequences]
    u, delta, B, C = (sequence[None, None] for sequence in sequences)
    A, D, bias = -A_log.exp()[None], made.D[None], made.dt_proj.bias[None]
    y_LE = selective_scan(u, delta, A, B, C, D, bias)[0, 0]
    return y_LE.flip(0) if is_reversed else y_LE


def test_mamba_is_one_scan_from_the_front() -> None:
    made, given_BLD = mixer("mamba"), tokens(1, 9)
    u_LE, z_LE = made.in_proj(given_BLD[0]).chunk(2, dim=-1)
    wanted_LD = made.out_proj(scanned(made, u_LE, made.A_log, is_reversed=False) * F.silu(z_LE))
    torch.testing.assert_close(made(given_BLD)[0], wanted_LD, **EXACT)


def test_v1_scans_one_convolved_sequence_from_both_ends() -> None:
    made, given_BLD = mixer("bimamba-v1"), tokens(1, 9)
    with torch.no_grad():
        made.A_b_log += 0.3
    u_LE, z_LE = made.in_proj(given_BLD[0]).chunk(2, dim=-1)
    both_LE = scanned(made, u_LE, made.A_log, is_reversed=False)
    both_LE = both_LE + scanned(made, u_LE, made.A_b_log, is_reversed=True)
    torch.testing.assert_close(made(given_BLD)[0], made.out_proj(both_LE * F.silu(z_LE)), **EXACT)


def test_attention_is_a_weighted_mean_a_head_at_a_time() -> None:
    made, given_BLD = mixer("transformer", 128), tokens(1, 5, 128)
    assert isinstance(made, Attention)
    q_LD, k_LD, v_LD = made.in_proj(given_BLD[0]).chunk(3, dim=-1)
    heads = []
    for h in range(2):
        part = slice(64 * h, 64 * (h + 1))
        weight_LL = (q_LD[:, part] @ k_LD[:, part].T / math.sqrt(64)).softmax(-1)
        heads.append(weight_LL @ v_LD[:, part])
    wanted_LD = made.out_proj(torch.cat(heads, dim=-1))
    torch.testing.assert_close(made(given_BLD)[0], wanted_LD, **EXACT)


def test_flash_attention_is_the_same_function() -> None:
    plain, fused = mixer("transformer"), mixer("flash-attention")
    fused.load_state_dict(plain.state_dict())
    given_BLD, length_B = tokens(3, 7), torch.tensor([7, 2, 4])
    torch.testing.assert_close(fused(given_BLD, length_B), plain(given_BLD, length_B), **EXACT)


def test_mamba_out_gates_a_convolution_over_seven_tokens() -> None:
    made, given_BLD = mixer("mamba-out"), tokens(1, 9)
    assert isinstance(made, GatedConv)
    gate_LE, kept_LE, conv_LE = made.fc1(given_BLD[0]).split(made.widths, dim=-1)
    convolved = []
    for t in range(9):
        total_E = made.conv.bias
        for k in range(7):
            if 0 <= t - 3 + k < 9:
                total_E = total_E + made.conv.weight[:, 0, k] * conv_LE[t - 3 + k]
        convolved.append(total_E)
    both_LE = torch.cat([kept_LE, torch.stack(convolved)], dim=-1)
    torch.testing.assert_close(made(given_BLD)[0], made.fc2(F.gelu(gate_LE) * both_LE), **EXACT)
