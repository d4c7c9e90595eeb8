import dataclasses
import json
import statistics
from pathlib import Path

import pytest
import torch
from memory_store import MemoryStore, make_store

from muse.errors import CheckpointError, ManifestError, MuseError, UsageError
from muse.head import seeds
from muse.head.head_config import HeadConfig
from muse.head.seeds import (
    SeedResult,
    require_finished,
    require_split,
    seed_runs,
    seeds_from,
    spreads,
    train_seed,
    write_seeds,
)
from muse.head.train import StepReport
from muse.head.train_config import TrainConfig

HEAD = HeadConfig(dim=16, factors=(), depth=1, d_state=2)
CONFIG = TrainConfig(epochs=1, batch_size=8, device="cpu")


def _store() -> MemoryStore:
    return make_store(num_videos=12, num_test_videos=4)


def _train(
    store: MemoryStore, folder: Path, seed: int, *, split: str = "test"
) -> tuple[SeedResult, list[StepReport]]:
    steps: list[StepReport] = []
    config = dataclasses.replace(CONFIG, seed=seed)
    result = train_seed(store, folder, config=config, head=HEAD, split=split, on_step=steps.append)
    return result, steps


def test_seeds_are_runs_whose_numbers_have_a_mean(tmp_path: Path) -> None:
    store = _store()
    results = [_train(store, tmp_path, seed)[0] for seed in (3, 11)]
    assert seed_runs(tmp_path) == {3: tmp_path / "seed-3", 11: tmp_path / "seed-11"}
    write_seeds(tmp_path, results, command=["muse", "train-head"])
    content = json.loads((tmp_path / "seeds.json").read_text(encoding="utf-8"))
    assert [seed["seed"] for seed in content["seeds"]] == [3, 11]
    for direction in ("text_to_video", "video_to_text"):
        for name in ("R@1", "R@5", "R@10", "R@50", "MdR", "MnR", "Rsum"):
            values = [seed["report"][direction][name] for seed in content["seeds"]]
            found = content["spread"][direction][name]
            assert found["mean"] == pytest.approx(statistics.mean(values))
            assert found["sd"] == pytest.approx(statistics.stdev(values))


def test_a_finished_seed_is_neither_trained_nor_evaluated_again(tmp_path: Path) -> None:
    store = _store()
    first, steps = _train(store, tmp_path, 42)
    assert len(steps) == 2
    store.reads.clear()
    assert _train(store, tmp_path, 42) == (first, [])
    assert store.reads == []


def test_another_split_is_evaluated_without_training(tmp_path: Path) -> None:
    store = _store()
    _train(store, tmp_path, 42)
    result, steps = _train(store, tmp_path, 42, split="train")
    assert (result.report["split"], result.report["num_videos"], steps) == ("train", 8, [])


def test_other_weights_are_evaluated_again(tmp_path: Path) -> None:
    store = _store()
    _train(store, tmp_path, 42)
    weights = tmp_path / "seed-42" / "head.safetensors"
    _train(store, tmp_path / "other", 43)
    weights.write_bytes((tmp_path / "other" / "seed-43" / "head.safetensors").read_bytes())
    store.reads.clear()
    _train(store, tmp_path, 42)
    assert store.reads == [8, 9, 10, 11]


def test_a_damaged_evaluation_is_made_again(tmp_path: Path) -> None:
    store = _store()
    first, _ = _train(store, tmp_path, 42)
    (tmp_path / "seed-42" / "evaluation.json").write_text('{"spl', encoding="utf-8")
    assert _train(store, tmp_path, 42)[0] == first


