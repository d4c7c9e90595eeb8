"""Three commands from a folder of clips to numbers, and what a second run does."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from muse.cli.search import print_answers
from muse.pipeline.exports.hdf5_writer import write_hdf5
from muse.pipeline.storage.names import LOCK_FILE
from muse.pipeline.store_zarr import ZarrStore
from tests.cli.conftest import EXTRACT_FLAGS, Outcome
from tests.pipeline.raw_memory import FeaturesInMemory

Muse = Callable[..., Outcome]
TRAIN = ("--epochs", "2", "--batch-size", "4", "--depth", "1", "--device", "cpu")


def _extract(
    muse: Muse, corpus: tuple[Path, Path], encoder: Path, out: Path, *more: str
) -> Outcome:
    videos, captions = corpus
    spec = f"openclip:local-dir:{encoder}"
    flags = ("--captions", captions, "--encoder", spec, *EXTRACT_FLAGS, "--out", out)
    return muse("extract", videos, *flags, *more)


def _content(store: Path) -> tuple[str, dict[str, str]]:
    """The root, and the SHA-256 by path of all arrays; receipts tell seconds of a run."""
    files = sorted(file for file in (store / "features.zarr").rglob("*") if file.is_file())
    return ZarrStore.open(store).root_sha256, {
        str(file.relative_to(store)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def _times(store: Path) -> dict[Path, int]:
    return {f: f.stat().st_mtime_ns for f in store.rglob("*") if f.name != LOCK_FILE}


def test_extract_train_evaluate_and_search_give_numbers(
    muse: Muse, corpus: tuple[Path, Path], tiny_clip_folder: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    assert _extract(muse, corpus, tiny_clip_folder, store, "--engine", "local").code == 0
    run, scores = tmp_path / "run", tmp_path / "deep" / "scores.json"
    assert muse("train-head", store, "--out", run, *TRAIN).code == 0
    assert muse("evaluate", store, "--head", run, "--json", scores).code == 0
    content = json.loads(scores.read_text(encoding="utf-8"))
    assert (content["protocol"], content["num_videos"], content["num_captions"]) == ("folder", 2, 4)
    for direction in ("text_to_video", "video_to_text"):
        assert set(content[direction]) == {"R@1", "R@5", "R@10", "R@50", "MdR", "MnR", "Rsum"}
        assert 0 <= content[direction]["R@1"] <= content[direction]["R@5"] == 100
        assert 1 <= content[direction]["MnR"] <= 2
    found = muse("search", store, "some text", "--head", run, "-k", "3", "--json")
    answers = [json.loads(line) for line in found.out.splitlines()]
    assert [answer["rank"] for answer in answers] == [1, 2, 3]
    cosines = [answer["cosine"] for answer in answers]
    assert cosines == sorted(cosines, reverse=True)
    table = muse("search", store, "some text", "--head", run).out
    assert table.startswith("folder: 6 of 6 videos searched\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (("--aggregator", "seq-transf"), ("seq-transf", [0.5, 1.0, 2.0], 3)),
        pytest.param(("--factors", "none"), ("muse", [], 3), marks=pytest.mark.slow),
    ],
)
def test_baselines_are_trained_evaluated_and_searched_by_the_same_commands(
    muse: Muse, store: Path, tmp_path: Path, flags: tuple[str, ...], wanted: tuple[object, ...]
) -> None:
    run = tmp_path / "run"
    assert muse("train-head", store, "--out", run, *TRAIN, *flags).code == 0
    head = json.loads((run / "config.json").read_text(encoding="utf-8"))["head"]
    assert (head["aggregator"], head["factors"], head["max_frames"]) == wanted
    assert "2 of 2 videos" in muse("evaluate", store, "--head", run).out
    assert muse("search", store, "some text", "--head", run).code == 0


def test_mean_pool_needs_no_training_and_is_the_default(muse: Muse, store: Path) -> None:
    outcome = muse("evaluate", store)
    assert outcome.code == 0
    assert "2 of 2 videos, 4 of 4 captions; head mean-pool" in outcome.out


def test_other_rules_than_the_default_ones_are_named_or_refused(muse: Muse, tmp_path: Path) -> None:
    file, scores = tmp_path / "store.h5", tmp_path / "scores.json"
    write_hdf5(FeaturesInMemory(num_videos=4, captions_per_video=2), file)
    asked = ("evaluate", file, "--split", "train")
    outcome = muse(*asked, "--ties", "pessimistic", "--v2t", "caption", "--json", scores)
    named = "ties: pessimistic; video to text: best caption of each video, ranked among all"
    assert named in " ".join(outcome.out.split())
    content = json.loads(scores.read_text(encoding="utf-8"))
    assert (content["tie_rule"], "all captions" in content["v2t_rule"]) == ("pessimistic", True)
    refused = muse(*asked, "--ties", "clip4clip", "--v2t", "caption")
    assert (refused.code, "code ranks groups" in refused.err) == (2, True)
    refused = muse(*asked, "--ties", "optimistic", "--html", tmp_path / "page.html")
    assert (refused.code, "Leave out --html" in refused.err) == (2, True)


def test_numbers_are_printed_by_what_the_captions_ask_for(muse: Muse, tmp_path: Path) -> None:
    file, scores = tmp_path / "store.h5", tmp_path / "scores.json"
    axes = ("where", "[b]order", "")
    write_hdf5(FeaturesInMemory(num_videos=8, captions_per_video=3, axes=axes), file)
    outcome = muse("evaluate", file, "--split", "train", "--json", scores)
    assert outcome.code == 0
    content = json.loads(scores.read_text(encoding="utf-8"))["by_axis"]
    for axis in axes[:2]:
        to_video, to_text = content[axis]["text_to_video"], content[axis]["video_to_text"]
        numbers = (*(to_video[name] for name in ("R@1", "R@5", "MdR")), to_text["R@1"])
        (line,) = [line for line in outcome.out.splitlines() if axis in line]
        cells = [cell.strip() for cell in line.split("│")[1:-1]]
        assert cells == [axis, "8", *(f"{number:.1f}" for number in numbers), "12.50"]


def test_an_axis_is_printed_without_what_moves_the_cursor(muse: Muse, tmp_path: Path) -> None:
    axes = ("\x1b[31mred\nand more",)
    write_hdf5(FeaturesInMemory(num_videos=8, axes=axes), tmp_path / "store.h5")
    outcome = muse("evaluate", tmp_path / "store.h5", "--split", "train")
    assert "\ufffd[31mred\ufffdand more" in outcome.out


def test_no_axis_no_table_of_axes(muse: Muse, store: Path) -> None:
    assert "axis" not in muse("evaluate", store).out


def test_numbers_on_the_training_split_carry_a_remark(
    muse: Muse, store: Path, tmp_path: Path
) -> None:
    muse("train-head", store, "--out", tmp_path / "run", *TRAIN)
    assert (
        "not test numbers"
        in muse("evaluate", store, "--head", tmp_path / "run", "--split", "train").err
    )
    assert "not test numbers" not in muse("evaluate", store, "--head", tmp_path / "run").err


def test_a_second_run_does_nothing_and_says_so(
    muse: Muse, store: Path, corpus: tuple[Path, Path], tiny_clip_folder: Path, tmp_path: Path
) -> None:
    before = _times(store)
    outcome = _extract(muse, corpus, tiny_clip_folder, store, "--engine", "local")
    assert outcome.code == 0
    assert "Nothing to do" in outcome.out
    assert "listed 6 = ok 6 + failed 0 + skipped 0;" in outcome.out
    assert _times(store) == before

    muse("train-head", store, "--out", tmp_path / "run", *TRAIN)
    assert "Nothing to do" in muse("train-head", store, "--out", tmp_path / "run", *TRAIN).out


@pytest.mark.slow
def test_a_lost_receipt_brings_the_same_bytes_back(
    muse: Muse, store: Path, corpus: tuple[Path, Path], tiny_clip_folder: Path
) -> None:
    before = _content(store)
    (store / "receipts" / "videos-000001.json").unlink()
    outcome = _extract(muse, corpus, tiny_clip_folder, store, "--engine", "local")
    assert outcome.code == 0
    assert _content(store) == before


@pytest.mark.slow
def test_ray_and_local_write_the_same_bytes(
    muse: Muse, store: Path, corpus: tuple[Path, Path], tiny_clip_folder: Path, tmp_path: Path
) -> None:
    outcome = _extract(
        muse, corpus, tiny_clip_folder, tmp_path / "ray", "--engine", "ray", "--num-decoders", "2"
    )
    assert outcome.code == 0, outcome.err
    assert _content(tmp_path / "ray") == _content(store)


@pytest.mark.slow
def test_json_lines_tell_start_and_end(
    muse: Muse, corpus: tuple[Path, Path], tiny_clip_folder: Path, tmp_path: Path
) -> None:
    outcome = _extract(
        muse, corpus, tiny_clip_folder, tmp_path / "s", "--engine", "local", "--json"
    )
    events = [json.loads(line) for line in outcome.out.splitlines()]
    assert events[0] == {"event": "start", "listed": 6, "missing": 0, "captions": 12}
    done = events[-1]
    assert (done["event"], done["listed"], done["ok"], done["failed"]) == ("done", 6, 6, 0)


def test_store_info_names_encoder_splits_and_counts(muse: Muse, store: Path) -> None:
    text = muse("store", "info", store).out
    assert "listed 6 = ok 6 + failed 0 + skipped 0 + pending 0" in text
    assert "test 4, train 8" in text
    content = json.loads(muse("store", "info", store, "--json").out)
    assert content["header"]["sampling"] == {"kind": "fps", "num_frames": 3, "fps": 1.0}
    assert content["counts"]["ok"] == 6


def test_search_prints_names_with_brackets_as_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = ["Cat video [dQw4w9WgXcQ].mp4", "a [/x].mp4"]
    print_answers(names, [0.5, 0.25], as_json=False)
    output = capsys.readouterr().out
    assert all(name in output for name in names)
