from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from memory_store import make_store

from muse.errors import IncompatibleStoreError
from muse.head.bootstrap import Interval, Resampling
from muse.head.comparison import (
    NAMES,
    Difference,
    HeadRanks,
    compare_heads,
    head_ranks,
)
from muse.head.embeddings import embed_split
from muse.head.metrics import direction_numbers
from muse.head.model import MeanPoolHead

RESAMPLING = Resampling(draws=200)


def ranks_of(*, noise: float = 0.0, split: str = "test", num_test_videos: int = 30) -> HeadRanks:
    """Mean pooling's, its video vectors disturbed."""
    store = make_store(num_videos=36, num_test_videos=num_test_videos, is_turned=False, noise=0.1)
    embedded = embed_split(store, MeanPoolHead(), split=split)
    disturbed_VD = embedded.video_VD + noise * torch.randn(embedded.video_VD.shape)
    embedded = replace(embedded, video_VD=F.normalize(disturbed_VD, dim=-1))
    return head_ranks(store, embedded, head_name=f"noise {noise:g}")


def test_a_head_is_as_good_as_itself() -> None:
    found = compare_heads(ranks_of(), ranks_of(), resampling=RESAMPLING)
    for one in (*found.text_to_video, *found.video_to_text):
        assert (one.difference, one.p_value, one.verdict) == (0, 1, "no difference")
        assert one.interval == Interval(low=0, high=0)


def test_a_better_head_is_called_better_from_either_side() -> None:
    good, bad = ranks_of(), ranks_of(noise=1.0)
    forth = compare_heads(good, bad, resampling=RESAMPLING, num_permutations=999)
    back = compare_heads(bad, good, resampling=RESAMPLING, num_permutations=999)
    assert {one.verdict for one in forth.text_to_video} == {"better"}
    assert {one.verdict for one in back.text_to_video} == {"worse"}
    for one, other in zip(forth.text_to_video, back.text_to_video, strict=True):
        assert (one.difference, one.p_value) == (-other.difference, other.p_value)
        assert one.interval.low == pytest.approx(-other.interval.high)


def test_numbers_of_both_heads_are_the_plain_ones() -> None:
    first, second = ranks_of(), ranks_of(noise=0.5)
    found = compare_heads(first, second, resampling=RESAMPLING)
    assert tuple(one.name for one in found.video_to_text) == NAMES
    plain = direction_numbers(second.video_to_text).as_json()
    for one in found.video_to_text:
        assert one.second == pytest.approx(plain[one.name])
        assert one.interval.low <= one.difference <= one.interval.high
    assert (found.num_videos, found.num_captions) == (30, 60)
    assert found.as_json()["video_to_text"]["R@1"]["verdict"] == found.video_to_text[0].verdict


def test_the_verdict_is_that_of_the_p_value_and_a_low_mean_rank_is_good() -> None:
    recall = Difference(
        name="R@1",
        first=40.0,
        second=30.0,
        interval=Interval(low=1, high=19),
        p_value=0.04,
        level=0.95,
    )
    assert recall.verdict == "better"
    assert replace(recall, name="MnR").verdict == "worse"
    assert replace(recall, p_value=0.06).verdict == "no difference"
    assert replace(recall, level=0.99).verdict == "no difference"


def test_other_stores_splits_and_captions_are_refused() -> None:
    first = ranks_of()
    fewer = replace(first.selection, caption_rows_Q=first.selection.caption_rows_Q[1:])
    moved = replace(first.selection, video_rows_V=np.arange(30))
    others = {
        "stores": replace(first, store_sha256="another"),
        "splits": ranks_of(split="train"),
        "videos": replace(first, selection=moved),
        "captions": replace(first, selection=fewer),
    }
    for what, other in others.items():
        with pytest.raises(IncompatibleStoreError, match=f"on different {what}"):
            compare_heads(first, other, resampling=RESAMPLING)
