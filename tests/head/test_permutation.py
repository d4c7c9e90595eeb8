import itertools

import pytest
import torch

from muse.errors import MetricError, UsageError
from muse.head.permutation import sign_flip_p_values


def p_value(difference_Q: torch.Tensor, cluster_Q: torch.Tensor, num: int = 20_000) -> float:
    found = sign_flip_p_values(difference_Q[:, None], cluster_Q, num_permutations=num, seed=0)
    return found.item()


def test_p_is_the_part_of_all_signs_that_is_as_far_from_0() -> None:
    difference = [3.0, 2.0, -1.0, 2.0, 0.5, 0.0]
    clusters = [0, 0, 1, 2, 3, 4]
    sums = [5.0, -1.0, 2.0, 0.5, 0.0]
    flipped = [
        abs(sum(sign * one for sign, one in zip(signs, sums, strict=True)))
        for signs in itertools.product((1, -1), repeat=5)
    ]
    exact = sum(one >= sum(sums) for one in flipped) / len(flipped)
    found = p_value(torch.tensor(difference), torch.tensor(clusters))
    assert found == pytest.approx(exact, abs=0.01)


def test_a_head_against_itself_has_p_1() -> None:
    assert p_value(torch.zeros(50), torch.arange(50), 1000) == 1


def test_the_sign_of_a_difference_does_not_matter() -> None:
    difference_Q, cluster_Q = torch.randn(30), torch.arange(30)
    assert p_value(difference_Q, cluster_Q) == p_value(-difference_Q, cluster_Q)


def test_a_difference_on_every_query_is_no_chance() -> None:
    assert p_value(torch.ones(50), torch.arange(50), 9_999) == 1 / 10_000


def test_many_captions_of_few_videos_are_no_more_than_few_videos() -> None:
    # Three videos of a hundred captions each: 2 of 8 signs are as far from 0.
    assert p_value(torch.ones(300), torch.arange(300) % 3) == pytest.approx(0.25, abs=0.01)


def test_each_statistic_has_its_own_p() -> None:
    both_Q2 = torch.stack([torch.zeros(20), torch.ones(20)], dim=1)
    found = sign_flip_p_values(both_Q2, torch.arange(20), num_permutations=999, seed=0)
    assert found.tolist() == [1.0, 0.001]


def test_too_little_to_tell_is_refused() -> None:
    with pytest.raises(MetricError, match="1 video"):
        p_value(torch.ones(5), torch.zeros(5, dtype=torch.int64))
    with pytest.raises(UsageError, match="permutations 10"):
        p_value(torch.ones(5), torch.arange(5), 10)


@pytest.mark.slow
def test_p_is_uniform_where_the_heads_are_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    cluster_Q, found = torch.arange(200) // 4, []
    for trial in range(500):
        # What a video adds is one for all its captions, and either way round.
        of_video_G = torch.randn(50, 1, generator=generator)
        difference_Q1 = of_video_G[cluster_Q] + torch.randn(200, 1, generator=generator)
        p_1 = sign_flip_p_values(difference_Q1, cluster_Q, num_permutations=400, seed=trial)
        found.append(p_1.item())
    for level in (0.05, 0.25, 0.5, 0.75):
        below = sum(p <= level for p in found) / len(found)
        assert below == pytest.approx(level, abs=3.5 * (level * (1 - level) / 500) ** 0.5)
