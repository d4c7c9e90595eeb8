import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from muse.errors import UsageError
from muse.head.seq_transf import SeqTransfAggregator, num_heads, quick_gelu


def new(dim: int = 8, *, depth: int = 2, max_frames: int = 6) -> SeqTransfAggregator:
    return SeqTransfAggregator(dim, depth=depth, max_frames=max_frames).eval()


def trained(made: SeqTransfAggregator) -> SeqTransfAggregator:
    """With weights that are nowhere at their beginning."""
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made.double()


def tokens(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def all_valid(num_videos: int, num_frames: int) -> Tensor:
    return torch.ones(num_videos, num_frames, dtype=torch.bool)


def test_new_aggregator_returns_twice_the_class_tokens() -> None:
    tokens_BTKD = torch.randn(2, 3, 5, 8)
    assert torch.equal(new()(tokens_BTKD, all_valid(2, 3)), 2 * tokens_BTKD[:, :, 0])


@torch.no_grad()
def test_layer_is_attention_and_mlp_written_out_frame_by_frame() -> None:
    made = trained(new(depth=1))
    layer = made.layers[0]
    tokens_BTKD = tokens(1, 3, 5, 8)
    x_TD = tokens_BTKD[0, :, 0] + made.positions[:3]
    attention = layer.self_attn
    joint_TE = F.linear(layer.norm1(x_TD), attention.in_proj_weight, attention.in_proj_bias)
    q_TD, k_TD, v_TD = joint_TE.chunk(3, dim=-1)
    for t in range(3):
        weights = [math.exp(q_TD[t] @ k_TD[s] / math.sqrt(8)) for s in range(3)]
        seen_D = sum(weights[s] * v_TD[s] for s in range(3)) / sum(weights)
        y_D = x_TD[t] + attention.out_proj(seen_D)
        y_D = y_D + layer.linear2(quick_gelu(layer.linear1(layer.norm2(y_D))))
        found_D = made(tokens_BTKD, all_valid(1, 3))[0, t]
        torch.testing.assert_close(found_D, tokens_BTKD[0, t, 0] + y_D)


@pytest.mark.parametrize("junk", [1e9, math.nan])
def test_padding_of_any_content_changes_nothing(junk: float) -> None:
    made = trained(new())
    tokens_BTKD = tokens(3, 6, 5, 8)
    valid_BT = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 0, 1, 0, 0, 0], [0, 0, 0, 0, 1, 0]]).bool()
    padded_BTKD = tokens_BTKD.masked_fill(~valid_BT[..., None, None], junk)
    found_BTD = made(padded_BTKD, valid_BT)
    for b in range(3):
        alone_BTKD = tokens_BTKD[b : b + 1, valid_BT[b]]
        wanted_TD = made(alone_BTKD, all_valid(1, alone_BTKD.shape[1]))[0]
        torch.testing.assert_close(found_BTD[b, valid_BT[b]], wanted_TD)
    assert not found_BTD[~valid_BT].any()


def test_padding_changes_nothing_without_gradients_either() -> None:
    made = trained(new(dim=128))  # two heads: torch has another path for evaluation
    tokens_BTKD, valid_BT = tokens(2, 4, 5, 128), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    wanted_BTD = made(tokens_BTKD, valid_BT)
    with torch.no_grad():
        torch.testing.assert_close(made(tokens_BTKD, valid_BT), wanted_BTD)


def test_video_without_a_frame_spoils_no_gradient() -> None:
    made = trained(new())
    valid_BT = torch.tensor([[1, 1], [0, 0]]).bool()
    found_BTD = made(tokens(2, 2, 5, 8), valid_BT)
    assert not found_BTD[1].any()
    found_BTD.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in made.parameters())


def test_order_of_frames_counts_once_there_are_positions() -> None:
    made, tokens_BTKD = trained(new()), tokens(1, 3, 5, 8)
    turned = made(tokens_BTKD.flip(1), all_valid(1, 3)).mean(1)
    assert not torch.allclose(turned, made(tokens_BTKD, all_valid(1, 3)).mean(1))
    torch.nn.init.zeros_(made.positions)
    turned = made(tokens_BTKD.flip(1), all_valid(1, 3)).mean(1)
    torch.testing.assert_close(turned, made(tokens_BTKD, all_valid(1, 3)).mean(1))


def test_patches_are_not_read() -> None:
    made, tokens_BTKD = trained(new()), tokens(2, 3, 5, 8)
    wanted_BTD = made(tokens_BTKD, all_valid(2, 3))
    tokens_BTKD[:, :, 1:] = math.nan
    assert torch.equal(made(tokens_BTKD, all_valid(2, 3)), wanted_BTD)
    assert torch.equal(made(tokens_BTKD[:, :, :1], all_valid(2, 3)), wanted_BTD)


def test_gradient_reaches_every_parameter_once_the_branches_are_open() -> None:
    made = trained(new())
    made(tokens(2, 6, 5, 8), all_valid(2, 6)).pow(3).sum().backward()
    missing = [name for name, value in made.named_parameters() if not value.grad.any()]
    assert missing == []


def test_gradient_reaches_the_zeros_of_a_new_aggregator() -> None:
    made = new()
    made(torch.randn(2, 6, 5, 8), all_valid(2, 6)).pow(3).sum().backward()
    zeros = [(name, value) for name, value in made.named_parameters() if not value.any()]
    opened = {name for name, value in zeros if value.grad.any()}
    assert opened >= {
        "positions",
        *(f"layers.{n}.self_attn.out_proj.weight" for n in range(2)),
        *(f"layers.{n}.linear2.weight" for n in range(2)),
    }


def test_layers_begin_with_weights_of_their_own() -> None:
    first, second = new().layers
    assert not torch.equal(first.linear1.weight, second.linear1.weight)


def test_parameter_counts_are_those_of_the_published_model() -> None:
    with torch.device("meta"):
        made = SeqTransfAggregator(512, depth=4, max_frames=77)
    assert sum(parameter.numel() for parameter in made.parameters()) == 77 * 512 + 4 * 3_152_384


def test_heads_have_64_channels_where_that_divides_the_width() -> None:
    assert [num_heads(dim) for dim in (16, 64, 512, 768, 1152)] == [1, 1, 8, 12, 18]
    assert num_heads(200) == 2


def test_more_frames_than_positions_are_refused_and_padding_is_none() -> None:
    made, tokens_BTKD = new(max_frames=2), torch.randn(1, 3, 5, 8)
    made(tokens_BTKD, torch.tensor([[True, False, True]]))
    with pytest.raises(
        UsageError, match=r"a video of 3 frames: .* positions for 2.* train a head on this one"
    ):
        made(tokens_BTKD, all_valid(1, 3))


def agrees_in_bf16(device: torch.device) -> None:
    made, tokens_BTKD = trained(new(dim=128)).float(), torch.randn(2, 4, 5, 128)
    valid_BT = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    wanted_BTD = made(tokens_BTKD, valid_BT)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        found_BTD = made.to(device)(tokens_BTKD.to(device), valid_BT.to(device))
    found_BTD.float().square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in made.parameters())
    cosine_BT = F.cosine_similarity(found_BTD.float().cpu(), wanted_BTD, dim=-1)
    torch.testing.assert_close(cosine_BT, valid_BT.float(), rtol=0, atol=1e-3)


def test_bf16_around_it_changes_the_rounding_only() -> None:
    agrees_in_bf16(torch.device("cpu"))


@pytest.mark.gpu
def test_bf16_on_the_gpu_changes_the_rounding_only(cuda: torch.device) -> None:
    agrees_in_bf16(cuda)
