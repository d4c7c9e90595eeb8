import math

import pytest
import torch
import torch.nn.functional as F

from muse.errors import MetricError, UsageError
from muse.head.metrics import rank_scores, text_to_video_ranks
from muse.head.post_processing import (
    BETA,
    DUAL_TEMPERATURE,
    PostProcessing,
    Retrieval,
    dual_softmax,
    inverted_softmax,
    parse_names,
    post_processed,
    qb_norm,
    query_bank,
)
from muse.head.ranks import TieRule


def unit(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape), dim=-1)


def retrieval(num_captions: int, num_videos: int) -> Retrieval:
    return Retrieval(
        text_QD=unit(num_captions, 8),
        video_VD=unit(num_videos, 8),
        video_of_caption_Q=torch.arange(num_captions) % num_videos,
    )


def test_dual_softmax_is_a_loop_over_the_formula() -> None:
    scores = torch.rand(4, 4) * 2 - 1
    found = dual_softmax(scores, query_bank([scores[:3], scores[3:]], scale=1 / DUAL_TEMPERATURE))
    for query in range(4):
        for answer in range(4):
            terms = [math.exp(float(s) / DUAL_TEMPERATURE) for s in scores[:, answer]]
            weight = math.exp(float(scores[query, answer]) / DUAL_TEMPERATURE) / sum(terms)
            expected = float(scores[query, answer]) * weight * 4
            assert found[query, answer].item() == pytest.approx(expected, rel=1e-9)


def test_inverted_softmax_is_a_loop_over_the_formula() -> None:
    scores, of_bank = torch.rand(3, 5) * 2 - 1, torch.rand(7, 5) * 2 - 1
    found = inverted_softmax(scores, query_bank([of_bank[:2], of_bank[2:]], scale=BETA))
    for query in range(3):
        for answer in range(5):
            share = sum(math.exp(BETA * float(s)) for s in of_bank[:, answer])
            expected = math.exp(BETA * float(scores[query, answer])) / share
            assert found[query, answer].item() == pytest.approx(expected, rel=1e-9)


def test_qb_norm_changes_the_rows_whose_best_answer_is_the_bank_s_too() -> None:
    scores = torch.tensor([[0.9, 0.8, 0.1], [0.2, 0.1, 0.3]])
    of_bank = torch.tensor([[0.7, 0.2, 0.1], [0.6, 0.5, 0.1]])  # both find answer 0
    bank = query_bank([of_bank], scale=BETA)
    found = qb_norm(scores, bank)
    assert bank.is_first_A.tolist() == [True, False, False]
    assert found[0].tolist() == inverted_softmax(scores, bank)[0].tolist()
    assert found[0].argmax() == 1  # answer 0 is a hub
    assert found[1].tolist() == scores.double()[1].tolist()


@pytest.mark.parametrize("name", ["dual-softmax", "inverted-softmax", "qb-norm"])
def test_numbers_are_those_of_the_whole_matrix_in_both_directions(name: PostProcessing) -> None:
    num_videos = 300  # more than one block
    test, bank = retrieval(num_videos, num_videos), retrieval(310, 40)
    found = post_processed(name, test, bank)
    text_to_video = (test.text_QD.double() @ test.video_VD.double().T).float()
    for queries, scores, answers, numbers in (
        (bank.text_QD, text_to_video, test.video_VD, found.text_to_video),
        (bank.video_VD, text_to_video.T, test.text_QD, found.video_to_text),
    ):
        if name == "dual-softmax":
            changed = dual_softmax(scores, query_bank([scores], scale=1 / DUAL_TEMPERATURE))
        else:
            of_bank = (queries.double() @ answers.double().T).float()
            function = inverted_softmax if name == "inverted-softmax" else qb_norm
            changed = function(scores, query_bank([of_bank], scale=BETA))
        ranks = rank_scores(changed, torch.arange(num_videos))
        assert numbers.mean_rank == pytest.approx(ranks.expected().mean().item())
        assert numbers.recall_at[1] == pytest.approx(ranks.recall_at(1))


def test_a_video_s_group_is_as_good_as_its_best_changed_caption() -> None:
    test, bank = retrieval(6, 3), retrieval(8, 4)
    found = post_processed("inverted-softmax", test, bank)
    scores = (test.video_VD.double() @ test.text_QD.double().T).float()
    of_bank = (bank.video_VD.double() @ test.text_QD.double().T).float()
    changed = inverted_softmax(scores, query_bank([of_bank], scale=BETA))
    ranks = []
    for video in range(3):
        best = [
            max(changed[video, q].item() for q in range(6) if q % 3 == group) for group in range(3)
        ]
        ranks.append(1 + sum(other > best[video] for other in best))
    assert found.video_to_text.mean_rank == sum(ranks) / 3


