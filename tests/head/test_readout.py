"""Read-outs: what each sees of the sequence, and that a new one is mean pooling."""

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from muse.head.aggregator import MuseAggregator
from muse.head.head_config import HeadConfig
from muse.head.ordering import ORDERS, Order, TokenSequence
from muse.head.readout import AttendReadout, PoolReadout, Readout

READOUTS = get_args(Readout)
VALID_BT = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 1, 0]]).bool()


def aggregator(readout: Readout, **changes) -> MuseAggregator:
    config = HeadConfig(dim=8, factors=(0.5, 1.0), depth=2, d_state=4, readout=readout, **changes)
    return MuseAggregator(config).double().eval()


def opened(made: MuseAggregator) -> MuseAggregator:
    for name, parameter in made.named_parameters():
        if name.endswith(("gate.weight", "readout.out_proj.weight")):
            torch.nn.init.normal_(parameter)
    return made


def tokens(num_videos: int = 3, num_frames: int = 4) -> Tensor:
    return torch.randn(num_videos, num_frames, 5, 8, dtype=torch.float64)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("readout", READOUTS)
def test_a_new_head_returns_the_class_tokens(readout: Readout, order: Order) -> None:
    given_BTKD = tokens()
    frames_BTD = aggregator(readout, order=order)(given_BTKD, VALID_BT)
    wanted_BTD = given_BTKD[:, :, 0] * VALID_BT[..., None]
    torch.testing.assert_close(frames_BTD, wanted_BTD, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("readout", READOUTS)
def test_a_video_gives_the_same_alone_as_in_a_ragged_batch(readout: Readout, order: Order) -> None:
    made, given_BTKD = opened(aggregator(readout, order=order)), tokens()
    frames_BTD = made(given_BTKD, VALID_BT)
    for b, valid_T in enumerate(VALID_BT):
        alone_BTKD = given_BTKD[b : b + 1, valid_T]
        alone_TD = made(alone_BTKD, torch.ones(alone_BTKD.shape[:2]).bool())[0]
        torch.testing.assert_close(frames_BTD[b, valid_T], alone_TD, rtol=1e-9, atol=1e-10)
        assert not frames_BTD[b, ~valid_T].any()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("readout", READOUTS)
def test_padding_changes_nothing_whatever_is_in_it(readout: Readout, order: Order) -> None:
    made, given_BTKD = opened(aggregator(readout, order=order)), tokens()
    before_BTD = made(given_BTKD, VALID_BT)
    given_BTKD[~VALID_BT] = 1e9
    assert torch.equal(made(given_BTKD, VALID_BT), before_BTD)


@pytest.mark.parametrize("readout", READOUTS)
def test_a_video_without_a_frame_is_zeros(readout: Readout) -> None:
    frames_BTD = opened(aggregator(readout))(tokens(2), torch.tensor([[1] * 4, [0] * 4]).bool())
    assert frames_BTD.isfinite().all()
    assert not frames_BTD[1].any()


@pytest.mark.parametrize("readout", READOUTS)
def test_gradient_reaches_every_parameter_once_opened(readout: Readout) -> None:
    made = opened(aggregator(readout))
    made(tokens(), VALID_BT).square().sum().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("readout", ["ends", "interleaved", "pool", "max", "attend"])
def test_other_read_outs_see_the_last_cell_of_the_last_scale(readout: Readout) -> None:
    """Two hundred tokens behind the class tokens, where the paper's read-out is all but blind."""
    config = HeadConfig(dim=8, factors=(2.0,), depth=1, d_state=4)
    seen = {}
    for name in ("class", readout):
        torch.manual_seed(0)
        changed = HeadConfig(dim=8, factors=(2.0,), depth=1, d_state=4, readout=name)
        made = opened(MuseAggregator(changed)).double().eval()
        given_BTKD = torch.randn(1, 4, 17, 8, dtype=torch.float64)
        sequence = made.sequence_of(given_BTKD, torch.ones(1, 4).bool())
        tokens_BLD = sequence.tokens_BLD.detach().requires_grad_()
        again = TokenSequence(tokens_BLD=tokens_BLD, length_B=None, places_BTR=sequence.places_BTR)
        made.frames_of(again, torch.ones(1, 4).bool())[0].sum().backward()
        cell = {"ends": -5, "interleaved": -2}.get(name, -1)  # class tokens may come last
        seen[name] = tokens_BLD.grad[0, cell].norm().item()
    assert config.readout == "class"
    assert seen[readout] > 10 * seen["class"]


def test_pool_adds_the_mean_of_what_the_blocks_added() -> None:
    given_BLD = torch.tensor([[[1.0], [2.0], [30.0]], [[4.0], [5.0], [99.0]]])
    sequence = TokenSequence(
        tokens_BLD=given_BLD, length_B=torch.tensor([3, 2]), places_BTR=torch.tensor([[[0]], [[0]]])
    )
    outputs_BLD = given_BLD + torch.tensor([[[3.0], [0.0], [6.0]], [[1.0], [2.0], [7.0]]])
    found_BTD = PoolReadout()(outputs_BLD, sequence, torch.ones(2, 1).bool())
    assert found_BTD.flatten().tolist() == [1 + 3 + 3.0, 4 + 1 + 1.5]


@torch.no_grad()
def test_attend_is_a_weighted_mean_over_the_sequence() -> None:
    made = AttendReadout(6).double()
    torch.nn.init.normal_(made.out_proj.weight)
    outputs_BLD = torch.randn(1, 5, 6, dtype=torch.float64)
    sequence = TokenSequence(tokens_BLD=outputs_BLD, length_B=None, places_BTR=None)
    found_TD = made(outputs_BLD, sequence, torch.ones(1, 2).bool())[0]
    for t in range(2):
        query_D = made.query(made.query_norm(outputs_BLD[0, t]))
        key_LD, value_LD = made.key_value(made.token_norm(outputs_BLD[0])).chunk(2, dim=-1)
        scores = [float(query_D @ key_D) / math.sqrt(6) for key_D in key_LD]
        weights = [math.exp(score) for score in scores]
        mean_D = sum(weights[place] / sum(weights) * value_LD[place] for place in range(5))
        torch.testing.assert_close(found_TD[t], outputs_BLD[0, t] + made.out_proj(mean_D))
