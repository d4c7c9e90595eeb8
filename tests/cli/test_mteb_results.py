"""Results in mteb's form: only of a task's own test set, in the shape that its ``TaskResult`` has.

The shape is that of mteb 2.26.24, whose own class has loaded such files; mteb is no dependency of
the tests, because it brings datasets, sentence-transformers, scikit-learn, pandas and polars.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from muse.cli import mteb_results
from muse.cli.asked_files import AskedFiles
from muse.cli.evaluated import OpenedHead, Rules, evaluate_opened
from muse.cli.flags import TiesFlag
from muse.cli.mteb_results import TASKS, MtebTask, task_of, write_mteb_results
from muse.errors import UsageError
from muse.head.data import select_split
from muse.head.model import MeanPoolHead
from tests.head.memory_store import MemoryStore, make_store, with_header

NUM_PAIRS = 8


def _store(*, protocol: str = "made up", captions_per_video: int = 1) -> MemoryStore:
    store = make_store(num_videos=NUM_PAIRS, captions_per_video=captions_per_video, is_turned=False)
    return with_header(store, dataclasses.replace(store.header, protocol=protocol))


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> MtebTask:
    """One of eight captions of three letters each: ``0.0`` to ``7.0``."""
    sizes = {"num_pairs": NUM_PAIRS, "num_characters": 24, "shortest": 3, "longest": 3}
    made_up = dataclasses.replace(TASKS[0], **sizes)
    monkeypatch.setattr(mteb_results, "TASKS", (made_up,))
    return made_up


def test_each_direction_is_a_file_of_its_task(task: MtebTask, tmp_path: Path) -> None:
    opened = OpenedHead(
        name="mean-pool",
        store=_store(),
        head=MeanPoolHead(),
        device=torch.device("cpu"),
        scan=None,
    )
    evaluated = evaluate_opened(opened, "train", Rules())
    assert task_of(opened.store, evaluated.embedded.selection) == task
    files = write_mteb_results(tmp_path / "results", task, evaluated)
    assert [file.name for file in files] == ["MSRVTTT2V.json", "MSRVTTV2T.json"]
    for file, numbers in zip(
        files, (evaluated.report.text_to_video, evaluated.report.video_to_text), strict=True
    ):
        content = json.loads(file.read_text())
        assert (content["task_name"], content["dataset_revision"]) == (file.stem, task.revision)
        assert content["mteb_version"] is None  # mteb did not run
        assert content["kg_co2_emissions"] is None
        assert content["evaluation_time"] > 0
        ((split, (scores,)),) = content["scores"].items()
        assert (split, scores["hf_subset"], scores["languages"]) == (
            "test",
            "default",
            ["eng-Latn"],
        )
        assert scores["main_score"] == scores["ndcg_at_10"]
        for k in (1, 5, 10):
            assert 100 * scores[f"recall_at_{k}"] == pytest.approx(numbers.recall_at[k], abs=1e-3)
        assert {f"{name}_at_1000" for name in ("map", "mrr", "precision", "hit_rate")} <= set(
            scores
        )


@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        ("MSR-VTT 1k-A test", "8 videos and 8 captions.* MSRVTTT2V .* is 879 of the 1,000 pairs"),
        ("MSVD test", "the 670 test videos, with the first caption alone"),
        ("ActivityNet Captions val1 test", "4,884 videos of val2, where the literature takes val1"),
        ("VATEX (English, test_list.txt) test", "no such task: its VATEX tasks are of whole"),
        ("folder", "the test set of no task .* MSRVTTT2V .* DiDeMoT2VRetrieval"),
    ],
)
def test_another_test_set_is_refused_with_the_reason(protocol: str, words: str) -> None:
    store = _store(protocol=protocol)
    with pytest.raises(UsageError, match=words):
        task_of(store, select_split(store, "train"))


def test_other_texts_and_several_captions_are_another_test_set(
    task: MtebTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = _store(captions_per_video=2)
    with pytest.raises(UsageError, match="8 videos and 16 captions"):
        task_of(several, select_split(several, "train"))
    for field in ("num_characters", "shortest", "longest"):
        other = dataclasses.replace(task, **{field: 4})
        monkeypatch.setattr(mteb_results, "TASKS", (other,))
        with pytest.raises(UsageError, match="the test set of no task"):
            task_of(_store(), select_split(_store(), "train"))


def test_files_say_what_they_are_undefined_for() -> None:
    names = ("json", "latex", "mteb", "ledger", "html", "against")
    none: dict[str, Any] = {**dict.fromkeys(names), "num_maps": 4}
    pessimistic = Rules(ties=TiesFlag.pessimistic)
    for name in ("mteb", "ledger", "html"):
        files = AskedFiles(**{**none, name: Path("x")})
        files.require_rules(Rules())
        with pytest.raises(UsageError, match=f"--{name}.* --ties pessim|--ties pessim.*--{name}"):
            files.require_rules(pessimistic)
        with pytest.raises(UsageError, match=f"--{name} x: it is about one run, and seeds holds 1"):
            files.require_one_run("seeds", {42: Path("seeds/seed-42")})
    AskedFiles(**{**none, "latex": "-"}).require_rules(pessimistic)
    with pytest.raises(UsageError, match="--maps -1: at least 0"):
        AskedFiles(**{**none, "num_maps": -1}).require_rules(Rules())


def test_the_benchmarks_begin_as_the_tasks_titles() -> None:
    from muse.pipeline.datasets.benchmark import benchmarks

    titles = [benchmark.title for benchmark in benchmarks().values()]
    for task in TASKS:
        assert any(title.startswith(task.title) for title in titles), task.title
