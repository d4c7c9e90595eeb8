"""Receipts: what is written is read, whole or not at all."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from muse.errors import StoreError
from muse.pipeline.receipts import (
    RECEIPTS_FOLDER,
    Receipt,
    read_receipts,
    write_json,
    write_receipt,
)
from muse.pipeline.records import Failure


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    (tmp_path / RECEIPTS_FOLDER).mkdir()
    return tmp_path


@pytest.fixture
def receipt(make_failure: Callable[[int], Failure]) -> Receipt:
    return Receipt(
        kind="videos",
        index=2,
        first_row=4,
        num_rows=2,
        failures=((5, make_failure(5)),),
        sha256={"features.zarr/tokens/c/2/0/0/0": "ab"},
    )


def test_a_receipt_is_read_as_it_was_written(store_path: Path, receipt: Receipt) -> None:
    write_receipt(store_path, receipt)
    assert read_receipts(store_path, "videos") == [receipt]


def test_receipts_are_read_in_the_order_of_their_shards(store_path: Path, receipt: Receipt) -> None:
    for index in (10, 2, 0):
        write_receipt(store_path, dataclasses.replace(receipt, index=index))
    assert [found.index for found in read_receipts(store_path, "videos")] == [0, 2, 10]


def test_receipts_of_captions_are_not_those_of_videos(store_path: Path, receipt: Receipt) -> None:
    write_receipt(store_path, dataclasses.replace(receipt, kind="captions", failures=()))
    assert read_receipts(store_path, "videos") == []


def test_a_half_written_receipt_does_not_count(store_path: Path) -> None:
    partial = store_path / RECEIPTS_FOLDER / "videos-00000.json.123.partial"
    partial.write_text('{"kind": "vid', encoding="utf-8")
    assert read_receipts(store_path, "videos") == []


@pytest.mark.parametrize("content", ["", "{", "null", "[]", "{}", '{"failures": [{}]}', '{"a": 1}'])
def test_a_damaged_receipt_is_one_line_with_its_path(store_path: Path, content: str) -> None:
    file = store_path / RECEIPTS_FOLDER / "videos-00000.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(StoreError, match=rf"\A{file}: not a receipt .*\Z"):
        read_receipts(store_path, "videos")


def test_writing_json_leaves_no_temporary_file(tmp_path: Path) -> None:
    write_json(tmp_path / "store.json", {"a": 1})
    assert [file.name for file in tmp_path.iterdir()] == ["store.json"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "store.json", {"a": 1})
    before = (tmp_path / "store.json").read_bytes()
    with pytest.raises(TypeError):
        write_json(tmp_path / "store.json", {"a": object()})
    assert (tmp_path / "store.json").read_bytes() == before