def test_cost_is_read_from_the_log(tmp_path: Path) -> None:
    store = _store()
    _train(store, tmp_path, 42)
    seconds = [9.0, 9.0, 9.0, 2.0, 1.0, 4.0]
    lines = [
        json.dumps({"step": step, "seconds": second})
        for step, second in enumerate(seconds, start=1)
    ]
    (tmp_path / "seed-42" / "log.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    result, _ = _train(store, tmp_path, 42)
    assert result.training_seconds == pytest.approx(34)
    assert result.step_milliseconds == pytest.approx(2000)  # the first three are not typical
    assert result.peak_memory_bytes is None


def test_a_seed_that_was_cut_short_is_no_draw(tmp_path: Path) -> None:
    store = _store()
    _train(store, tmp_path, 42)
    runs = seed_runs(tmp_path)
    require_finished(runs)
    log = tmp_path / "seed-42" / "log.jsonl"
    log.write_text(log.read_text().replace('"num_steps": ', '"num_steps": 9'), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"seed 42 has done \d+ of 9\d+ steps"):
        require_finished(runs)


def test_other_settings_are_refused(tmp_path: Path) -> None:
    store = _store()
    _train(store, tmp_path, 42)
    other = dataclasses.replace(HEAD, depth=2)
    with pytest.raises(CheckpointError, match=r"head\.depth 1, asked for 2"):
        train_seed(store, tmp_path, config=CONFIG, head=other, split="test")


def test_a_run_of_one_seed_is_no_folder_of_several(tmp_path: Path) -> None:
    store = _store()
    _train(store, tmp_path, 42)
    with pytest.raises(CheckpointError, match="a run of one seed"):
        _train(store, tmp_path / "seed-42", 43)


def test_only_runs_are_seeds(tmp_path: Path) -> None:
    for name in ("seed-1", "seed-x", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "seed-x" / "config.json").write_text("{}", encoding="utf-8")
    assert seed_runs(tmp_path) == {}
    assert seed_runs(tmp_path / "missing") == {}


def test_a_split_that_is_not_there_is_refused_before_training() -> None:
    with pytest.raises(ManifestError, match="--evaluate-on: split 'test'"):
        require_split(make_store(), "test")


def test_at_least_one_seed_is_needed() -> None:
    assert list(seeds_from(42, 2)) == [42, 43]
    with pytest.raises(UsageError, match="seeds 0"):
        seeds_from(42, 0)


def test_one_seed_has_a_mean_and_no_deviation() -> None:
    numbers = {"R@1": 1.0, "R@5": 2.0, "R@10": 3.0, "MdR": 4.0, "MnR": 5.0}
    found = spreads([{"text_to_video": numbers, "video_to_text": numbers}])
    assert found["video_to_text"]["MnR"].as_json() == {"mean": 5.0, "sd": None, "num_seeds": 1}


def test_a_number_that_an_earlier_version_did_not_write_is_left_out() -> None:
    earlier = {"R@1": 1.0, "R@5": 2.0, "R@10": 3.0, "MdR": 4.0, "MnR": 5.0}
    now = {**earlier, "R@50": 4.0, "Rsum": 6.0}
    found = spreads([{"text_to_video": n, "video_to_text": n} for n in (now, earlier)])
    assert list(found["text_to_video"]) == list(earlier)
    assert list(spreads([{"text_to_video": now, "video_to_text": now}])["text_to_video"]) == [
        "R@1", "R@5", "R@10", "R@50", "MdR", "MnR", "Rsum",
    ]  # fmt: skip


def test_no_memory_to_evaluate_is_one_line_and_the_training_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate(*args: object, **settings: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 40 GiB\nand so on")

    store = _store()
    with monkeypatch.context() as patch:
        patch.setattr(seeds, "evaluate", evaluate)
        with pytest.raises(MuseError, match=r"ran out of memory when .*seed-42 was evaluated"):
            _train(store, tmp_path, 42)
    result, steps = _train(store, tmp_path, 42)
    assert (result.report["split"], steps) == ("test", [])


@pytest.mark.gpu
def test_memory_is_measured_on_a_gpu(cuda: torch.device, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, device="cuda")
    result = train_seed(_store(), tmp_path, config=config, head=HEAD, split="test")
    assert result.peak_memory_bytes is not None
    assert result.peak_memory_bytes > 4 * 2 * result.num_parameters  # Adam's moments at least
