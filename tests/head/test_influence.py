"""Whose gradient an embedding has: against the whole Jacobian, and what the spec of MUSE says."""

import dataclasses
import functools
from typing import get_args

import pytest
import torch
from tests.head.memory_store import make_store
from torch import Tensor, nn

from muse.errors import UsageError
from muse.head.aggregator import MuseAggregator
from muse.head.data import VideoBatch
from muse.head.head_config import HeadConfig
from muse.head.influence import (
    DISTANCES,
    GradientShares,
    aggregator_with_scales,
    gradient_shares,
    split_shares,
    token_labels,
)
from muse.head.model import MeanPoolHead, RetrievalHead
from muse.head.ordering import ORDERS, Order
from muse.head.readout import Readout
from muse.head.similarity.mean_pool import pool_frames

TINY = HeadConfig(dim=4, factors=(0.5, 1.0), depth=1, d_state=2)
ATTENDING = dataclasses.replace(TINY, readout="attend")  # whose scales have a large share
WIDE = HeadConfig(dim=32, factors=(0.5, 1.0, 2.0), depth=4, init="normal")
SHORT_BT = torch.tensor([[1, 1, 1], [0, 1, 0]]).bool()
CPU = torch.device("cpu")


def opened(config: HeadConfig) -> MuseAggregator:
    made = MuseAggregator(config).eval()
    for name, parameter in made.named_parameters():
        if name.endswith(("gate.weight", "readout.out_proj.weight")):
            nn.init.normal_(parameter, std=0.5)
    return made


def clips(num_videos: int, num_frames: int, patches: int, dim: int) -> VideoBatch:
    tokens_BTKD = torch.randn(num_videos, num_frames, 1 + patches, dim)
    tokens_BTKD *= 10 / tokens_BTKD.norm(dim=-1, keepdim=True)
    return VideoBatch(
        tokens_BTKD=tokens_BTKD, valid_BT=torch.ones(num_videos, num_frames, dtype=torch.bool)
    )


def short_clips() -> VideoBatch:
    return VideoBatch(tokens_BTKD=torch.randn(2, 3, 5, 4), valid_BT=SHORT_BT)


def squared_jacobian(made: MuseAggregator, videos: VideoBatch) -> Tensor:
    """(B, L), of each video's vector on its own tokens."""
    sequence = made.sequence_of(videos.tokens_BTKD, videos.valid_BT)

    def embed(tokens_BLD: Tensor) -> Tensor:
        frames_BTD = made.frames_of(
            dataclasses.replace(sequence, tokens_BLD=tokens_BLD), videos.valid_BT
        )
        return pool_frames(frames_BTD, videos.valid_BT)

    whole = torch.autograd.functional.jacobian(embed, sequence.tokens_BLD.detach())
    own = torch.stack([whole[b, :, b] for b in range(len(whole))])
    return own.double().square().sum((1, 3))


def test_exact_shares_are_those_of_the_whole_jacobian() -> None:
    made, videos = opened(TINY), clips(2, 3, 4, 4)
    squared_BL = squared_jacobian(made, videos)
    wanted = [squared_BL[:, :3], squared_BL[:, 3:6], squared_BL[:, 6:]]  # 3 frames of 1, 1, 4
    found = gradient_shares(made, [videos], num_probes=None)
    total = squared_BL.sum().item()
    assert [share.name for share in found.by_scale] == ["class tokens", "1x1", "2x2"]
    assert [share.num_tokens for share in found.by_scale] == [3, 3, 12]
    for share, part in zip(found.by_scale, wanted, strict=True):
        assert share.share == pytest.approx(part.sum().item() / total, rel=1e-4)
        assert share.share_per_token == pytest.approx(share.share / part.shape[1])
        assert share.standard_error == 0
    near, far = squared_BL[:, 3:7], squared_BL[:, 7:]  # the last class token is at place 2
    assert [share.num_tokens for share in found.by_distance] == [4, 11, 0, 0, 0, 0]
    assert found.by_distance[0].share == pytest.approx(near.sum().item() / total, rel=1e-4)
    assert found.by_distance[1].share == pytest.approx(far.sum().item() / total, rel=1e-4)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("readout", get_args(Readout))
