"""Videos as files: which are the same, and which have changed."""

import dataclasses
import hashlib
import os
from pathlib import Path

import pytest

from muse.pipeline.records import SourceFile
from muse.pipeline.sources import (
    ChangeTest,
    first_with_same_bytes,
    has_changed,
    same_bytes,
    source_of,
)


def put(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def test_a_source_tells_size_time_and_hash(tmp_path: Path) -> None:
    file = put(tmp_path / "a", "seven b")
    source = source_of(file, wants_sha256=True)
    assert source == SourceFile(
        size_bytes=7,
        mtime_ns=file.stat().st_mtime_ns,
        sha256=hashlib.sha256(b"seven b").hexdigest(),
    )


def test_a_hash_that_nobody_asked_for_is_not_taken(tmp_path: Path) -> None:
    source = source_of(put(tmp_path / "a", "text"))
    assert source is not None
    assert source.sha256 is None


def test_what_is_no_regular_file_has_no_source_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", tmp_path / "gone", Path("/dev/null")):
        assert source_of(path, wants_sha256=True) is None


def test_each_file_names_the_first_one_before_it_with_its_bytes(tmp_path: Path) -> None:
    contents = ("one", "two", "one", "three", "one", "two")
    paths = [put(tmp_path / str(place), text) for place, text in enumerate(contents)]
    expected = [
        contents.index(text) if contents.index(text) < place else None
        for place, text in enumerate(contents)
    ]
    assert first_with_same_bytes(paths) == expected == [None, None, 0, None, 0, 1]


def test_missing_and_empty_files_are_like_no_other(tmp_path: Path) -> None:
    paths = [None, put(tmp_path / "a", ""), None, put(tmp_path / "b", ""), tmp_path / "gone"]
    assert first_with_same_bytes(paths) == [None] * 5


def test_the_same_file_by_two_names_is_the_same(tmp_path: Path) -> None:
    file = put(tmp_path / "a", "text")
    (tmp_path / "b").symlink_to(file)
    assert same_bytes(file, tmp_path / "b")


def test_only_two_files_with_the_same_bytes_are_the_same(tmp_path: Path) -> None:
    one, like, other = (put(tmp_path / name, text) for name, text in zip("abc", "xxy", strict=True))
    assert same_bytes(one, like)
    assert not same_bytes(one, other)
    assert not same_bytes(one, None)
    assert not same_bytes(None, None)
    assert not same_bytes(one, tmp_path / "gone")


@pytest.mark.parametrize(("by", "is_changed"), [("stat", True), ("content", False)])
def test_a_touched_file_has_changed_by_its_time_and_not_by_its_content(
    tmp_path: Path, by: ChangeTest, is_changed: bool
) -> None:
    file = put(tmp_path / "a", "text")
    committed = source_of(file, wants_sha256=True)
    assert committed is not None
    os.utime(file, ns=(1, 1))
    assert has_changed(file, committed, by=by) is is_changed


@pytest.mark.parametrize("by", ["stat", "content"])
def test_another_size_is_a_change(tmp_path: Path, by: ChangeTest) -> None:
    file = put(tmp_path / "a", "text")
    committed = source_of(file, wants_sha256=True)
    assert committed is not None
    assert has_changed(put(file, "other text"), committed, by=by)


def test_other_bytes_of_the_same_size_and_time_are_seen_by_content_alone(tmp_path: Path) -> None:
    file = put(tmp_path / "a", "text")
    committed = source_of(file, wants_sha256=True)
    assert committed is not None
    put(file, "TEXT")
    os.utime(file, ns=(committed.mtime_ns, committed.mtime_ns))
    assert not has_changed(file, committed, by="stat")
    assert has_changed(file, committed, by="content")


def test_without_a_hash_content_falls_back_on_size_and_time(tmp_path: Path) -> None:
    file = put(tmp_path / "a", "text")
    committed = source_of(file)
    assert committed is not None
    assert not has_changed(file, committed, by="content")
    older = dataclasses.replace(committed, mtime_ns=committed.mtime_ns - 1)
    assert has_changed(file, older, by="content")


@pytest.mark.parametrize("by", ["stat", "content"])
def test_a_file_that_is_gone_has_not_changed(tmp_path: Path, by: ChangeTest) -> None:
    committed = SourceFile(size_bytes=1, mtime_ns=1, sha256="ab")
    assert not has_changed(tmp_path / "gone", committed, by=by)
    assert not has_changed(None, committed, by=by)
