"""Every rule for ties, both directions, against loops over lists and other people's packages."""

import math
import statistics
import warnings
from itertools import combinations
from types import ModuleType

import pytest
import torch
from torch import Tensor

from muse.head.metrics import (
    DirectionNumbers,
    direction_numbers,
    retrieval_numbers,
    retrieval_ranks,
    score_matrix_ranks,
)
from muse.head.ranks import Ranks, RetrievalRanks, TieRule

AT = (1, 5, 10, 50)
RULES: tuple[TieRule, ...] = ("expected", "optimistic", "pessimistic", "clip4clip")
Row = tuple[list[float], list[int]]
"""Scores of the answers, and which of them are right."""


def first_places(row: Row) -> tuple[int, list[int]]:
    """How many answers are better, and in each order of the equal ones the first right one."""
    scores, right = row
    best = max(scores[place] for place in right)
    equal = [place for place, score in enumerate(scores) if score == best]
    num_right = sum(place in right for place in equal)
    orders = combinations(range(1, len(equal) + 1), num_right)
    return sum(score > best for score in scores), [min(places) for places in orders]


def child_numbers(
    rows: list[Row], ties: TieRule, *, lower_median: bool = False
) -> dict[str, float]:
    """All numbers of one direction."""
    standing = [first_places(row) for row in rows]
    if ties == "clip4clip":
        ranks = [float(better + place) for better, first in standing for place in first]
    elif ties == "expected":
        ranks = [better + sum(first) / len(first) for better, first in standing]
    else:
        choose = min if ties == "optimistic" else max
        ranks = [float(better + choose(first)) for better, first in standing]
    numbers = {}
    for k in AT:
        hits = [float(rank <= k) for rank in ranks]
        if ties == "expected":
            hits = [sum(b + place <= k for place in first) / len(first) for b, first in standing]
        numbers[f"R@{k}"] = 100 * math.fsum(hits) / len(hits)
    median = statistics.median_low(ranks) if lower_median else statistics.median(ranks)
    rsum = numbers["R@1"] + numbers["R@5"] + numbers["R@10"]
    return {**numbers, "MdR": median, "MnR": math.fsum(ranks) / len(ranks), "Rsum": rsum}


def child_directions(
    scores: list[list[float]], video_of: list[int], ties: TieRule, v2t: str
) -> tuple[dict[str, float], dict[str, float]]:
    """Both directions of a matrix with a row for each caption."""
    groups = sorted(set(video_of))
    captions = {g: [q for q, video in enumerate(video_of) if video == g] for g in groups}
    many = len(groups) < len(video_of)
    to_video = [(row, [video]) for row, video in zip(scores, video_of, strict=True)]
    columns = {g: [row[g] for row in scores] for g in groups}
    if v2t == "caption":
        to_text = [(columns[g], captions[g]) for g in groups]
    else:
        best = {
            g: [max(columns[g][q] for q in captions[other]) for other in groups] for g in groups
        }
        to_text = [(best[g], [place]) for place, g in enumerate(groups)]
    parity = ties == "clip4clip" and many  # then one expected rank a caption, and the lower median
    return (
        child_numbers(to_video, "expected" if parity else ties, lower_median=parity),
        child_numbers(to_text, ties),
    )


def tied_matrix(num_captions: int, num_videos: int) -> Tensor:
    return torch.randint(0, 4, (num_captions, num_videos)).float()


@pytest.mark.parametrize(
    "num_matrices", [15, pytest.param(1000, marks=pytest.mark.slow)], ids=["few", "thousand"]
)
@pytest.mark.parametrize("captions_per_video", ["one", "many"])
def test_both_directions_are_loops_over_lists_to_the_last_digit(
    num_matrices: int, captions_per_video: str
) -> None:
    for _ in range(num_matrices):
        num_videos = int(torch.randint(1, 9, ()))
        if captions_per_video == "one":
            video_of_Q = torch.randperm(num_videos)
        else:
            video_of_Q = torch.randint(0, num_videos, (int(torch.randint(1, 13, ())),))
        scores_QV = tied_matrix(len(video_of_Q), num_videos)
        for v2t in ("group", "caption"):
            ranks = score_matrix_ranks(scores_QV, video_of_Q, v2t=v2t)  # type: ignore[arg-type]
            for ties in RULES if v2t == "group" else RULES[:3]:
                found = tuple(one.as_json() for one in retrieval_numbers(ranks, ties=ties))
                wanted = child_directions(scores_QV.tolist(), video_of_Q.tolist(), ties, v2t)
                assert found == wanted, (ties, v2t)


