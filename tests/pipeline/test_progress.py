"""How far a run has come, counted from what its engine reports."""

from collections.abc import Callable
from typing import Any

import pytest
from runs import Runs
from small_store import SmallStore

from muse.pipeline.extract import extract
from muse.pipeline.progress import Progress, Tally
from muse.pipeline.records import ClipFeatures, Failure
from muse.pipeline.redo import RedoRules
from muse.pipeline.schedule import Tick


def watched(runs: Runs, **settings: Any) -> list[Progress]:
    seen: list[Progress] = []
    extract(runs.config(**settings), runs.listing(), on_progress=seen.append)
    return seen


def test_speed_is_videos_by_seconds_and_the_rest_takes_as_long() -> None:
    progress = Progress(
        num_videos=50, num_decoded=20, num_committed=16, num_failed=0, elapsed_seconds=4.0
    )
    assert (progress.videos_per_second, progress.seconds_left) == (5.0, 6.0)


def test_before_the_first_video_nobody_knows_how_long_it_takes() -> None:
    progress = Progress(
        num_videos=50, num_decoded=0, num_committed=0, num_failed=0, elapsed_seconds=4.0
    )
    assert (progress.videos_per_second, progress.seconds_left) == (0.0, None)


def test_a_tally_counts_ticks_and_receipts(
    make_store: Callable[..., SmallStore],
    make_features: Callable[..., ClipFeatures],
    make_failure: Callable[[int], Failure],
) -> None:
    small = make_store(4)
    receipt = small.videos(0, [make_features(0), make_failure(1)])
    tally = Tally(make_store(4, name="new").open(), small.rows)
    tally.count(Tick(num_decoded=3))
    before = tally.progress()
    tally.count(receipt)
    after = tally.progress()
    assert (before.num_videos, before.num_decoded, before.num_committed, before.num_failed) == (
        4, 3, 0, 0,
    )  # fmt: skip
    assert (after.num_decoded, after.num_committed, after.num_failed) == (3, 2, 1)


def test_missing_videos_have_failed_before_they_are_reached(
    make_store: Callable[..., SmallStore],
    make_features: Callable[..., ClipFeatures],
    make_failure: Callable[[int], Failure],
) -> None:
    small = make_store(4, missing=[1, 3])
    tally = Tally(small.open(), small.rows)
    assert tally.num_failed_in_all == 2
    tally.count(small.videos(0, [make_features(0), make_failure(1)]))
    assert tally.num_failed_in_all == 2


def test_failures_of_earlier_runs_count_in_all_and_not_in_this_run(
    make_store: Callable[..., SmallStore], make_failure: Callable[[int], Failure]
) -> None:
    small = make_store(4)
    small.videos(0, [make_failure(0), make_failure(1)])
    tally = Tally(small.open(), small.rows)
    assert (tally.num_failed_in_all, tally.progress().num_failed) == (2, 0)


def test_a_run_counts_only_what_is_left_to_do(runs: Runs) -> None:
    runs.put(a=1, b=2, c="corrupt", d=4, e=5)
    with pytest.raises(KeyboardInterrupt):
        runs.run(cut_off_after=2)  # a and b are committed
    last = watched(runs)[-1]
    assert (last.num_videos, last.num_committed, last.num_failed) == (3, 3, 1)


def test_videos_that_are_tried_again_are_what_a_run_counts(runs: Runs) -> None:
    runs.put(a=1, b="corrupt", c="timeout", d=4)
    runs.run()
    runs.put(b=2)
    last = watched(runs, redo=RedoRules(failed=("all",)))[-1]
    assert (last.num_videos, last.num_committed) == (2, 2)


def test_duplicates_are_counted_when_they_are_committed(runs: Runs) -> None:
    runs.put(a=1, b=2, c=1, d=2, e=1)
    seen = watched(runs)
    last = seen[-1]
    assert (last.num_videos, last.num_decoded, last.num_committed) == (5, 5, 5)
    steps = [(progress.num_decoded, progress.num_committed) for progress in seen]
    assert steps == sorted(steps)
