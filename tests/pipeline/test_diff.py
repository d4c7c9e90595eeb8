"""What sets two stores apart, each kind by name."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import Runs
from small_store import SmallStore

from muse.pipeline.diff import StoreDiff, diff_stores
from muse.pipeline.header import StoreHeader
from muse.pipeline.listing import ListedRows
from muse.pipeline.records import ClipFeatures, Failure
from muse.pipeline.store_writer import StoreWriter

MakeFeatures = Callable[..., ClipFeatures]


@pytest.fixture
def two(runs: Runs) -> Callable[..., StoreDiff]:
    """The difference of two extractions: what changes in between, and the second one's settings."""

    def compare(
        change: dict[str, object],
        *,
        captions: Sequence[list[tuple[str, ...]]] = ([], []),
        max_videos: int | None = None,
        **settings: Any,
    ) -> StoreDiff:
        runs.put(a=1, b=2, c="corrupt", d=4)
        runs.run(captions[0])
        left = runs.store
        runs.out = runs.out.with_name("right")
        runs.put(**change)
        runs.run(captions[1], **settings)
        return diff_stores(left, runs.store, max_videos=max_videos)

    return compare


def kinds(found: StoreDiff) -> set[str]:
    """The names of what differs."""
    values = {name: getattr(found, name) for name in found.__slots__}
    return {name for name, value in values.items() if value} - {"num_compared"}


def test_two_runs_of_the_same_extraction_hold_the_same(two: Callable[..., StoreDiff]) -> None:
    found = two({}, captions=([("a", "1")], [("a", "1")]))
    assert (found.is_empty, kinds(found), found.num_compared) == (True, set(), 3)


def test_thumbnails_of_one_store_alone_are_a_setting_that_differs(
    two: Callable[..., StoreDiff],
) -> None:
    found = two({}, thumbnails=True)
    (field,) = found.fields
    assert (kinds(found), field.name) == ({"fields"}, "thumbnail_side")
    assert (field.left, field.right, field.is_in_fingerprint) == (0, 112, False)


def test_a_video_with_other_content_is_named_with_its_error(two: Callable[..., StoreDiff]) -> None:
    found = two({"b": 102})
    (difference,) = found.features
    assert (kinds(found), found.is_empty) == ({"features"}, False)
    assert (difference.video_id, difference.array) == ("b.mp4", "tokens")
    # Its greys are 2/255 + 1/4 and 102/255 + 1/4.
    assert difference.relative_error == pytest.approx((100 / 255) / (2 / 255 + 0.25), rel=0.01)


def test_videos_of_one_store_alone_are_named(two: Callable[..., StoreDiff], runs: Runs) -> None:
    found = two({"x": 5})
    assert (kinds(found), found.only_right) == ({"only_right"}, ("x.mp4",))
    turned = diff_stores(runs.store, type(runs.store).open(runs.out.with_name("store")))
    assert (kinds(turned), turned.only_left) == ({"only_left"}, ("x.mp4",))


@pytest.mark.parametrize(
    ("left", "right", "counts"),
    [
        (["x"], ["x", "y"], (0, 1)),
        (["x", "y"], ["x"], (1, 0)),
        (["x"], ["y"], (1, 1)),
        (["x"], ["x", "x"], (0, 1)),
    ],
)
def test_captions_of_one_store_alone_are_counted(
    two: Callable[..., StoreDiff], left: list[str], right: list[str], counts: tuple[int, int]
) -> None:
    found = two({}, captions=([("a", text) for text in left], [("a", text) for text in right]))
    assert (found.captions_only_left, found.captions_only_right) == counts
    assert not found.is_empty


def test_captions_that_ask_for_something_else_are_other_captions(
    two: Callable[..., StoreDiff],
) -> None:
    captions = [[("a", "x", "where"), ("b", "y", axis)] for axis in ("order", "")]
    found = two({}, captions=captions)
    assert (found.captions_only_left, found.captions_only_right) == (1, 1)
    assert not found.is_empty


