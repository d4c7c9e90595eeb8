"""What the commands say of the epoch that was chosen, and of numbers that it makes optimistic."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Outcome

Muse = Callable[..., Outcome]
TRAIN = ("--epochs", "2", "--batch-size", "4", "--depth", "1", "--device", "cpu")


@pytest.mark.slow
def test_numbers_on_the_split_that_was_selected_on_are_marked(
    muse: Muse, store: Path, tmp_path: Path
) -> None:
    run, scores = tmp_path / "run", tmp_path / "scores.json"
    trained = muse("train-head", store, "--out", run, *TRAIN, "--select-on", "test")
    assert trained.code == 0
    assert "WARNING: the epoch was chosen on split 'test'" in trained.err
    assert "the best of 2 on test (2 videos, 4 captions)" in trained.out
    evaluated = muse("evaluate", store, "--head", run, "--json", scores)
    assert "selected on this split, 'test': its numbers are optimistic" in evaluated.err
    assert json.loads(scores.read_text())["selected_on"] == "test"
    other = muse("evaluate", store, "--head", run, "--split", "train", "--json", scores)
    assert "optimistic" not in other.err
    assert json.loads(scores.read_text())["selected_on"] == "test"


def test_held_out_videos_choose_the_epoch_and_the_test_numbers_stay_clean(
    muse: Muse, store: Path, tmp_path: Path
) -> None:
    run, scores = tmp_path / "run", tmp_path / "scores.json"
    flags = ("--hold-out", "0.25", "--json")
    lines = muse("train-head", store, "--out", run, *TRAIN, *flags).out.splitlines()
    events = [json.loads(line) for line in lines]
    epochs = [event for event in events if event["event"] == "epoch"]
    assert [(event["epoch"], event["selected_on"]) for event in epochs] == [
        (1, "0.25 held out of train"),
        (2, "0.25 held out of train"),
    ]
    assert set(epochs[0]["text_to_video"]) == {"R@1", "R@5", "R@10", "R@50", "MdR", "MnR", "Rsum"}
    assert events[-1]["chosen_epoch"] == epochs[-1]["chosen_epoch"]
    evaluated = muse("evaluate", store, "--head", run, "--json", scores)
    assert evaluated.err == ""
    assert json.loads(scores.read_text())["selected_on"] == "0.25 held out of train"


def test_without_a_validation_split_the_last_epoch_is_kept_and_said_so(
    muse: Muse, store: Path, tmp_path: Path
) -> None:
    run, scores = tmp_path / "run", tmp_path / "scores.json"
    trained = muse("train-head", store, "--out", run, *TRAIN)
    assert "last epoch's" in trained.out
    assert "--hold-out 0.05" in trained.out
    assert "WARNING" not in trained.err
    muse("evaluate", store, "--head", run, "--json", scores)
    assert "selected_on" not in json.loads(scores.read_text())
