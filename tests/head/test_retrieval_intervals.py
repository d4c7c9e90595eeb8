"""Intervals of a retrieval follow its rules: each draw is the numbers of what was drawn."""

from typing import get_args

import numpy as np
import pytest
import torch

from muse.head.bootstrap import Resampling, percentile_interval
from muse.head.metrics import direction_numbers, score_matrix_ranks
from muse.head.ranks import RetrievalRanks, TieRule
from muse.head.retrieval_intervals import DirectionIntervals, retrieval_intervals
from muse.head.tiles import V2TRule

RESAMPLING = Resampling(level=0.8, draws=100, seed=5)
ONE_EACH = torch.arange(7)
MANY = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3, 4, 5, 6])


def _ranks(video_Q: torch.Tensor, *, v2t: V2TRule = "group", seed: int = 0) -> RetrievalRanks:
    """Of whole numbers from 0 to 3: many tie."""
    generator = torch.Generator().manual_seed(seed)
    scores_QV = torch.randint(0, 4, (len(video_Q), 7), generator=generator).float()
    return score_matrix_ranks(scores_QV, video_Q, v2t=v2t)


def _looped(
    heads: list[RetrievalRanks], video_Q: torch.Tensor, ties: TieRule
) -> dict[str, dict[str, tuple[float, float]]]:
    """By a loop over the draws: the captions and videos drawn, as a retrieval of their own."""
    generator = np.random.default_rng(RESAMPLING.seed)
    numbers: dict[str, list[dict[str, float]]] = {"text_to_video": [], "video_to_text": []}
    for _ in range(RESAMPLING.draws):
        videos = generator.integers(7, size=7).tolist()
        captions = [q for video in videos for q in range(len(video_Q)) if video_Q[q] == video]
        of_heads = []
        for head in heads:
            to_video = head.text_to_video.of(torch.tensor(captions))
            to_text = head.video_to_text.of(torch.tensor(videos))
            many = ties == "clip4clip" and head.has_many_captions
            of_video = direction_numbers(to_video, ties="expected" if many else ties).as_json()
            if many:  # CLIP4Clip's code for many captions: the lower of two middle ranks
                ordered = sorted(to_video.expected().tolist())
                of_video["MdR"] = ordered[(len(ordered) - 1) // 2]
            of_heads.append([of_video, direction_numbers(to_text, ties=ties).as_json()])
        for way, found in zip(numbers, zip(*of_heads, strict=True), strict=True):
            mean = {name: np.mean([one[name] for one in found]).item() for name in found[0]}
            numbers[way].append(mean)
    return {way: _middles(found) for way, found in numbers.items()}


def _middles(draws: list[dict[str, float]]) -> dict[str, tuple[float, float]]:
    middles = {}
    for name in draws[0]:
        drawn = torch.tensor([draw[name] for draw in draws], dtype=torch.float64)
        interval = percentile_interval(drawn, RESAMPLING.level)
        middles[name] = (interval.low, interval.high)
    return middles


def _plain(found: DirectionIntervals) -> dict[str, dict[str, tuple[float, float]]]:
    return {
        way: {name: (one.low, one.high) for name, one in getattr(found, way).items()}
        for way in ("text_to_video", "video_to_text")
    }


def _equal(found: DirectionIntervals, wanted: dict[str, dict[str, tuple[float, float]]]) -> None:
    for way, numbers in _plain(found).items():
        assert set(numbers) == set(wanted[way])
        for name, ends in numbers.items():
            assert ends == pytest.approx(wanted[way][name]), (way, name)


@pytest.mark.slow
@pytest.mark.parametrize("ties", get_args(TieRule))
@pytest.mark.parametrize("video_Q", [ONE_EACH, MANY], ids=["one caption each", "many"])
def test_each_draw_has_the_numbers_of_a_loop_under_every_rule_for_ties(
    ties: TieRule, video_Q: torch.Tensor
) -> None:
    ranks = _ranks(video_Q)
    found = retrieval_intervals(
        [ranks], video_of_caption_Q=video_Q, resampling=RESAMPLING, ties=ties
    )
    _equal(found.numbers, _looped([ranks], video_Q, ties))
    assert found.as_json()["tie_rule"] == ties


@pytest.mark.slow
@pytest.mark.parametrize("ties", ["expected", "optimistic", "pessimistic"])
def test_the_best_caption_among_all_is_followed_too(ties: TieRule) -> None:
    ranks = _ranks(MANY, v2t="caption")
    assert ranks.video_to_text.num_right is not None
    found = retrieval_intervals([ranks], video_of_caption_Q=MANY, resampling=RESAMPLING, ties=ties)
    _equal(found.numbers, _looped([ranks], MANY, ties))


@pytest.mark.slow
def test_of_several_seeds_it_is_that_of_their_mean_draw_by_draw() -> None:
    heads = [_ranks(ONE_EACH, seed=seed) for seed in range(3)]
    found = retrieval_intervals(heads, video_of_caption_Q=ONE_EACH, resampling=RESAMPLING)
    _equal(found.numbers, _looped(heads, ONE_EACH, "expected"))
    assert found.as_json()["num_seeds"] == 3


def test_three_times_the_same_head_is_as_sure_as_once() -> None:
    ranks = _ranks(MANY)
    once, thrice = (
        retrieval_intervals([ranks] * n, video_of_caption_Q=MANY, resampling=RESAMPLING)
        for n in (1, 3)
    )
    _equal(thrice.numbers, _plain(once.numbers))


def test_an_axis_has_the_interval_of_its_captions_and_none_of_one_video() -> None:
    ranks = _ranks(MANY)
    axes = ["who", "where", "who", "where", "", "who", "", "where", "", "", "when"]
    found = retrieval_intervals(
        [ranks], video_of_caption_Q=MANY, resampling=RESAMPLING, axis_of_caption_Q=axes
    )
    assert list(found.by_axis) == ["where", "who"]
    captions, videos = torch.tensor([0, 2, 5]), torch.tensor([0, 1, 2])
    alone = RetrievalRanks(
        text_to_video=ranks.text_to_video.of(captions),
        video_to_text=ranks.video_to_text.of(videos),
    )
    wanted = retrieval_intervals([alone], video_of_caption_Q=videos, resampling=RESAMPLING)
    _equal(found.by_axis["who"], _plain(wanted.numbers))
    assert set(found.as_json()["by_axis"]["who"]) == {"text_to_video", "video_to_text"}
