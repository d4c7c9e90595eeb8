"""Bad input gives one line that helps, or a recorded failure; never a traceback."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from muse.pipeline.sealed_json import sealed_bytes, unsealed
from tests.cli.conftest import EXTRACT_FLAGS, Outcome

Muse = Callable[..., Outcome]


def _is_one_line(outcome: Outcome, *words: str, code: int = 1) -> None:
    """The exit code, and one line on stderr that holds the words; before it, progress only."""
    assert outcome.code == code
    *progress, line = outcome.err.splitlines()
    assert line.startswith("muse: ")
    assert all(before.startswith(("folder: ", "note: ")) for before in progress)
    for word in words:
        assert word in line


@pytest.fixture
def extract(muse: Muse, tiny_clip: str, tmp_path: Path) -> Callable[..., Outcome]:
    def run(*arguments: object) -> Outcome:
        return muse(
            "extract", *arguments, "--out", tmp_path / "store", "--engine", "local",
            "--encoder", tiny_clip, "--num-frames", "2", "--device", "cpu",
        )  # fmt: skip

    return run


def _captions(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_folder_that_is_not_there(extract: Callable[..., Outcome], tmp_path: Path) -> None:
    _is_one_line(extract(tmp_path / "nowhere"), "nowhere", "no such folder")


def test_an_empty_folder(extract: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    _is_one_line(extract(tmp_path / "videos"), "0 videos", ".mp4")


def test_captions_of_videos_that_are_all_elsewhere(
    extract: Callable[..., Outcome], corpus: tuple[Path, Path], tmp_path: Path
) -> None:
    captions = _captions(tmp_path / "c.csv", "video,caption\nother.mp4,a text\n")
    _is_one_line(extract(corpus[0], "--captions", captions), "other.mp4", "none of its 1 videos")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("c.csv", "video,captoin\nclip 0.mp4,x\n", ("no column 'caption'", "captoin")),
        ("c.csv", "video,caption,colour\nclip 0.mp4,x,red\n", ("unknown column 'colour'",)),
        ("c.csv", "video,caption\nclip 0.mp4,\n", ("line 2", "expected a text")),
        ("c.csv", "video,caption\nclip 0.mp4,a, b\n", ("line 2", "Quote")),
        ("c.txt", "clip 0.mp4 x\n", (".txt", ".csv")),
        ("c.json", "{", ("can't be read",)),
        (
            "c.json",
            json.dumps([{"video": "clip 0.mp4", "captions": ["x"]}] * 2),
            ("'clip 0.mp4' again",),
        ),
        ("c.csv", "video,caption\nclip 0.mp4,x\nclip 0,y\n", ("both mean", "clip 0.mp4")),
    ],
)  # fmt: skip
def test_caption_files_that_can_not_be_used(
    extract: Callable[..., Outcome],
    corpus: tuple[Path, Path],
    tmp_path: Path,
    name: str,
    text: str,
    words: tuple[str, ...],
) -> None:
    captions = _captions(tmp_path / name, text)
    _is_one_line(extract(corpus[0], "--captions", captions), name, *words)


def test_bad_videos_are_recorded_and_the_others_extracted(
    extract: Callable[..., Outcome], two_second_video: Path, tmp_path: Path, muse: Muse
) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    shutil.copy(two_second_video, folder / "good.mp4")
    (folder / "text.mp4").write_text("no video", encoding="utf-8")
    (folder / "cut.mp4").write_bytes(two_second_video.read_bytes()[:900])
    captions = _captions(tmp_path / "c.csv", "video,caption\ngood.mp4,x\ntext.mp4,y\ngone.mp4,z\n")
    outcome = extract(folder, "--captions", captions)
    assert outcome.code == 3
    assert "listed 4 = ok 1 + failed 3 + skipped 0;" in outcome.out
    lines = (tmp_path / "store" / "failures.jsonl").read_text(encoding="utf-8").splitlines()
    reasons = {failure["video_id"]: failure["reason"] for failure in map(json.loads, lines)}
    assert reasons == {"cut.mp4": "not_a_video", "gone.mp4": "missing", "text.mp4": "not_a_video"}
    # A second run has nothing to do, and still says that videos failed.
    assert extract(folder, "--captions", captions).code == 3
    assert (
        "1 of 3 videos, 1 of 3 captions"
        in muse("evaluate", tmp_path / "store", "--split", "all").out
    )


def test_other_settings_on_the_same_store_name_the_field(
    muse: Muse, corpus: tuple[Path, Path], store: Path, tiny_clip_folder: Path
) -> None:
    encoder = f"openclip:local-dir:{tiny_clip_folder}"
    outcome = muse(
        "extract", corpus[0], "--captions", corpus[1], "--out", store, "--encoder", encoder,
        *EXTRACT_FLAGS, "--fps", "2",
    )  # fmt: skip
    _is_one_line(outcome, "fps = 1.0", "2.0")


def test_a_folder_that_holds_something_else_is_not_written_to(
    extract: Callable[..., Outcome], corpus: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "thesis.tex").write_text("years of work", encoding="utf-8")
    _is_one_line(extract(corpus[0]), "thesis.tex", "--out")
    assert [file.name for file in (tmp_path / "store").iterdir()] == ["thesis.tex"]


def test_an_unreadable_store(muse: Muse, tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text("{", encoding="utf-8")
    _is_one_line(muse("evaluate", tmp_path), "store.json", "can't be read")
    _is_one_line(muse("store", "info", tmp_path / "none"), "no feature store")


def test_a_head_for_another_store_names_the_field(muse: Muse, store: Path, tmp_path: Path) -> None:
    flags = ("--epochs", "1", "--batch-size", "4", "--depth", "1", "--device", "cpu")
    assert muse("train-head", store, "--out", tmp_path / "run", *flags).code == 0
    header = unsealed((store / "store.json").read_bytes())
    header["sampling"]["kind"] = "uniform"
    (store / "store.json").write_bytes(sealed_bytes(header))
    outcome = muse("evaluate", store, "--head", tmp_path / "run")
    _is_one_line(outcome, "sampling.kind", "'uniform'", "'fps'")


def test_a_run_folder_that_is_none(muse: Muse, store: Path, tmp_path: Path) -> None:
    _is_one_line(muse("evaluate", store, "--head", tmp_path / "no run"), "no run")


def test_a_split_that_is_not_there_lists_those_that_are(muse: Muse, store: Path) -> None:
    outcome = muse("evaluate", store, "--split", "tset")
    _is_one_line(outcome, "'tset'", "'test' (4 captions)", "'train' (8 captions)")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--num-frames", "0"), ("num_frames 0",)),
        (("--num-decoders", "0"), ("num_decoders 0",)),
        (("--num-encoders", "-1"), ("num_encoders -1",)),
        (("--decode-timeout", "0"), ("timeout_seconds 0",)),
        (("--max-duration", "-1"), ("max_duration_seconds -1",)),
        (("--max-failures", "few"), ("max_failures 'few'", "1%")),
        (("--retry-failed", "timeout,tired"), ("retry_failed 'tired'", "crashed")),
        (("--views", "tokens,colour"), ("colour",)),
        (("--sampling", "uniform", "--fps", "2"), ("takes no rate",)),
        (("--fps", "0"), ("fps 0",)),
        (("--shard-size", "0"), ("shard_size 0",)),
        (("--dataset", "msvd"), ("does not go with --dataset",)),
    ],
)
def test_values_out_of_range(
    muse: Muse,
    corpus: tuple[Path, Path],
    tmp_path: Path,
    arguments: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    outcome = muse("extract", corpus[0], "--out", tmp_path / "s", "--engine", "local", *arguments)
    _is_one_line(outcome, *words, code=2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--encoder", "clip"), ("'clip'", "openclip:MODEL/PRETRAINED")),
        (("--encoder", "conse", "--device", "gpu"), ("'gpu'", "auto, cpu or cuda")),
    ],
)
def test_encoders_and_devices_that_there_are_not(
    muse: Muse,
    corpus: tuple[Path, Path],
    tmp_path: Path,
    arguments: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    outcome = muse("extract", corpus[0], "--out", tmp_path / "s", "--engine", "local", *arguments)
    _is_one_line(outcome, *words)


def test_wrong_usage_exits_with_two(muse: Muse) -> None:
    assert muse("extract").code == 2
    assert muse("evaluate", "store", "--no-such-flag").code == 2
    assert muse("extract", "videos", "--out", "s", "--engine", "spark").code == 2
