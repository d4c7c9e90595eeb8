import pytest
import torch
from torch import Tensor

from muse.errors import UsageError
from muse.head.aggregator import MuseAggregator, patch_grid
from muse.head.head_config import HeadConfig
from muse.head.ordering import ORDERS, Order


def aggregator(dim: int = 8, **changes) -> MuseAggregator:
    settings = {"factors": (0.5, 1.0), "depth": 2, "dropout": 0.1, "d_state": 4}
    return MuseAggregator(HeadConfig(dim=dim, **{**settings, **changes})).eval()


def open_gates(made: MuseAggregator) -> MuseAggregator:
    for block in made.blocks:
        torch.nn.init.normal_(block.gate.weight)
    return made


def prefix_mask(lengths: list[int], num_frames: int) -> Tensor:
    return torch.arange(num_frames) < torch.tensor(lengths)[:, None]


def test_new_aggregator_returns_the_class_tokens() -> None:
    tokens_BTKD = torch.randn(2, 3, 5, 8)
    frames_BTD = aggregator()(tokens_BTKD, torch.ones(2, 3, dtype=torch.bool))
    assert torch.equal(frames_BTD, tokens_BTKD[:, :, 0])


@pytest.mark.parametrize("factors", [(0.5, 1.0), ()])
@pytest.mark.parametrize("order", ORDERS)
def test_padding_more_frames_changes_no_bit(order: Order, factors: tuple[float, ...]) -> None:
    made = open_gates(aggregator(factors=factors, order=order))
    tokens_BTKD = torch.randn(3, 4, 5, 8)
    valid_BT = prefix_mask([4, 2, 1], 4)
    found_BTD = made(tokens_BTKD, valid_BT)
    junk_BTKD = torch.full((3, 3, 5, 8), 1e9)
    longer_BTD = made(torch.cat([tokens_BTKD, junk_BTKD], dim=1), prefix_mask([4, 2, 1], 7))
    assert torch.equal(longer_BTD[:, :4], found_BTD)
    assert not longer_BTD[:, 4:].any()


@pytest.mark.parametrize("factors", [(0.5, 1.0), ()])
@pytest.mark.parametrize("order", ORDERS)
def test_video_gives_the_same_alone_and_in_a_ragged_batch(
    order: Order, factors: tuple[float, ...]
) -> None:
    made = open_gates(aggregator(factors=factors, order=order)).double()
    tokens_BTKD = torch.randn(3, 4, 5, 8, dtype=torch.float64)
    frames_BTD = made(tokens_BTKD, prefix_mask([4, 2, 1], 4))
    for b, length in enumerate([4, 2, 1]):
        alone_TD = made(tokens_BTKD[b : b + 1, :length], torch.ones(1, length, dtype=torch.bool))[0]
        torch.testing.assert_close(frames_BTD[b, :length], alone_TD, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("lengths", [[4, 2, 1, 4, 3], [4] * 5])
def test_a_batch_goes_through_the_blocks_in_parts(
    lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = open_gates(aggregator())
    tokens_BTKD, valid_BT = torch.randn(5, 4, 5, 8), prefix_mask(lengths, 4)
    whole_BTD = made(tokens_BTKD, valid_BT)
    seen: list[int] = []
    made.blocks[0].register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    monkeypatch.setattr("muse.head.aggregator.VIDEOS_AT_ONCE", 2)
    torch.testing.assert_close(made(tokens_BTKD, valid_BT), whole_BTD)
    assert seen == [2, 2, 1]


def test_frame_missing_in_the_middle_counts_for_nothing() -> None:
    made = open_gates(aggregator()).double()
    tokens_BTKD = torch.randn(1, 3, 5, 8, dtype=torch.float64)
    valid_BT = torch.tensor([[True, False, True]])
    kept_BTD = made(tokens_BTKD[:, [0, 2]], torch.ones(1, 2, dtype=torch.bool))
    torch.testing.assert_close(made(tokens_BTKD, valid_BT)[:, [0, 2]], kept_BTD)


def test_frames_depend_on_each_others_patches_once_the_gate_is_open() -> None:
    made = open_gates(aggregator())
    tokens_BTKD = torch.randn(1, 3, 5, 8)
    valid_BT = torch.ones(1, 3, dtype=torch.bool)
    before = made(tokens_BTKD, valid_BT)
    tokens_BTKD[0, 2, 4] += 1.0
    assert not torch.equal(made(tokens_BTKD, valid_BT)[0, 0], before[0, 0])


def test_without_factors_the_class_tokens_alone_are_mixed() -> None:
    made, valid_BT = open_gates(aggregator(factors=())), torch.ones(1, 3, dtype=torch.bool)
    tokens_BTKD = torch.randn(1, 3, 5, 8)
    wanted_BLD = tokens_BTKD[:, :, 0]
    for block in made.blocks:
        wanted_BLD = block(wanted_BLD)
    assert torch.equal(made(tokens_BTKD, valid_BT), wanted_BLD)
    assert torch.equal(made(tokens_BTKD[:, :, :4], valid_BT), wanted_BLD)  # no square is needed


@pytest.mark.parametrize("factors", [(0.5, 1.0), ()])
def test_gradient_reaches_every_parameter_once_the_gate_is_open(
    factors: tuple[float, ...],
) -> None:
    made = open_gates(aggregator(factors=factors))
    made(torch.randn(2, 3, 5, 8), prefix_mask([3, 2], 3)).square().sum().backward()
    missing = [name for name, parameter in made.named_parameters() if parameter.grad is None]
    assert missing == []


def test_dropout_grows_linearly_with_depth() -> None:
    rates = [block.dropout.p for block in aggregator(depth=4, dropout=0.1).blocks]
    assert rates == pytest.approx([0, 0.1 / 3, 0.2 / 3, 0.1])


def test_grid_is_the_root_of_the_patches() -> None:
    assert [patch_grid(tokens) for tokens in (2, 5, 50, 197, 257)] == [1, 2, 7, 14, 16]
    for tokens in (0, 1, 3, 49):
        with pytest.raises(UsageError, match=f"^{tokens} tokens a frame"):
            patch_grid(tokens)
