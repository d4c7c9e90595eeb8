import threading

import numpy as np
import pytest
import torch
from memory_store import make_store

from muse.errors import ManifestError
from muse.head.data import (
    epoch_batches,
    read_ahead,
    read_pairs,
    select_split,
)


def test_selection_keeps_pairs_whose_both_ends_have_features_and_counts_the_rest() -> None:
    store = make_store(
        num_videos=5, captions_per_video=2, missing_videos=[1], missing_captions=[0, 4, 5]
    )
    selection = select_split(store, "train")
    pairs = {
        (store.video_ids[selection.video_rows_V[video]], store.captions[caption].text)
        for video, caption in zip(
            selection.video_of_caption_Q, selection.caption_rows_Q, strict=True
        )
    }
    # video1 has no features, neither caption of video2 is embedded, one of video0's is not
    assert pairs == {
        *(("video0", "0.1"), ("video3", "3.0"), ("video3", "3.1")),
        *(("video4", "4.0"), ("video4", "4.1")),
    }
    assert selection.video_rows_V.tolist() == [0, 3, 4]
    assert (selection.num_videos_listed, selection.num_captions_listed) == (5, 10)


def test_splits_are_apart_and_all_is_everything() -> None:
    store = make_store(num_videos=5, num_test_videos=2)
    rows = {name: select_split(store, name).video_rows_V.tolist() for name in ("train", "test")}
    assert rows == {"train": [0, 1, 2], "test": [3, 4]}
    assert select_split(store, "all").video_rows_V.tolist() == [0, 1, 2, 3, 4]


def test_unknown_split_is_answered_with_those_there_are() -> None:
    store = make_store(num_videos=5, num_test_videos=2)
    with pytest.raises(
        ManifestError, match=r"'val': no captions.*'test' \(4 captions\), 'train' \(6 captions\)"
    ):
        select_split(store, "val")


def test_split_without_features_says_how_to_get_them() -> None:
    store = make_store(num_videos=2, missing_videos=[0, 1])
    with pytest.raises(ManifestError, match=r"none of its 4 pairs.*muse extract"):
        select_split(store, "train")


def test_epoch_holds_every_pair_once_in_an_order_of_its_own() -> None:
    orders = [
        np.concatenate(epoch_batches(12, batch_size=4, seed=seed, epoch=epoch)).tolist()
        for seed, epoch in ((1, 0), (1, 1), (2, 0), (1, 0))
    ]
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert orders[0] == orders[3]
    assert orders[0] != orders[1] != orders[2] != orders[0]


@pytest.mark.parametrize(
    ("num_pairs", "batch_size", "sizes"),
    [(10, 4, [4, 4]), (3, 4, [3]), (4, 4, [4]), (1, 128, [1])],
)
def test_last_part_is_dropped_unless_it_is_all_there_is(
    num_pairs: int, batch_size: int, sizes: list[int]
) -> None:
    batches = epoch_batches(num_pairs, batch_size=batch_size, seed=0, epoch=0)
    assert [len(batch) for batch in batches] == sizes


def test_batch_pairs_each_caption_with_its_own_video_and_reads_a_video_once() -> None:
    store = make_store(num_videos=3, captions_per_video=3)
    selection = select_split(store, "train")
    places_B = np.array([8, 0, 7, 4, 2])
    batch = read_pairs(store, selection, places_B)
    assert sorted(store.reads) == [0, 1, 2]
    assert batch.video_rows_B.tolist() == [2, 0, 2, 1, 0]
    for pair, place in enumerate(places_B):
        row = place // 3
        clip = store.read_clip(row)
        video = batch.video_of_pair_B[pair]
        assert np.array_equal(batch.videos.tokens_BTKD[video].numpy(), clip.tokens_TKD)
        assert np.array_equal(batch.videos.valid_BT[video].numpy(), clip.valid_T)
        wanted_D = store.read_caption_embeddings(np.array([place]))[0].astype(np.float32)
        assert np.array_equal(batch.text_BD[pair].numpy(), wanted_D)
    assert batch.videos.tokens_BTKD.dtype == torch.float16


def test_reading_ahead_keeps_the_order_and_reads_in_another_thread() -> None:
    threads = set()

    def read(key: int) -> int:
        threads.add(threading.current_thread())
        return key * 10

    assert list(read_ahead([1, 2, 3, 4], read)) == [10, 20, 30, 40]
    assert list(read_ahead([], read)) == []
    assert threading.current_thread() not in threads


def test_reading_ahead_passes_errors_on_and_leaves_no_thread() -> None:
    def read(key: int) -> int:
        if key == 2:
            raise OSError("disk gone")
        return key

    before = threading.active_count()
    with pytest.raises(OSError, match="disk gone"):
        list(read_ahead([1, 2, 3], read))
    half = read_ahead([1, 3, 4, 5], read)
    assert next(half) == 1
    half.close()
    assert threading.active_count() == before
