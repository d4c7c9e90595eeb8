"""Which shards are still to do and what of them, and which settings a run may go on with."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_store import SmallStore

from muse.errors import IncompatibleStoreError
from muse.pipeline.header import Sampling
from muse.pipeline.listing import ListedRows
from muse.pipeline.plan import (
    CaptionShard,
    VideoShard,
    pending_caption_shards,
    pending_video_shards,
    ready_video_shards,
    require_same_settings,
)
from muse.pipeline.records import ClipFeatures, Failure, VideoRef
from muse.pipeline.sources import source_of
from muse.pipeline.store_zarr import ZarrStore

MakeStore = Callable[..., SmallStore]
MakeRows = Callable[..., ListedRows]
MakeFeatures = Callable[..., ClipFeatures]


def ids(shard: VideoShard) -> list[str]:
    return [video.video_id for _, video in shard.to_decode]


# -- videos --------------------------------------------------------------------------------------


def test_shards_are_consecutive_rows_and_the_last_is_short(make_store: MakeStore) -> None:
    small = make_store(5)
    shards = pending_video_shards(small.open(), small.rows)
    cut = [(shard.index, shard.first_row, ids(shard)) for shard in shards]
    assert cut == [(0, 0, ["v0", "v1"]), (1, 2, ["v2", "v3"]), (2, 4, ["v4"])]


def test_a_shard_with_a_receipt_is_not_pending(
    make_store: MakeStore, make_features: MakeFeatures
) -> None:
    small = make_store(5)
    small.videos(1, [make_features(2), make_features(3)])
    pending = pending_video_shards(small.open(), small.rows)
    assert [shard.index for shard in pending] == [0, 2]


def test_a_shard_of_failures_alone_is_not_pending(
    make_store: MakeStore, make_failure: Callable[[int], Failure]
) -> None:
    small = make_store(2)
    small.videos(0, [make_failure(0), make_failure(1)])
    assert pending_video_shards(small.open(), small.rows) == []


def test_rows_that_are_committed_are_kept_when_others_of_their_shard_are_done_again(
    make_store: MakeStore, make_features: MakeFeatures
) -> None:
    small = make_store(4)
    receipt = small.videos(0, [make_features(0), make_features(1)])
    small.writer.reopen(receipt, [1])
    first, second = pending_video_shards(small.open(), small.rows)
    assert (first.kept, ids(first), first.num_todo) == ({0}, ["v1"], 1)
    assert (second.kept, ids(second), second.num_todo) == (set(), ["v2", "v3"], 2)
    assert [receipt.index for receipt in first.receipts] == [0]  # to read row 0 from


def test_a_row_that_was_appended_to_a_shard_is_pending_and_the_others_kept(
    make_store: MakeStore, make_rows: MakeRows, make_features: MakeFeatures
) -> None:
    small = make_store(3)
    small.videos(1, [make_features(2)])
    small.writer.describe(small.writer.header, make_rows(4))
    (shard,) = [s for s in pending_video_shards(small.open(), make_rows(4)) if s.index == 1]
    assert (shard.kept, ids(shard)) == ({0}, ["v3"])


def test_the_members_of_a_shard_depend_on_its_ids_alone() -> None:
    def shard(*ids: str, folder: str = "/") -> VideoShard:
        videos = tuple(VideoRef(video_id=i, path=Path(folder, i)) for i in ids)
        return VideoShard(index=0, first_row=0, videos=videos)

    assert shard("a", "b").members_sha256 == shard("a", "b", folder="/other").members_sha256
    others = (shard("a"), shard("b", "a"), shard("ab"), shard("a", "c"))
    assert len({shard("a", "b").members_sha256, *(o.members_sha256 for o in others)}) == 5


# -- copies --------------------------------------------------------------------------------------


@pytest.fixture
def rows_of(tmp_path: Path) -> Callable[..., ListedRows]:
    """v0, v1, ... with what their files say, and the rows that they are duplicates of."""

    def make(contents: str, duplicate_of: Sequence[int | None]) -> ListedRows:
        videos = []
        for number, content in enumerate(contents):
            path = tmp_path / f"v{number}.mp4"
            path.write_text(content, encoding="utf-8")
            videos.append(VideoRef(video_id=f"v{number}", path=path))
        return ListedRows(
            protocol="folder",
            videos=tuple(videos),
            duplicate_of=tuple(duplicate_of),
            captions=(),
        )

    return make


RowsOf = Callable[..., ListedRows]
StoreOf = Callable[..., SmallStore]


def ready(small: SmallStore, **settings: Any) -> dict[int, VideoShard]:
    return {s.index: s for s in ready_video_shards(small.open(), small.rows, **settings)}


def test_a_duplicate_in_the_shard_of_its_original_is_a_copy(
    rows_of: RowsOf, store_of: StoreOf
) -> None:
    shard = ready(store_of(rows_of("xx", [None, 0])))[0]
    assert (dict(shard.copies), ids(shard), shard.num_todo) == ({1: 0}, ["v0"], 2)


def test_a_shard_waits_while_the_original_of_a_duplicate_is_pending(
    rows_of: RowsOf, store_of: StoreOf
) -> None:
    assert list(ready(store_of(rows_of("xyx", [None, None, 0])))) == [0]


def test_a_duplicate_is_a_copy_once_its_original_is_committed(
    rows_of: RowsOf, store_of: StoreOf, make_features: MakeFeatures
) -> None:
    small = store_of(rows_of("xyx", [None, None, 0]))
    small.videos(0, [make_features(0), make_features(1)])
    shard = ready(small)[1]
    assert (dict(shard.copies), ids(shard)) == ({0: 0}, [])
    assert [receipt.index for receipt in shard.receipts] == [0]  # to read the original from


def test_a_duplicate_of_a_video_that_failed_is_a_copy_of_its_failure(
    rows_of: RowsOf, store_of: StoreOf, make_failure: Callable[[int], Failure]
) -> None:
    small = store_of(rows_of("xyx", [None, None, 0]))
    small.videos(0, [make_failure(0), make_failure(1)])
    assert dict(ready(small)[1].copies) == {0: 0}


def test_a_duplicate_that_is_committed_is_kept_and_not_copied(
    rows_of: RowsOf, store_of: StoreOf, make_features: MakeFeatures
) -> None:
    small = store_of(rows_of("xx", [None, 0]))
    small.writer.reopen(small.videos(0, [make_features(0), make_features(1)]), [0])
    shard = ready(small)[0]
    assert (dict(shard.copies), shard.kept, ids(shard)) == ({}, {1}, ["v0"])


def test_a_duplicate_whose_file_has_changed_since_is_decoded_itself(
    rows_of: RowsOf, store_of: StoreOf, make_features: MakeFeatures
) -> None:
    small = store_of(rows_of("xyz", [None, None, 0]))  # listed as equal, and is not
    small.videos(0, [make_features(0), make_features(1)])
    shard = ready(small)[1]
    assert (dict(shard.copies), ids(shard)) == ({}, ["v2"])


@pytest.mark.parametrize(("now", "copies"), [("old", {0: 0}), ("new", {})])
def test_a_duplicate_is_compared_with_what_was_decoded_of_its_original(
    rows_of: RowsOf,
    store_of: StoreOf,
    make_features: MakeFeatures,
    now: str,
    copies: dict[int, int],
) -> None:
    small = store_of(rows_of("xyx", [None, None, 0]))
    source = source_of(small.rows.videos[0].path or Path(), wants_sha256=True)
    small.videos(0, [dataclasses.replace(make_features(0), source=source), make_features(1)])
    for place in (0, 2) if now == "new" else (0,):  # both files get the same new bytes, or one
        (small.rows.videos[place].path or Path()).write_text("new", encoding="utf-8")
    assert dict(ready(small)[1].copies) == copies


def test_the_files_of_originals_are_hashed_and_others_only_if_asked(
    rows_of: RowsOf, store_of: StoreOf
) -> None:
    small = store_of(rows_of("xyx", [None, None, 0]))
    assert ready(small)[0].hashed == {0}
    assert ready(small, hashes_all=True)[0].hashed == {0, 1}


# -- captions ------------------------------------------------------------------------------------


def test_caption_shards_are_consecutive_captions(
    make_store: MakeStore, four_captions_a_shard: None
) -> None:
    small = make_store(3)
    shards = pending_caption_shards(small.open(), small.rows)
    texts = [caption.text for caption in small.rows.captions]
    assert [(shard.first_row, [text for _, text in shard.to_embed]) for shard in shards] == [
        (0, texts[:4]),
        (4, texts[4:]),
    ]


def test_a_caption_shard_with_a_receipt_is_not_pending(make_store: MakeStore) -> None:
    small = make_store(3)
    small.captions(0, np.ones((6, 4), dtype=np.float16))
    assert pending_caption_shards(small.open(), small.rows) == []


def test_captions_of_a_missing_video_are_left_out(make_store: MakeStore) -> None:
    small = make_store(3, missing=[1])
    (shard,) = pending_caption_shards(small.open(), small.rows)
    assert shard.left_out == (2, 3)
    assert [place for place, _ in shard.to_embed] == [0, 1, 4, 5]


def test_a_caption_that_was_left_out_stays_so_until_its_row_is_opened(
    make_store: MakeStore, make_rows: MakeRows
) -> None:
    small = make_store(3, missing=[1])
    receipt = small.captions(0, np.ones((6, 4), dtype=np.float16), left_out=[2, 3])
    small.writer.reopen(receipt, [3, 4])
    (shard,) = pending_caption_shards(small.open(), make_rows(3))  # the file is there now
    assert (shard.kept, shard.left_out) == ({0, 1, 2, 5}, (2,))
    assert [place for place, _ in shard.to_embed] == [3, 4]


def test_captions_that_are_embedded_stay_so_when_their_video_goes_missing(
    make_store: MakeStore, make_rows: MakeRows
) -> None:
    small = make_store(3)
    receipt = small.captions(0, np.ones((6, 4), dtype=np.float16))
    small.writer.reopen(receipt, [0])
    (shard,) = pending_caption_shards(small.open(), make_rows(3, missing=[1]))
    assert (shard.left_out, shard.to_embed) == ((), [(0, "text 0 of v0")])


def test_the_members_of_a_caption_shard_depend_on_videos_texts_and_splits(
    make_rows: MakeRows,
) -> None:
    captions = make_rows(2).captions
    shards = [
        CaptionShard(index=0, first_row=0, captions=part)
        for part in (captions, captions[:-1], captions[::-1])
    ]
    assert len({shard.members_sha256 for shard in shards}) == 3


# -- settings ------------------------------------------------------------------------------------


@pytest.fixture
def store(make_store: MakeStore) -> ZarrStore:
    return make_store(3).open()


@pytest.fixture
def settings(store: ZarrStore) -> dict[str, Any]:
    return {
        "encoder_spec": store.header.encoder.spec,
        "sampling": store.header.sampling,
        "views": store.header.views,
        "shard_size": store.header.shard_size,
        "batch_videos": store.header.batch_videos,
    }


def test_a_run_with_the_same_settings_may_go_on(store: ZarrStore, settings: dict[str, Any]) -> None:
    require_same_settings(store, **settings)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"encoder_spec": "conse"}, "encoder = 'openclip:some-model/tag', this run has 'conse'"),
        ({"sampling": Sampling(num_frames=3, kind="uniform")}, "sampling = 'fps'"),
        ({"sampling": Sampling(num_frames=8)}, "num_frames = 3, this run has 8"),
        ({"sampling": Sampling(num_frames=3, fps=2.0)}, "fps = 1.0, this run has 2.0"),
        ({"views": ("tokens", "int8")}, "views = 'tokens', this run has 'tokens,int8'"),
        ({"shard_size": 9}, "shard_size = 2, this run has 9"),
        ({"batch_videos": 9}, "batch_videos = 2, this run has 9"),
    ],
)
def test_another_setting_is_refused_by_name_and_both_values(
    store: ZarrStore, settings: dict[str, Any], change: dict[str, Any], named: str
) -> None:
    with pytest.raises(IncompatibleStoreError, match=f"made with {named}"):
        require_same_settings(store, **{**settings, **change})
