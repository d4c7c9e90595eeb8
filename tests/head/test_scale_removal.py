"""Recall without a scale: what the changed videos are, and the numbers made of them."""

import dataclasses
import math
from typing import get_args

import numpy as np
import pytest
import torch
from tests.head.memory_store import make_store
from torch import Tensor, nn

from muse.errors import UsageError
from muse.head.aggregator import MuseAggregator
from muse.head.data import VideoBatch
from muse.head.evaluate import evaluate
from muse.head.head_config import HeadConfig
from muse.head.model import MeanPoolHead, RetrievalHead
from muse.head.ordering import ORDERS, Order
from muse.head.readout import Readout
from muse.head.residual import ResMambaBlock
from muse.head.scale_removal import _change, another_each, embed_without, recalls_without_scales
from muse.head.similarity.mean_pool import pool_frames

TINY = HeadConfig(dim=8, factors=(0.5, 1.0), depth=1, d_state=2)
VALID_BT = torch.tensor([[1, 1, 1], [0, 1, 0]]).bool()
OTHER_BT = torch.tensor([[0, 1, 1], [1, 0, 0]]).bool()
CPU = torch.device("cpu")


def opened(made: nn.Module) -> nn.Module:
    for name, parameter in made.named_parameters():
        if name.endswith(("gate.weight", "readout.out_proj.weight")):
            nn.init.normal_(parameter)
    return made.eval()


def videos(valid_BT: Tensor) -> VideoBatch:
    return VideoBatch(tokens_BTKD=torch.randn(*valid_BT.shape, 5, 8), valid_BT=valid_BT)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("readout", get_args(Readout))
@torch.no_grad()
def test_a_zeroed_scale_is_one_whose_pyramid_makes_zeros(readout: Readout, order: Order) -> None:
    made = opened(MuseAggregator(dataclasses.replace(TINY, readout=readout, order=order)))
    own, other = videos(VALID_BT), videos(OTHER_BT)
    found_MBD = embed_without(made, own, other)
    torch.testing.assert_close(found_MBD[0], pool_frames(made(own.tokens_BTKD, VALID_BT), VALID_BT))
    nn.init.zeros_(made.pyramid.stages[1].spread_norm.weight)  # a norm's bias is zero at first
    wanted_BD = pool_frames(made(own.tokens_BTKD, VALID_BT), VALID_BT)
    torch.testing.assert_close(found_MBD[3], wanted_BD)
    nn.init.zeros_(made.pyramid.stages[0].spread_norm.weight)
    wanted_BD = pool_frames(made(own.tokens_BTKD, VALID_BT), VALID_BT)
    torch.testing.assert_close(found_MBD[5], wanted_BD)


@pytest.mark.parametrize("order", ORDERS)
@torch.no_grad()
def test_all_scales_foreign_are_the_patches_of_the_other_video(order: Order) -> None:
    """Its valid frames in their order, over again where this video has more of them."""
    made = opened(MuseAggregator(dataclasses.replace(TINY, readout="attend", order=order)))
    own, other = videos(VALID_BT), videos(OTHER_BT)
    shown_BTKD = own.tokens_BTKD.clone()
    for frame, source in ((0, 1), (1, 2), (2, 1)):
        shown_BTKD[0, frame, 1:] = other.tokens_BTKD[0, source, 1:]
    shown_BTKD[1, 1, 1:] = other.tokens_BTKD[1, 0, 1:]
    wanted_BD = pool_frames(made(shown_BTKD, VALID_BT), VALID_BT)
    torch.testing.assert_close(embed_without(made, own, other)[6], wanted_BD)


@torch.no_grad()
def test_one_scale_foreign_leaves_the_other_alone() -> None:
    made = opened(MuseAggregator(dataclasses.replace(TINY, readout="attend")))
    own, other = videos(VALID_BT), videos(VALID_BT)
    both = embed_without(made, own, other)
    assert not torch.allclose(both[2], both[4], atol=1e-4)
    nn.init.zeros_(made.pyramid.stages[1].spread_norm.weight)  # the second scale: all the same
    without = embed_without(made, own, other)
    torch.testing.assert_close(without[4], without[0])
    torch.testing.assert_close(without[2], without[6])


