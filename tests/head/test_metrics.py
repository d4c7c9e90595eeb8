import statistics
from itertools import permutations

import pytest
import torch
from torch import Tensor

from muse.errors import MetricError
from muse.head import tiles
from muse.head.metrics import (
    direction_numbers,
    numbers_by_axis,
    rank_scores,
    text_to_video_ranks,
    video_to_text_ranks,
)


def child_numbers(scores: list[list[float]], right: list[int]) -> dict[str, float]:
    """Every number as the mean over all orders of the equal answers."""
    ranks, recalls = [], {1: [], 5: [], 10: [], 50: []}
    for row, own in zip(scores, right, strict=True):
        better = sum(score > row[own] for score in row)
        equal = sum(score == row[own] for score in row)
        places = [better + 1 + place for place in range(equal)]
        ranks.append(statistics.mean(places))
        for k, found in recalls.items():
            found.append(sum(place <= k for place in places) / equal)
    numbers = {f"R@{k}": 100 * statistics.mean(found) for k, found in recalls.items()}
    rsum = numbers["R@1"] + numbers["R@5"] + numbers["R@10"]
    return {
        **numbers, "MdR": statistics.median(ranks), "MnR": statistics.mean(ranks), "Rsum": rsum,
    }  # fmt: skip


def tied_scores(num_queries: int, num_answers: int) -> Tensor:
    return torch.randint(0, 4, (num_queries, num_answers)).float()


@pytest.mark.parametrize(("queries", "answers"), [(1, 1), (7, 4), (6, 13), (30, 12)])
def test_numbers_are_the_double_loop_with_many_ties(queries: int, answers: int) -> None:
    scores_QV = tied_scores(queries, answers)
    right_Q = torch.randint(0, answers, (queries,))
    found = direction_numbers(rank_scores(scores_QV, right_Q)).as_json()
    assert found == pytest.approx(child_numbers(scores_QV.tolist(), right_Q.tolist()))


def test_tie_rule_is_the_mean_over_all_orders() -> None:
    scores, right = [0.5, 0.9, 0.5, 0.5, 0.1], 2
    places = []
    for order in permutations(range(5)):
        ranking = sorted(order, key=lambda column: -scores[column])  # stable: keeps the order
        places.append(ranking.index(right) + 1)
    found = direction_numbers(rank_scores(torch.tensor([scores]), torch.tensor([right])))
    assert found.mean_rank == pytest.approx(statistics.mean(places))
    assert found.recall_at[1] == 0
    hits_at_5 = statistics.mean(place <= 5 for place in places)
    assert found.recall_at[5] == pytest.approx(100 * hits_at_5)


def integer_embeddings(num_captions: int, num_videos: int) -> tuple[Tensor, Tensor, Tensor]:
    """Small integers: dot products are exact, and tie often."""
    text_QD = torch.randint(-2, 3, (num_captions, 3)).float()
    video_VD = torch.randint(-2, 3, (num_videos, 3)).float()
    return text_QD, video_VD, torch.randint(0, num_videos, (num_captions,))


@pytest.mark.parametrize("block", [1, 3, 256])
def test_both_directions_are_the_double_loop_with_many_captions_a_video(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "TILE", block)
    text_QD, video_VD, video_of_Q = integer_embeddings(17, 6)
    video_of_Q[:6] = torch.arange(6)
    rows = (text_QD @ video_VD.T).tolist()
    right = video_of_Q.tolist()
    best = [
        [max(rows[q][v] for q in range(17) if right[q] == group) for group in range(6)]
        for v in range(6)
    ]
    to_video = direction_numbers(text_to_video_ranks(text_QD, video_VD, video_of_Q)).as_json()
    to_text = direction_numbers(video_to_text_ranks(text_QD, video_VD, video_of_Q)).as_json()
    assert to_video == pytest.approx(child_numbers(rows, right))
    assert to_text == pytest.approx(child_numbers(best, list(range(6))))


def test_video_without_captions_is_a_distractor_and_no_query() -> None:
    text_QD = torch.eye(3)
    video_VD = torch.cat([torch.eye(3), torch.tensor([[0.0, 2.0, 0.0]])])
    video_of_Q = torch.tensor([0, 1, 2])
    to_video = text_to_video_ranks(text_QD, video_VD, video_of_Q)
    to_text = video_to_text_ranks(text_QD, video_VD, video_of_Q)
    assert to_video.num_better.tolist() == [0, 1, 0]
    assert to_text.num_better.tolist() == [0, 0, 0]


