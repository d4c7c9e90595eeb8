import json

import numpy as np
import pytest
import torch
from memory_store import make_store

from muse.errors import CheckpointError, ManifestError, MetricError
from muse.head.embeddings import embed_videos
from muse.head.evaluate import evaluate, open_head, rank_videos
from muse.head.model import MeanPoolHead


class ConstantHead:
    """Gives every video the same vector, or a chosen one."""

    name = "constant"

    def __init__(self, value: float = 1.0) -> None:
        self.value = value
        self.num_videos = 0

    def embed_videos(self, tokens_BTKD: torch.Tensor, valid_BT: torch.Tensor) -> torch.Tensor:
        self.num_videos += len(tokens_BTKD)
        return torch.full((len(tokens_BTKD), tokens_BTKD.shape[-1]), self.value)


def test_report_has_the_documented_keys_and_counts() -> None:
    store = make_store(num_videos=10, num_test_videos=6, captions_per_video=3, missing_videos=[9])
    report = evaluate(store, MeanPoolHead(), split="test").as_json()
    assert json.loads(json.dumps(report)) == report
    assert (report["protocol"], report["split"], report["head"]) == ("made up", "test", "mean-pool")
    assert (report["num_videos"], report["num_captions"]) == (5, 15)
    assert (report["num_videos_listed"], report["num_captions_listed"]) == (6, 18)
    assert report["tie_rule"] == "expected"
    assert "group" in report["v2t_rule"]
    for direction in ("text_to_video", "video_to_text"):
        assert list(report[direction]) == ["R@1", "R@5", "R@10", "R@50", "MdR", "MnR", "Rsum"]


