"""Several seeds and tables of ablations: what is run, what is said, and what a repeat does."""

import json
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from muse.cli.ablation_text import Ablation, markdown
from muse.head.ablation import Outcome, table_rows
from muse.head.head_config import HeadConfig
from muse.head.paper_tables import paper_table
from muse.head.seeds import SeedResult
from tests.cli.conftest import Outcome as CommandOutcome

Muse = Callable[..., CommandOutcome]
TRAIN = (
    "--epochs", "1", "--batch-size", "4", "--depth", "1", "--factors", "none", "--device", "cpu",
)  # fmt: skip
HEAD = HeadConfig(dim=16)
FACTS = {
    "store": "s",
    "root_sha256": "0" * 64,
    "protocol": "made up",
    "trained_on": "train",
    "split": "test",
    "seeds": [1, 2],
    "device": "cpu",
    "precision": "fp32",
    "scan": "cpu",
    "command": ["muse", "ablate", "my store"],
}


def _outcome(folder: str, seed: int, recall: float) -> Outcome:
    numbers = {"R@1": recall, "R@5": 50.0, "R@10": 60.0, "MdR": 5.0, "MnR": 9.0}
    report = {"num_videos": 8, "num_captions": 16}
    report |= {"num_videos_listed": 9, "num_captions_listed": 18}
    result = SeedResult(
        seed=seed,
        run=Path("run"),
        num_parameters=1234,
        training_seconds=90.0,
        step_milliseconds=12.34,
        peak_memory_bytes=2_500_000_000,
        config={"ran_on": {}, "versions": {}},
        report={**report, "text_to_video": numbers, "video_to_text": numbers},
    )
    return Outcome(row_folder=folder, seed=seed, result=result, reason=None)


def _cells(page: str, label: str) -> list[str]:
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {label} ")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_page_has_a_row_for_what_ran_what_failed_and_what_did_not_run(tmp_path: Path) -> None:
    table = paper_table("mixers", grid=7)
    outcomes = [
        _outcome("mixer-mamba-out", 1, 12.0), _outcome("mixer-mamba-out", 2, 15.0),
        _outcome("base", 1, 10.0), _outcome("base", 2, 11.0),
        Outcome(row_folder="mixer-transformer", seed=1, result=None, reason="cuda ran out"),
    ]  # fmt: skip
    ablation = Ablation(folder=tmp_path, tables=[table], head=HEAD, facts=FACTS)
    page = markdown(ablation, table, table_rows(table, HEAD, outcomes))
    assert _cells(page, "mamba-out") == [
        "mamba-out", "2", "1,234", "13.5 ± 2.1", "50.0 ± 0.0", "60.0 ± 0.0", "9.0 ± 0.0",
        "13.5 ± 2.1", "+3.0 ± 1.4, beyond noise", "2.5 GB", "1 min 30 s", "12.3", "42.4",
    ]  # fmt: skip
    assert _cells(page, "bimamba-v2")[0:8:7] == ["bimamba-v2 (default)", "10.5 ± 0.7"]
    assert _cells(page, "bimamba-v2")[8] == "–"
    assert _cells(page, "transformer")[1:] == ["failed", *["–"] * 10, "43.0"]
    assert _cells(page, "flash-attention")[1] == "not run yet"
    assert "- transformer, seed 1: failed. cuda ran out" in page
    assert "(8 of 9 videos, 16 of 18 captions)" in page
    assert "another setting" in page
    assert "muse ablate 'my store'" in page


def test_the_paper_s_figures_stand_together(tmp_path: Path) -> None:
    table = paper_table("depth", grid=7)
    ablation = Ablation(folder=tmp_path, tables=[table], head=HEAD, facts=FACTS)
    page = markdown(ablation, table, table_rows(table, HEAD, []))
    assert _cells(page, "16")[-1] == "45.6 / 72.4 / 81.5 / 14.7"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--no-such-flag", "3"), "--no-such-flag"),
        (("--mixer", "lstm"), "lstm"),
        (("--seeds", "0"), "seeds 0"),
        (("--aggregator", "seq-transf"), "seq-transf"),
    ],
)
def test_wrong_flags_are_wrong_usage_whoever_defines_them(
    muse: Muse, store: Path, tmp_path: Path, flags: tuple[str, ...], words: str
) -> None:
    outcome = muse("ablate", store, "--table", "order", "--out", tmp_path / "o", *flags)
    assert outcome.code == 2
    assert words in outcome.err
    assert not (tmp_path / "o").exists()


