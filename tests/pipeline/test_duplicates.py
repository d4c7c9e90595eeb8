"""Files with the same bytes: decoded once, and each with a row of its own."""

from typing import Any

import pytest
from runs import Runs

from muse.pipeline.redo import RedoRules
from muse.pipeline.verify import verify


@pytest.fixture
def twins(runs: Runs) -> Runs:
    """a, c, f and b, e have the same bytes; two videos a shard."""
    runs.put(a=1, b=2, c=1, d=4, e=2, f=1)
    return runs


def test_each_content_is_decoded_once(twins: Runs) -> None:
    twins.run()
    assert twins.decoded == ["a.mp4", "b.mp4", "d.mp4"]


def test_a_duplicate_has_the_bytes_of_its_original_under_its_own_id(twins: Runs) -> None:
    twins.run()
    rows = twins.rows()
    assert list(rows) == ["a.mp4", "b.mp4", "d.mp4", "c.mp4", "e.mp4", "f.mp4"]
    assert rows["a.mp4"] == rows["c.mp4"] == rows["f.mp4"] != rows["b.mp4"] == rows["e.mp4"]
    assert twins.states["e.mp4"] == 2


def test_captions_of_a_duplicate_are_embedded(twins: Runs) -> None:
    twins.run([("c", "one"), ("a", "three")])
    assert twins.lengths == [("three", 5), ("one", 3)]


def test_without_the_search_every_file_is_decoded(twins: Runs) -> None:
    twins.run(finds_duplicates=False)
    assert twins.decoded == ["a.mp4", "b.mp4", "c.mp4", "d.mp4", "e.mp4", "f.mp4"]


def test_both_ways_give_the_same_features(twins: Runs) -> None:
    twins.run()
    found = twins.rows()
    twins.out = twins.out.with_name("other")
    twins.run(finds_duplicates=False)
    assert found == twins.rows()


def test_a_duplicate_of_a_video_that_fails_fails_likewise_under_its_own_id(runs: Runs) -> None:
    runs.put(a="corrupt", b=2, c="corrupt", d=4)
    runs.run()
    assert runs.decoded == ["a.mp4", "b.mp4", "d.mp4"]
    original, duplicate = runs.store.failures
    assert (original.video_id, duplicate.video_id) == ("a.mp4", "c.mp4")
    assert (original.reason, duplicate.reason) == ("corrupt", "corrupt")
    assert duplicate.path == str(runs.folder / "c.mp4")


def test_missing_videos_are_no_duplicates_of_each_other(runs: Runs) -> None:
    runs.put(a=1)
    runs.run([("a", "1"), ("x", "2"), ("y", "3")])
    assert runs.states == {"a.mp4": 1, "x": "missing", "y": "missing"}
    assert runs.store.duplicate_of == [None, None, None]


def test_a_duplicate_that_is_appended_later_is_not_decoded(twins: Runs) -> None:
    twins.run()
    twins.decoded.clear()
    twins.put(g=4, h=8)
    twins.run(append=True)
    assert twins.decoded == ["h.mp4"]
    assert list(twins.states.items())[-2:] == [("h.mp4", 8), ("g.mp4", 4)]


def test_mended_twins_are_decoded_once_again(runs: Runs) -> None:
    runs.put(a="corrupt", b=2, c="corrupt")
    runs.run()
    runs.decoded.clear()
    runs.put(a=7, c=7)
    runs.run(redo=RedoRules(failed=("all",)))
    assert (runs.decoded, runs.states) == (["a.mp4"], {"a.mp4": 7, "b.mp4": 2, "c.mp4": 7})


def test_a_duplicate_that_is_mended_alone_is_decoded_itself(runs: Runs) -> None:
    runs.put(a="corrupt", b=2, c="corrupt")
    runs.run()
    runs.put(c=7)
    runs.run(redo=RedoRules(failed=("all",)))
    assert runs.states == {"a.mp4": "corrupt", "b.mp4": 2, "c.mp4": 7}


@pytest.mark.parametrize("changed", ["stat", "content"])
def test_a_duplicate_that_changes_becomes_a_video_of_its_own(twins: Runs, changed: str) -> None:
    twins.run(hashes_content=True)
    twins.put(c=33)
    twins.run(redo=RedoRules(changed=changed))  # type: ignore[arg-type]
    assert twins.states == {
        "a.mp4": 1, "b.mp4": 2, "d.mp4": 4, "c.mp4": 33, "e.mp4": 2, "f.mp4": 1,
    }  # fmt: skip


def test_an_original_that_changes_leaves_its_duplicates_as_they_are(twins: Runs) -> None:
    twins.run()
    twins.put(a=11)
    twins.run(redo=RedoRules(changed="stat"))
    assert (twins.states["a.mp4"], twins.states["c.mp4"], twins.states["f.mp4"]) == (11, 1, 1)


def test_a_duplicate_is_not_done_again_for_a_hash_that_it_never_had(twins: Runs) -> None:
    twins.run()
    assert twins.run(redo=RedoRules(changed="content")).was_complete


@pytest.mark.parametrize("cut_off_after", range(0, 6, 2))
def test_a_run_with_duplicates_cut_off_anywhere_ends_as_an_undisturbed_one(
    twins: Runs, same_store: Any, cut_off_after: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        twins.run(cut_off_after=cut_off_after)
    twins.run()
    undisturbed = twins.out.with_name("undisturbed")
    twins.run(out=undisturbed)
    assert same_store(twins.out, undisturbed)
    assert verify(twins.store).problems == ()


def test_new_features_are_not_taken_from_an_original_that_was_decoded_before_both_changed(
    twins: Runs,
) -> None:
    with pytest.raises(KeyboardInterrupt):
        twins.run(cut_off_after=2)  # a and b are committed, c is not
    assert (twins.states["a.mp4"], twins.states["c.mp4"]) == (1, "pending")
    twins.put(a=77, c=77)
    twins.run()
    assert twins.states["c.mp4"] == 77
