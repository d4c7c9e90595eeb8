"""``muse data check``: what it prints, and with what it exits."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Outcome

Muse = Callable[..., Outcome]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """MSVD's test list of two videos, of which one is there."""
    (tmp_path / "test_list.txt").write_text("one\ntwo\n", encoding="utf-8")
    (tmp_path / "captions_msvd.json").write_text(
        '{"one": ["a"], "two": ["a", "b"]}', encoding="utf-8"
    )
    (tmp_path / "one.avi").touch()
    return tmp_path


def test_check_says_what_is_there_and_what_is_missing(muse: Muse, root: Path) -> None:
    outcome = muse("data", "check", "msvd", "--root", root)
    assert outcome.code == 3
    for words in (
        "MSVD train: not there: no train_list.txt\n",
        "MSVD test, 1/2 videos, 3 captions (published: 670 videos, 27763 captions)\n",
        f"  read from {root / 'test_list.txt'}\n",
        "  1 videos missing: two\n",
        "  1 captions are equal to an earlier one\n",
        "Where to get them: CLIP4Clip's msvd_data.zip",
        f"  muse extract --dataset msvd --root {root} --split test --out msvd.store\n",
        "Papers take 12 frames and cut texts at 32 tokens, and so does:\n",
    ):
        assert words in outcome.out, words


def test_check_as_json_is_one_object_with_all_ids(muse: Muse, root: Path) -> None:
    outcome = muse("data", "check", "msvd", "--root", root, "--split", "test", "--json")
    content = json.loads(outcome.out)
    (split,) = content["splits"]
    assert (outcome.code, content["dataset"], content["whole"]) == (3, "msvd", False)
    assert (split["protocol"], split["num_present"], split["missing"]) == ("MSVD test", 1, ["two"])
    assert split["published"] == [{"num_videos": 670, "num_captions": 27763}]


def test_check_of_a_whole_split_exits_with_0(muse: Muse, tmp_path: Path) -> None:
    row = "clip{}\t0\t1\t0\t1\ta sentence\n"
    (tmp_path / "LSMDC16_challenge_1000_publictect.csv").write_text(
        "".join(row.format(n) for n in range(1000)), encoding="utf-8"
    )
    for number in range(1000):
        (tmp_path / f"clip{number}.avi").touch()
    outcome = muse("data", "check", "lsmdc", "--root", tmp_path)
    assert "LSMDC test, 1000/1000 videos, 1000 captions (as published)" in outcome.out
    assert "Where to get them" not in outcome.out
    assert outcome.code == 0
    assert muse("data", "check", "lsmdc", "--root", tmp_path, "--split", "val").code == 3


def test_check_of_a_folder_without_any_file_exits_with_3(muse: Muse, tmp_path: Path) -> None:
    outcome = muse("data", "check", "vatex", "--root", tmp_path)
    assert outcome.code == 3
    assert "Where to get them: CLIP2Video" in outcome.out
    assert "Papers take 12 frames and cut texts at 32 tokens.\n" in outcome.out
    assert "muse extract" not in outcome.out  # it could only fail


def test_check_tells_the_frames_of_paragraph_benchmarks(muse: Muse, tmp_path: Path) -> None:
    out = muse("data", "check", "didemo", "--root", tmp_path).out
    assert "Papers take 64 frames of seconds 0:31 and cut texts at 64 tokens" in out


def test_check_of_an_unknown_split_or_folder_is_one_line(muse: Muse, root: Path) -> None:
    for arguments in (("--root", root, "--split", "dev"), ("--root", root / "gone")):
        outcome = muse("data", "check", "msvd", *arguments)
        assert outcome.code == 1
        assert outcome.err.count("\n") == 1