def test_each_video_gets_another_and_each_is_given_once() -> None:
    for num in (2, 3, 10):
        other = another_each(num, seed=0)
        assert sorted(other) == list(range(num))
        assert not (other == np.arange(num)).any()


def test_a_head_with_closed_gates_loses_nothing() -> None:
    store = make_store(num_videos=20, num_test_videos=8, is_turned=False, noise=3.0)
    head = RetrievalHead(HeadConfig(dim=16, factors=(0.5, 1.0), depth=1, d_state=2)).eval()
    found = recalls_without_scales(store, head, device=CPU)
    whole = evaluate(store, head)
    assert (found.num_videos, found.num_captions) == (8, 16)
    assert found.text_to_video == pytest.approx(whole.text_to_video.recall_at[1])
    assert found.video_to_text == pytest.approx(whole.video_to_text.recall_at[1])
    names = [(one.scale, one.how) for one in found.removals]
    scales = ("1x1", "2x2", "all scales")
    assert names == [(scale, how) for scale in scales for how in ("zeroed", "foreign")]
    for one in found.removals:
        for change in (one.text_to_video, one.video_to_text):
            assert (change.change, change.standard_error) == (0, 0)


class PatchesAsCells(nn.Module):
    """A pyramid's stage that leaves the patches as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.dtype = nn.Parameter(torch.zeros(()))

    def forward(self, patches_FDGG: Tensor) -> Tensor:
        return patches_FDGG.flatten(2).transpose(1, 2)


class ShowsPatches(nn.Module):
    """In a mixer's stead: each frame's class token becomes the last cell of the video."""

    def forward(self, tokens_BLD: Tensor, length_B: Tensor | None) -> Tensor:
        return tokens_BLD[:, -1:].expand_as(tokens_BLD)


def block_of_patches() -> ResMambaBlock:
    block = ResMambaBlock(16, ShowsPatches(), dropout=0.0, residual="none")
    block.norm = nn.Identity()  # type: ignore[assignment]
    return block


def test_a_head_that_reads_patches_only_is_at_chance_without_them() -> None:
    store = make_store(num_videos=40, num_test_videos=30, is_turned=False, noise=0.1)
    head = RetrievalHead(HeadConfig(dim=16, factors=(1.0,), depth=1, d_state=2)).eval()
    head.aggregator.pyramid.stages[0] = PatchesAsCells()
    head.aggregator.blocks = nn.ModuleList([block_of_patches()])
    for clip in store._clips:  # ragged sequences would end with padding
        clip.valid_T[:] = True
        clip.tokens_TKD[:] = clip.tokens_TKD[:1]
    found = recalls_without_scales(store, head, device=CPU)
    assert found.text_to_video == 100
    assert found.of("2x2", "zeroed").text_to_video.recall_at_1 == pytest.approx(100 / 30)
    foreign = found.of("2x2", "foreign").text_to_video
    assert (foreign.recall_at_1, foreign.change) == (0, -100)


def test_the_error_of_a_change_counts_the_captions_of_a_video_together() -> None:
    before_Q, after_Q = torch.tensor([1.0, 1, 1, 1, 0, 0]), torch.tensor([0.0, 0, 1, 1, 0, 0])
    found = _change(before_Q.double(), after_Q.double(), torch.tensor([0, 0, 1, 1, 2, 2]))
    assert found.recall_at_1 == pytest.approx(100 / 3)
    assert found.change == pytest.approx(-100 / 3)
    # Each video's residuals: 2 (-1 + 1/3), 2/3 and 2/3, over six captions.
    wanted = 100 * math.sqrt((4 / 3) ** 2 + 2 * (2 / 3) ** 2) / 6
    assert found.standard_error == pytest.approx(wanted)


def test_one_video_and_heads_without_scales_are_named() -> None:
    store = make_store(num_videos=6, num_test_videos=1)
    head = RetrievalHead(HeadConfig(dim=16, factors=(1.0,), depth=1)).eval()
    with pytest.raises(UsageError, match="one video"):
        recalls_without_scales(store, head, device=CPU)
    with pytest.raises(UsageError, match="class tokens only"):
        recalls_without_scales(store, MeanPoolHead(), device=CPU)
