"""Receipts: what is written is read, whole or not at all; an open one drops what is done again."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_store import SmallStore

from muse.errors import StoreError
from muse.pipeline.receipts import (
    RECEIPTS_FOLDER,
    Receipt,
    read_receipts,
    receipt_name,
    write_receipt,
)
from muse.pipeline.records import ClipFeatures, Failure, SourceFile
from muse.pipeline.storage.files import Storage, open_storage

MakeFeatures = Callable[..., ClipFeatures]
MakeStore = Callable[..., SmallStore]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(tmp_path)


@pytest.fixture
def receipt(make_failure: Callable[[int], Failure]) -> Receipt:
    """Rows 4, 5 and 6, of which 5 failed."""
    return Receipt(
        kind="videos",
        index=2,
        first_row=4,
        num_rows=3,
        members_sha256="cd",
        failures=((5, make_failure(5)),),
        sources=(
            SourceFile(size_bytes=7, mtime_ns=1_700_000_000_123_456_789, sha256="ef"),
            None,
            SourceFile(size_bytes=9, mtime_ns=3),
        ),
        sha256={"features.zarr/tokens/c/2/0/0/0": "ab"},
        seconds={"wait": 0.25, "encode": 1.5, "write": 0.0001},
    )


# -- as files ------------------------------------------------------------------------------------


def test_a_receipt_is_read_as_it_was_written(storage: Storage, receipt: Receipt) -> None:
    write_receipt(storage, receipt)
    assert read_receipts(storage, "videos") == [receipt]


def test_a_receipt_of_captions_is_read_as_it_was_written(storage: Storage) -> None:
    receipt = Receipt(
        kind="captions",
        index=0,
        first_row=0,
        num_rows=9,
        members_sha256="cd",
        left_out=(1, 3),
        pending=(7,),
    )
    write_receipt(storage, receipt)
    assert read_receipts(storage, "captions") == [receipt]


@pytest.mark.parametrize("indices", [(10, 2, 0), tuple(range(17, 0, -1))])
def test_receipts_are_read_in_the_order_of_their_shards(
    storage: Storage, receipt: Receipt, indices: tuple[int, ...]
) -> None:
    for index in indices:
        write_receipt(storage, dataclasses.replace(receipt, index=index))
    assert [found.index for found in read_receipts(storage, "videos")] == sorted(indices)


def test_receipts_of_captions_are_not_those_of_videos(storage: Storage, receipt: Receipt) -> None:
    write_receipt(storage, dataclasses.replace(receipt, kind="captions", failures=()))
    assert read_receipts(storage, "videos") == []


def test_a_half_written_receipt_does_not_count(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / RECEIPTS_FOLDER).mkdir()
    partial = tmp_path / RECEIPTS_FOLDER / "videos-000000.json.123.partial"
    partial.write_text('{"kind": "vid', encoding="utf-8")
    assert read_receipts(storage, "videos") == []


@pytest.mark.parametrize("content", ["", "{", "null", "[]", "{}", '{"failures": [{}]}', '{"a": 1}'])
def test_a_damaged_receipt_is_one_line_with_its_path(
    storage: Storage, tmp_path: Path, content: str
) -> None:
    storage.write("receipts/videos-000000.json", content.encode())
    words = rf"\A{tmp_path}: receipts/videos-000000\.json is no receipt [^\n]*\Z"
    with pytest.raises(StoreError, match=words):
        read_receipts(storage, "videos")


def test_a_flipped_bit_in_a_receipt_is_an_error_that_names_the_file(
    storage: Storage, receipt: Receipt, tmp_path: Path
) -> None:
    write_receipt(storage, receipt)
    file = tmp_path / receipt.name
    whole = file.read_bytes()
    for place in range(0, len(whole), 9):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        file.write_bytes(bytes(damaged))
        with pytest.raises(StoreError, match=r"videos-000002\.json is no receipt"):
            read_receipts(storage, "videos")


def test_a_receipt_under_the_name_of_another_shard_is_an_error_that_names_both(
    storage: Storage, receipt: Receipt, tmp_path: Path
) -> None:
    write_receipt(storage, receipt)
    (tmp_path / receipt.name).rename(tmp_path / receipt_name("videos", 7))
    words = r"videos-000007\.json is no receipt \(it is that of receipts/videos-000002\.json\)"
    with pytest.raises(StoreError, match=words):
        read_receipts(storage, "videos")


# -- opened again --------------------------------------------------------------------------------


def test_rows_of_an_open_receipt_are_pending(receipt: Receipt) -> None:
    opened = receipt.reopened([6])
    assert (opened.is_open, opened.pending, list(opened.rows)) == (True, (6,), [4, 5, 6])
    assert not receipt.is_open


def test_opening_twice_adds_up(receipt: Receipt) -> None:
    assert receipt.reopened([6]).reopened([4]).pending == (4, 6)


def test_an_open_receipt_forgets_failures_that_are_tried_again(receipt: Receipt) -> None:
    assert receipt.reopened([5]).failures == ()
    assert receipt.reopened([4, 6]).failures == receipt.failures


def test_an_open_receipt_forgets_captions_that_are_embedded_now() -> None:
    receipt = Receipt(
        kind="captions", index=0, first_row=0, num_rows=5, members_sha256="", left_out=(1, 3)
    )
    assert receipt.reopened([3]).left_out == (1,)


def test_an_open_receipt_promises_no_hash(receipt: Receipt) -> None:
    assert receipt.reopened([6]).sha256 == {}


def test_an_open_receipt_remembers_the_files_of_its_rows(receipt: Receipt) -> None:
    assert receipt.reopened([6]).sources == receipt.sources


# -- in a store ----------------------------------------------------------------------------------


def test_rows_that_are_not_done_again_stay_readable(
    make_store: MakeStore, make_features: MakeFeatures
) -> None:
    small = make_store(4)
    small.writer.reopen(small.videos(1, [make_features(2), make_features(3)]), [3])
    store = small.open()
    assert store.has_features_N.tolist() == [False, False, True, False]
    assert np.array_equal(store.read_clip(2).tokens_TKD, make_features(2).arrays["tokens"])
    with pytest.raises(StoreError, match=r"'v3' .*has no features"):
        store.read_clip(3)


def test_counts_add_up_while_a_failed_row_is_done_again(
    make_store: MakeStore,
    make_features: MakeFeatures,
    make_failure: Callable[[int], Failure],
) -> None:
    small = make_store(4)
    receipt = small.videos(0, [make_failure(0), make_failure(1)])
    small.videos(1, [make_features(2), make_features(3)])
    small.writer.reopen(receipt, [1])
    counts = small.open().counts()
    assert (counts.listed, counts.ok, counts.failed, counts.skipped, counts.pending) == (
        4, 2, 1, 0, 1,
    )  # fmt: skip


def test_the_root_tells_a_finished_shard_from_an_open_one(
    make_store: MakeStore, make_features: MakeFeatures
) -> None:
    small = make_store(2)
    receipt = small.videos(0, [make_features(0), make_features(1)])
    root = small.open().root_sha256
    small.writer.reopen(receipt, [1])
    assert small.open().root_sha256 != root
    small.videos(0, [make_features(0), make_features(1)], kept=[0])
    assert small.open().root_sha256 == root


def test_the_members_of_a_receipt_are_the_ids_of_its_rows(
    make_store: MakeStore, make_features: MakeFeatures
) -> None:
    small = make_store(4)
    same = [
        small.videos(0, [make_features(0), make_features(1)]).members_sha256,
        small.videos(1, [make_features(2), make_features(3)]).members_sha256,
        small.videos(0, [make_features(1), make_features(0)]).members_sha256,
    ]
    assert same[0] != same[1]
    assert same[0] == same[2]  # whatever is in the rows
