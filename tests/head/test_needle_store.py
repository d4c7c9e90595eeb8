"""The needle of benchmarks/needle_store.py: one token says which video it is, and no other does."""

from pathlib import Path

import numpy as np
import pytest

from muse.head.evaluate import MEAN_POOL, evaluate, open_head
from muse.pipeline.store import open_store

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SHAPE = {"num_videos": 50, "num_frames": 2, "grid": 3, "dim": 16}


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


def test_only_the_needle_bears_the_mark_and_it_turns_back_into_the_caption() -> None:
    from needle_store import NORM, NeedleWorld

    world = NeedleWorld(**SHAPE)
    texts = world.texts(captions_each=2)
    for video in range(5):
        tokens_TKD = world.tokens(video)
        np.testing.assert_allclose(np.linalg.norm(tokens_TKD, axis=-1), NORM, rtol=1e-5)
        marked = np.argwhere(tokens_TKD @ world.mark > 1e-3)
        assert marked.tolist() == [list(world.place(video))]
        needle = tokens_TKD[world.place(video)]
        direction = world.turn.T @ (needle - (needle @ world.mark) * world.mark)
        cosines = texts @ direction / np.linalg.norm(texts, axis=1)
        assert set(np.argsort(-cosines)[:2]) == {2 * video, 2 * video + 1}


def test_the_same_seed_makes_the_same_tokens_and_another_seed_others() -> None:
    from needle_store import NeedleWorld

    first, again, other = (NeedleWorld(**SHAPE, seed=seed).tokens(3) for seed in (1, 1, 2))
    assert (first == again).all()
    assert not np.isclose(first, other).any(axis=-1).any()


@pytest.mark.slow
def test_one_video_in_five_is_for_testing_and_mean_pooling_is_at_chance(tmp_path: Path) -> None:
    from needle_store import NeedleWorld, write_needles

    write_needles(tmp_path / "store", NeedleWorld(**SHAPE), captions_each=2)
    store = open_store(str(tmp_path / "store"))
    head, _ = open_head(MEAN_POOL, store, device="cpu")
    report = evaluate(store, head, split="all")
    assert (report.num_videos, report.num_captions) == (50, 100)
    assert evaluate(store, head).num_videos == 10
    assert 15 < report.text_to_video.mean_rank < 36  # 25.5 is chance
