"""Videos that are done again: those that failed, those whose file has changed; and when to stop."""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from runs import Runs, few_of

from muse.errors import IncompatibleStoreError, TooManyFailuresError, UsageError
from muse.pipeline.redo import FailureLimit, RedoRules
from muse.pipeline.storage.files import LocalStorage
from muse.pipeline.verify import verify

CAPTIONS = [("a", "one"), ("gone", "a dog"), ("gone", "seventeen"), ("d", "three")]


def retry(*reasons: str) -> RedoRules:
    return RedoRules(failed=reasons)


@pytest.fixture
def failed(runs: Runs, kept: Path) -> Runs:
    """Two of four videos failed and a fifth is missing; then all are mended."""

    def make(first: Runs) -> None:
        first.put(a=1, b="corrupt", c="timeout", d=4)
        first.run(CAPTIONS)
        first.put(b=2, c=3, gone=5)

    return runs.begin_as(kept, make)


# -- failed videos -------------------------------------------------------------------------------


def test_failed_videos_stay_failed_until_they_are_asked_for(failed: Runs) -> None:
    assert failed.run(CAPTIONS).was_complete
    assert failed.states == {
        "a.mp4": 1, "b.mp4": "corrupt", "c.mp4": "timeout", "d.mp4": 4, "gone": "missing",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("reasons", "again"),
    [
        (("all",), ["b.mp4", "c.mp4", "gone"]),
        (("timeout",), ["c.mp4"]),
        (("corrupt", "missing"), ["b.mp4", "gone"]),
        (("crashed",), []),
    ],
)
def test_failed_videos_are_tried_again_by_reason(
    failed: Runs, reasons: Sequence[str], again: list[str]
) -> None:
    summary = failed.run(CAPTIONS, redo=retry(*reasons))
    assert failed.decoded == again
    assert (summary.num_new_videos, summary.was_complete) == (len(again), not again)
    assert summary.counts.ok == 2 + len(again)
    assert summary.counts.failed == 3 - len(again)


def test_a_mended_file_has_features_and_the_others_keep_their_bytes(failed: Runs) -> None:
    before = failed.rows()
    failed.run(CAPTIONS, redo=retry("all"))
    assert failed.states == {"a.mp4": 1, "b.mp4": 2, "c.mp4": 3, "d.mp4": 4, "gone": 5}
    assert {name: failed.rows()[name] for name in before} == before
    assert set(before) == {"a.mp4", "d.mp4"}


def test_a_mended_store_is_that_of_files_that_were_never_broken(failed: Runs) -> None:
    failed.run(CAPTIONS, redo=retry("all"))
    whole = dataclasses.replace(failed, out=failed.out.with_name("whole"))
    listing_ids = {"gone.mp4": "gone"}  # the row waited under the name in the captions
    whole.run(CAPTIONS)
    expected = {listing_ids.get(name, name): row for name, row in whole.rows().items()}
    assert failed.rows() == expected


def test_captions_of_a_missing_video_that_turns_up_are_embedded(failed: Runs) -> None:
    assert failed.lengths[2:] == [("a dog", None), ("seventeen", None)]
    failed.run(CAPTIONS, redo=retry("missing"))
    assert failed.lengths == [("one", 3), ("three", 5), ("a dog", 5), ("seventeen", 9)]


def test_captions_of_a_missing_video_that_stays_missing_wait_on(failed: Runs) -> None:
    (failed.folder / "gone.mp4").unlink()
    failed.run(CAPTIONS, redo=retry("all"))
    assert failed.states["gone"] == "missing"
    assert failed.lengths[2:] == [("a dog", None), ("seventeen", None)]


def test_a_video_that_fails_again_may_have_another_reason(failed: Runs) -> None:
    failed.put(b="truncated")
    failed.run(CAPTIONS, redo=retry("all"))
    assert failed.states["b.mp4"] == "truncated"