def test_numbers_are_those_of_a_loop_over_the_store() -> None:
    store = make_store(num_videos=9, captions_per_video=2)
    vectors = []
    for row in range(9):
        clip = store.read_clip(row)
        frames = [clip.tokens_TKD[t, 0].astype(np.float64) for t in range(4) if clip.valid_T[t]]
        mean = np.mean([frame / np.linalg.norm(frame) for frame in frames], axis=0)
        vectors.append(mean / np.linalg.norm(mean))
    cosines = []  # one row a caption; caption c belongs to video c // 2
    for caption in range(18):
        text = store.read_caption_embeddings(np.array([caption]))[0].astype(np.float64)
        cosines.append([float(text @ vector) / np.linalg.norm(text) for vector in vectors])
    to_video = [
        1 + sum(cosine > row[caption // 2] for cosine in row) for caption, row in enumerate(cosines)
    ]
    best = [[max(cosines[2 * g][v], cosines[2 * g + 1][v]) for g in range(9)] for v in range(9)]
    to_text = [1 + sum(cosine > row[v] for cosine in row) for v, row in enumerate(best)]
    report = evaluate(store, MeanPoolHead(), split="train")
    for found, ranks in ((report.text_to_video, to_video), (report.video_to_text, to_text)):
        assert found.mean_rank == pytest.approx(np.mean(ranks))
        assert found.median_rank == pytest.approx(np.median(ranks))
        assert found.recall_at[5] == pytest.approx(100 * np.mean([rank <= 5 for rank in ranks]))


def test_constant_head_scores_exactly_chance() -> None:
    store = make_store(num_videos=20, captions_per_video=2)
    report = evaluate(store, ConstantHead(), split="all").as_json()
    chance = {
        "R@1": 5.0,
        "R@5": 25.0,
        "R@10": 50.0,
        "R@50": 100.0,
        "MdR": 10.5,
        "MnR": 10.5,
        "Rsum": 80.0,
    }
    assert report["text_to_video"] == pytest.approx(chance)
    assert report["video_to_text"] == pytest.approx(chance)


def test_axes_are_reported_by_name_over_the_captions_of_the_split() -> None:
    store = make_store(
        num_videos=10, num_test_videos=6, captions_per_video=3, axes=("where", "", "order", "where")
    )
    report = evaluate(store, MeanPoolHead(), split="test")
    axes = [caption.axis for caption in store.captions if caption.split == "test"]
    assert list(report.by_axis) == ["order", "where"]
    for axis, numbers in report.by_axis.items():
        assert numbers.num_captions == axes.count(axis)
        assert numbers.as_json()["text_to_video"] == numbers.text_to_video.as_json()
    content = report.as_json()
    assert json.loads(json.dumps(content)) == content
    assert list(content["by_axis"]["order"]) == [
        "num_captions", "num_videos", "text_to_video", "video_to_text",
    ]  # fmt: skip


def test_one_axis_for_all_captions_has_the_numbers_of_the_whole() -> None:
    store = make_store(num_videos=9, captions_per_video=2, axes=("what",))
    report = evaluate(store, MeanPoolHead(), split="train")
    what = report.by_axis["what"]
    assert (what.num_captions, what.num_videos) == (18, 9)
    assert (what.text_to_video, what.video_to_text) == (report.text_to_video, report.video_to_text)


def test_constant_head_finds_videos_at_chance_on_every_axis() -> None:
    store = make_store(num_videos=20, captions_per_video=2, axes=("where", "order", "order"))
    report = evaluate(store, ConstantHead(), split="all")
    for numbers in report.by_axis.values():
        assert numbers.text_to_video.as_json() == pytest.approx(
            {
                "R@1": 5.0,
                "R@5": 25.0,
                "R@10": 50.0,
                "R@50": 100.0,
                "MdR": 10.5,
                "MnR": 10.5,
                "Rsum": 80.0,
            }
        )


def test_a_report_of_captions_without_axes_does_not_name_them() -> None:
    report = evaluate(make_store(num_videos=3), MeanPoolHead(), split="train")
    assert report.by_axis == {}
    assert "by_axis" not in report.as_json()


def test_head_runs_once_a_video() -> None:
    head = ConstantHead()
    seen: list[int] = []
    store = make_store(num_videos=40, captions_per_video=5)
    evaluate(store, head, split="all", on_videos=seen.append)
    assert head.num_videos == sum(seen) == len(store.reads) == 40


def test_embedding_that_is_not_finite_is_refused() -> None:
    store = make_store(num_videos=3)
    with pytest.raises(MetricError, match="video embeddings: 48 of 48 values are NaN"):
        evaluate(store, ConstantHead(float("nan")), split="train")


def test_unknown_split_is_refused() -> None:
    with pytest.raises(ManifestError, match="'test': no captions"):
        evaluate(make_store(num_videos=3), MeanPoolHead(), split="test")


def test_videos_are_embedded_in_the_order_of_their_rows() -> None:
    store = make_store(num_videos=5)
    cpu = torch.device("cpu")
    rows = np.array([4, 0, 2])
    found_VD = embed_videos(store, rows, MeanPoolHead(), device=cpu)
    for place, row in enumerate(rows):
        alone_1D = embed_videos(store, np.array([row]), MeanPoolHead(), device=cpu)
        torch.testing.assert_close(found_VD[place], alone_1D[0])


def test_head_is_opened_by_name_or_folder(tmp_path) -> None:
    store = make_store(num_videos=2)
    head, device = open_head("mean-pool", store, device="cpu")
    assert (head.name, device.type) == ("mean-pool", "cpu")
    with pytest.raises(CheckpointError, match="no training run here"):
        open_head(str(tmp_path), store, device="cpu")


def test_search_ranks_by_cosine_and_keeps_equal_ones_in_order() -> None:
    video_VD = torch.nn.functional.normalize(
        torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), dim=-1
    )
    found = rank_videos(torch.tensor([5.0, 0.5]), video_VD, 3)
    assert [answer.place for answer in found] == [2, 1, 3]
    assert found[0].cosine == pytest.approx(5 / 25.25**0.5)
    assert len(rank_videos(torch.tensor([1.0, 0.0]), video_VD, 99)) == 4
    copies = rank_videos(torch.tensor([1.0, 0.0]), video_VD[2].expand(100, 2), 100)
    assert [answer.place for answer in copies] == list(range(100))
    with pytest.raises(MetricError, match="NaN"):
        rank_videos(torch.tensor([float("nan"), 0.0]), video_VD, 3)