def test_a_store_is_needed_and_a_split_to_evaluate_on(
    muse: Muse, store: Path, tmp_path: Path
) -> None:
    assert muse("ablate", "--table", "order", "--out", tmp_path / "o").code == 2
    assert muse("train-head", store, "--out", tmp_path / "o", "--evaluate-on", "test").code == 2
    for command in (("ablate", store, "--table", "order"), ("train-head", store, "--seeds", "2")):
        outcome = muse(*command, "--out", tmp_path / "o", "--evaluate-on", "val")
        assert outcome.code == 1
        assert "--evaluate-on: split 'val'" in outcome.err
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_seeds_are_trained_evaluated_and_evaluated_again_together(
    muse: Muse, store: Path, tmp_path: Path
) -> None:
    run, scores = tmp_path / "run", tmp_path / "scores.json"
    first = muse("train-head", store, "--out", run, "--seeds", "3", "--seed", "7", *TRAIN)
    assert (first.code, sorted(path.name for path in run.glob("seed-*"))) == (
        0, ["seed-7", "seed-8", "seed-9"],
    )  # fmt: skip
    content = json.loads((run / "seeds.json").read_text(encoding="utf-8"))
    ranks = [seed["report"]["text_to_video"]["MnR"] for seed in content["seeds"]]
    text = f"{statistics.mean(ranks):.1f} ± {statistics.stdev(ranks):.1f}"
    assert "3 seeds (7, 8, 9)" in first.out
    assert text in first.out
    again = muse("evaluate", store, "--head", run, "--json", scores)
    assert text in again.out
    assert json.loads(scores.read_text(encoding="utf-8"))["spread"] == content["spread"]
    assert "seed-7" in muse("search", store, "some text", "--head", run).err
    page = muse("evaluate", store, "--head", run, "--html", tmp_path / "page.html")
    assert (page.code, "--head" in page.err) == (2, True)


@pytest.mark.slow
def test_an_ablation_goes_on_where_it_stopped(muse: Muse, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("ablate", "--epochs", "1", store, "--table", "scan", "--out", out, *TRAIN[2:])
    assert muse(*command, "--seeds", "1").code == 0
    weights = {p: p.stat().st_mtime_ns for p in out.rglob("head.safetensors")}
    assert len(weights) == 3
    outcome = muse(*command, "--seeds", "2")
    assert outcome.code == 0
    assert len(list(out.rglob("head.safetensors"))) == 6
    assert {p: p.stat().st_mtime_ns for p in weights} == weights
    content = json.loads((out / "scan.json").read_text(encoding="utf-8"))
    assert content["seeds"] == [42, 43]
    assert [row["row"] for row in content["rows"]] == ["mamba", "bimamba-v1", "bimamba-v2"]
    assert all(len(row["seeds"]) == 2 and not row["failed"] for row in content["rows"])
    assert content["command"][1:3] == ["ablate", "--epochs"]
    page = (out / "scan.md").read_text(encoding="utf-8")
    assert "bimamba-v2 (default)" in page
    other = muse(*command, "--seeds", "2", "--lr", "0.1")
    assert (other.code, "made with lr 0.001" in other.err) == (1, True)


@pytest.mark.slow
def test_a_row_that_diverges_is_a_failed_row_and_exit_code_3(
    muse: Muse, store: Path, tmp_path: Path
) -> None:
    flags = ("--table", "residual", "--seeds", "1", "--lr", "1e30")
    outcome = muse("ablate", store, "--out", tmp_path, *flags, *TRAIN)
    assert outcome.code == 3
    content = json.loads((tmp_path / "residual.json").read_text(encoding="utf-8"))
    assert any("42" in row["failed"] for row in content["rows"])
    assert "failed." in (tmp_path / "residual.md").read_text(encoding="utf-8")
