"""Which methods are clean, and that each way to leak is caught by the check meant for it."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from muse.errors import MetricError
from muse.head.leaks import LeakReport, ScoreFunction, chance_limits, check_leaks, score_function
from muse.head.model import HeadConfig, MeanPoolHead, RetrievalHead, VideoEmbedder

DIM, TOKENS = 16, 5
CHANCE = {f"chance, {title} R@{k}" for title in ("text to video", "video to text") for k in (1, 10)}
PAIRS = {"smaller gallery", "order of the gallery", "one text less"}


def check(score: ScoreFunction) -> LeakReport:
    return check_leaks(score, dim=DIM, tokens_per_frame=TOKENS)


def far_from_its_start(config: HeadConfig) -> RetrievalHead:
    """A new head is mean pooling: its weights are moved, so that it mixes what it sees."""
    head = RetrievalHead(config).eval()
    with torch.no_grad():
        for weight in head.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return head


def heads() -> dict[str, VideoEmbedder]:
    """Every similarity method there is."""
    muse = HeadConfig(dim=DIM, factors=(1.0,), depth=1, d_state=2)
    transformer = HeadConfig(aggregator="seq-transf", dim=DIM, factors=(), depth=1, max_frames=4)
    return {
        "mean-pool": MeanPoolHead(),
        "muse": far_from_its_start(muse),
        "seq-transf": far_from_its_start(transformer),
    }


@pytest.mark.parametrize("name", ["mean-pool", "muse", "seq-transf"])
def test_no_head_leaks(name: str) -> None:
    report = check(score_function(heads()[name]))
    assert report.leaks == [], report
    assert {checked.name for checked in report.checks} == CHANCE | PAIRS


pooled = score_function(MeanPoolHead())


def helped_by_the_diagonal(text_QD: Tensor, tokens_VTKD: Tensor, valid_VT: Tensor) -> Tensor:
    scores_QV = pooled(text_QD, tokens_VTKD, valid_VT)
    return scores_QV + torch.eye(len(text_QD), len(tokens_VTKD))


def text_moved_to_its_video(text_QD: Tensor, tokens_VTKD: Tensor, valid_VT: Tensor) -> Tensor:
    """As an evaluator that samples a text's embedding around the video it belongs to."""
    return pooled(text_QD + tokens_VTKD[:, 0, 0], tokens_VTKD, valid_VT)


def centred_on_the_gallery(text_QD: Tensor, tokens_VTKD: Tensor, valid_VT: Tensor) -> Tensor:
    video_VD = MeanPoolHead().embed_videos(tokens_VTKD, valid_VT)
    return F.normalize(text_QD, dim=-1) @ (video_VD - video_VD.mean(0)).T


def mixed_with_the_video_before(text_QD: Tensor, tokens_VTKD: Tensor, valid_VT: Tensor) -> Tensor:
    video_VD = MeanPoolHead().embed_videos(tokens_VTKD, valid_VT)
    return text_QD @ (video_VD + video_VD.roll(1, 0)).T


def softmax_over_texts(text_QD: Tensor, tokens_VTKD: Tensor, valid_VT: Tensor) -> Tensor:
    scores_QV = pooled(text_QD, tokens_VTKD, valid_VT)
    return scores_QV * scores_QV.softmax(0)


@pytest.mark.parametrize(
    ("score", "leaks"),
    [
        (helped_by_the_diagonal, CHANCE | {"order of the gallery", "one text less"}),
        (text_moved_to_its_video, CHANCE | PAIRS),
        (centred_on_the_gallery, {"smaller gallery"}),
        (mixed_with_the_video_before, {"smaller gallery", "order of the gallery"}),
        (softmax_over_texts, {"one text less"}),
    ],
)
def test_a_method_that_leaks_is_caught(score: ScoreFunction, leaks: set[str]) -> None:
    report = check(score)
    assert set(report.leaks) == leaks, report
    assert json.loads(json.dumps(report.as_json()))["leaks"] == report.leaks


def test_a_method_that_breaks_on_another_gallery_says_how() -> None:
    (broken,) = [c for c in check(text_moved_to_its_video).checks if c.name == "smaller gallery"]
    assert broken.found.startswith("RuntimeError: The size of tensor")


def test_equal_scores_are_chance_and_no_leak() -> None:
    assert check(lambda text, tokens, _: torch.ones(len(text), len(tokens))).leaks == []


def test_scores_that_are_none_are_refused() -> None:
    with pytest.raises(MetricError, match="NaN"):
        check(lambda text, tokens, _: torch.full((len(text), len(tokens)), torch.nan))


def test_limits_of_chance_hold_all_but_the_rarest_counts() -> None:
    assert chance_limits(1, 0.5) == (0, 1)
    fewest, most = chance_limits(100, 0.1)
    counts_Q = (torch.rand(2000, 100) < 0.1).sum(1)
    assert 0 <= fewest < int(counts_Q.min()) < 10 < int(counts_Q.max()) <= most < 30
