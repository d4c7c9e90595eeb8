"""A store that grows: what is new gets rows at the end, what is there keeps its bytes."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
from runs import Runs, few_of

from muse.errors import IncompatibleStoreError
from muse.pipeline.extract import extract
from muse.pipeline.storage.files import LocalStorage
from muse.pipeline.store_zarr import ZarrStore
from muse.pipeline.verify import verify

OLD = [("m", "one"), ("m", "three"), ("z", "four")]
NEW = [*OLD, ("a", "twelve"), ("m", "seventeen")]


@pytest.fixture
def grown(runs: Runs, kept: Path) -> Runs:
    """Three videos and three captions; then three more videos and two captions."""

    def make(first: Runs) -> None:
        first.put(m=1, n=2, z=3)
        first.run(OLD)
        first.put(a=4, b="corrupt", o=5)

    return runs.begin_as(kept, make)


def test_new_videos_come_after_the_others_in_their_own_order(grown: Runs) -> None:
    grown.run(NEW, append=True)
    assert list(grown.states.items()) == [
        ("m.mp4", 1), ("n.mp4", 2), ("z.mp4", 3), ("a.mp4", 4), ("b.mp4", "corrupt"), ("o.mp4", 5),
    ]  # fmt: skip


def test_only_new_videos_are_decoded(grown: Runs) -> None:
    grown.decoded.clear()
    summary = grown.run(NEW, append=True)
    assert grown.decoded == ["a.mp4", "b.mp4", "o.mp4"]
    assert (summary.num_new_videos, summary.counts.listed, summary.counts.ok) == (3, 6, 5)


def test_the_rows_that_were_there_keep_their_bytes_also_in_a_half_full_shard(grown: Runs) -> None:
    before = grown.rows()  # z.mp4 is alone in the second shard, where a.mp4 joins it
    grown.run(NEW, append=True)
    assert set(before) == {"m.mp4", "n.mp4", "z.mp4"}
    assert {name: grown.rows()[name] for name in before} == before


@pytest.mark.parametrize("are_four", [True, False])
def test_new_captions_come_after_the_others_also_in_a_half_full_shard(
    grown: Runs, request: pytest.FixtureRequest, are_four: bool
) -> None:
    if are_four:  # a shard; three are there, so the fourth is in it and the fifth is not
        shutil.rmtree(grown.out)
        request.getfixturevalue("four_captions_a_shard")
        for name in "abo":
            (grown.folder / f"{name}.mp4").unlink()
        grown.run(OLD)
        grown.put(a=4)
    grown.run(NEW, append=True)
    # Captions of one step follow their videos' rows.
    assert grown.lengths == [
        ("one", 3), ("three", 5), ("four", 4), ("seventeen", 9), ("twelve", 6),
    ]  # fmt: skip


def test_captions_with_axes_are_appended_and_those_without_keep_none(grown: Runs) -> None:
    asked = [(*caption, "") for caption in OLD] + [("a", "left", "where"), ("m", "one", "what")]
    grown.run(asked, append=True)
    assert [(caption.text, caption.axis) for caption in grown.store.captions] == [
        ("one", ""), ("three", ""), ("four", ""), ("one", "what"), ("left", "where"),
    ]  # fmt: skip
    assert grown.lengths[3:] == [("one", 3), ("left", 4)]
    assert verify(grown.store).problems == ()
    assert grown.run(asked).was_complete


def test_a_growth_by_axes_that_is_cut_off_reads_as_before_and_goes_on(
    grown: Runs, same_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [(*caption, "") for caption in OLD] + [("a", "left", "where")]
    undisturbed = Path(shutil.copytree(grown.out, grown.out.with_name("undisturbed")))
    grown.run(asked, append=True, out=undisturbed)
    before, real = grown.store.captions, LocalStorage.write

    def killed(storage: LocalStorage, name: str, content: bytes) -> None:
        real(storage, name, content)
        if name == "captions.parquet":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            grown.run(asked, append=True)
    assert grown.store.captions == before
    grown.run(asked, append=True)
    assert same_store(grown.out, undisturbed)


def test_appending_nothing_does_nothing(grown: Runs) -> None:
    grown.run(NEW, append=True)
    root = grown.store.root_sha256
    assert grown.run(NEW, append=True).was_complete
    assert grown.store.root_sha256 == root


def test_a_grown_store_goes_on_without_the_flag(grown: Runs) -> None:
    grown.run(NEW, append=True)
    assert grown.run(NEW).was_complete


def test_without_the_flag_what_is_new_is_refused_and_nothing_changes(grown: Runs) -> None:
    root = grown.store.root_sha256
    with pytest.raises(IncompatibleStoreError, match=r"3 videos are not in it .*--append"):
        grown.run(OLD)
    assert (grown.store.root_sha256, len(grown.states)) == (root, 3)


def test_videos_that_are_no_longer_listed_keep_their_features(grown: Runs) -> None:
    (grown.folder / "n.mp4").unlink()
    grown.run(NEW, append=True)
    assert grown.states["n.mp4"] == 2


def test_a_grown_store_is_as_it_was_written(grown: Runs) -> None:
    grown.run(NEW, append=True)
    report = verify(grown.store)
    assert (report.problems, report.num_pending) == ((), 0)


def test_a_store_that_grows_is_readable_meanwhile(grown: Runs) -> None:
    before = grown.rows()
    with pytest.raises(KeyboardInterrupt):
        grown.run(NEW, append=True, cut_off_after=0)
    assert {name: grown.rows()[name] for name in before} == before
    counts = grown.store.counts()
    assert counts.listed == 6
    assert counts.ok + counts.failed + counts.skipped + counts.pending == 6


@pytest.mark.parametrize("cut_off_after", few_of(range(9)))
def test_two_steps_cut_off_anywhere_end_as_two_undisturbed_ones(
    runs: Runs, same_store: Any, cut_off_after: int
) -> None:
    steps: list[tuple[dict[str, object], list[tuple[str, str]]]] = [
        ({"m": 1, "n": "timeout", "z": 3}, OLD),
        ({"a": 1, "b": 4, "y": 5}, NEW),
    ]
    undisturbed = runs.out.with_name("undisturbed")
    for files, captions in steps:
        runs.put(**files)
        runs.run(captions, append=True, out=undisturbed)
        try:
            runs.run(captions, append=True, cut_off_after=cut_off_after)
        except KeyboardInterrupt:
            runs.run(captions, append=True)
    assert same_store(runs.out, undisturbed)
    assert runs.store.video_ids == ["m.mp4", "n.mp4", "z.mp4", "b.mp4", "y.mp4", "a.mp4"]


@pytest.mark.parametrize("write", few_of(range(1, 14)))
def test_a_growth_that_is_killed_at_any_write_ends_as_an_undisturbed_one(
    grown: Runs, same_store: Any, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    undisturbed = Path(shutil.copytree(grown.out, grown.out.with_name("undisturbed")))
    grown.run(NEW, append=True, out=undisturbed)
    real, count = LocalStorage.write, iter(range(1, 1000))

    def killed(storage: LocalStorage, name: str, content: bytes) -> None:
        if next(count) == write:
            raise KeyboardInterrupt
        real(storage, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            grown.run(NEW, append=True)
    assert grown.rows().keys() >= {"m.mp4", "n.mp4", "z.mp4"}  # readable after the kill
    # No receipt promises bytes that are no longer there.
    assert not [problem for problem in verify(grown.store).problems if problem.receipt]
    grown.run(NEW, append=True)
    assert same_store(grown.out, undisturbed)
    assert verify(grown.store).problems == ()


def test_a_missing_video_that_turns_up_is_not_appended_a_second_time(runs: Runs) -> None:
    runs.put(a=1)
    runs.run([("gone", "a dog"), ("a", "one")])
    runs.put(gone=2)
    runs.run([("gone", "a dog"), ("a", "one")], append=True)
    assert runs.store.video_ids == ["a.mp4", "gone"]


def test_the_label_names_both_listings(grown: Runs) -> None:
    listing = dataclasses.replace(grown.listing(NEW), protocol="MSVD test")
    extract(grown.config(append=True), listing)
    assert ZarrStore.open(grown.out).header.protocol == "folder + MSVD test"


# -- listings that say less, or other things, than the store ---------------------------------------


def test_a_new_duplicate_of_a_file_that_has_changed_since_is_decoded(runs: Runs) -> None:
    runs.put(a=10)
    runs.run()
    runs.put(a="99 anew", b="99 anew")
    runs.run(append=True)
    assert runs.states == {"a.mp4": 10, "b.mp4": 99}


def test_a_new_caption_of_a_video_whose_file_is_gone_is_embedded(runs: Runs) -> None:
    runs.put(a=1, b=2)
    runs.run([("a", "one"), ("b", "two")])
    (runs.folder / "a.mp4").unlink()
    runs.run([("a.mp4", "one"), ("a.mp4", "seven"), ("b", "two")], append=True)
    assert runs.lengths == [("one", 3), ("two", 3), ("seven", 5)]


def test_a_growth_keeps_the_paths_of_videos_that_it_does_not_list(runs: Runs) -> None:
    runs.put(a=1)
    runs.run()
    (runs.folder / "a.mp4").unlink()
    runs.put(b=2)
    runs.run(append=True)
    assert runs.store.video_paths == [str(runs.folder / "a.mp4"), str(runs.folder / "b.mp4")]


def test_a_store_that_was_opened_before_a_growth_still_knows_its_rows(runs: Runs) -> None:
    runs.put(a=1)
    runs.run([("a", "one")])
    before = runs.store
    runs.put(b="corrupt")
    runs.run([("a", "one"), ("gone", "two")], append=True)
    assert before.has_features_N.tolist() == [True]
    assert before.has_embedding_Q.tolist() == [True]
    assert before.counts().listed == 1
