"""How a listing becomes rows and shards, and which settings a run may go on with."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from muse.errors import IncompatibleStoreError, ManifestError
from muse.pipeline import plan
from muse.pipeline.header import Sampling, StoreHeader
from muse.pipeline.plan import (
    listing_sha256,
    pending_caption_shards,
    pending_video_shards,
    require_same_plan,
    sorted_listing,
)
from muse.pipeline.records import Caption, ClipTokens, Listing, VideoRef
from muse.pipeline.store_writer import StoreWriter
from muse.pipeline.store_zarr import ZarrStore

MakeStore = Callable[[Listing], StoreWriter]


@pytest.fixture
def make_store(tmp_path: Path, make_header: Callable[..., StoreHeader]) -> MakeStore:
    return lambda listing: StoreWriter.create(tmp_path / "store", make_header(listing), listing)


def listing_of(ids: str, captions: tuple[tuple[str, str], ...] = ()) -> Listing:
    return Listing(
        protocol="folder",
        videos=tuple(VideoRef(video_id=i, path=Path(f"/{i}.mp4")) for i in ids),
        captions=tuple(Caption(video_id=i, text=text, split="all") for i, text in captions),
    )


def test_rows_are_sorted_by_id() -> None:
    assert [video.video_id for video in sorted_listing(listing_of("bca")).videos] == list("abc")


def test_captions_follow_their_videos_and_keep_their_order() -> None:
    captions = (("b", "one"), ("a", "two"), ("b", "three"), ("a", "four"))
    ordered = sorted_listing(listing_of("ba", captions)).captions
    assert [caption.text for caption in ordered] == ["two", "four", "one", "three"]


def test_an_empty_listing_is_refused() -> None:
    with pytest.raises(ManifestError, match="0 videos"):
        sorted_listing(listing_of(""))


def test_an_id_listed_twice_is_refused_by_name() -> None:
    with pytest.raises(ManifestError, match="'b' is listed twice"):
        sorted_listing(listing_of("abcb"))


def test_the_listing_s_hash_does_not_depend_on_the_order_of_the_files() -> None:
    assert listing_sha256(sorted_listing(listing_of("abc"))) == listing_sha256(
        sorted_listing(listing_of("cab"))
    )


def test_the_listing_s_hash_does_not_depend_on_where_the_files_lie() -> None:
    here = listing_of("ab")
    there = dataclasses.replace(
        here, videos=tuple(dataclasses.replace(v, path=Path("/elsewhere")) for v in here.videos)
    )
    assert listing_sha256(here) == listing_sha256(there)


@pytest.mark.parametrize(
    "other",
    [
        listing_of("ac", (("a", "text"),)),
        listing_of("ab", (("a", "texts"),)),
        listing_of("ab", (("b", "text"),)),
        listing_of("ab"),
    ],
)
def test_the_listing_s_hash_depends_on_ids_and_captions(other: Listing) -> None:
    assert listing_sha256(other) != listing_sha256(listing_of("ab", (("a", "text"),)))


def test_shards_are_consecutive_rows_and_the_last_is_short(
    make_store: MakeStore, make_rows: Callable[..., Listing]
) -> None:
    listing = make_rows(5)
    shards = pending_video_shards(ZarrStore.open(make_store(listing).path), listing)
    cut = [
        (shard.index, shard.first_row, [video.video_id for video in shard.videos])
        for shard in shards
    ]
    assert cut == [(0, 0, ["v0", "v1"]), (1, 2, ["v2", "v3"]), (2, 4, ["v4"])]


def test_a_shard_with_a_receipt_is_not_pending(
    make_store: MakeStore,
    make_rows: Callable[..., Listing],
    make_tokens: Callable[..., ClipTokens],
) -> None:
    listing = make_rows(5)
    store = make_store(listing)
    store.write_video_shard(1, 2, [make_tokens(2), make_tokens(3)])
    assert [shard.index for shard in pending_video_shards(ZarrStore.open(store.path), listing)] == [
        0,
        2,
    ]


def test_caption_shards_are_consecutive_captions(
    make_store: MakeStore,
    make_rows: Callable[..., Listing],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan, "CAPTIONS_PER_SHARD", 4)
    listing = make_rows(3)
    shards = pending_caption_shards(ZarrStore.open(make_store(listing).path), listing)
    texts = [caption.text for caption in listing.captions]
    assert [(shard.first_row, list(shard.texts)) for shard in shards] == [
        (0, texts[:4]),
        (4, texts[4:]),
    ]


def test_a_caption_shard_with_a_receipt_is_not_pending(
    make_store: MakeStore, make_rows: Callable[..., Listing]
) -> None:
    listing = make_rows(3)
    store = make_store(listing)
    store.write_caption_shard(0, 0, np.ones((6, 4), dtype=np.float16))
    assert pending_caption_shards(ZarrStore.open(store.path), listing) == []


def test_captions_of_a_missing_video_need_no_embedding(
    make_store: MakeStore, make_rows: Callable[..., Listing]
) -> None:
    listing = make_rows(3, missing=[1])
    (shard,) = pending_caption_shards(ZarrStore.open(make_store(listing).path), listing)
    assert [text is None for text in shard.texts] == [False, False, True, True, False, False]


def test_a_file_that_goes_missing_after_the_store_was_made_keeps_its_captions(
    make_store: MakeStore, make_rows: Callable[..., Listing]
) -> None:
    store = make_store(make_rows(3))
    (shard,) = pending_caption_shards(ZarrStore.open(store.path), make_rows(3, missing=[1]))
    # The store counts their rows as embedded, so None here would be read as zeros.
    assert None not in shard.texts


@pytest.fixture
def settings(make_header: Callable[..., StoreHeader], make_rows: Callable[..., Listing]) -> Any:
    header = make_header(make_rows(3))
    return {
        "encoder_spec": header.encoder.spec,
        "sampling": header.sampling,
        "shard_size": header.shard_size,
        "batch_videos": header.batch_videos,
    }


def test_a_run_with_the_same_settings_may_go_on(
    make_store: MakeStore, make_rows: Callable[..., Listing], settings: dict[str, Any]
) -> None:
    require_same_plan(make_store(make_rows(3)), make_rows(3), **settings)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"encoder_spec": "conse"}, "encoder = 'openclip:some-model/tag', this run has 'conse'"),
        ({"sampling": Sampling(num_frames=3, kind="uniform")}, "sampling = 'fps'"),
        ({"sampling": Sampling(num_frames=8)}, "num_frames = 3, this run has 8"),
        ({"sampling": Sampling(num_frames=3, fps=2.0)}, "fps = 1.0, this run has 2.0"),
        ({"shard_size": 9}, "shard_size = 2, this run has 9"),
        ({"batch_videos": 9}, "batch_videos = 2, this run has 9"),
    ],
)
def test_another_setting_is_refused_by_name_and_both_values(
    make_store: MakeStore,
    make_rows: Callable[..., Listing],
    settings: dict[str, Any],
    change: dict[str, Any],
    named: str,
) -> None:
    with pytest.raises(IncompatibleStoreError, match=f"made with {named}"):
        require_same_plan(make_store(make_rows(3)), make_rows(3), **{**settings, **change})


@pytest.mark.parametrize(
    ("num_videos", "captions_each", "named"),
    [(4, 2, "videos = 3, this run has 4"), (3, 1, "captions = 6, this run has 3")],
)
def test_another_listing_is_refused_by_its_numbers(
    make_store: MakeStore,
    make_rows: Callable[..., Listing],
    settings: dict[str, Any],
    num_videos: int,
    captions_each: int,
    named: str,
) -> None:
    other = make_rows(num_videos, captions_each=captions_each)
    with pytest.raises(IncompatibleStoreError, match=named):
        require_same_plan(make_store(make_rows(3)), other, **settings)


def test_another_caption_is_refused(
    make_store: MakeStore, make_rows: Callable[..., Listing], settings: dict[str, Any]
) -> None:
    listing = make_rows(3)
    other_text = dataclasses.replace(listing.captions[0], text="something else")
    other = dataclasses.replace(listing, captions=(other_text, *listing.captions[1:]))
    with pytest.raises(IncompatibleStoreError, match="listing_sha256"):
        require_same_plan(make_store(listing), other, **settings)