def test_shares_sum_to_one_and_distances_to_the_scales(readout: Readout, order: Order) -> None:
    made = opened(dataclasses.replace(TINY, readout=readout, order=order))
    found = gradient_shares(made, [short_clips()], num_probes=2)
    assert sum(share.share for share in found.by_scale) == pytest.approx(1)
    far = sum(share.share for share in found.by_distance)
    assert far == pytest.approx(found.share_of_scales)
    assert found.share_of_scales > 0


def test_probes_agree_with_the_exact_shares_within_their_error() -> None:
    made, videos = opened(ATTENDING), clips(8, 2, 4, 4)
    exact = gradient_shares(made, [videos], num_probes=None)
    probed = gradient_shares(made, videos.split(3), num_probes=32, seed=1)
    assert probed.num_videos == exact.num_videos == 8
    for one, wanted in zip(
        (*probed.by_scale, *probed.by_distance), (*exact.by_scale, *exact.by_distance), strict=True
    ):
        assert one.num_tokens == wanted.num_tokens
        assert one.standard_error <= 0.3 * wanted.share
        assert abs(one.share - wanted.share) <= 4 * one.standard_error


@pytest.mark.slow
def test_the_error_of_probes_is_their_spread_over_seeds() -> None:
    made, videos = opened(ATTENDING), clips(4, 2, 4, 4)
    runs = [gradient_shares(made, [videos], num_probes=4, seed=seed) for seed in range(40)]
    share_RS = torch.tensor([[share.share for share in run.by_scale] for run in runs])
    error_RS = torch.tensor([[share.standard_error for share in run.by_scale] for run in runs])
    torch.testing.assert_close(share_RS.std(0), error_RS.mean(0), rtol=0.4, atol=0)


def test_only_real_tokens_are_counted_and_padding_changes_nothing() -> None:
    made, videos = opened(TINY), short_clips()
    ragged = gradient_shares(made, [videos], num_probes=None)
    assert [share.num_tokens for share in ragged.by_scale] == [2, 2, 8]  # of (3 + 1) / 2 frames
    squared, totals = torch.zeros(3, dtype=torch.float64), 0.0
    for b, valid_T in enumerate(SHORT_BT):
        alone_BTKD = videos.tokens_BTKD[b : b + 1, valid_T]
        frames = alone_BTKD.shape[1]
        alone = VideoBatch(tokens_BTKD=alone_BTKD, valid_BT=torch.ones(1, frames).bool())
        squared_L = squared_jacobian(made, alone)[0]
        parts = squared_L.split([frames, frames, 4 * frames])
        squared += torch.stack([part.sum() for part in parts])
        totals += squared_L.sum().item()
    for share, wanted in zip(ragged.by_scale, (squared / totals).tolist(), strict=True):
        assert share.share == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("readout", get_args(Readout))
@pytest.mark.parametrize("padding", ["dropped", "scanned"])
def test_labels_stand_where_the_head_puts_its_tokens(
    readout: Readout, order: Order, padding: str
) -> None:
    """A pyramid that makes 1.0 of everything at its first scale, and 2.0 at its second."""
    made = MuseAggregator(dataclasses.replace(TINY, readout=readout, order=order, padding=padding))
    for value, stage in enumerate(made.pyramid.stages, start=1):
        nn.init.zeros_(stage.spread_norm.weight)
        nn.init.constant_(stage.spread_norm.bias, value)
    tokens_BTKD = torch.randn(2, 3, 5, 4)
    tokens_BTKD[:, :, 0] = 0.0  # class tokens
    sequence = made.sequence_of(tokens_BTKD, SHORT_BT)
    _, label_BL = token_labels(made, 5, SHORT_BT)
    for b in range(2):
        length = label_BL.shape[1] if sequence.length_B is None else int(sequence.length_B[b])
        assert torch.equal(label_BL[b, :length].float(), sequence.tokens_BLD[b, :length, 0])
        assert (label_BL[b, length:] == -1).all()


