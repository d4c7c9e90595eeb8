"""The store: what is written is read, and what was not written never looks like a value."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from muse.errors import StoreError
from muse.pipeline import store_writer
from muse.pipeline.header import StoreHeader
from muse.pipeline.receipts import RECEIPTS_FOLDER
from muse.pipeline.records import ClipTokens, Failure, Listing
from muse.pipeline.store import StoreCounts, open_store
from muse.pipeline.store_writer import StoreWriter

MakeTokens = Callable[..., ClipTokens]
MakeFailure = Callable[[int], Failure]
MakeStore = Callable[..., StoreWriter]


@pytest.fixture
def make_store(
    tmp_path: Path, make_rows: Callable[..., Listing], make_header: Callable[..., StoreHeader]
) -> MakeStore:
    """A new store in ``tmp_path / name``; two videos a shard."""

    def make(
        num_videos: int = 5, *, name: str = "store", missing: tuple[int, ...] = ()
    ) -> StoreWriter:
        listing = make_rows(num_videos, missing=missing)
        return StoreWriter.create(tmp_path / name, make_header(listing), listing)

    return make


def same_clip(left: ClipTokens, right: ClipTokens) -> bool:
    return left.video_id == right.video_id and all(
        np.array_equal(getattr(left, name), getattr(right, name), equal_nan=name.startswith("pts"))
        for name in ("tokens_TKD", "valid_T", "pts_seconds_T")
    )


# -- round trip ----------------------------------------------------------------------------------


def test_tokens_are_read_as_they_were_written(
    make_store: MakeStore, make_tokens: MakeTokens
) -> None:
    store = make_store()
    store.write_video_shard(1, 2, [make_tokens(2), make_tokens(3, num_valid=1)])
    opened = open_store(store.path)
    assert same_clip(opened.read_clip(2), make_tokens(2))
    assert same_clip(opened.read_clip(3), make_tokens(3, num_valid=1))


def test_a_last_short_shard_is_read_as_it_was_written(
    make_store: MakeStore, make_tokens: MakeTokens
) -> None:
    store = make_store(5)
    store.write_video_shard(2, 4, [make_tokens(4)])
    assert same_clip(open_store(store.path).read_clip(4), make_tokens(4))


def test_the_listing_is_read_as_it_was_written(
    make_store: MakeStore, make_rows: Callable[..., Listing]
) -> None:
    store = open_store(make_store(5).path)
    assert list(store.captions) == list(make_rows(5).captions)
    assert store.video_ids == ["v0", "v1", "v2", "v3", "v4"]


def test_the_header_is_read_as_it_was_written(make_store: MakeStore) -> None:
    store = make_store()
    assert open_store(store.path).header == store.header


def test_caption_embeddings_are_read_in_the_order_asked_for(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_writer, "CAPTIONS_PER_SHARD", 4)
    store = make_store(5)  # ten captions: three shards
    written = np.arange(40, dtype=np.float16).reshape(10, 4)
    for index, start in enumerate(range(0, 10, 4)):
        store.write_caption_shard(index, start, written[start : start + 4])
    rows = np.array([9, 0, 4, 4, 3])
    assert np.array_equal(open_store(store.path).read_caption_embeddings(rows), written[rows])


def test_a_store_without_captions_is_a_store(
    tmp_path: Path, make_rows: Callable[..., Listing], make_header: Callable[..., StoreHeader]
) -> None:
    listing = make_rows(2, captions_each=0)
    store = StoreWriter.create(tmp_path / "store", make_header(listing), listing)
    assert (
        open_store(store.path).counts().captions,
        len(open_store(store.path).has_embedding_Q),
    ) == (0, 0)


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 2, 0)])
def test_shards_written_in_any_order_give_the_same_bytes(
    make_store: MakeStore,
    make_tokens: MakeTokens,
    make_failure: MakeFailure,
    bytes_of: Callable[[Path], dict[str, bytes]],
    order: tuple[int, ...],
) -> None:
    rows = [make_tokens(0), make_failure(1), make_tokens(2), make_tokens(3), make_tokens(4)]
    in_order, shuffled = make_store(name="in order"), make_store(name="shuffled")
    for store, indices in ((in_order, (0, 1, 2)), (shuffled, order)):
        for index in indices:
            store.write_video_shard(index, 2 * index, rows[2 * index : 2 * index + 2])
    assert bytes_of(shuffled.path) == bytes_of(in_order.path)


def test_a_shard_written_again_over_damaged_files_gives_the_same_bytes(
    make_store: MakeStore, make_tokens: MakeTokens, bytes_of: Callable[[Path], dict[str, bytes]]
) -> None:
    store = make_store(5)
    store.write_video_shard(2, 4, [make_tokens(4)])
    before = bytes_of(store.path)
    for file in (store.path / "features.zarr").glob("*/c/2/**/0"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:-1])
    store.write_video_shard(2, 4, [make_tokens(4)])
    assert bytes_of(store.path) == before


def test_a_receipt_holds_the_hash_of_every_file_of_its_shard(
    make_store: MakeStore, make_tokens: MakeTokens
) -> None:
    store = make_store()
    receipt = store.write_video_shard(0, 0, [make_tokens(0), make_tokens(1)])
    chunks = [file for file in store.path.glob("features.zarr/*/c/**/*") if file.is_file()]
    assert receipt.sha256 == {
        str(file.relative_to(store.path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in chunks
    }


# -- what is not there ---------------------------------------------------------------------------


def test_a_failed_row_is_an_error_and_not_zeros(
    make_store: MakeStore, make_tokens: MakeTokens, make_failure: MakeFailure
) -> None:
    store = make_store()
    store.write_video_shard(0, 0, [make_failure(0), make_tokens(1)])
    with pytest.raises(StoreError, match=r"'v0' .*has no features"):
        open_store(store.path).read_clip(0)


def test_a_pending_row_is_an_error_and_not_zeros(make_store: MakeStore) -> None:
    with pytest.raises(StoreError, match=r"'v3' .*has no features"):
        open_store(make_store().path).read_clip(3)


def test_a_pending_caption_is_an_error_and_not_zeros(make_store: MakeStore) -> None:
    with pytest.raises(StoreError, match="2 captions have no embedding yet"):
        open_store(make_store().path).read_caption_embeddings(np.array([0, 5]))


def test_a_caption_of_a_missing_video_is_an_error_and_not_zeros(make_store: MakeStore) -> None:
    store = make_store(2, missing=(1,))
    store.write_caption_shard(0, 0, np.ones((4, 4), dtype=np.float16))
    with pytest.raises(StoreError, match="1 captions have no embedding"):
        open_store(store.path).read_caption_embeddings(np.array([0, 2]))


def test_has_features_is_true_for_committed_videos_that_did_not_fail(
    make_store: MakeStore, make_tokens: MakeTokens, make_failure: MakeFailure
) -> None:
    store = make_store()
    store.write_video_shard(0, 0, [make_failure(0), make_tokens(1)])
    store.write_video_shard(2, 4, [make_tokens(4)])
    assert open_store(store.path).has_features_N.tolist() == [False, True, False, False, True]


def test_has_embedding_is_true_for_committed_captions_of_videos_that_are_there(
    make_store: MakeStore,
) -> None:
    store = make_store(3, missing=(1,))
    store.write_caption_shard(0, 0, np.ones((6, 4), dtype=np.float16))
    assert open_store(store.path).has_embedding_Q.tolist() == [True, True, False, False, True, True]


def test_counts_add_up(
    make_store: MakeStore, make_tokens: MakeTokens, make_failure: MakeFailure
) -> None:
    store = make_store(5)
    store.write_video_shard(0, 0, [make_failure(0), make_tokens(1)])
    store.write_video_shard(2, 4, [make_failure(4)])
    assert open_store(store.path).counts() == StoreCounts(
        listed=5, ok=1, failed=2, pending=2, captions=10, captions_embedded=0
    )


def test_failures_are_listed_in_row_order(
    make_store: MakeStore, make_tokens: MakeTokens, make_failure: MakeFailure
) -> None:
    store = make_store(5)
    store.write_video_shard(2, 4, [make_failure(4)])
    store.write_video_shard(0, 0, [make_failure(0), make_tokens(1)])
    assert open_store(store.path).failures == [make_failure(0), make_failure(4)]


def test_a_shard_of_failures_alone_is_committed(
    make_store: MakeStore, make_failure: MakeFailure
) -> None:
    store = make_store()
    store.write_video_shard(0, 0, [make_failure(0), make_failure(1)])
    assert (open_store(store.path).counts().failed, open_store(store.path).counts().pending) == (
        2,
        3,
    )


# -- creation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["holiday.jpg", "run.json", "receipts.zip"])
def test_a_folder_that_holds_something_else_is_refused(
    make_store: MakeStore, tmp_path: Path, name: str
) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / name).touch()
    with pytest.raises(StoreError, match=f"not empty \\({name} is in it\\)"):
        make_store()


def test_a_file_in_the_way_is_refused(make_store: MakeStore, tmp_path: Path) -> None:
    (tmp_path / "store").touch()
    with pytest.raises(StoreError, match="a file is in the way"):
        make_store()


def test_an_empty_folder_becomes_a_store(make_store: MakeStore, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    assert open_store(make_store().path).counts().pending == 5


@pytest.mark.parametrize("cut_off_in", ["_create_arrays", "_write_tables", "write_json"])
def test_a_creation_that_was_cut_off_is_no_store_and_can_be_done_again(
    make_store: MakeStore,
    tmp_path: Path,
    bytes_of: Callable[[Path], dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
    cut_off_in: str,
) -> None:
    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store_writer, cut_off_in, killed)
        with pytest.raises(KeyboardInterrupt):
            make_store()
    (tmp_path / "store" / "videos.parquet.partial").touch()
    with pytest.raises(StoreError, match="no feature store here"):
        open_store(tmp_path / "store")
    (tmp_path / "store" / "videos.parquet.partial").unlink()
    assert bytes_of(make_store().path) == bytes_of(make_store(name="undisturbed").path)


def test_a_folder_that_can_t_be_made_is_a_store_error(
    make_store: MakeStore, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="can't be written"):
        make_store(name="file/store")


# -- damage --------------------------------------------------------------------------------------


def one_line(path: Path) -> str:
    return rf"\A[^\n]*{path.name}[^\n]*\Z"


def test_a_folder_without_a_store_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="muse extract FOLDER"):
        open_store(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[]", b'{"format_version": 1}', b"\xff"])
def test_a_damaged_store_json_is_one_line(make_store: MakeStore, content: bytes) -> None:
    store = make_store()
    (store.path / "store.json").write_bytes(content)
    with pytest.raises(StoreError, match=one_line(store.path / "store.json")):
        open_store(store.path)


@pytest.mark.parametrize("name", ["videos.parquet", "captions.parquet"])
def test_a_truncated_table_is_one_line(make_store: MakeStore, name: str) -> None:
    file = make_store().path / name
    file.write_bytes(file.read_bytes()[:50])
    store = open_store(file.parent)
    with pytest.raises(StoreError, match=one_line(file)):
        _ = store.video_ids, store.captions


def test_a_table_without_its_columns_is_one_line(make_store: MakeStore) -> None:
    file = make_store().path / "captions.parquet"
    pq.write_table(pa.table({"other": ["x"]}), file)
    with pytest.raises(StoreError, match=one_line(file)):
        _ = open_store(file.parent).captions


def test_a_damaged_receipt_is_one_line(make_store: MakeStore) -> None:
    store = make_store()
    file = store.path / RECEIPTS_FOLDER / "videos-00000.json"
    file.write_text(json.dumps({"kind": "videos"}), encoding="utf-8")
    with pytest.raises(StoreError, match=one_line(file)):
        open_store(store.path).counts()


def test_lost_arrays_are_one_line(make_store: MakeStore, make_tokens: MakeTokens) -> None:
    store = make_store()
    store.write_video_shard(0, 0, [make_tokens(0), make_tokens(1)])
    metadata = store.path / "features.zarr" / "tokens" / "zarr.json"
    metadata.unlink()
    with pytest.raises(StoreError, match=one_line(metadata)):
        open_store(store.path).read_clip(0)


def test_a_lost_group_is_one_line_to_a_writer(make_store: MakeStore) -> None:
    store = make_store()
    (store.path / "features.zarr" / "zarr.json").unlink()
    with pytest.raises(StoreError, match=one_line(store.path / "features.zarr")):
        StoreWriter.open(store.path)


def test_a_truncated_shard_is_one_line(make_store: MakeStore, make_tokens: MakeTokens) -> None:
    store = make_store()
    store.write_video_shard(0, 0, [make_tokens(0), make_tokens(1)])
    file = store.path / "features.zarr/tokens/c/0/0/0/0"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(StoreError, match=r"\A[^\n]*damaged or cut short[^\n]*\Z"):
        open_store(store.path).read_clip(1)


def test_a_lost_shard_is_an_error_and_not_zeros(
    make_store: MakeStore, make_tokens: MakeTokens
) -> None:
    store = make_store()
    store.write_video_shard(0, 0, [make_tokens(0), make_tokens(1)])
    (store.path / "features.zarr/tokens/c/0/0/0/0").unlink()
    with pytest.raises(StoreError, match="but its shard is committed"):
        open_store(store.path).read_clip(1)


@pytest.mark.parametrize("lost", ["valid/c/0/0", "captions/c/0/0"])
def test_a_lost_chunk_is_an_error_and_not_zeros(
    make_store: MakeStore, make_tokens: MakeTokens, lost: str
) -> None:
    store = make_store(2)
    store.write_video_shard(0, 0, [make_tokens(0), make_tokens(1)])
    store.write_caption_shard(0, 0, np.ones((4, 4), dtype=np.float16))
    (store.path / "features.zarr" / lost).unlink()
    opened = open_store(store.path)
    with pytest.raises(StoreError, match="but its shard is committed"):
        _ = opened.read_clip(0), opened.read_caption_embeddings(np.arange(4))