def test_failures_are_listed_as_they_are_now(failed: Runs) -> None:
    failed.put(b="truncated")
    failed.run(CAPTIONS, redo=retry("all"))
    lines = (failed.out / "failures.jsonl").read_text(encoding="utf-8").splitlines()
    found = [(line["video_id"], line["reason"]) for line in map(json.loads, lines)]
    assert found == [("b.mp4", "truncated")]


@pytest.mark.parametrize("write", few_of(range(1, 14)))
def test_a_retry_that_is_killed_at_any_write_ends_as_an_undisturbed_one(
    failed: Runs, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    real, count = LocalStorage.write, iter(range(1, 1000))

    def killed(storage: LocalStorage, name: str, content: bytes) -> None:
        if next(count) == write:
            raise KeyboardInterrupt
        real(storage, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            failed.run(CAPTIONS, redo=retry("all"))
    assert failed.states["a.mp4"] == 1
    assert failed.states["d.mp4"] == 4
    failed.run(CAPTIONS, redo=retry("all"))
    assert failed.states == {"a.mp4": 1, "b.mp4": 2, "c.mp4": 3, "d.mp4": 4, "gone": 5}
    assert [length for _, length in failed.lengths] == [3, 5, 5, 9]
    assert verify(failed.store).problems == ()


def test_captions_are_embedded_where_the_file_came_before_its_shard_was_committed(
    runs: Runs,
) -> None:
    runs.put(a=1)
    runs.run([("a", "one"), ("gone", "a dog")])
    runs.store.storage.remove("receipts/videos-000000.json")  # as Ray, which embeds captions early
    runs.put(gone=2)
    runs.run([("a", "one"), ("gone", "a dog")])
    assert runs.states == {"a.mp4": 1, "gone": 2}
    assert runs.lengths == [("one", 3), ("a dog", 5)]


def test_an_unknown_reason_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"retry_failed 'tired': choose all or of missing, "):
        retry("timeout", "tired")


# -- changed files -------------------------------------------------------------------------------


@pytest.fixture
def done(runs: Runs) -> Runs:
    """Three videos with features, their files hashed."""
    runs.put(a=1, b=2, c=3)
    runs.run(hashes_content=True)
    runs.decoded.clear()
    return runs


def age(runs: Runs, stem: str) -> None:
    os.utime(runs.folder / f"{stem}.mp4", ns=(1, 1))


@pytest.mark.parametrize("changed", ["stat", "content"])
def test_a_file_with_other_content_is_done_again_and_the_others_keep_their_bytes(
    done: Runs, changed: str
) -> None:
    before = done.rows()
    done.put(b=9)
    age(done, "b")
    done.run(redo=RedoRules(changed=changed))  # type: ignore[arg-type]
    assert (done.decoded, done.states) == (["b.mp4"], {"a.mp4": 1, "b.mp4": 9, "c.mp4": 3})
    after = done.rows()
    assert (after["a.mp4"], after["c.mp4"]) == (before["a.mp4"], before["c.mp4"])
    assert after["b.mp4"] != before["b.mp4"]


def test_a_changed_file_is_left_alone_until_it_is_asked_for(done: Runs) -> None:
    done.put(b=9)
    age(done, "b")
    assert done.run().was_complete
    assert done.states["b.mp4"] == 2


@pytest.mark.parametrize(("changed", "decoded"), [("stat", ["a.mp4"]), ("content", [])])
def test_a_touched_file_has_changed_by_its_time_and_not_by_its_content(
    done: Runs, changed: str, decoded: list[str]
) -> None:
    root = done.store.root_sha256
    age(done, "a")
    done.run(hashes_content=True, redo=RedoRules(changed=changed))  # type: ignore[arg-type]
    assert done.decoded == decoded
    assert done.store.root_sha256 == root


def test_a_file_that_is_done_again_is_not_changed_the_next_time(done: Runs) -> None:
    done.put(b=99)
    done.run(redo=RedoRules(changed="stat"))
    assert done.run(redo=RedoRules(changed="stat")).was_complete


def test_a_file_that_is_gone_keeps_its_features(done: Runs) -> None:
    captions = [("a", "1"), ("b", "2"), ("c", "3")]
    done.run(captions, append=True)
    (done.folder / "b.mp4").unlink()
    done.run(captions, append=True, redo=RedoRules(changed="stat"))
    assert done.states["b.mp4"] == 2


def test_a_file_that_is_broken_now_becomes_a_failure(done: Runs) -> None:
    done.put(b="corrupt")
    done.run(redo=RedoRules(changed="content"))
    assert done.states == {"a.mp4": 1, "b.mp4": "corrupt", "c.mp4": 3}
    assert verify(done.store).problems == ()


# -- too many failures ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("1%", FailureLimit(share=0.01)),
        ("2.5%", FailureLimit(share=0.025)),
        ("0%", FailureLimit(share=0.0)),
        ("100%", FailureLimit()),
        ("0", FailureLimit(count=0)),
        ("12", FailureLimit(count=12)),
    ],
)
def test_a_limit_is_a_share_or_a_number(text: str, limit: FailureLimit) -> None:
    assert FailureLimit.parse(text) == limit


