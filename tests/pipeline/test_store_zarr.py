"""The store: what is written is read, and what was not written never looks like a value."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from small_store import SmallStore

from muse.errors import StoreError
from muse.pipeline.header import StoreHeader
from muse.pipeline.listing import ListedRows
from muse.pipeline.receipts import RECEIPTS_FOLDER
from muse.pipeline.records import ClipFeatures, ClipTokens, Failure, SourceFile
from muse.pipeline.storage.files import LocalStorage
from muse.pipeline.store import StoreCounts, open_store
from muse.pipeline.store_writer import StoreWriter

MakeTokens = Callable[..., ClipTokens]
MakeFeatures = Callable[..., ClipFeatures]
MakeFailure = Callable[[int], Failure]
MakeStore = Callable[..., SmallStore]


def same_clip(left: ClipTokens, right: ClipTokens) -> bool:
    return left.video_id == right.video_id and all(
        np.array_equal(getattr(left, name), getattr(right, name), equal_nan=name.startswith("pts"))
        for name in ("tokens_TKD", "valid_T", "pts_seconds_T")
    )


# -- round trip ----------------------------------------------------------------------------------


def test_tokens_are_read_as_they_were_written(
    make_store: MakeStore, make_features: MakeFeatures, make_tokens: MakeTokens
) -> None:
    store = make_store()
    store.videos(1, [make_features(2), make_features(3, num_valid=1)])
    opened = open_store(store.path)
    assert same_clip(opened.read_clip(2), make_tokens(2))
    assert same_clip(opened.read_clip(3), make_tokens(3, num_valid=1))


def test_a_last_short_shard_is_read_as_it_was_written(
    make_store: MakeStore, make_features: MakeFeatures, make_tokens: MakeTokens
) -> None:
    store = make_store(5)
    store.videos(2, [make_features(4)])
    assert same_clip(open_store(store.path).read_clip(4), make_tokens(4))


def test_the_listing_is_read_as_it_was_written(
    make_store: MakeStore, make_rows: Callable[..., ListedRows]
) -> None:
    store = open_store(make_store(5).path)
    assert list(store.captions) == list(make_rows(5).captions)
    assert store.video_ids == ["v0", "v1", "v2", "v3", "v4"]


def test_what_captions_ask_for_is_read_as_it_was_written(
    tmp_path: Path, make_rows: Callable[..., ListedRows], make_header: Callable[..., StoreHeader]
) -> None:
    rows = make_rows(2)
    axes = ("", "where", "order", "")
    captions = [
        dataclasses.replace(caption, axis=axis)
        for caption, axis in zip(rows.captions, axes, strict=True)
    ]
    rows = dataclasses.replace(rows, captions=tuple(captions))
    StoreWriter.create(tmp_path / "store", make_header(rows), rows)
    assert list(open_store(tmp_path / "store").captions) == captions
    names = ["video_id", "text", "split", "axis"]
    assert pq.read_table(tmp_path / "store" / "captions.parquet").column_names == names


def test_a_table_of_captions_without_axes_is_that_of_before_there_were_any(
    make_store: MakeStore,
) -> None:
    store = make_store(2)
    table = pq.read_table(store.path / "captions.parquet")
    assert table.column_names == ["video_id", "text", "split"]
    assert {caption.axis for caption in open_store(store.path).captions} == {""}


def test_the_header_is_read_as_it_was_written(make_store: MakeStore) -> None:
    store = make_store()
    assert open_store(store.path).header == store.writer.header


def test_caption_embeddings_are_read_in_the_order_asked_for(
    make_store: MakeStore, four_captions_a_shard: None
) -> None:
    store = make_store(5)  # ten captions: three shards
    written = np.arange(40, dtype=np.float16).reshape(10, 4)
    for index, start in enumerate(range(0, 10, 4)):
        store.captions(index, written[start : start + 4])
    rows = np.array([9, 0, 4, 4, 3])
    assert np.array_equal(open_store(store.path).read_caption_embeddings(rows), written[rows])


def test_a_store_without_captions_is_a_store(
    make_store: MakeStore,
) -> None:
    store = make_store(2, captions_each=0)
    assert (
        open_store(store.path).counts().captions,
        len(open_store(store.path).has_embedding_Q),
    ) == (0, 0)


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 2, 0)])
def test_shards_written_in_any_order_give_the_same_bytes(
    make_store: MakeStore,
    make_features: MakeFeatures,
    make_failure: MakeFailure,
    same_store: Callable[[Path, Path], bool],
    order: tuple[int, ...],
) -> None:
    rows = [make_features(0), make_failure(1), make_features(2), make_features(3), make_features(4)]
    in_order, shuffled = make_store(name="in order"), make_store(name="shuffled")
    for store, indices in ((in_order, (0, 1, 2)), (shuffled, order)):
        for index in indices:
            store.videos(index, rows[2 * index : 2 * index + 2])
    assert same_store(shuffled.path, in_order.path)


def test_a_shard_written_again_over_damaged_files_gives_the_same_bytes(
    make_store: MakeStore, make_features: MakeFeatures, bytes_of: Callable[[Path], dict[str, bytes]]
) -> None:
    store = make_store(5)
    store.videos(2, [make_features(4)])
    root, before = store.open().root_sha256, bytes_of(store.path / "features.zarr")
    for file in (store.path / "features.zarr").glob("*/c/2/**/0"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:-1])
    store.videos(2, [make_features(4)])
    assert bytes_of(store.path / "features.zarr") == before
    assert store.open().root_sha256 == root


def test_a_receipt_holds_the_hash_of_every_file_of_its_shard(
    make_store: MakeStore, make_features: MakeFeatures
) -> None:
    store = make_store()
    receipt = store.videos(0, [make_features(0), make_features(1)])
    chunks = [file for file in store.path.glob("features.zarr/*/c/**/*") if file.is_file()]
    assert receipt.sha256 == {
        str(file.relative_to(store.path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in chunks
    }


# -- what is not there ---------------------------------------------------------------------------


def test_a_failed_row_is_an_error_and_not_zeros(
    make_store: MakeStore, make_features: MakeFeatures, make_failure: MakeFailure
) -> None:
    store = make_store()
    store.videos(0, [make_failure(0), make_features(1)])
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
    store.captions(0, np.ones((4, 4), dtype=np.float16), left_out=[2, 3])
    with pytest.raises(StoreError, match="1 captions have no embedding"):
        open_store(store.path).read_caption_embeddings(np.array([0, 2]))


def test_has_features_is_true_for_committed_videos_that_did_not_fail(
    make_store: MakeStore, make_features: MakeFeatures, make_failure: MakeFailure
) -> None:
    store = make_store()
    store.videos(0, [make_failure(0), make_features(1)])
    store.videos(2, [make_features(4)])
    assert open_store(store.path).has_features_N.tolist() == [False, True, False, False, True]


def test_has_embedding_is_true_for_committed_captions_of_videos_that_are_there(
    make_store: MakeStore,
) -> None:
    store = make_store(3, missing=(1,))
    store.captions(0, np.ones((6, 4), dtype=np.float16), left_out=[2, 3])
    assert open_store(store.path).has_embedding_Q.tolist() == [True, True, False, False, True, True]


def test_counts_add_up(
    make_store: MakeStore, make_features: MakeFeatures, make_failure: MakeFailure
) -> None:
    store = make_store(5)
    store.videos(0, [make_failure(0), make_features(1)])
    store.videos(2, [make_failure(4)])
    assert open_store(store.path).counts() == StoreCounts(
        listed=5, ok=1, failed=2, skipped=0, pending=2, captions=10, captions_embedded=0
    )


def test_failures_are_listed_in_row_order(
    make_store: MakeStore, make_features: MakeFeatures, make_failure: MakeFailure
) -> None:
    store = make_store(5)
    store.videos(2, [make_failure(4)])
    store.videos(0, [make_failure(0), make_features(1)])
    assert open_store(store.path).failures == [make_failure(0), make_failure(4)]


def test_a_shard_of_failures_alone_is_committed(
    make_store: MakeStore, make_failure: MakeFailure
) -> None:
    store = make_store()
    store.videos(0, [make_failure(0), make_failure(1)])
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
    with pytest.raises(StoreError, match="store: can't be written"):
        make_store()


def test_an_empty_folder_becomes_a_store(make_store: MakeStore, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    assert open_store(make_store().path).counts().pending == 5


@pytest.mark.parametrize(
    "cut_off_before", ["videos.parquet", "features.zarr/zarr.json", "store.json"]
)
def test_a_creation_that_was_cut_off_is_no_store_and_can_be_done_again(
    make_store: MakeStore,
    tmp_path: Path,
    bytes_of: Callable[[Path], dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
    cut_off_before: str,
) -> None:
    write = LocalStorage.write

    def killed(storage: LocalStorage, name: str, content: bytes) -> None:
        if name == cut_off_before:
            raise KeyboardInterrupt
        write(storage, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            make_store()
    (tmp_path / "store" / "videos.parquet.partial").touch()
    with pytest.raises(StoreError, match="no feature store here"):
        open_store(tmp_path / "store")
    (tmp_path / "store" / "videos.parquet.partial").unlink()
    assert bytes_of(make_store().path) == bytes_of(make_store(name="undisturbed").path)


def test_receipts_of_a_store_whose_header_was_removed_count_no_more(
    make_store: MakeStore, make_features: MakeFeatures
) -> None:
    store = make_store(2)
    store.videos(0, [make_features(0), make_features(1)])
    (store.path / "store.json").unlink()
    assert make_store(2).open().counts().pending == 2


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
    file = store.path / RECEIPTS_FOLDER / "videos-000000.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"kind": "videos"}), encoding="utf-8")
    with pytest.raises(StoreError, match=one_line(file)):
        open_store(store.path).counts()


def test_lost_arrays_are_one_line(make_store: MakeStore, make_features: MakeFeatures) -> None:
    store = make_store()
    store.videos(0, [make_features(0), make_features(1)])
    metadata = store.path / "features.zarr" / "tokens" / "zarr.json"
    metadata.unlink()
    with pytest.raises(StoreError, match=one_line(metadata)):
        open_store(store.path).read_clip(0)


def test_a_truncated_shard_is_one_line(make_store: MakeStore, make_features: MakeFeatures) -> None:
    store = make_store()
    store.videos(0, [make_features(0), make_features(1)])
    file = store.path / "features.zarr/tokens/c/0/0/0/0"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(StoreError, match=r"\A[^\n]*damaged or cut short[^\n]*\Z"):
        open_store(store.path).read_clip(1)


def test_a_lost_shard_is_an_error_and_not_zeros(
    make_store: MakeStore, make_features: MakeFeatures
) -> None:
    store = make_store()
    store.videos(0, [make_features(0), make_features(1)])
    (store.path / "features.zarr/tokens/c/0/0/0/0").unlink()
    with pytest.raises(StoreError, match="but its shard is committed"):
        open_store(store.path).read_clip(1)
    with pytest.raises(StoreError, match="row 0 is not in its file, but its shard is committed"):
        open_store(store.path).read_clips_into(
            [0, 1], np.stack([make_features(0).arrays["tokens"]] * 2)
        )


@pytest.mark.parametrize("lost", ["valid/c/0/0", "captions/c/0/0"])
def test_a_lost_chunk_is_an_error_and_not_zeros(
    make_store: MakeStore, make_features: MakeFeatures, lost: str
) -> None:
    store = make_store(2)
    store.videos(0, [make_features(0), make_features(1)])
    store.captions(0, np.ones((4, 4), dtype=np.float16))
    (store.path / "features.zarr" / lost).unlink()
    opened = open_store(store.path)
    with pytest.raises(StoreError, match="but its shard is committed"):
        _ = opened.read_clip(0), opened.read_caption_embeddings(np.arange(4))


def test_a_table_with_too_few_rows_is_one_line(make_store: MakeStore) -> None:
    file = make_store(5).path / "videos.parquet"
    pq.write_table(pq.read_table(file).slice(0, 3), file)
    with pytest.raises(StoreError, match=r"videos\.parquet has 3 rows, the header says 5"):
        _ = open_store(file.parent).video_ids


def test_a_flipped_bit_in_store_json_is_an_error_that_names_the_file(
    make_store: MakeStore,
) -> None:
    file = make_store(2).path / "store.json"
    whole = file.read_bytes()
    for place in range(0, len(whole), 37):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        file.write_bytes(bytes(damaged))
        with pytest.raises(StoreError, match=one_line(file)):
            open_store(file.parent)


# -- files ---------------------------------------------------------------------------------------


def test_zarr_reads_the_store_and_its_missing_rows_as_fill(
    make_store: MakeStore, make_features: MakeFeatures, make_failure: MakeFailure
) -> None:
    store = make_store(5)
    store.videos(0, [make_features(0), make_failure(1)])
    store.videos(2, [make_features(4, num_valid=1)])
    store.captions(0, np.arange(40, dtype=np.float16).reshape(10, 4))
    group = zarr.open_group(store.path / "features.zarr", mode="r")
    tokens, valid, times = group["tokens"][:], group["valid"][:], group["pts_seconds"][:]
    for row in range(5):
        if row in (0, 4):
            clip = make_features(row, num_valid=1 if row == 4 else 3)
            np.testing.assert_array_equal(tokens[row], clip.arrays["tokens"])
            np.testing.assert_array_equal(valid[row], clip.valid_T)
            np.testing.assert_array_equal(times[row], clip.pts_seconds_T)
        else:
            assert not tokens[row].any()
            assert not valid[row].any()
            assert np.isnan(times[row]).all()
    np.testing.assert_array_equal(group["captions"][:], np.arange(40).reshape(10, 4))


def test_a_shard_without_a_row_has_no_file(
    make_store: MakeStore, make_features: MakeFeatures, make_failure: MakeFailure
) -> None:
    store = make_store(4)
    receipt = store.videos(0, [make_failure(0), make_failure(1)])
    assert receipt.sha256 == {}
    assert not list((store.path / "features.zarr").glob("*/c/0/**/*"))


def test_a_shard_that_loses_its_rows_loses_its_files(
    make_store: MakeStore, make_features: MakeFeatures, make_failure: MakeFailure
) -> None:
    store = make_store(4)
    store.videos(0, [make_features(0), make_features(1)])
    store.videos(0, [make_failure(0), make_failure(1)])
    assert not [file for file in store.path.glob("features.zarr/*/c/**/*") if file.is_file()]


def test_a_store_at_hand_reads_the_rows_of_a_shard_that_is_written_again(
    make_store: MakeStore, make_features: MakeFeatures, make_failure: MakeFailure
) -> None:
    store = make_store(2)
    store.videos(0, [make_failure(0), make_features(1)])
    at_hand = store.open()
    assert np.array_equal(at_hand.read_clip(1).tokens_TKD, make_features(1).arrays["tokens"])
    store.videos(0, [make_features(0), make_features(1)])  # row 1 now lies elsewhere in its file
    assert np.array_equal(at_hand.read_clip(1).tokens_TKD, make_features(1).arrays["tokens"])


def test_a_row_is_read_with_the_file_it_came_from(
    make_store: MakeStore, make_features: MakeFeatures
) -> None:
    store, source = make_store(2), SourceFile(size_bytes=7, mtime_ns=8, sha256="ab")
    clip = dataclasses.replace(make_features(1), source=source)
    store.videos(0, [make_features(0), clip])
    assert [store.open().read_features(row).source for row in (0, 1)] == [None, source]


def test_skipped_videos_are_counted_and_are_not_failed(
    make_store: MakeStore, make_features: MakeFeatures, make_failure: MakeFailure
) -> None:
    store = make_store(3)
    skipped = dataclasses.replace(make_failure(1), reason="too_long")
    store.videos(0, [make_failure(0), skipped])
    counts = store.open().counts()
    assert (counts.listed, counts.ok, counts.failed, counts.skipped, counts.pending) == (
        3, 0, 1, 1, 1,
    )  # fmt: skip


# -- roots ---------------------------------------------------------------------------------------


def test_the_root_does_not_depend_on_seconds_times_of_files_or_words(
    make_store: MakeStore, make_features: MakeFeatures, make_failure: MakeFailure
) -> None:
    roots = set()
    for name, size in (("a", 1), ("b", 2)):
        store = make_store(2, name=name)
        source = SourceFile(size_bytes=size, mtime_ns=size)
        failure = dataclasses.replace(make_failure(1), message=f"words {size}", path=f"/{size}")
        store.videos(0, [dataclasses.replace(make_features(0), source=source), failure])
        roots.add(store.open().root_sha256)
    assert len(roots) == 1


def test_the_root_depends_on_features_reasons_and_captions(
    make_store: MakeStore, make_features: MakeFeatures, make_failure: MakeFailure
) -> None:
    store, ones = make_store(2), np.ones((4, 4), np.float16)
    roots = [store.open().root_sha256]
    for rows in (
        [make_features(0), make_failure(1)],
        [make_features(0), dataclasses.replace(make_failure(1), reason="timeout")],
        [make_features(0), make_features(1)],
        [make_features(0, num_valid=2), make_features(1)],
    ):
        store.videos(0, rows)
        roots.append(store.open().root_sha256)
    for embeddings, left_out in ((ones, ()), (2 * ones, ()), (2 * ones, (1,))):
        store.captions(0, embeddings, left_out=left_out)
        roots.append(store.open().root_sha256)
    assert len(set(roots)) == len(roots) == 8


def test_the_time_stamps_hash_depends_on_frames_and_not_on_features(
    make_store: MakeStore, make_features: MakeFeatures
) -> None:
    store, hashes = make_store(2), []
    clip = make_features(0)
    brighter = dataclasses.replace(clip, arrays={"tokens": clip.arrays["tokens"] + 1})
    later = dataclasses.replace(clip, pts_seconds_T=clip.pts_seconds_T + 1)
    for first in (clip, brighter, later):
        store.videos(0, [first, make_features(1)])
        hashes.append(store.open().timestamps_sha256)
    assert hashes[0] == hashes[1] != hashes[2]
