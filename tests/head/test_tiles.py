import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import Tensor

from muse.head import tiles
from muse.head.metrics import retrieval_ranks
from muse.head.ranks import Ranks
from muse.head.scores import on_grid
from muse.head.tiles import MatrixScores, RowScores, V2TRule, count_ranks


def retrieval(num_captions: int, num_videos: int, dim: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Unit vectors, a third of each copies of others: they tie wherever they stand."""
    text_QD = torch.nn.functional.normalize(torch.randn(num_captions, dim), dim=-1)
    video_VD = torch.nn.functional.normalize(torch.randn(num_videos, dim), dim=-1)
    text_QD[::3] = text_QD[torch.randperm(num_captions)][::3]
    video_VD[::3] = video_VD[torch.randperm(num_videos)][::3]
    return text_QD, video_VD, torch.randint(0, num_videos, (num_captions,))


def counts(ranks: Ranks) -> tuple[list[int], list[int], list[int]]:
    num_right = ranks.num_right if ranks.num_right is not None else torch.ones_like(ranks.num_equal)
    return ranks.num_better.tolist(), ranks.num_equal.tolist(), num_right.tolist()


@pytest.mark.parametrize("v2t", ["group", "caption"])
@pytest.mark.parametrize(("tile", "block"), [(1, 1), (2, 29), (7, 10), (7, 14), (64, 64)])
def test_no_size_of_tile_or_block_changes_a_count(
    v2t: V2TRule, tile: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = retrieval(53, 29)
    whole = retrieval_ranks(*case, v2t=v2t)
    monkeypatch.setattr(tiles, "TILE", tile)
    monkeypatch.setattr(tiles, "BLOCK", block)
    monkeypatch.setattr(tiles, "ROWS_KEPT", 40)  # captions are more, videos fewer
    tiled = retrieval_ranks(*case, v2t=v2t)
    assert counts(tiled.text_to_video) == counts(whole.text_to_video)
    assert counts(tiled.video_to_text) == counts(whole.video_to_text)


def test_the_order_of_captions_and_videos_changes_no_count() -> None:
    text_QD, video_VD, video_of_Q = retrieval(40, 13)
    whole = retrieval_ranks(text_QD, video_VD, video_of_Q).text_to_video
    captions, videos = torch.randperm(40), torch.randperm(13)
    moved_Q = videos.argsort()[video_of_Q][captions]
    moved = retrieval_ranks(text_QD[captions], video_VD[videos], moved_Q).text_to_video
    assert counts(moved) == counts(whole.of(captions))


class WatchedScores(MatrixScores):
    """Remembers how large the tiles were."""

    def __init__(self, scores_QV: Tensor) -> None:
        super().__init__(scores_QV)
        self.sizes: list[int] = []

    def among(self, videos: slice) -> RowScores:
        rows = super().among(videos)

        def watched(captions_t: Tensor, columns: slice) -> Tensor:
            tile_tu = rows(captions_t)(columns)
            self.sizes.append(tile_tu.numel())
            return tile_tu

        return lambda captions_t: partial(watched, captions_t)


@pytest.mark.parametrize("captions_per_video", [1, 5, 40, 300])
def test_no_tile_is_larger_than_the_limit_and_each_score_is_made_once(
    captions_per_video: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "TILE", 20)
    scores = WatchedScores(torch.randn(300, 70))
    video_of_Q = torch.arange(300) // captions_per_video % 70
    count_ranks(scores, video_of_Q, num_videos=70, v2t="group")
    assert max(scores.sizes) <= 20 * 20
    assert sum(scores.sizes) == 300 * 70


def test_no_more_than_a_block_of_embeddings_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def watched(rows_ND: Tensor) -> Tensor:
        sizes.append(len(rows_ND))
        return on_grid(rows_ND)

    monkeypatch.setattr(tiles, "TILE", 8)
    monkeypatch.setattr(tiles, "BLOCK", 16)
    monkeypatch.setattr(tiles, "ROWS_KEPT", 16)
    monkeypatch.setattr(tiles, "on_grid", watched)
    retrieval_ranks(*retrieval(100, 60))
    assert max(sizes) == 16


GROWTH = """
import resource, torch
from muse.head.metrics import retrieval_ranks
torch.manual_seed(0)
text, video = torch.randn({num}, 4), torch.randn({num}, 4)
small = torch.randn(2000, 4)
retrieval_ranks(small, small, torch.arange(2000))  # what torch takes for itself
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
retrieval_ranks(text, video, torch.arange({num}))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux")
def test_memory_does_not_grow_with_the_matrix() -> None:
    script = GROWTH.format(num=20_000)
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=250
    )
    assert int(done.stdout) < 64_000  # kilobytes; the matrix would be 1,600,000


@pytest.mark.gpu
@pytest.mark.parametrize("v2t", ["group", "caption"])
def test_a_gpu_counts_the_same(v2t: V2TRule, cuda: torch.device) -> None:
    case = retrieval(2500, 1200, dim=512)
    here = retrieval_ranks(*case, v2t=v2t)
    there = retrieval_ranks(*(tensor.to(cuda) for tensor in case), v2t=v2t)
    assert counts(there.text_to_video) == counts(here.text_to_video)
    assert counts(there.video_to_text) == counts(here.video_to_text)