def test_constant_embeddings_score_exactly_chance() -> None:
    text_QD, video_VD = torch.ones(40, 8), torch.ones(20, 8)
    video_of_Q = torch.arange(40) % 20
    for ranks in (
        text_to_video_ranks(text_QD, video_VD, video_of_Q),
        video_to_text_ranks(text_QD, video_VD, video_of_Q),
    ):
        found = direction_numbers(ranks).as_json()
        chance = {"R@1": 5.0, "R@5": 25.0, "R@10": 50.0, "R@50": 100.0, "MdR": 10.5, "MnR": 10.5}
        chance["Rsum"] = 80.0
        assert found == pytest.approx(chance, abs=1e-9)


def test_permuting_the_gallery_changes_no_number() -> None:
    text_QD = torch.nn.functional.normalize(torch.randn(50, 16), dim=-1)
    video_VD = torch.nn.functional.normalize(torch.randn(20, 16), dim=-1)
    video_VD[3] = video_VD[11]  # copies: they must tie wherever they stand
    video_of_Q = torch.arange(50) % 20
    order = torch.randperm(20)
    moved_Q = order.argsort()[video_of_Q]
    for ranks in (text_to_video_ranks, video_to_text_ranks):
        plain = direction_numbers(ranks(text_QD, video_VD, video_of_Q))
        assert direction_numbers(ranks(text_QD, video_VD[order], moved_Q)) == plain


@pytest.mark.parametrize("num_videos", [5, 33, 100])
@pytest.mark.parametrize("dim", [16, 100, 512])
def test_equal_embeddings_tie_though_matrix_products_round(num_videos: int, dim: int) -> None:
    video_VD = torch.nn.functional.normalize(torch.randn(1, dim), dim=-1).repeat(num_videos, 1)
    right_Q = torch.zeros(3, dtype=torch.long)
    ranks = text_to_video_ranks(torch.randn(3, dim), video_VD, right_Q)
    assert ranks.num_equal.tolist() == [num_videos] * 3


@pytest.mark.parametrize(("captions", "videos"), [(1, 1), (9, 4), (40, 11), (12, 30)])
def test_an_axis_has_the_double_loop_s_ranks_of_its_own_among_all(
    captions: int, videos: int
) -> None:
    text_QD, video_VD, video_of_caption_Q = integer_embeddings(captions, videos)
    axis_of = [("", "where", "count", "order")[place % 4] for place in range(captions)]
    own = video_of_caption_Q.tolist()
    with_caption = sorted(set(own))
    scores_QV = (text_QD @ video_VD.T).tolist()
    best_GG = [
        [max(scores_QV[q][v] for q in range(captions) if own[q] == g) for g in with_caption]
        for v in with_caption
    ]
    found = numbers_by_axis(
        text_to_video_ranks(text_QD, video_VD, video_of_caption_Q),
        video_to_text_ranks(text_QD, video_VD, video_of_caption_Q),
        video_of_caption_Q=video_of_caption_Q,
        axis_of_caption_Q=axis_of,
    )
    assert list(found) == sorted({*axis_of} - {""})
    for axis, numbers in found.items():
        mine = [q for q in range(captions) if axis_of[q] == axis]
        groups = [g for g, video in enumerate(with_caption) if video in {own[q] for q in mine}]
        assert (numbers.num_captions, numbers.num_videos) == (len(mine), len(groups))
        to_video = child_numbers([scores_QV[q] for q in mine], [own[q] for q in mine])
        assert numbers.text_to_video.as_json() == pytest.approx(to_video)
        to_text = child_numbers([best_GG[g] for g in groups], groups)
        assert numbers.video_to_text.as_json() == pytest.approx(to_text)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_cannot_be_ranked_are_refused(bad: float) -> None:
    scores_QV = torch.zeros(2, 3)
    scores_QV[1, 2] = bad
    with pytest.raises(MetricError, match="1 of 6 values are NaN or infinite"):
        rank_scores(scores_QV, torch.tensor([0, 1]))
    with pytest.raises(MetricError, match="video embeddings: 1 of 6"):
        text_to_video_ranks(torch.zeros(1, 3), scores_QV, torch.tensor([0]))


def test_embeddings_whose_scores_may_overflow_are_refused() -> None:
    with pytest.raises(MetricError, match=r"up to 1e\+20.* up to 1e\+30"):
        text_to_video_ranks(torch.full((1, 2), 1e20), torch.full((3, 2), 1e30), torch.tensor([0]))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(MetricError, match=r"\(2, 3\) with \(3,\)"):
        rank_scores(torch.zeros(2, 3), torch.tensor([0, 1, 2]))
    with pytest.raises(MetricError, match=r"captions \(2, 3\), videos \(2, 4\)"):
        video_to_text_ranks(torch.zeros(2, 3), torch.zeros(2, 4), torch.tensor([0, 1]))
    with pytest.raises(MetricError, match="from 0 to 3: there are 3 answers"):
        rank_scores(torch.zeros(2, 3), torch.tensor([0, 3]))
