"""Which pairs are trained on and which are measured on, by the settings and the store's splits."""

import pytest
from memory_store import make_store, with_split

from muse.errors import ManifestError, UsageError
from muse.head.train_config import TrainConfig
from muse.head.training_pairs import choose_pairs, hold_out_videos


def videos(selection) -> set[int]:
    return set(selection.video_rows_V.tolist())


def captions(selection) -> set[int]:
    return set(selection.caption_rows_Q.tolist())


@pytest.mark.parametrize("name", ["val", "validation", "valid", "dev"])
def test_auto_is_the_validation_split_by_the_names_it_has(name: str) -> None:
    pairs = choose_pairs(with_split(make_store(), name, num_videos=3), TrainConfig())
    assert pairs.measured_on is not None
    assert (pairs.measured_on.split, videos(pairs.measured_on)) == (name, {0, 1, 2})
    assert videos(pairs.trained_on) == set(range(3, 12))


def test_auto_is_nothing_without_a_validation_split_that_can_be_used() -> None:
    for store in (
        make_store(num_test_videos=2),
        with_split(make_store(missing_videos=[0]), "val", num_videos=1),
    ):
        assert choose_pairs(store, TrainConfig()).measured_on is None


def test_auto_never_measures_on_what_is_trained_on() -> None:
    store = with_split(make_store(), "val", num_videos=3)
    for split in ("all", "val"):
        assert choose_pairs(store, TrainConfig(split=split)).measured_on is None


def test_a_split_that_is_named_must_be_there() -> None:
    store = make_store(num_test_videos=2)
    assert choose_pairs(store, TrainConfig(select_on="none")).measured_on is None
    measured_on = choose_pairs(store, TrainConfig(select_on="test")).measured_on
    assert measured_on is not None
    assert videos(measured_on) == {10, 11}
    with pytest.raises(ManifestError, match="'tset': no captions"):
        choose_pairs(store, TrainConfig(select_on="tset"))


def test_held_out_videos_take_all_their_captions_along() -> None:
    store = make_store(num_videos=20, captions_per_video=3, num_test_videos=4, missing_videos=[1])
    pairs = choose_pairs(store, TrainConfig(hold_out=0.2))
    assert pairs.measured_on is not None
    for part in (pairs.trained_on, pairs.measured_on):
        assert captions(part) == {3 * row + number for row in videos(part) for number in range(3)}
        found = part.video_rows_V[part.video_of_caption_Q]
        assert found.tolist() == [row // 3 for row in part.caption_rows_Q]
    assert len(videos(pairs.measured_on)) == 3  # of 15 that can be used
    assert videos(pairs.measured_on) | videos(pairs.trained_on) == set(range(16)) - {1}
    assert not videos(pairs.measured_on) & videos(pairs.trained_on)
    assert (pairs.trained_on.num_videos_listed, pairs.measured_on.num_videos_listed) == (13, 3)


def test_what_is_held_out_hangs_on_the_seed_and_a_larger_part_holds_a_smaller() -> None:
    store = make_store(num_videos=40)
    whole = choose_pairs(store, TrainConfig()).trained_on
    parts = {
        (part, seed): videos(hold_out_videos(store, whole, part=part, seed=seed)[1])
        for part, seed in ((0.1, 1), (0.1, 1), (0.3, 1), (0.1, 2))
    }
    assert parts[0.1, 1] < parts[0.3, 1]
    assert parts[0.1, 1] != parts[0.1, 2]
    assert [len(found) for found in parts.values()] == [4, 12, 4]


def test_one_video_is_held_out_at_least_and_one_is_left_at_least() -> None:
    pairs = choose_pairs(make_store(num_videos=2), TrainConfig(hold_out=0.01))
    assert len(videos(pairs.trained_on)) == 1
    with pytest.raises(UsageError, match=r"hold_out 0\.01: 1 of 1 videos of split 'train'"):
        choose_pairs(make_store(num_videos=1), TrainConfig(hold_out=0.01))


def test_settings_that_contradict_each_other_are_refused() -> None:
    for changes, message in [
        ({"hold_out": 0.1, "select_on": "val"}, "hold_out 0.1 with select_on 'val'"),
        ({"hold_out": 0.1, "select_on": "none"}, "hold_out 0.1 with select_on 'none'"),
        ({"select_on": "train"}, "select_on 'train': it is trained on"),
        ({"select_on": "all"}, "select_on 'all': it is trained on"),
        ({"select_on": "val", "split": "all"}, "select_on 'val': it is trained on"),
        ({"hold_out": 1.0}, "hold_out 1.0: choose a part"),
        ({"ema": 1.0}, "ema 1.0: choose a part"),
        ({"accumulate": 0}, "accumulate 0: at least 1"),
        ({"optimizer": "sgd"}, "'sgd': choose one of adamw, bertadam"),
        ({"decay": "none"}, "'none': choose one of matrices, published"),
        ({"deterministic": True, "scan": "mamba-ssm"}, "mamba-ssm with deterministic"),
    ]:
        with pytest.raises(UsageError, match=message):
            TrainConfig(**changes)