@pytest.mark.parametrize("text", ["", "%", "-1", "-1%", "101%", "nan%", "inf%", "1.5", "few"])
def test_a_limit_that_is_neither_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"max_failures .*: write a share such as 1%, or a number"):
        FailureLimit.parse(text)


@pytest.mark.parametrize(
    ("limit", "most"),
    [
        (FailureLimit(), 200),
        (FailureLimit(share=0.01), 2),
        (FailureLimit(share=0.0), 0),
        (FailureLimit(count=5), 5),
    ],
)
def test_as_many_may_fail_as_the_limit_says_and_not_one_more(
    limit: FailureLimit, most: int
) -> None:
    limit.check(most, of=200)
    with pytest.raises(TooManyFailuresError, match=rf"{most + 1} of 200 videos failed"):
        limit.check(most + 1, of=200)


@pytest.fixture
def poor(runs: Runs) -> Runs:
    """Six files of which the third, fourth and fifth are broken."""
    runs.put(a=1, b=2, c="corrupt", d="corrupt too", e="timeout", f=6)
    return runs


@pytest.mark.parametrize("limit", [FailureLimit(count=1), FailureLimit(share=0.2)])
def test_a_run_stops_when_too_many_have_failed_and_what_was_committed_stays(
    poor: Runs, limit: FailureLimit
) -> None:
    with pytest.raises(TooManyFailuresError, match="2 of 6 videos failed"):
        poor.run(max_failures=limit)
    assert poor.states == {
        "a.mp4": 1, "b.mp4": 2, "c.mp4": "corrupt", "d.mp4": "corrupt",
        "e.mp4": "pending", "f.mp4": "pending",
    }  # fmt: skip


