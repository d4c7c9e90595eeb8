"""How a listing becomes the rows of a store, and how a store's rows stay where they are."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from muse.errors import IncompatibleStoreError, ManifestError
from muse.pipeline.decoding.decoder import decode_failure
from muse.pipeline.header import StoreHeader
from muse.pipeline.listing import (
    ListedRows,
    rows_of_continued_store,
    rows_of_new_store,
    sorted_listing,
)
from muse.pipeline.plan import all_video_shards
from muse.pipeline.records import Caption, Listing, VideoRef
from muse.pipeline.store_writer import StoreWriter
from muse.pipeline.store_zarr import ZarrStore

Captions = Sequence[tuple[str, str]]


def listing_of(
    ids: Sequence[str],
    captions: Captions = (),
    *,
    folder: Path = Path("/videos"),
    missing: Sequence[str] = (),
    protocol: str = "folder",
) -> Listing:
    """Videos of which each lies at its id; captions are (video, text)."""
    return Listing(
        protocol=protocol,
        videos=tuple(VideoRef(video_id=i, path=None if i in missing else folder / i) for i in ids),
        captions=tuple(Caption(video_id=i, text=text, split="all") for i, text in captions),
    )


def new_rows(listing: Listing) -> ListedRows:
    return rows_of_new_store(sorted_listing(listing))


def ids_of(rows: ListedRows) -> list[str]:
    return [video.video_id for video in rows.videos]


def texts_of(rows: ListedRows) -> list[tuple[str, str]]:
    return [(caption.video_id, caption.text) for caption in rows.captions]


@pytest.fixture
def made_of(
    tmp_path: Path, make_header: Callable[..., StoreHeader], no_waiting_for_the_disk: None
) -> Callable[..., ZarrStore]:
    """A store of a listing, nothing done; or all of it, each video failed for one reason."""

    def make(listing: Listing, *, reason: str | None = None) -> ZarrStore:
        rows = new_rows(listing)
        header = make_header(rows)
        writer = StoreWriter.create(tmp_path / "store", header, rows)
        shards = all_video_shards(rows, shard_size=header.shard_size) if reason else []
        for shard in shards:
            failures = [decode_failure(v, reason=str(reason), message="") for v in shard.videos]
            writer.write_video_shard(shard, failures, seconds={})
        return ZarrStore.open(tmp_path / "store")

    return make


def continued(store: ZarrStore, listing: Listing, *, append: bool = True) -> ListedRows:
    return rows_of_continued_store(store, sorted_listing(listing), append=append)


# -- a new store ---------------------------------------------------------------------------------


def test_rows_are_sorted_by_id() -> None:
    assert ids_of(new_rows(listing_of("bca"))) == list("abc")


def test_captions_follow_their_videos_and_keep_their_order() -> None:
    captions = (("b", "one"), ("a", "two"), ("b", "three"), ("a", "four"))
    found = texts_of(new_rows(listing_of("ba", captions)))
    assert [text for _, text in found] == ["two", "four", "one", "three"]


def test_an_empty_listing_is_refused() -> None:
    with pytest.raises(ManifestError, match="0 videos"):
        sorted_listing(listing_of(""))


def test_an_id_listed_twice_is_refused_by_name() -> None:
    with pytest.raises(ManifestError, match="'b' is listed twice"):
        sorted_listing(listing_of("abcb"))


def test_an_id_that_is_no_unicode_is_refused_by_name() -> None:
    with pytest.raises(ManifestError, match=r"udcff.*not valid UTF-8"):
        sorted_listing(listing_of(["a\udcff"]))


def test_the_listing_s_hash_does_not_depend_on_the_order_of_the_files() -> None:
    assert new_rows(listing_of("abc")).sha256 == new_rows(listing_of("cab")).sha256


def test_the_listing_s_hash_does_not_depend_on_where_the_files_lie() -> None:
    here, there = listing_of("ab"), listing_of("ab", folder=Path("/elsewhere"))
    assert new_rows(here).sha256 == new_rows(there).sha256


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
    assert new_rows(other).sha256 != new_rows(listing_of("ab", (("a", "text"),))).sha256


def test_the_listing_s_hash_without_axes_is_over_three_fields_and_with_one_over_four() -> None:
    captions = [Caption(video_id="a", text="1", split="all")]
    captions += [Caption(video_id="a", text="2", split="all", axis="where")]
    plain = Listing(protocol="folder", videos=(VideoRef(video_id="a", path=None),), captions=())
    for number, content in (
        (1, '[["a"],[["a","1","all"]]]'),
        (2, '[["a"],[["a","1","all"],["a","2","all","where"]]]'),
    ):
        rows = new_rows(dataclasses.replace(plain, captions=tuple(captions[:number])))
        assert rows.sha256 == hashlib.sha256(content.encode()).hexdigest()


def test_videos_with_the_bytes_of_another_come_last_and_name_its_row(tmp_path: Path) -> None:
    for name, content in zip("abcde", ("one", "two", "one", "two", "six"), strict=True):
        (tmp_path / name).write_text(content, encoding="utf-8")
    rows = new_rows(listing_of("edcba", folder=tmp_path))
    assert ids_of(rows) == ["a", "b", "e", "c", "d"]
    assert rows.duplicate_of == (None, None, None, 0, 1)


def test_captions_of_a_duplicate_follow_its_row(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_text("same" if name < "c" else "else", encoding="utf-8")
    captions = (("a", "1"), ("b", "2"), ("c", "3"))
    assert texts_of(new_rows(listing_of("abc", captions, folder=tmp_path))) == [
        ("a", "1"), ("c", "3"), ("b", "2"),
    ]  # fmt: skip


def test_duplicates_are_not_looked_for_where_they_are_not_wanted(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_text("same", encoding="utf-8")
    listing = sorted_listing(listing_of("abc", folder=tmp_path))
    rows = rows_of_new_store(listing, finds_duplicates=False)
    assert (ids_of(rows), rows.duplicate_of) == (list("abc"), (None, None, None))


# -- a store that goes on ------------------------------------------------------------------------


@pytest.mark.parametrize("append", [True, False])
def test_the_same_listing_gives_the_same_rows(
    made_of: Callable[[Listing], ZarrStore], append: bool
) -> None:
    listing = listing_of("bca", (("b", "one"), ("a", "two"), ("a", "two")))
    assert continued(made_of(listing), listing, append=append) == new_rows(listing)


def test_new_rows_come_after_those_that_are_there_in_their_own_order(
    made_of: Callable[[Listing], ZarrStore],
) -> None:
    store = made_of(listing_of("mz", (("z", "1"), ("m", "2"))))
    grown = continued(store, listing_of("mzbya", (("z", "1"), ("m", "2"), ("b", "3"), ("a", "4"))))
    assert ids_of(grown) == ["m", "z", "a", "b", "y"]
    assert texts_of(grown) == [("m", "2"), ("z", "1"), ("a", "4"), ("b", "3")]


def test_a_new_caption_of_a_known_video_comes_last(
    made_of: Callable[[Listing], ZarrStore],
) -> None:
    store = made_of(listing_of("ab", (("a", "1"), ("b", "2"))))
    grown = continued(store, listing_of("ab", (("a", "0"), ("a", "1"), ("b", "2"))))
    assert texts_of(grown) == [("a", "1"), ("b", "2"), ("a", "0")]


def test_the_same_caption_a_second_time_is_a_new_caption(
    made_of: Callable[[Listing], ZarrStore],
) -> None:
    store = made_of(listing_of("a", (("a", "one"),)))
    grown = continued(store, listing_of("a", (("a", "one"), ("a", "one"), ("a", "one"))))
    assert texts_of(grown) == [("a", "one")] * 3


def test_rows_that_are_no_longer_listed_stay_and_have_no_file(
    made_of: Callable[..., ZarrStore],
) -> None:
    store = made_of(listing_of("ab", (("a", "1"),)), reason="corrupt")
    grown = continued(store, listing_of("bc"))
    assert ids_of(grown) == ["a", "b", "c"]
    assert [video.path for video in grown.videos] == [None, Path("/videos/b"), Path("/videos/c")]
    assert texts_of(grown) == [("a", "1")]


def test_a_new_video_with_the_bytes_of_a_known_one_names_its_row(
    made_of: Callable[[Listing], ZarrStore], tmp_path: Path
) -> None:
    for name, content in zip("abcd", ("one", "two", "two", "ten"), strict=True):
        (tmp_path / name).write_text(content, encoding="utf-8")
    store = made_of(listing_of("ab", folder=tmp_path))
    grown = continued(store, listing_of("abcd", folder=tmp_path))
    assert ids_of(grown) == ["a", "b", "d", "c"]
    assert grown.duplicate_of == (None, None, None, 1)


def test_appending_in_two_steps_keeps_every_row_of_the_first(
    made_of: Callable[[Listing], ZarrStore], make_header: Callable[..., StoreHeader]
) -> None:
    store = made_of(listing_of("m"))
    first = continued(store, listing_of("ma"))
    StoreWriter.open(store.location).describe(make_header(first), first)
    second = continued(ZarrStore.open(store.location), listing_of("ma0"))
    assert ids_of(second) == ["m", "a", "0"]


@pytest.mark.parametrize(
    ("ids", "captions", "words"),
    [
        ("abcd", "12", r"1 videos are not in it \(first: 'd'\)\."),
        ("ab", "12", r"1 videos are no longer listed \(first: 'c'\)\."),
        ("abde", "12", "2 videos are not in it .*'d'.* and 1 videos are no longer listed .*'c'"),
        ("abc", "123", r"1 captions are not in it \(first: '3'\)\."),
        ("abc", "1", r"1 captions are no longer listed \(first: '2'\)\."),
        ("abc", "1223", "2 captions are not in it"),
    ],
)
def test_another_listing_is_refused_by_what_is_new_and_what_is_gone(
    made_of: Callable[[Listing], ZarrStore], ids: str, captions: str, words: str
) -> None:
    store = made_of(listing_of("abc", (("a", "1"), ("a", "2"))))
    other = listing_of(ids, [("a", text) for text in captions])
    with pytest.raises(IncompatibleStoreError, match=rf"\A{store.location}: [^\n]*{words}[^\n]*\Z"):
        continued(store, other, append=False)


# -- files that turn up --------------------------------------------------------------------------


@pytest.mark.parametrize("append", [True, False])
def test_a_file_that_turns_up_gets_the_row_that_waited_for_it(
    made_of: Callable[[Listing], ZarrStore], append: bool
) -> None:
    captions = (("gone", "a dog"), ("a.mp4", "a song"))
    store = made_of(listing_of(["a.mp4", "gone"], captions, missing=["gone"]))
    captions = (("gone.mp4", "a dog"), ("a.mp4", "a song"))
    rows = continued(store, listing_of(["a.mp4", "gone.mp4"], captions), append=append)
    assert ids_of(rows) == ["a.mp4", "gone"]
    assert rows.videos[1].path == Path("/videos/gone.mp4")
    assert texts_of(rows) == [("a.mp4", "a song"), ("gone", "a dog")]


def test_a_file_of_that_stem_is_a_new_video_while_its_row_has_a_file(
    made_of: Callable[[Listing], ZarrStore],
) -> None:
    store = made_of(listing_of(["walk"]))
    assert ids_of(continued(store, listing_of(["walk", "walk.mp4"]))) == ["walk", "walk.mp4"]


def test_of_two_files_for_one_row_that_waits_neither_takes_it(
    made_of: Callable[..., ZarrStore],
) -> None:
    store = made_of(listing_of(["gone"], missing=["gone"]), reason="missing")
    grown = continued(store, listing_of(["gone.avi", "gone.mp4"]))
    assert ids_of(grown) == ["gone", "gone.avi", "gone.mp4"]


def test_a_file_never_takes_the_row_of_a_video_that_had_one(
    made_of: Callable[..., ZarrStore],
) -> None:
    store = made_of(listing_of(["walk"]), reason="corrupt")
    assert ids_of(continued(store, listing_of(["walk.mp4"]))) == ["walk", "walk.mp4"]


def test_an_append_that_does_not_list_what_is_pending_is_refused(
    made_of: Callable[..., ZarrStore],
) -> None:
    store = made_of(listing_of("ab"))
    with pytest.raises(IncompatibleStoreError, match=r"1 videos are still to be .*first: 'a'"):
        continued(store, listing_of("bc"))


# -- labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "ids", "label"),
    [
        ("folder", "ab", "folder"),
        ("MSVD test", "ab", "folder + MSVD test"),
        ("MSVD test", "a", "folder"),  # nothing new of it
    ],
)
def test_the_label_names_what_was_appended(
    made_of: Callable[[Listing], ZarrStore], protocol: str, ids: str, label: str
) -> None:
    store = made_of(listing_of("a"))
    assert continued(store, listing_of(ids, protocol=protocol)).protocol == label


def test_a_label_is_not_named_twice(made_of: Callable[[Listing], ZarrStore]) -> None:
    store = made_of(listing_of("a", protocol="folder + MSVD test"))
    assert (
        continued(store, listing_of("ab", protocol="MSVD test")).protocol == store.header.protocol
    )