def test_videos_in_another_state_are_named_with_both(two: Callable[..., StoreDiff]) -> None:
    found = two({"a": "timeout", "c": 3, "d": "too_long"})
    assert kinds(found) == {"states"}
    assert found.states == (
        ("a.mp4", "ok", "failed: timeout"),
        ("c.mp4", "failed: corrupt", "ok"),
        ("d.mp4", "ok", "skipped: too_long"),
    )


def test_a_pending_video_is_in_another_state(
    make_store: Callable[..., SmallStore], make_features: MakeFeatures
) -> None:
    left, right = make_store(2, name="left"), make_store(2, name="right")
    left.videos(0, [make_features(0), make_features(1)])
    found = diff_stores(left.open(), right.open())
    assert found.states == (("v0", "ok", "pending"), ("v1", "ok", "pending"))


def test_videos_of_which_other_frames_were_decoded_are_named_and_not_compared(
    make_store: Callable[..., SmallStore], make_features: MakeFeatures
) -> None:
    left, right = make_store(2, name="left"), make_store(2, name="right")
    left.videos(0, [make_features(0), make_features(1)])
    right.videos(0, [make_features(0, num_valid=2), make_features(1)])
    found = diff_stores(left.open(), right.open())
    assert (kinds(found), found.timestamps) == ({"timestamps"}, ("v0",))


def test_settings_are_named_with_both_values_and_whether_a_head_minds(
    two: Callable[..., StoreDiff],
) -> None:
    found = two({}, encoder="plainer", shard_size=3)
    assert [
        (field.name, field.left, field.right, field.is_in_fingerprint) for field in found.fields
    ] == [("encoder.spec", "plain", "plainer", True), ("shard_size", 2, 3, False)]


def test_versions_of_packages_are_named_and_are_no_difference(
    tmp_path: Path,
    make_rows: Callable[..., ListedRows],
    make_header: Callable[..., StoreHeader],
    make_store: Callable[..., SmallStore],
) -> None:
    rows = make_rows(2)
    header = dataclasses.replace(make_header(rows), versions={"torch": "2.8.0"})
    newer = StoreWriter.create(tmp_path / "newer", header, rows)
    found = diff_stores(make_store(2).open(), SmallStore(newer, rows).open())
    (version,) = found.versions
    assert (version.name, version.left, version.right) == ("torch", None, "2.8.0")
    assert found.is_empty


def test_stores_with_their_rows_in_another_order_hold_the_same(
    make_features: MakeFeatures,
    make_failure: Callable[[int], Failure],
    make_rows: Callable[..., ListedRows],
    store_of: Callable[..., SmallStore],
) -> None:
    rows = make_rows(4)
    turned = ListedRows(
        protocol=rows.protocol,
        videos=rows.videos[::-1],
        duplicate_of=rows.duplicate_of,
        captions=rows.captions[::-1],
    )
    left, right = store_of(rows, name="left"), store_of(turned, name="right")
    written = [make_features(0), make_features(1), make_failure(2), make_features(3)]
    for index in (0, 1):
        left.videos(index, written[2 * index : 2 * index + 2])
        right.videos(index, written[::-1][2 * index : 2 * index + 2])
    found = diff_stores(left.open(), right.open())
    assert (found.is_empty, found.num_compared) == (True, 3)


def test_a_sample_is_spread_over_the_common_videos(
    make_store: Callable[..., SmallStore], make_features: MakeFeatures
) -> None:
    left, right = make_store(6, name="left"), make_store(6, name="right")
    for small, plus in ((left, 0), (right, 1)):
        for index in range(3):
            pair = [make_features(2 * index), make_features(2 * index + 1)]
            small.videos(
                index,
                [
                    dataclasses.replace(
                        clip, arrays={"tokens": clip.arrays["tokens"] + np.float16(plus)}
                    )
                    for clip in pair
                ],
            )
    found = diff_stores(left.open(), right.open(), max_videos=3)
    assert found.num_compared == 3
    assert [difference.video_id for difference in found.features] == ["v0", "v2", "v5"]
