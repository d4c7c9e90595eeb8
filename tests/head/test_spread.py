import math

import pytest

from muse.head.spread import Spread, paired_difference, spread_of


def test_mean_and_standard_deviation_are_those_of_a_sample() -> None:
    values = [40.0, 43.0, 44.0, 47.0]
    mean = sum(values) / 4
    total = 0.0
    for value in values:
        total += (value - mean) * (value - mean)
    found = spread_of(values)
    assert found.mean == pytest.approx(mean)
    assert found.standard_deviation == pytest.approx(math.sqrt(total / 3))
    assert found.standard_error == pytest.approx(math.sqrt(total / 3) / 2)


def test_one_seed_has_no_deviation_and_no_verdict() -> None:
    found = spread_of([40.0])
    assert found == Spread(mean=40.0, standard_deviation=None, num_seeds=1)
    assert (found.standard_error, found.is_noise) == (None, None)


def test_a_difference_is_taken_seed_by_seed() -> None:
    found = paired_difference({1: 10.0, 2: 30.0, 3: 99.0}, {2: 28.0, 1: 9.0})
    assert found == spread_of([1.0, 2.0])


def test_heads_that_share_no_seed_have_no_difference() -> None:
    assert paired_difference({1: 10.0}, {2: 10.0}) is None


@pytest.mark.parametrize(
    ("differences", "is_noise"),
    [
        ([1.0, -1.0], True),
        ([0.0, 0.0], True),  # the same head twice
        ([1.0, 3.0], False),  # mean 2, standard error 1: no nearer than two of them
        ([1.0, 3.1], True),
        ([2.0, 2.0], False),
    ],
)
def test_a_mean_nearer_to_0_than_two_standard_errors_is_noise(
    differences: list[float], is_noise: bool
) -> None:
    assert spread_of(differences).is_noise is is_noise
