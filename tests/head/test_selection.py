"""Which epoch a run ends with: the rule, the record, and that measuring changes no step."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from memory_store import make_store, with_split
from safetensors.torch import load_file

from muse.errors import CheckpointError
from muse.head.evaluate import evaluate, open_head
from muse.head.metrics import DirectionNumbers
from muse.head.model import HeadConfig
from muse.head.selection import (
    EpochScore,
    SelectionRecord,
    read_selection,
    record_from_text,
    record_text,
)
from muse.head.train import train
from muse.head.train_config import TrainConfig

HEAD = HeadConfig(dim=16, factors=(1.0,), depth=1, d_state=2, dropout=0.5)
CONFIG = TrainConfig(epochs=4, batch_size=8, device="cpu", lr=0.03)


def score(epoch: int, recall: float, mean_rank: float) -> EpochScore:
    numbers = DirectionNumbers(
        recall_at={1: recall, 5: 70.1, 10: 1 / 3}, median_rank=2.0, mean_rank=mean_rank
    )
    return EpochScore(epoch=epoch, step=9 * epoch, text_to_video=numbers, video_to_text=numbers)


def record(*scores: EpochScore, split: str = "val") -> SelectionRecord:
    return SelectionRecord(split=split, held_out=0.0, num_videos=3, num_captions=6, epochs=scores)


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        ([(41.8, 9.0), (44.8, 9.5), (43.4, 8.0)], 2),  # the published log's
        ([(40.0, 9.0), (40.0, 8.5), (40.0, 8.6)], 2),
        ([(40.0, 9.0), (40.0, 9.0)], 1),
    ],
)
def test_highest_recall_is_chosen_then_lowest_mean_rank_then_the_earlier(
    scores: list[tuple[float, float]], chosen: int
) -> None:
    epochs = [score(epoch, *numbers) for epoch, numbers in enumerate(scores, start=1)]
    assert record(*epochs).chosen.epoch == chosen


def test_record_comes_back_from_its_text_bit_for_bit() -> None:
    written = record(score(1, 100 / 7, 2.2), score(2, 0.1 + 0.2, 3.0))
    assert record_from_text(record_text(written), source=Path("x")) == written
    for text in ("", "[]", "{}", '{"split": "val", "held_out": 0, "epochs": [1]}'):
        with pytest.raises(CheckpointError, match="no record of a selection"):
            record_from_text(text, source=Path("x"))


def test_a_split_was_chosen_on_if_it_or_all_of_them_were() -> None:
    assert record(score(1, 1, 1), split="test").chose_on("test")
    assert record(score(1, 1, 1), split="test").chose_on("all")
    assert not record(score(1, 1, 1), split="val").chose_on("test")


@pytest.mark.slow
@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_run_ends_with_the_epoch_that_evaluation_finds_best(ema: float, tmp_path: Path) -> None:
    store, run = with_split(make_store(num_videos=20), "val", num_videos=8), tmp_path / "run"
    weights: list[dict[str, torch.Tensor]] = []
    summary = train(
        store,
        run,
        head=HEAD,
        config=dataclasses.replace(CONFIG, ema=ema),
        on_epoch=lambda found: weights.append(load_file(run / "head.safetensors")),
    )
    assert summary.chosen_by is not None
    assert [epoch.epoch for epoch in summary.chosen_by.epochs] == [1, 2, 3, 4]
    assert summary.chosen_by == read_selection(run)
    best = summary.chosen_by.chosen
    kept = load_file(run / "head.safetensors")
    assert all(torch.equal(kept[name], weights[best.epoch - 1][name]) for name in kept)
    head, _ = open_head(str(run), store, device="cpu")
    report = evaluate(store, head, split="val")
    assert (report.text_to_video, report.video_to_text) == (best.text_to_video, best.video_to_text)
    content = json.loads((run / "selection.json").read_text())
    assert (content["split"], content["chosen_epoch"], content["num_videos"]) == (
        *("val", best.epoch, 8),
    )


def test_measuring_changes_no_step(tmp_path: Path) -> None:
    store = with_split(make_store(num_videos=20), "val", num_videos=8)
    for select_on in ("none", "auto"):
        config = dataclasses.replace(CONFIG, select_on=select_on, epochs=2)
        train(store, tmp_path / select_on, head=HEAD, config=config)
    states = [load_file(tmp_path / name / "state.safetensors") for name in ("none", "auto")]
    assert all(torch.equal(states[1][name], tensor) for name, tensor in states[0].items())
    assert read_selection(tmp_path / "none") is None


def test_without_a_split_to_measure_on_the_last_epoch_is_kept(tmp_path: Path) -> None:
    store, run = make_store(num_videos=8, num_test_videos=2), tmp_path / "run"
    summary = train(store, run, head=HEAD, config=dataclasses.replace(CONFIG, epochs=1))
    assert summary.chosen_by is None
    assert not (run / "selection.json").exists()
    assert set(store.reads) == set(range(6))  # no video but those trained on
    state, kept = load_file(run / "state.safetensors"), load_file(run / "head.safetensors")
    assert all(torch.equal(tensor, state[f"head/{name}"]) for name, tensor in kept.items())


def test_held_out_videos_are_measured_on_and_never_learnt_from(tmp_path: Path) -> None:
    store = make_store(num_videos=20)
    config = dataclasses.replace(CONFIG, hold_out=0.2, epochs=1)
    summary = train(store, tmp_path / "run", head=HEAD, config=config)
    found = summary.chosen_by
    assert found is not None
    assert (found.split, found.held_out, found.num_videos, found.num_captions) == (
        *("train", 0.2, 4, 8),
    )
    assert found.name == "0.2 held out of train"
    assert len(summary.selection.video_rows_V) == 16
    again = train(store, tmp_path / "run", head=HEAD, config=config)  # finished: nothing to do
    assert again.chosen_by == found


def test_average_of_the_weights_is_what_the_run_ends_with(tmp_path: Path) -> None:
    store, run, seen = make_store(num_videos=12), tmp_path / "run", []
    config = dataclasses.replace(CONFIG, ema=0.5, epochs=1, checkpoint_every=1)  # 3 steps

    def look(report: object) -> None:
        seen.append(load_file(run / "state.safetensors")["head/aggregator.blocks.0.gate.weight"])

    train(store, run, head=HEAD, config=config, on_step=look)
    kept = load_file(run / "head.safetensors")["aggregator.blocks.0.gate.weight"]
    torch.testing.assert_close(kept, (seen[2] + seen[1] / 2 + seen[0] / 4) / 1.75)