def test_distance_is_from_the_nearest_place_where_a_frame_is_read() -> None:
    once = opened(TINY)
    ends = opened(dataclasses.replace(TINY, readout="ends"))
    frame_wise = opened(dataclasses.replace(TINY, order="frame"))
    counts = {
        name: gradient_shares(made, [clips(1, 3, 4, 4)], num_probes=2).by_distance
        for name, made in (("once", once), ("ends", ends), ("frame", frame_wise))
    }
    # CCC then 15 cells; CCC, 15 cells, CCC; C and 5 cells three times, where the nearest is near.
    assert [share.num_tokens for share in counts["once"]][:3] == [4, 11, 0]
    assert [share.num_tokens for share in counts["ends"]][:3] == [8, 7, 0]
    assert [share.num_tokens for share in counts["frame"]][:3] == [14, 1, 0]
    assert [share.name for share in counts["once"]] == list(DISTANCES)


def test_a_closed_gate_leaves_everything_to_the_class_tokens() -> None:
    found = gradient_shares(MuseAggregator(TINY).eval(), [clips(2, 3, 4, 4)], num_probes=2)
    assert found.by_scale[0].share == 1
    assert found.share_of_scales == 0


@functools.cache
def release_shares(readout: Readout) -> GradientShares:
    """Of a new head of the published initialiser: 4 class tokens and 336 cells a video."""
    torch.manual_seed(0)
    made = MuseAggregator(dataclasses.replace(WIDE, readout=readout)).eval()
    if readout == "attend":
        nn.init.normal_(made.readout.out_proj.weight, std=0.02)
    return gradient_shares(made, [clips(4, 4, 16, 32)], num_probes=2)


def test_a_published_head_begins_with_the_reach_of_one_convolution() -> None:
    """The first four cells have all but a thousandth of what little the scales have."""
    found = release_shares("class")
    assert 0 < found.share_of_scales < 1e-4
    assert found.by_distance[0].share > 0.999 * found.share_of_scales
    assert found.by_scale[2].share < 1e-12 * found.share_of_scales


@pytest.mark.parametrize("readout", ["ends", "interleaved", "pool", "attend"])
def test_other_read_outs_begin_with_a_share_of_the_last_scale(readout: Readout) -> None:
    found = release_shares(readout)
    assert found.by_scale[3].share > 0.3 * found.share_of_scales > 0


@pytest.mark.parametrize(("readout", "is_near"), [("interleaved", True), ("attend", False)])
def test_class_tokens_repeated_among_the_scales_begin_with_their_edges(
    readout: Readout, is_near: bool
) -> None:
    found = release_shares(readout)
    assert (found.by_distance[0].share > 0.999 * found.share_of_scales) == is_near


def test_a_split_s_shares_are_those_of_its_videos() -> None:
    store = make_store(num_videos=14, num_test_videos=5)
    head = RetrievalHead(HeadConfig(dim=16, factors=(0.5, 1.0), depth=1, d_state=2)).eval()
    seen: list[int] = []
    found = split_shares(store, head, num_probes=2, device=CPU, on_videos=seen.append)
    assert (found.num_videos, sum(seen)) == (5, 5)
    assert set(store.reads) == set(range(9, 14))
    assert split_shares(store, head, num_videos=3, num_probes=2, device=CPU).num_videos == 3


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (MeanPoolHead(), "class tokens only"),
        (RetrievalHead(HeadConfig(dim=16, aggregator="seq-transf", depth=1)), "class tokens only"),
        (RetrievalHead(HeadConfig(dim=16, factors=(), depth=1)), "reads no scale"),
        (RetrievalHead(HeadConfig(dim=16, depth=0)), "depth 0: it reads no scale"),
    ],
)
def test_heads_that_read_no_scales_are_named(head, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        aggregator_with_scales(head)


@pytest.mark.parametrize("numbers", [{"num_probes": 1}, {"num_videos": 0}])
def test_numbers_below_their_limits_are_named(numbers: dict[str, int]) -> None:
    head = RetrievalHead(HeadConfig(dim=16, factors=(1.0,), depth=1))
    with pytest.raises(UsageError, match="at least"):
        split_shares(make_store(num_test_videos=4), head, device=CPU, **numbers)
