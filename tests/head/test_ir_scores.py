"""nDCG, MRR, MAP and their like: equal to looking at every order of the tied answers."""

import math
import warnings
from typing import get_args

import pytest
import torch

from muse.errors import MetricError
from muse.head.ir_scores import Measure, measure_at
from muse.head.ranks import Ranks

GAINS = {
    "ndcg": lambda place, k: 1 / math.log2(1 + place),
    "map": lambda place, k: 1 / place,
    "mrr": lambda place, k: 1 / place,
    "recall": lambda place, k: 1,
    "hit_rate": lambda place, k: 1,
    "precision": lambda place, k: 1 / k,
}


def _ranks(*pairs: tuple[int, int]) -> Ranks:
    better, equal = zip(*pairs, strict=True)
    return Ranks(num_better=torch.tensor(better), num_equal=torch.tensor(equal))


@pytest.mark.parametrize("measure", get_args(Measure))
@pytest.mark.parametrize("k", [1, 3, 10])
def test_a_score_is_the_mean_gain_over_the_places_that_the_answer_may_have(
    measure: Measure, k: int
) -> None:
    pairs = [(0, 1), (0, 3), (2, 1), (1, 4), (9, 1), (9, 5), (40, 2)]
    total = 0.0
    for better, equal in pairs:
        places = range(better + 1, better + equal + 1)
        total += sum(GAINS[measure](place, k) for place in places if place <= k) / equal
    assert measure_at(measure, _ranks(*pairs), k) == pytest.approx(total / len(pairs), abs=1e-15)


def test_a_model_without_ties_that_is_always_second() -> None:
    second = _ranks((1, 1), (1, 1))
    assert measure_at("ndcg", second, 10) == pytest.approx(1 / math.log2(3))
    assert measure_at("mrr", second, 10) == measure_at("map", second, 1000) == 0.5
    assert (measure_at("recall", second, 1), measure_at("recall", second, 3)) == (0, 1)
    assert measure_at("precision", second, 5) == 0.2


def test_several_right_answers_are_refused() -> None:
    two = Ranks(
        num_better=torch.tensor([0]), num_equal=torch.tensor([2]), num_right=torch.tensor([2])
    )
    with pytest.raises(MetricError, match="several right answers"):
        measure_at("ndcg", two, 10)


@pytest.mark.slow
def test_scores_without_ties_are_those_of_torchmetrics() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        name = "torchmetrics.functional.retrieval"
        retrieval = pytest.importorskip(name, reason="torchmetrics is not installed")
    functions = {
        "ndcg": retrieval.retrieval_normalized_dcg,
        "map": retrieval.retrieval_average_precision,
        "mrr": retrieval.retrieval_reciprocal_rank,
        "recall": retrieval.retrieval_recall,
        "hit_rate": retrieval.retrieval_hit_rate,
        "precision": retrieval.retrieval_precision,
    }
    scores_QV = torch.rand(40, 40, generator=torch.Generator().manual_seed(0))
    better = (scores_QV > scores_QV.diagonal()[:, None]).sum(1)
    ranks = Ranks(num_better=better, num_equal=torch.ones_like(better))
    right_QV = torch.eye(40, dtype=torch.bool)
    for measure, function in functions.items():
        for k in (1, 5, 20):
            theirs = [function(*pair, top_k=k) for pair in zip(scores_QV, right_QV, strict=True)]
            mean = torch.stack(theirs).double().mean().item()
            assert measure_at(measure, ranks, k) == pytest.approx(mean, abs=1e-6), (measure, k)
