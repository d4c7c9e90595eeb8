import pytest
from memory_store import make_store

from muse.errors import ManifestError
from muse.head.data import select_split


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
