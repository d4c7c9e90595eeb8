"""``muse compare``, and the intervals, post-processed rows and ledger of ``muse evaluate``."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from muse.cli.compare import meaning, p_text, queries_text
from muse.cli.evaluation_extras import interval_text
from muse.head.bootstrap import Interval
from muse.head.comparison import Difference
from tests.cli.conftest import Outcome

Muse = Callable[..., Outcome]
TRAIN = ("--epochs", "1", "--batch-size", "4", "--depth", "1", "--device", "cpu")
POST = ("--post", "qb-norm")
NUMBERS = {"R@1", "R@5", "R@10", "MdR", "MnR"}


def test_intervals_stand_beside_the_numbers_and_in_the_json(
    muse: Muse, store: Path, tmp_path: Path
) -> None:
    file = tmp_path / "scores.json"
    plain = muse("evaluate", store, "--json", file)
    assert "[" not in plain.out
    assert "intervals" not in json.loads(file.read_text())
    outcome = muse("evaluate", store, "--interval", "0.9", "--draws", "500", "--json", file)
    assert (outcome.code, outcome.err) == (0, "")
    content = json.loads(file.read_text())
    found = content["intervals"]
    assert (found["level"], found["draws"]) == (0.9, 500)
    for direction in ("text_to_video", "video_to_text"):
        assert set(found[direction]) >= NUMBERS
        for name in NUMBERS:
            low, high = found[direction][name]
            assert low <= content[direction][name] <= high
    low, high = found["text_to_video"]["R@1"]
    assert f"{content['text_to_video']['R@1']:.1f} [{low:.1f}, {high:.1f}]" in outcome.out


def test_post_processed_rows_are_under_a_line_and_a_key_of_their_own(
    muse: Muse, store: Path, tmp_path: Path
) -> None:
    file = tmp_path / "scores.json"
    plain = muse("evaluate", store, "--json", file)
    numbers = json.loads(file.read_text())
    outcome = muse("evaluate", store, "--post", "inverted-softmax,qb-norm", "--json", file)
    assert (outcome.code, outcome.err) == (0, "")
    before, after = outcome.out.split("Post-processed, not to be compared with plain numbers")
    assert before == plain.out
    assert after.count("qb-norm") == 2  # both directions
    content = json.loads(file.read_text())
    found = content.pop("post_processed")
    del content["provenance"], numbers["provenance"]  # with the command and the time
    assert content == numbers
    assert set(found) == {"inverted-softmax", "qb-norm"}
    assert found["qb-norm"]["needs"] == "the training captions, and videos, as a bank"
    assert (found["qb-norm"]["num_bank_captions"], found["qb-norm"]["num_bank_videos"]) == (8, 4)
    assert set(found["qb-norm"]["video_to_text"]) >= NUMBERS


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--post", "dual-softmax"), "4 queries and 2 answers"),
        (("--post", "qb-norm", "--split", "train"), "the queries that are tested"),
        (("--post", "softmax"), "post softmax: expected dual-softmax"),
        (("--interval", "95"), "interval 95"),
        (("--interval", "0.95", "--draws", "1"), "draws 1"),
        (("--draws", "500"), "draws 500: of no interval"),
        (("--ledger", "."), "can't be written"),
    ],
)
def test_what_can_t_be_had_is_one_line(
    muse: Muse, store: Path, flags: tuple[str, ...], words: str
) -> None:
    outcome = muse("evaluate", store, *flags)
    assert outcome.code in (1, 2)
    assert len(outcome.err.splitlines()) == 1
    assert words in outcome.err


def test_a_ledger_has_a_row_for_each_caption(muse: Muse, store: Path, tmp_path: Path) -> None:
    file = tmp_path / "ledger.parquet"
    outcome = muse("evaluate", store, "--ledger", file)
    assert f"ledger: {file}" in outcome.out
    rows = pq.ParquetFile(file).read().to_pylist()
    assert [row["query"] for row in rows] == [8, 9, 10, 11]
    assert {row["head"] for row in rows} == {"mean-pool"}
    assert {len(row["top_scores"]) for row in rows} == {2}


def test_a_head_against_itself_shows_no_difference(muse: Muse, store: Path, tmp_path: Path) -> None:
    file = tmp_path / "compared.json"
    outcome = muse("compare", store, "mean-pool", "mean-pool", "--json", file)
    assert (outcome.code, outcome.err) == (0, "")
    assert "split test: 2 of 2 videos, 4 of 4 captions. A: mean-pool" in outcome.out
    assert outcome.out.count("no difference that 4 queries of 2 videos can show") == 4
    assert outcome.out.count("no difference that 2 queries can show") == 4
    content = json.loads(file.read_text())
    assert content["text_to_video"]["MnR"]["p_value"] == 1
    assert content["video_to_text"]["R@1"]["interval"] == [0, 0]


@pytest.mark.slow
def test_a_run_is_compared_with_mean_pooling(muse: Muse, store: Path, tmp_path: Path) -> None:
    run, ledger = tmp_path / "run", tmp_path / "ledger.parquet"
    muse("train-head", store, "--out", run, *TRAIN, "--select-on", "none")
    outcome = muse("compare", store, run, "mean-pool", "--split", "train", "--ledger", ledger)
    assert outcome.code == 0
    assert f"A: {run}. B: mean-pool" in outcome.out
    assert "trained on split 'train'" in outcome.err
    heads = pq.ParquetFile(ledger).read()["head"].to_pylist()
    assert heads == [str(run)] * 8 + ["mean-pool"] * 8
    seeds = tmp_path / "seeds"
    shutil.copytree(run, seeds / "seed-42")
    assert "Name one" in muse("compare", store, seeds, "mean-pool").err
    assert "--post: it is of one run" in muse("evaluate", store, "--head", seeds, *POST).err


@pytest.mark.slow
def test_a_folder_of_seeds_has_intervals_of_its_means(
    muse: Muse, store: Path, tmp_path: Path
) -> None:
    seeds, file = tmp_path / "seeds", tmp_path / "seeds.json"
    muse("train-head", store, "--out", seeds, *TRAIN, "--seeds", "2", "--select-on", "none")
    asked = ("--split", "train", "--interval", "0.9", "--draws", "100", "--latex", "-")
    outcome = muse("evaluate", store, "--head", seeds, *asked, "--json", file)
    assert outcome.code == 0
    content = json.loads(file.read_text())
    assert content["schema"] == "muse-seeds"
    assert content["intervals"]["num_seeds"] == len(content["seeds"]) == 2
    low, high = content["intervals"]["text_to_video"]["MnR"]
    assert low <= content["spread"]["text_to_video"]["MnR"]["mean"] <= high
    assert f"[{low:.1f}, {high:.1f}]" in outcome.out
    assert outcome.out.count("90 % interval of the mean") == 2
    assert rf"{seeds} & $".replace("_", r"\_") in outcome.out
    heads = [one["head"]["weights_sha256"] for one in content["seeds"]]
    assert len({*heads}) == 2


@pytest.mark.slow
def test_intervals_and_post_processed_rows_follow_the_rules(
    muse: Muse, store: Path, tmp_path: Path
) -> None:
    file = tmp_path / "scores.json"
    rules = ("--ties", "pessimistic", "--v2t", "caption")
    outcome = muse("evaluate", store, *rules, "--interval", "0.9", *POST, "--json", file)
    assert (outcome.code, outcome.err) == (0, "")
    content = json.loads(file.read_text())
    for of in (content, content["intervals"], content["post_processed"]["qb-norm"]):
        assert of["tie_rule"] == "pessimistic"
    assert content["post_processed"]["qb-norm"]["v2t_rule"] == content["v2t_rule"]
    for name in NUMBERS:
        low, high = content["intervals"]["video_to_text"][name]
        assert low <= content["video_to_text"][name] <= high
    assert muse("evaluate", store, "--v2t", "caption", "--ledger", tmp_path / "a.parquet").code == 0


def test_a_difference_is_put_into_words() -> None:
    difference = Difference(
        name="R@1",
        first=40.0,
        second=30.0,
        interval=Interval(low=3.04, high=17.0),
        p_value=0.01,
        level=0.95,
    )
    assert meaning(difference, "9 queries") == "A is better"
    assert interval_text(difference.interval, sign="+") == " [+3.0, +17.0]"
    assert queries_text(1000, 1000) == "1,000 queries"
    assert queries_text(27_763, 670) == "27,763 queries of 670 videos"
    assert (p_text(0.0123, 9999), p_text(1 / 10_000, 9999)) == ("0.012", "< 0.0002")
    assert p_text(0.0004, 9999) == "0.0004"  # not 0.000
