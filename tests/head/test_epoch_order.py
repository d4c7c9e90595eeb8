"""Which pairs a batch holds: every pair once, by seed and epoch alone."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from muse.errors import UsageError
from muse.head.data import SplitSelection
from muse.head.epoch_order import PairOrder, epoch_batches, full_order, windowed_order
from muse.head.train_config import TrainConfig

NUM_VIDEOS, CAPTIONS_EACH, SHARD_SIZE = 60, 3, 5  # 12 shards
ORDER = PairOrder(batch_size=10, seed=1, window_shards=4, shard_size=SHARD_SIZE)
ORDERS = [
    dataclasses.replace(ORDER, captions=captions, shuffle=shuffle)  # type: ignore[arg-type]
    for captions in ("all", "one")
    for shuffle in ("full", "shards")
]


def make_selection(num_videos: int = NUM_VIDEOS, captions_each: int = CAPTIONS_EACH):
    """Every second row of a store; caption row 100 is the first."""
    num_captions = num_videos * captions_each
    return SplitSelection(
        split="train",
        video_rows_V=np.arange(num_videos) * 2,
        caption_rows_Q=100 + np.arange(num_captions),
        video_of_caption_Q=np.arange(num_captions) // captions_each,
        num_videos_listed=num_videos,
        num_captions_listed=num_captions,
    )


def places(order: PairOrder, *, epoch: int = 0) -> list[int]:
    return np.concatenate(epoch_batches(make_selection(), order, epoch=epoch)).tolist()


@pytest.mark.parametrize("shuffle", ["full", "shards"])
def test_an_epoch_holds_every_pair_once(shuffle: str) -> None:
    order = dataclasses.replace(ORDER, shuffle=shuffle)  # type: ignore[arg-type]
    assert sorted(places(order)) == list(range(NUM_VIDEOS * CAPTIONS_EACH))


@pytest.mark.parametrize("shuffle", ["full", "shards"])
def test_one_caption_each_is_each_video_once_and_in_time_each_caption(shuffle: str) -> None:
    order = dataclasses.replace(ORDER, captions="one", shuffle=shuffle)  # type: ignore[arg-type]
    seen = Counter[int]()
    for epoch in range(60):
        found = places(order, epoch=epoch)
        assert sorted(place // CAPTIONS_EACH for place in found) == list(range(NUM_VIDEOS))
        seen.update(found)
    assert len(seen) == NUM_VIDEOS * CAPTIONS_EACH
    of_first_caption = sum(seen[place] for place in range(0, NUM_VIDEOS * CAPTIONS_EACH, 3))
    assert of_first_caption / seen.total() == pytest.approx(1 / CAPTIONS_EACH, abs=0.03)


@pytest.mark.parametrize("order", ORDERS)
def test_seed_and_epoch_decide_the_order(order: PairOrder) -> None:
    other_seed = dataclasses.replace(order, seed=2)
    orders = [places(order), places(order, epoch=1), places(other_seed), places(order)]
    assert orders[0] == orders[3]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_the_full_order_is_that_of_every_version() -> None:
    assert full_order(6, seed=42, epoch=3).tolist() == [3, 1, 2, 5, 0, 4]
    batches = epoch_batches(make_selection(3, 2), dataclasses.replace(ORDER, seed=42), epoch=3)
    assert [batch.tolist() for batch in batches] == [[3, 1, 2, 5, 0, 4]]


@pytest.mark.parametrize(
    ("num_pairs", "batch_size", "sizes"),
    [(10, 4, [4, 4]), (3, 4, [3]), (4, 4, [4]), (1, 128, [1])],
)
def test_last_part_is_dropped_unless_it_is_all_there_is(
    num_pairs: int, batch_size: int, sizes: list[int]
) -> None:
    order = dataclasses.replace(ORDER, batch_size=batch_size)
    batches = epoch_batches(make_selection(num_pairs, 1), order, epoch=0)
    assert [len(batch) for batch in batches] == sizes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"captions": "two"}, "captions 'two': choose one of all, one"),
        ({"shuffle": "none"}, "shuffle 'none': choose one of full, shards"),
        ({"shuffle": "shards", "shuffle_window": 100}, "shuffle_window 100: a batch has 128 pairs"),
    ],
)
def test_a_setting_that_is_none_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        TrainConfig(**changes)  # type: ignore[arg-type]


# -- windows of shards ---------------------------------------------------------------------------


def spans(shard_of_pair: list[int], order: list[int]) -> list[int]:
    """How far apart on the circle of the epoch the first and last pair of each shard are."""
    num_pairs, found = len(order), []
    for shard in sorted(set(shard_of_pair)):
        at = sorted(t for t, place in enumerate(order) if shard_of_pair[place] == shard)
        gaps = [b - a for a, b in zip(at, [*at[1:], at[0] + num_pairs], strict=True)]
        found.append(num_pairs - max(gaps))
    return found


def test_a_shard_is_used_up_within_its_window() -> None:
    shard_of_pair = [pair // 100 for pair in range(4000)]  # 40 shards
    order = windowed_order(np.array(shard_of_pair), window_shards=5, seed=0, epoch=0).tolist()
    assert sorted(order) == list(range(4000))
    assert max(spans(shard_of_pair, order)) < 600  # 5 shards' pairs, and a little for chance
    assert min(spans(shard_of_pair, order)) > 400


def test_a_batch_mixes_all_shards_in_use_at_the_start_as_later() -> None:
    shard_of_pair = np.arange(4000) // 100
    order = windowed_order(shard_of_pair, window_shards=5, seed=0, epoch=0)
    for batch in (order[:128], order[2000:2128], order[-128:]):
        counts = Counter(shard_of_pair[batch].tolist())
        assert 5 <= len(counts) <= 7  # one leaves and one comes within 128 pairs
        assert max(counts.values()) < 50


def test_a_window_of_all_shards_mixes_everything() -> None:
    order = windowed_order(np.arange(3000) // 1000, window_shards=9, seed=0, epoch=0)
    thirds = [np.bincount(third // 1000, minlength=3) for third in np.split(order, 3)]
    assert np.abs(np.array(thirds) - 1000 / 3).max() < 60
