import statistics
import time

import numpy as np
import pytest
import torch

from muse.errors import MetricError, UsageError
from muse.head.bootstrap import (
    Interval,
    Resampling,
    hits_at,
    intervals,
    percentile_interval,
    resampled_numbers,
)
from muse.head.metrics import RECALL_AT, Ranks, direction_numbers


def some_ranks(num_queries: int, *, seed: int = 0) -> Ranks:
    generator = torch.Generator().manual_seed(seed)
    better = torch.randint(0, 12, (num_queries,), generator=generator)
    equal = torch.randint(1, 4, (num_queries,), generator=generator)
    return Ranks(num_better=better, num_equal=equal)


def test_each_draw_is_a_loop_over_the_captions_of_the_videos_drawn() -> None:
    ranks, video_Q = some_ranks(9), torch.tensor([4, 4, 4, 7, 7, 2, 2, 2, 2])
    resampling = Resampling(draws=100, seed=3)
    found = resampled_numbers(ranks, video_Q, resampling=resampling)
    generator = np.random.default_rng(3)
    videos = [2, 4, 7]
    for draw in range(100):
        queries = [
            query
            for place in generator.integers(3, size=3)
            for query in range(9)
            if video_Q[query] == videos[place]
        ]
        drawn = ranks.of(torch.tensor(queries))
        expected = direction_numbers(drawn)
        for k in RECALL_AT:
            assert found[f"R@{k}"][draw] == pytest.approx(expected.recall_at[k])
        in_sum = [expected.recall_at[k] for k in (1, 5, 10)]
        assert found["Rsum"][draw] == pytest.approx(sum(in_sum))
        assert found["MdR"][draw] == statistics.median(drawn.expected().tolist())
        assert found["MnR"][draw] == pytest.approx(expected.mean_rank)


def test_draws_are_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks, video_Q, resampling = some_ranks(40), torch.arange(40), Resampling(draws=150)
    whole = resampled_numbers(ranks, video_Q, resampling=resampling)
    monkeypatch.setattr("muse.head.bootstrap.VALUES_AT_ONCE", 40 * 16)
    in_blocks = resampled_numbers(ranks, video_Q, resampling=resampling)
    for name in whole:
        assert in_blocks[name].tolist() == pytest.approx(whole[name].tolist())


def test_an_interval_is_the_middle_of_the_draws() -> None:
    assert percentile_interval(torch.arange(101.0), 0.5) == Interval(low=25.0, high=75.0)


def test_an_interval_of_single_captions_is_as_wide_as_a_proportion_s() -> None:
    better = torch.tensor([0] * 400 + [50] * 600)  # R@1 of 40 %
    ranks = Ranks(num_better=better, num_equal=torch.ones_like(better))
    found = intervals(ranks, torch.arange(1000), resampling=Resampling())["R@1"]
    half = 1.96 * 100 * (0.4 * 0.6 / 1000) ** 0.5
    assert found.low == pytest.approx(40 - half, abs=0.3)
    assert found.high == pytest.approx(40 + half, abs=0.3)


def test_captions_that_say_the_same_of_a_video_make_no_interval_narrower() -> None:
    better = torch.tensor([0] * 40 + [50] * 60)
    once = Ranks(num_better=better, num_equal=torch.ones_like(better))
    often = Ranks(
        num_better=better.repeat_interleave(20), num_equal=once.num_equal.repeat_interleave(20)
    )
    video_Q = torch.arange(100)
    single = intervals(once, video_Q, resampling=Resampling())
    many = intervals(often, video_Q.repeat_interleave(20), resampling=Resampling())
    assert many["R@1"].low == pytest.approx(single["R@1"].low)
    assert many["R@1"].high == pytest.approx(single["R@1"].high)


def test_a_hit_is_shared_among_equals() -> None:
    ranks = Ranks(num_better=torch.tensor([0, 0, 1]), num_equal=torch.tensor([1, 2, 1]))
    assert hits_at(ranks, 1).tolist() == [1.0, 0.5, 0.0]


def test_one_video_gives_no_interval() -> None:
    with pytest.raises(MetricError, match="1 video among 5 queries"):
        intervals(some_ranks(5), torch.zeros(5, dtype=torch.int64), resampling=Resampling())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"level": 95}, "interval 95"), ({"level": 0}, "interval 0"), ({"draws": 9}, "draws 9")],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Resampling(**wrong)  # type: ignore[arg-type]


@pytest.mark.slow
def test_msvd_s_queries_take_about_a_second() -> None:
    ranks, video_Q = some_ranks(27_763), torch.arange(27_763) % 670
    started = time.process_time()
    intervals(ranks, video_Q, resampling=Resampling())
    assert time.process_time() - started < 3.0  # 0.5 where the machine is quiet


@pytest.mark.slow
def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    # Videos differ in how hard they are, so captions of one video are alike.
    generator = torch.Generator().manual_seed(1)
    video_Q, num_held, num_trials = torch.arange(60).repeat_interleave(10), 0, 300
    for _ in range(num_trials):
        ease_V = torch.rand(60, generator=generator)  # R@1 of 50 % over all videos there are
        is_hit_Q = torch.rand(600, generator=generator) < ease_V[video_Q]
        ranks = Ranks(num_better=20 * (~is_hit_Q).long(), num_equal=torch.ones(600))
        found = intervals(ranks, video_Q, resampling=Resampling(draws=400))["R@1"]
        num_held += found.low <= 50 <= found.high
    assert 0.90 <= num_held / num_trials <= 0.98