def test_a_video_s_best_changed_caption_is_ranked_among_all_where_that_is_asked() -> None:
    test, bank = retrieval(6, 3), retrieval(8, 4)
    found = post_processed("inverted-softmax", test, bank, v2t="caption")
    scores = (test.video_VD.double() @ test.text_QD.double().T).float()
    of_bank = (bank.video_VD.double() @ test.text_QD.double().T).float()
    changed = inverted_softmax(scores, query_bank([of_bank], scale=BETA))
    ranks = []
    for video in range(3):
        best = max(changed[video, q].item() for q in range(6) if q % 3 == video)
        ranks.append(1 + sum(changed[video, q].item() > best for q in range(6)))
    assert found.video_to_text.mean_rank == sum(ranks) / 3
    assert found.as_json()["v2t_rule"] == "best caption of each video, ranked among all captions"


@pytest.mark.parametrize(
    ("ties", "mean_rank"), [("optimistic", 1), ("pessimistic", 50), ("expected", 25.5)]
)
def test_changed_scores_that_tie_follow_the_rule_for_ties(ties: TieRule, mean_rank: float) -> None:
    ones_QD = torch.full((50, 4), 0.5)
    same = Retrieval(text_QD=ones_QD, video_VD=ones_QD, video_of_caption_Q=torch.arange(50))
    found = post_processed("inverted-softmax", same, bank=same, ties=ties)
    assert found.text_to_video.mean_rank == found.video_to_text.mean_rank == mean_rank
    assert found.as_json()["tie_rule"] == ties


def test_a_hub_loses_its_false_first_places() -> None:
    # Video 0 is near to every caption; its own is a little nearer to it than to the others.
    text_QD = torch.eye(4, 5)
    video_VD = F.normalize(torch.eye(4, 5) + 0.2, dim=-1)
    video_VD[0] = F.normalize(torch.tensor([1.0, 0.9, 0.9, 0.9, 0.0]), dim=-1)
    video_VD[1:] = F.normalize(0.4 * torch.eye(4, 5)[1:] + torch.eye(5)[4], dim=-1)
    test = Retrieval(text_QD=text_QD, video_VD=video_VD, video_of_caption_Q=torch.arange(4))
    plain = text_to_video_ranks(text_QD, video_VD, torch.arange(4))
    assert plain.recall_at(1) == 25
    assert post_processed("dual-softmax", test).text_to_video.recall_at[1] == 100
    for name in ("inverted-softmax", "qb-norm"):
        changed = post_processed(name, test, bank=test)  # type: ignore[arg-type]
        assert changed.text_to_video.recall_at[1] == 100


@pytest.mark.parametrize("name", ["dual-softmax", "inverted-softmax", "qb-norm"])
def test_a_constant_head_scores_chance(name: PostProcessing) -> None:
    same = Retrieval(
        text_QD=torch.full((50, 4), 0.5),
        video_VD=torch.full((50, 4), 0.5),
        video_of_caption_Q=torch.arange(50),
    )
    numbers = post_processed(name, same, bank=same)
    assert numbers.text_to_video.recall_at[1] == pytest.approx(2)
    assert numbers.video_to_text.mean_rank == 25.5


def test_many_captions_a_video_are_undefined_for_dual_softmax() -> None:
    with pytest.raises(MetricError, match="6 queries and 3 answers"):
        post_processed("dual-softmax", retrieval(6, 3))


@pytest.mark.parametrize("name", ["inverted-softmax", "qb-norm"])
def test_a_bank_is_needed(name: PostProcessing) -> None:
    with pytest.raises(MetricError, match=f"{name}: no training captions"):
        post_processed(name, retrieval(3, 3))


def test_names_are_read_from_a_list_and_unknown_ones_refused() -> None:
    assert parse_names("qb-norm, dual-softmax,qb-norm") == ("dual-softmax", "qb-norm")
    with pytest.raises(UsageError, match="post softmax: expected dual-softmax"):
        parse_names("softmax,qb-norm")
    with pytest.raises(UsageError, match="expected dual-softmax"):
        parse_names(",")
