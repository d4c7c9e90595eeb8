import dataclasses
from pathlib import Path

import pytest
from memory_store import make_store

from muse.errors import CheckpointError, MuseError, UsageError
from muse.head import ablation
from muse.head.ablation import Outcome, plan_runs, row_folder, run_planned, table_rows
from muse.head.head_config import HeadConfig
from muse.head.paper_tables import TABLE_NAMES, paper_table
from muse.head.seeds import SeedResult
from muse.head.train_config import TrainConfig

HEAD = HeadConfig(dim=16, factors=(0.5,), depth=1, d_state=2)
CONFIG = TrainConfig(epochs=1, batch_size=8, device="cpu")
ORDER = paper_table("order", grid=2)


def _outcome(folder: str, seed: int, recall: float | None, reason: str | None = None) -> Outcome:
    """Made up; without a recall, a failure."""
    if recall is None:
        return Outcome(row_folder=folder, seed=seed, result=None, reason=reason)
    numbers = {"R@1": recall, "R@5": 50.0, "R@10": 60.0, "MdR": 5.0, "MnR": 9.0}
    result = SeedResult(
        seed=seed,
        run=Path(folder) / f"seed-{seed}",
        num_parameters=7,
        training_seconds=1.0,
        step_milliseconds=1.0,
        peak_memory_bytes=None,
        config={"ran_on": {}, "versions": {}},
        report={"text_to_video": numbers, "video_to_text": numbers},
    )
    return Outcome(row_folder=folder, seed=seed, result=result, reason=None)


def test_runs_go_seed_by_seed_so_that_a_cut_leaves_whole_tables() -> None:
    planned = plan_runs([ORDER], HEAD, CONFIG, (5, 6))
    assert [(run.row_folder, run.config.seed) for run in planned] == [
        ("order-frame", 5), ("order-spatial", 5), ("base", 5),
        ("order-frame", 6), ("order-spatial", 6), ("base", 6),
    ]  # fmt: skip
    assert [run.head.order for run in planned[:3]] == ["frame", "spatial", "scale"]
    assert all(run.head.depth == 1 for run in planned)


def test_a_head_that_stands_in_several_tables_is_trained_once() -> None:
    head = HeadConfig(dim=16)
    tables = [paper_table(name, grid=7) for name in TABLE_NAMES]
    planned = plan_runs(tables, head, CONFIG, (42,))
    num_rows = sum(len(table.rows) for table in tables)
    assert len(planned) == len({run.row_folder for run in planned}) == num_rows - 5
    assert len({dataclasses.astuple(run.head) for run in planned}) == len(planned)


def test_tables_change_nothing_of_a_baseline() -> None:
    with pytest.raises(UsageError, match="seq-transf"):
        plan_runs([ORDER], dataclasses.replace(HEAD, aggregator="seq-transf"), CONFIG, (42,))


def test_differences_are_paired_and_the_default_row_has_none() -> None:
    outcomes = [
        _outcome("base", 1, 10.0), _outcome("order-frame", 1, 13.0),
        _outcome("base", 2, 20.0), _outcome("order-frame", 2, 20.0),
        _outcome("order-spatial", 1, None, "no memory"),
    ]  # fmt: skip
    frame, spatial, scale = table_rows(ORDER, HEAD, outcomes)
    assert frame.difference is not None
    assert frame.difference.mean == ((13 - 10) + (20 - 20)) / 2
    assert (scale.is_default, scale.difference) == (True, None)
    assert scale.spreads is not None
    assert scale.spreads["text_to_video"]["R@1"].mean == 15
    assert (spatial.spreads, spatial.difference) == (None, None)
    assert spatial.reasons == {1: "no memory"}
    assert spatial.as_json()["failed"] == {"1": "no memory"}
    assert frame.as_json()["difference_is_noise"] is True  # 1.5, its standard error too


def test_a_row_without_memory_has_failed_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_seed(*args: object, **settings: object) -> SeedResult:
        if settings["head"].order == "frame":  # type: ignore[attr-defined]
            raise MuseError("cuda ran out\nof memory")
        result = _outcome("base", 42, 10.0).result
        assert result is not None
        return result

    monkeypatch.setattr(ablation, "train_seed", train_seed)
    planned = plan_runs([ORDER], HEAD, CONFIG, (42,))
    outcomes = [run_planned(make_store(), tmp_path, run, split="test") for run in planned]
    assert [outcome.reason for outcome in outcomes] == ["cuda ran out of memory", None, None]


def test_a_folder_of_other_settings_stops_all_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_seed(*args: object, **settings: object) -> SeedResult:
        raise CheckpointError("made with depth 4")

    monkeypatch.setattr(ablation, "train_seed", train_seed)
    run = plan_runs([ORDER], HEAD, CONFIG, (42,))[0]
    with pytest.raises(CheckpointError, match="depth 4"):
        run_planned(make_store(), tmp_path, run, split="test")


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE_NAMES)
def test_every_row_of_the_paper_can_be_trained_and_evaluated(name: str, tmp_path: Path) -> None:
    store = make_store(num_videos=12, num_test_videos=4)
    table = paper_table(name, grid=2)  # type: ignore[arg-type]
    outcomes = [
        run_planned(store, tmp_path, run, split="test")
        for run in plan_runs([table], HEAD, CONFIG, (42,))
    ]
    rows = table_rows(table, HEAD, outcomes)
    assert [row.reasons for row in rows] == [{}] * len(table.rows)
    assert all((tmp_path / row.folder / "seed-42" / "evaluation.json").is_file() for row in rows)
    assert row_folder(table.rows[0], HEAD) == rows[0].folder