def test_the_four_rules_of_one_query_that_ties_with_three() -> None:
    ranks = Ranks(num_better=torch.tensor([3]), num_equal=torch.tensor([4]))
    found = {ties: direction_numbers(ranks, ties=ties) for ties in RULES}
    assert {ties: one.mean_rank for ties, one in found.items()} == {
        "expected": 5.5, "optimistic": 4, "pessimistic": 7, "clip4clip": 5.5,
    }  # fmt: skip
    assert {ties: one.recall_at[5] for ties, one in found.items()} == {
        "expected": 50, "optimistic": 100, "pessimistic": 0, "clip4clip": 50,
    }  # fmt: skip


def test_clip4clip_counts_a_query_once_for_each_place_that_is_equal() -> None:
    ranks = Ranks(num_better=torch.tensor([0, 2]), num_equal=torch.tensor([1, 3]))
    found = direction_numbers(ranks, ties="clip4clip")  # places 1, and 3, 4 and 5
    assert (found.recall_at[1], found.mean_rank, found.median_rank) == (25, 3.25, 3.5)
    assert direction_numbers(ranks).recall_at[1] == 50


@pytest.mark.parametrize("v2t", ["group", "caption"])
def test_constant_embeddings_score_chance_in_both_directions(v2t: str) -> None:
    ranks = retrieval_ranks(
        torch.ones(60, 8), torch.ones(20, 8), torch.arange(60) % 20, v2t=v2t  # type: ignore[arg-type]
    )  # fmt: skip
    to_video, to_text = retrieval_numbers(ranks)
    assert to_video.recall_at == {1: 5.0, 5: 25.0, 10: 50.0, 50: 100.0}
    assert to_text.recall_at[1] == 5.0  # 1 of 20 groups, or 3 of 60 captions
    assert to_text.mean_rank == (10.5 if v2t == "group" else 61 / 4)


def test_a_matrix_of_equal_scores_is_chance_to_the_published_code_too() -> None:
    ranks = score_matrix_ranks(torch.zeros(40, 40), torch.arange(40))
    for found in retrieval_numbers(ranks, ties="clip4clip"):
        assert (found.recall_at[1], found.mean_rank) == (2.5, 20.5)


def untied() -> tuple[Tensor, RetrievalRanks, DirectionNumbers]:
    """Random scores of 60 captions and as many videos, and what we find."""
    scores_QV = torch.randn(60, 60)
    ranks = score_matrix_ranks(scores_QV, torch.arange(60))
    return scores_QV, ranks, retrieval_numbers(ranks)[0]


def package(name: str) -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: ModuleType = pytest.importorskip(name, reason=f"{name} is not installed")
    return found


@pytest.mark.slow
def test_recalls_are_torchmetrics_hit_rates() -> None:
    hit_rate = package("torchmetrics.functional.retrieval").retrieval_hit_rate
    scores_QV, _, found = untied()
    right_QV = torch.eye(60, dtype=torch.bool)
    for k in AT:
        hits = [float(hit_rate(*row, top_k=k)) for row in zip(scores_QV, right_QV, strict=True)]
        assert found.recall_at[k] == pytest.approx(100 * statistics.mean(hits))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # numba's, on how it compiles
def test_recalls_and_reciprocal_ranks_are_ranx_s() -> None:
    ranx = package("ranx")
    scores_QV, ranks, found = untied()
    scores = {
        f"q{q}": {f"v{v}": score for v, score in enumerate(row)}
        for q, row in enumerate(scores_QV.tolist())
    }
    right = ranx.Qrels({f"q{q}": {f"v{q}": 1} for q in range(60)})
    theirs = ranx.evaluate(right, ranx.Run(scores), [*(f"hit_rate@{k}" for k in AT), "mrr"])
    for k in AT:
        assert found.recall_at[k] == pytest.approx(100 * theirs[f"hit_rate@{k}"])
    reciprocal = (1 / ranks.text_to_video.expected()).mean().item()
    assert reciprocal == pytest.approx(theirs["mrr"])
