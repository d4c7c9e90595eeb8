"""Responses of a head that was trained to find a needle: are they where the needle is?

The needle of benchmarks/needle_store.py is one patch of one frame; nothing else says which video
it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from muse.head.evaluate import open_head
from muse.head.head_config import paper_head
from muse.head.model import RetrievalHead
from muse.head.responses import Responses, responses
from muse.head.similarity.mean_pool import pool_frames
from muse.head.train import train
from muse.head.train_config import TrainConfig
from muse.pipeline.records import ClipTokens
from muse.pipeline.store import FeatureStore, open_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first one trains

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SHAPE = {"num_videos": 3000, "num_frames": 2, "grid": 4, "dim": 16}
CPU = torch.device("cpu")
NUM_VIDEOS = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A head, and test videos that it never saw."""

    head: RetrievalHead
    store: FeatureStore
    rows: list[int]
    """Of videos, which are those of their captions too."""
    needles: list[tuple[int, int, int]]
    """Frame, row and column in each."""

    def responses(self, video: int, *, to: int) -> Responses:
        """Of one of the test videos to the caption of one of them."""
        return responses(
            self.head, self.store.read_clip(self.rows[video]), self.text(to), device=CPU
        )

    def text(self, video: int) -> NDArray[np.floating]:
        return self.store.read_caption_embeddings(np.array([self.rows[video]]))[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.syspath_prepend(BENCHMARKS)
        from needle_store import NeedleWorld, write_needles

        world, folder = NeedleWorld(**SHAPE), tmp_path_factory.mktemp("needle")
        write_needles(folder / "store", world, captions_each=1)
        store = open_store(str(folder / "store"))
        config = TrainConfig(epochs=12, batch_size=128, lr=3e-3, device="cpu")
        shape = replace(paper_head(store.header), readout="max", factors=(1.0,), depth=0)
        train(store, folder / "run", config=config, head=shape)
        head, _ = open_head(str(folder / "run"), store, device="cpu")
        assert isinstance(head, RetrievalHead)
        rows = [n for n, one in enumerate(store.captions) if one.split == "test"][:NUM_VIDEOS]
        assert [store.captions[row].video_id for row in rows] == [store.video_ids[r] for r in rows]
        places = [world.place(row) for row in rows]
        needles = [(frame, *divmod(token - 1, world.grid)) for frame, token in places]
        yield Trained(head=head, store=store, rows=rows, needles=needles)


def test_the_strongest_cell_is_the_needle_for_its_own_caption_more_often_than_for_another(
    trained: Trained,
) -> None:
    """Seen: 37 of 40, and 18 for another video's caption: a needle is all that differs."""
    own, other = (
        sum(
            trained.responses(video, to=(video + shift) % NUM_VIDEOS).by_scale[0].strongest
            == trained.needles[video]
            for video in range(NUM_VIDEOS)
        )
        for shift in (0, 1)
    )
    assert own >= 0.8 * NUM_VIDEOS
    assert other < own - 0.2 * NUM_VIDEOS


def test_the_sum_is_what_the_score_loses_to_a_hundredth_of_a_cosine(trained: Trained) -> None:
    found = [trained.responses(video, to=video) for video in range(NUM_VIDEOS)]
    assert max(abs(one.remainder) for one in found) < 0.01
    assert np.mean([one.score - one.score_of_alike for one in found]) > 0.2


def test_the_score_falls_more_without_the_ten_strongest_cells_than_without_any_ten(
    trained: Trained,
) -> None:
    rng = np.random.default_rng(0)
    strongest, any_ten = [], []
    for video in range(NUM_VIDEOS):
        clip, text_D = trained.store.read_clip(trained.rows[video]), trained.text(video)
        values = trained.responses(video, to=video).by_scale[0].values_TGG.ravel()
        whole = score_without(trained.head, clip, text_D, cells=[])
        for cells, falls in (
            (np.argsort(-values)[:10], strongest),
            (rng.permutation(len(values))[:10], any_ten),
        ):
            falls.append(whole - score_without(trained.head, clip, text_D, cells=cells))
    assert np.mean(strongest) > 0.2
    assert np.mean(strongest) > 2 * np.mean(any_ten)  # seen: 0.38 and 0.10, of 32 cells


@torch.no_grad()
def score_without(
    head: RetrievalHead, clip: ClipTokens, text_D: NDArray[np.floating], *, cells: list[int]
) -> float:
    """With some cells of the only scale replaced by the mean of all."""
    frames_TKD = torch.from_numpy(clip.tokens_TKD).float()
    valid_1T = torch.from_numpy(clip.valid_T)[None]
    (cells_TSD,) = head.aggregator.scales_of(frames_TKD)
    cells_TSD.flatten(0, 1)[cells] = cells_TSD.mean((0, 1))
    sequence = head.aggregator.sequence_from(frames_TKD[:, 0], [cells_TSD], valid_1T)
    vector_D = pool_frames(head.aggregator.frames_of(sequence, valid_1T), valid_1T)[0]
    text = torch.from_numpy(text_D).float()
    return float(vector_D @ text / text.norm())
