"""Each defect of the published code, on and off: it changes what the paper would, no more."""

import dataclasses

import pytest
import torch
from tests.head.memory_store import make_header
from torch import Tensor, nn

from muse.head.aggregator import MuseAggregator
from muse.head.head_config import HeadConfig, head_of_mode, paper_head
from muse.head.model import RetrievalHead
from muse.head.ordering import ORDERS, Order

PAPER = HeadConfig(dim=32, depth=2, factors=(0.5, 1.0), d_state=4)
HEADER = make_header(num_videos=3, num_captions=3)


def head(seed: int = 0, **changes) -> RetrievalHead:
    torch.manual_seed(seed)
    return RetrievalHead(dataclasses.replace(PAPER, **changes)).eval()


def tokens() -> Tensor:
    return torch.randn(2, 3, 5, 32)


def differing(one: nn.Module, other: nn.Module) -> set[str]:
    pairs = zip(one.state_dict().items(), other.state_dict().values(), strict=True)
    return {name for (name, value), twin in pairs if not torch.equal(value, twin)}


def test_release_differs_from_paper_in_three_fields() -> None:
    paper, release = head_of_mode("paper", HEADER), head_of_mode("release", HEADER)
    assert paper == paper_head(HEADER)
    changed = {
        field.name: getattr(release, field.name)
        for field in dataclasses.fields(HeadConfig)
        if getattr(release, field.name) != getattr(paper, field.name)
    }
    assert changed == {"pyramid": "frozen", "init": "normal", "padding": "scanned"}


def test_muse_is_the_paper_with_another_read_out() -> None:
    wanted = dataclasses.replace(paper_head(HEADER), readout="max")
    assert head_of_mode("muse", HEADER) == wanted


def test_frozen_pyramid_has_the_same_weights_and_no_gradient() -> None:
    trained, frozen = head(), head(pyramid="frozen")
    assert not differing(trained, frozen)
    for made in (trained, frozen):
        nn.init.normal_(made.aggregator.blocks[0].gate.weight)
        made.embed_videos(tokens(), torch.ones(2, 3).bool())[:, 0].sum().backward()
    for name, parameter in frozen.named_parameters():
        twin = trained.get_parameter(name)
        assert (parameter.grad is None) == ("pyramid" in name or twin.grad is None), name
        assert parameter.requires_grad == ("pyramid" not in name), name


def test_frozen_pyramid_is_in_the_checkpoint() -> None:
    assert any("pyramid" in name for name in head(pyramid="frozen").state_dict())


def test_normal_init_draws_every_linear_of_a_block_anew_and_nothing_else() -> None:
    paper, release = head(), head(init="normal")
    linear = {
        f"{name}.{kind}"
        for name, module in paper.named_modules()
        if isinstance(module, nn.Linear)
        for kind, value in module.named_parameters()
        if not (kind == "bias" and not value.any())  # a gate's bias is zero in both
    }
    assert differing(paper, release) == linear


def test_normal_init_has_the_published_spread_and_no_bias() -> None:
    made = MuseAggregator(HeadConfig(dim=256, depth=1, factors=(), init="normal"))
    for name, module in made.blocks.named_modules():
        if isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.1), name
            assert module.bias is None or not module.bias.any(), name


def test_normal_init_leaves_a_memory_of_one_or_two_tokens() -> None:
    """Δ = softplus(0) = 0.693 and A = -1 … -16: a state fades by 2^-1 … 2^-16 a token."""
    mamba = head(init="normal").aggregator.blocks[0].mamba
    delta_E = torch.nn.functional.softplus(mamba.dt_proj.bias)
    decay_EN = torch.exp(-delta_E[:, None] * mamba.A_log.exp())
    wanted_N = torch.tensor([2.0**-n for n in range(1, 5)])
    torch.testing.assert_close(decay_EN, wanted_N.expand_as(decay_EN))


def test_a_new_release_head_is_not_mean_pooling() -> None:
    given_BTKD, valid_BT = tokens(), torch.ones(2, 3).bool()
    paper = head().aggregator(given_BTKD, valid_BT)
    release = head(init="normal").aggregator(given_BTKD, valid_BT)
    assert torch.equal(paper, given_BTKD[:, :, 0])
    assert not torch.equal(release, paper)


@pytest.mark.parametrize("order", ORDERS)
def test_padding_is_scanned_where_a_video_has_some_and_only_there(order: Order) -> None:
    dropped, scanned = (
        head(residual="plain", order=order, padding=padding) for padding in ("dropped", "scanned")
    )
    given_BTKD = tokens()
    whole_BT = torch.ones(2, 3).bool()
    assert torch.equal(
        scanned.embed_videos(given_BTKD, whole_BT), dropped.embed_videos(given_BTKD, whole_BT)
    )
    given_BTKD[1, 2] = 0.0
    short_BT = torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
    found_BD, wanted_BD = (made.embed_videos(given_BTKD, short_BT) for made in (scanned, dropped))
    torch.testing.assert_close(found_BD[0], wanted_BD[0])
    assert not torch.allclose(found_BD[1], wanted_BD[1], rtol=1e-5, atol=1e-7)


def test_scanned_padding_is_in_no_mean_over_frames() -> None:
    scanned = head(init="normal", padding="scanned")
    given_BTKD, valid_BT = tokens(), torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
    assert not scanned.aggregator(given_BTKD, valid_BT)[1, 2].any()


def test_max_pooling_loses_the_last_row_and_column_of_an_odd_grid_in_both_modes() -> None:
    for changes in ({}, {"pyramid": "frozen", "init": "normal"}):
        made = head(factors=(0.5,), **changes).aggregator
        given_BTKD = torch.randn(1, 1, 50, 32)
        before = made.sequence_of(given_BTKD, torch.ones(1, 1).bool()).tokens_BLD
        edge = [
            1 + 7 * row + column for row in range(7) for column in range(7) if 6 in (row, column)
        ]
        given_BTKD[0, 0, edge] += 1.0
        after = made.sequence_of(given_BTKD, torch.ones(1, 1).bool()).tokens_BLD
        assert torch.equal(before, after)