def test_failures_are_listed_also_where_they_stopped_the_run(poor: Runs) -> None:
    with pytest.raises(TooManyFailuresError):
        poor.run(max_failures=FailureLimit(count=1))
    lines = (poor.out / "failures.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["video_id"] for line in lines] == ["c.mp4", "d.mp4"]


def test_the_same_limit_stops_the_next_run_before_it_decodes(poor: Runs) -> None:
    for _ in range(2):
        poor.decoded.clear()
        with pytest.raises(TooManyFailuresError):
            poor.run(max_failures=FailureLimit(count=1))
    assert poor.decoded == []


def test_with_a_higher_limit_the_run_goes_on_and_ends_as_an_undisturbed_one(
    poor: Runs, same_store: object
) -> None:
    with pytest.raises(TooManyFailuresError):
        poor.run(max_failures=FailureLimit(count=1))
    assert poor.run(max_failures=FailureLimit(count=3)).num_new_videos == 2
    undisturbed = poor.out.with_name("undisturbed")
    poor.run(out=undisturbed)
    assert same_store(poor.out, undisturbed)  # type: ignore[operator]


def test_missing_videos_count_before_anything_is_decoded(runs: Runs) -> None:
    runs.put(a=1)
    with pytest.raises(TooManyFailuresError, match="2 of 3 videos failed"):
        runs.run([("a", "1"), ("x", "2"), ("y", "3")], max_failures=FailureLimit(count=1))
    assert runs.decoded == []


def test_missing_videos_count_once(runs: Runs) -> None:
    runs.put(a=1, b="corrupt")
    runs.run([("a", "1"), ("x", "2")], max_failures=FailureLimit(count=2))
    assert runs.store.counts().failed == 2


def test_mended_videos_count_no_more(poor: Runs) -> None:
    with pytest.raises(TooManyFailuresError):
        poor.run(max_failures=FailureLimit(count=1))
    poor.put(c=3, d=4)
    poor.run(max_failures=FailureLimit(count=1), redo=retry("all"))
    assert poor.states == {
        "a.mp4": 1, "b.mp4": 2, "c.mp4": 3, "d.mp4": 4, "e.mp4": "timeout", "f.mp4": 6,
    }  # fmt: skip


# -- skipped videos ------------------------------------------------------------------------------


def test_a_skipped_video_is_counted_as_such_and_stops_no_run(runs: Runs) -> None:
    runs.put(a=1, b="too_long", c="too_long too", d="corrupt", e=5)
    counts = runs.run(max_failures=FailureLimit(count=1)).counts
    assert (counts.listed, counts.ok, counts.failed, counts.skipped, counts.pending) == (
        5, 2, 1, 2, 0,
    )  # fmt: skip


@pytest.mark.parametrize("cut_off_after", range(7))
def test_listed_is_always_ok_and_failed_and_skipped_and_pending(
    runs: Runs, cut_off_after: int
) -> None:
    runs.put(a=1, b="too_long", c="timeout", d=4, e="too_long too")
    with pytest.raises(KeyboardInterrupt):
        runs.run(cut_off_after=cut_off_after)
    counts = runs.store.counts()
    assert counts.ok + counts.failed + counts.skipped + counts.pending == counts.listed == 5


def test_a_skipped_video_can_be_asked_for_again(runs: Runs) -> None:
    runs.put(a=1, b="too_long")
    runs.run()
    runs.put(b=2)
    runs.run(redo=retry("too_long"))
    assert runs.states == {"a.mp4": 1, "b.mp4": 2}


# -- runs that are refused, and files that are mended ----------------------------------------------


def test_a_run_that_is_refused_makes_nothing_pending(failed: Runs) -> None:
    before = failed.states
    other = {"precision": "bf16"}
    with pytest.raises(IncompatibleStoreError, match=r"encoder\.precision"):
        failed.run(CAPTIONS, redo=RedoRules(failed=("all",), changed="stat"), **other)
    assert failed.states == before


def test_a_failed_file_that_has_changed_is_done_again_by_changed(failed: Runs) -> None:
    failed.run(CAPTIONS, redo=RedoRules(changed="stat"))
    assert failed.states["b.mp4"] == 2
    assert failed.states["c.mp4"] == 3


def test_a_failure_that_another_video_s_retry_kept_is_still_known_as_it_was(failed: Runs) -> None:
    failed.put(c="timeout")
    failed.run(CAPTIONS, redo=retry("corrupt"))
    failed.decoded.clear()
    failed.put(c="3 and longer")
    failed.run(CAPTIONS, redo=RedoRules(changed="stat"))
    assert failed.decoded == ["c.mp4"]


@pytest.mark.parametrize("percent", range(101))
def test_a_share_allows_exactly_that_many(percent: int) -> None:
    limit = FailureLimit.parse(f"{percent}%")
    limit.check(percent, of=100)
    if percent < 100:
        with pytest.raises(TooManyFailuresError, match=f"allows {percent} %"):
            limit.check(percent + 1, of=100)
