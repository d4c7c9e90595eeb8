import pytest
import torch

from muse.errors import MetricError
from muse.head.ledger import curve_places, recall_curve, text_to_video_ledger
from muse.head.metrics import Ranks


def test_ranks_and_first_answers_are_those_of_a_loop_over_the_scores() -> None:
    text_QD, video_VD = torch.randn(300, 8), torch.randn(7, 8)  # more than one block
    right_Q = torch.arange(300) % 7
    ledger = text_to_video_ledger(text_QD, video_VD, right_Q, k=3)
    for query in range(300):
        scores = [float(text_QD[query] @ video) for video in video_VD]
        ordered = sorted(range(7), key=lambda video: -scores[video])
        assert ledger.top_Qk[query].tolist() == ordered[:3]
        best = [scores[video] for video in ordered[:3]]
        assert ledger.top_score_Qk[query].tolist() == pytest.approx(best, abs=1e-5)
        assert ledger.score_Q[query] == pytest.approx(scores[int(right_Q[query])], abs=1e-5)
        assert ledger.ranks.expected()[query] == 1 + ordered.index(int(right_Q[query]))


def test_equal_videos_share_the_mean_rank_and_keep_their_order() -> None:
    video_VD = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    ledger = text_to_video_ledger(torch.tensor([[1.0, 0.0]]), video_VD, torch.tensor([2]), k=2)
    assert ledger.ranks.expected().tolist() == [2.0]  # places 1, 2 and 3 are as likely
    assert ledger.top_Qk.tolist() == [[1, 2]]


def test_fewer_videos_than_asked_for_are_all_kept() -> None:
    ledger = text_to_video_ledger(torch.ones(1, 2), torch.ones(2, 2), torch.tensor([0]), k=9)
    assert ledger.top_Qk.tolist() == [[0, 1]]


def test_a_curve_counts_the_queries_up_to_each_place() -> None:
    ranks = Ranks(num_better=torch.tensor([0, 0, 1, 4]), num_equal=torch.tensor([1, 2, 1, 1]))
    found = recall_curve(ranks, [1, 2, 5])
    assert found == [(1, 37.5), (2, 75.0), (5, 100.0)]


def test_places_of_a_curve_rise_from_first_to_last() -> None:
    assert curve_places(1) == [1]
    assert curve_places(4) == [1, 2, 3, 4]
    many = curve_places(100_000)
    assert (many[0], many[-1]) == (1, 100_000)
    assert many == sorted(set(many))
    assert len(many) <= 62


def test_a_score_that_is_not_finite_is_refused() -> None:
    with pytest.raises(MetricError, match="caption embeddings"):
        text_to_video_ledger(
            torch.full((1, 2), torch.nan), torch.ones(1, 2), torch.tensor([0]), k=1
        )
