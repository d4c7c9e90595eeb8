import dataclasses
import math
from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from muse.errors import UsageError
from muse.head.head_config import READ_BY, READ_BY_ALL, Aggregator, HeadConfig
from muse.head.model import MeanPoolHead, RetrievalHead


def test_mean_pool_is_the_mean_of_normalised_valid_class_tokens() -> None:
    tokens_BTKD = torch.randn(2, 3, 5, 8)
    valid_BT = torch.tensor([[True, True, True], [True, False, False]])
    found_BD = MeanPoolHead().embed_videos(tokens_BTKD.half(), valid_BT)
    for b in range(2):
        total_D = torch.zeros(8)
        for t in range(3):
            if valid_BT[b, t]:
                frame_D = tokens_BTKD[b, t, 0].half().float()
                total_D += frame_D / frame_D.norm()
        torch.testing.assert_close(found_BD[b], total_D / total_D.norm())


@pytest.mark.parametrize(
    "changes", [{"factors": (0.5, 1.0)}, {"factors": ()}, {"aggregator": "seq-transf"}]
)
def test_new_head_is_mean_pooling(changes: dict) -> None:
    tokens_BTKD = torch.randn(2, 3, 5, 8)
    valid_BT = torch.tensor([[True, True, True], [True, True, False]])
    head = RetrievalHead(HeadConfig(dim=8, depth=2, **changes))
    torch.testing.assert_close(
        head.embed_videos(tokens_BTKD, valid_BT),
        MeanPoolHead().embed_videos(tokens_BTKD, valid_BT),
    )


@pytest.mark.parametrize(
    ("dim", "pyramid", "block"), [(512, 8_267_008, 1_171_968), (768, 18_593_664, 2_593_536)]
)
def test_default_head_has_the_published_parameters(dim: int, pyramid: int, block: int) -> None:
    with torch.device("meta"):
        head = RetrievalHead(HeadConfig(dim=dim))
    count = sum(parameter.numel() for parameter in head.parameters())
    assert count == pyramid + 4 * block + 1


@pytest.mark.parametrize("factors", [(), (0.5, 1.0)])
def test_a_head_without_blocks_is_mean_pooling_and_trains_the_temperature(
    factors: tuple[float, ...],
) -> None:
    head = RetrievalHead(HeadConfig(dim=8, depth=0, factors=factors))
    assert [name for name, _ in head.named_parameters()] == ["logit_scale"]
    tokens_BTKD, valid_BT = torch.randn(2, 3, 5, 8), torch.ones(2, 3).bool()
    wanted_BD = MeanPoolHead().embed_videos(tokens_BTKD, valid_BT)
    torch.testing.assert_close(head.embed_videos(tokens_BTKD, valid_BT), wanted_BD)


def test_head_is_named_after_its_aggregator() -> None:
    names = [RetrievalHead(HeadConfig(dim=8, aggregator=a)).name for a in get_args(Aggregator)]
    assert names == ["muse", "seq-transf"]


def test_each_field_is_read_by_all_or_by_one_aggregator() -> None:
    read = [*READ_BY_ALL, *(name for names in READ_BY.values() for name in names)]
    assert sorted(read) == sorted(field.name for field in dataclasses.fields(HeadConfig))
    assert tuple(READ_BY) == get_args(Aggregator)


def test_fields_of_another_aggregator_change_no_weight() -> None:
    for aggregator, other in (("muse", {"max_frames": 9}), ("seq-transf", {"factors": ()})):
        config = HeadConfig(dim=8, depth=1, aggregator=aggregator)
        changed = dataclasses.replace(config, **other)
        shapes = [
            {name: value.shape for name, value in RetrievalHead(made).state_dict().items()}
            for made in (config, changed)
        ]
        assert shapes[0] == shapes[1]
        assert config.fields_read == changed.fields_read


def test_temperature_never_passes_one_hundred() -> None:
    head = RetrievalHead(HeadConfig(dim=8, factors=(1.0,), depth=1, logit_scale_init=7.0))
    assert head.logit_scale.item() == pytest.approx(math.log(100))
    with torch.no_grad():
        head.logit_scale.fill_(3.0)
    head.clamp_logit_scale()
    assert head.logit_scale.item() == 3.0


def test_embedding_is_a_unit_vector_for_any_frames() -> None:
    head = RetrievalHead(HeadConfig(dim=8, factors=(1.0,), depth=1))
    tokens_BTKD = 10 * torch.randn(3, 2, 5, 8)
    found_BD = head.embed_videos(tokens_BTKD, torch.tensor([[1, 1], [1, 0], [0, 1]]).bool())
    torch.testing.assert_close(found_BD.norm(dim=-1), torch.ones(3))
    assert torch.equal(F.normalize(found_BD, dim=-1).isfinite(), torch.ones(3, 8).bool())


def test_tokens_of_another_width_are_refused() -> None:
    head = RetrievalHead(HeadConfig(dim=8, factors=(1.0,), depth=1))
    with pytest.raises(UsageError, match="width 16: this head was made for 8"):
        head.embed_videos(torch.zeros(1, 2, 5, 16), torch.ones(1, 2, dtype=torch.bool))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 0}, "dim 0: at least 1"),
        ({"depth": -1}, "depth -1: at least 0"),
        ({"aggregator": "lstm"}, "'lstm': choose one of muse, seq-transf"),
        ({"factors": (1.0, 1.0)}, "each scale once"),
        ({"factors": (3.0,)}, "factor 3.0: choose from"),
        ({"dim": 6, "factors": (4.0,)}, "dim 6 can't be divided"),
        ({"max_frames": 0}, "max_frames 0"),
        ({"dropout": 1.0}, "dropout 1.0"),
        ({"logit_scale_init": math.nan}, "logit_scale_init nan"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        HeadConfig(**{"dim": 8, **changes})
