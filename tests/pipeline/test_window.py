"""Parts of videos: which frames are theirs, and what a store keeps of them.

The frames tell their own index, so what a window gives is compared with the whole video's frames.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from runs import Runs

from muse.errors import DecodeError, IncompatibleStoreError, ManifestError, UsageError
from muse.pipeline.decoding.decode import decode_clip
from muse.pipeline.diff import diff_stores
from muse.pipeline.exports.hdf5_writer import write_hdf5
from muse.pipeline.header import Preprocessing, Sampling
from muse.pipeline.listing import rows_of_new_store, sorted_listing
from muse.pipeline.plan import all_video_shards
from muse.pipeline.records import Clip, Listing, VideoRef
from muse.pipeline.sampling import sampled_frames
from muse.pipeline.sealed_json import hash_of_json
from muse.pipeline.store import open_raw_store
from muse.pipeline.verify import verify
from muse.pipeline.window import Window, parse_clip_window

MakeVideo = Callable[..., Path]
FrameIndex = Callable[[NDArray[np.uint8]], int]
PREPROCESSING = Preprocessing(
    size=32, resize_to=32, interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1)
)
EVERY_FRAME = Sampling(kind="uniform", num_frames=500)


def window(start: float, end: float) -> Window:
    return Window(start_seconds=start, end_seconds=end)


def decode(path: Path, part: Window | None, sampling: Sampling = EVERY_FRAME) -> Clip:
    video = VideoRef(video_id="clip", path=path, window=part)
    return decode_clip(video, sampling=sampling, preprocessing=PREPROCESSING)


@pytest.fixture
def six_seconds(make_video: MakeVideo, tmp_path: Path) -> Path:
    """60 frames, ten a second; with B-frames, and groups of 25 pictures that no window begins."""
    options = {"bf": "3", "g": "25", "x264-params": "open-gop=1"}
    return make_video(tmp_path / "six.mp4", num_frames=60, codec_options=options)


@pytest.fixture
def indices(six_seconds: Path, frame_index: FrameIndex) -> Callable[..., list[int]]:
    def read(part: Window | None, sampling: Sampling = EVERY_FRAME) -> list[int]:
        return [frame_index(frame) for frame in decode(six_seconds, part, sampling).frames_THWC]

    return read


# -- which frames --------------------------------------------------------------------------------


def test_a_window_has_the_frames_that_begin_within_it(indices: Callable[..., list[int]]) -> None:
    assert indices(window(2, 4)) == list(range(20, 40))


def test_its_frames_and_times_are_those_of_the_whole_video(six_seconds: Path) -> None:
    part, whole = decode(six_seconds, window(2, 4)), decode(six_seconds, None)
    assert part.frames_THWC.tobytes() == whole.frames_THWC[20:40].tobytes()
    assert part.pts_seconds_T.tolist() == whole.pts_seconds_T[20:40].tolist()
    assert part.pts_seconds_T[0] == pytest.approx(2.0)


def test_a_window_is_sampled_as_if_it_were_the_video(indices: Callable[..., list[int]]) -> None:
    assert indices(window(2, 5), Sampling(num_frames=12)) == [20, 30, 40]
    # Parts of 1.5 s; midpoints 2.75 and 4.25 s.
    assert indices(window(2, 5), Sampling(kind="uniform", num_frames=2)) == [27, 42]


def test_a_window_begins_with_the_first_frame_in_it_and_not_with_the_one_before(
    indices: Callable[..., list[int]],
) -> None:
    assert indices(window(2.05, 2.35)) == [21, 22, 23]
    # Of its 40 instants the first, the 20th and the last: 2.05, 3.95 and 5.95 s.
    assert indices(window(2.05, 9), Sampling(num_frames=3, fps=10)) == [21, 39, 59]


def test_a_window_that_ends_after_the_video_has_what_is_there(
    indices: Callable[..., list[int]],
) -> None:
    assert indices(window(5, 31)) == list(range(50, 60))
    assert indices(window(0, 31)) == indices(None)


@pytest.mark.parametrize(("start", "end"), [(6, 9), (31, 40), (2.01, 2.09)])
def test_a_window_without_a_frame_is_a_failure_that_says_so(
    six_seconds: Path, start: float, end: float
) -> None:
    words = f"no frame begins between {start} s and {end} s; the video is 6.0 s long"
    with pytest.raises(DecodeError, match=words) as caught:
        decode(six_seconds, window(start, end))
    assert caught.value.reason == "empty_window"


def test_a_video_that_begins_within_a_group_of_pictures_counts_from_its_first_whole_frame(
    make_video: MakeVideo, frame_index: FrameIndex, tmp_path: Path
) -> None:
    whole = make_video(
        tmp_path / "whole.ts",
        num_frames=60,
        codec_options={"bf": "0", "g": "25", "sc_threshold": "0"},
    )
    cut = tmp_path / "cut.ts"
    content = whole.read_bytes()
    cut.write_bytes(content[len(content) // 1880 * 188 * 2 :])
    all_of_it = decode(cut, None)
    part = decode(cut, window(1, 2))
    fitting = (all_of_it.pts_seconds_T >= 1 - 1e-6) & (all_of_it.pts_seconds_T < 2 - 1e-6)
    assert frame_index(all_of_it.frames_THWC[0]) > 0
    assert part.frames_THWC.tobytes() == all_of_it.frames_THWC[fitting].tobytes()


@pytest.mark.parametrize("rate", [30000 / 1001, 25.0, 1.0])
@pytest.mark.parametrize(("start", "end"), [(0, 31), (2, 4), (3.5, 3.6), (59, 61)])
def test_frames_of_a_window_against_a_loop(rate: float, start: float, end: float) -> None:
    seconds = np.arange(round(60 * rate)) / rate
    found = sampled_frames(seconds, 60.0, EVERY_FRAME, window=window(start, end))
    fitting = [i for i, s in enumerate(seconds.tolist()) if start - 5e-7 <= s < end - 5e-7]
    assert set(found.tolist()) <= set(fitting)
    if 0 < len(fitting) <= 120:  # 500 instants then miss none
        assert found.tolist() == fitting


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "msvd/videos/6JnGBs88sL0_4_10.avi",
        "misc/videos/skateboard-dog.avi",
        "msrvtt/videos/video7010.mp4",
    ],
)
def test_windows_of_real_clips_are_parts_of_the_whole(real_data: Path, name: str) -> None:
    every = Sampling(kind="uniform", num_frames=2000)
    whole = decode(real_data / name, None, every)
    part = decode(real_data / name, window(1, 3), every)
    fitting = (whole.pts_seconds_T >= 1 - 5e-7) & (whole.pts_seconds_T < 3 - 5e-7)
    assert part.pts_seconds_T.tolist() == whole.pts_seconds_T[fitting].tolist()
    assert part.frames_THWC.tobytes() == whole.frames_THWC[fitting].tobytes()


# -- what people write ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0:31", window(0, 31)), ("2.5:4", window(2.5, 4)), ("none", "none"), ("preset", "preset")],
)
def test_windows_are_read_as_they_are_written(text: str, expected: object) -> None:
    assert parse_clip_window(text) == expected
    assert not isinstance(expected, Window) or expected.text == text


@pytest.mark.parametrize("text", ["", "31", "4:2", "2:2", "-1:3", "a:b", "0:inf", "nan:2", "0:1:2"])
def test_other_windows_are_refused_with_what_may_be_written(text: str) -> None:
    with pytest.raises(UsageError, match="write START:END in seconds, such as 0:31"):
        parse_clip_window(text)


# -- listings and stores -------------------------------------------------------------------------


def listing_of(runs: Runs, *rows: Sequence[object], **settings: Any) -> Listing:
    """The folder's, with (video, caption, start, end) rows."""
    from muse.pipeline.datasets.folder import list_folder

    file = runs.folder.parent / "captions.json"
    names = ("video", "captions", "start", "end")
    objects = [dict(zip(names, (row[0], [row[1]], *row[2:]), strict=False)) for row in rows]
    file.write_text(json.dumps(objects), encoding="utf-8")
    return list_folder(runs.folder, file, **settings)


def extract(runs: Runs, listing: Listing, **settings: Any) -> None:
    from muse.pipeline.extract import extract as run

    run(runs.config(**settings), listing)


def test_windows_that_a_folder_has_not_are_refused(runs: Runs) -> None:
    runs.put(a=7)
    with pytest.raises(ManifestError, match="no windows in it for --clip-window annotated"):
        listing_of(runs, ("a", "first"), clip_window="annotated")


def test_two_windows_of_a_file_are_two_videos_and_no_duplicates(runs: Runs) -> None:
    runs.put(a=7, b=9)
    extract(runs, listing_of(runs, ("a", "first", 0, 2), ("a", "second", 2, 4.5), ("b", "all")))
    store = runs.store
    assert list(store.video_ids) == ["a.mp4#t=0,2", "a.mp4#t=2,4.5", "b.mp4"]
    assert list(store.windows) == [window(0, 2), window(2, 4.5), None]
    assert list(store.duplicate_of) == [None, None, None]
    assert runs.decoded == list(store.video_ids)
    assert [c.video_id for c in store.captions] == list(store.video_ids)


def test_the_same_window_of_the_same_bytes_is_a_duplicate(runs: Runs) -> None:
    runs.put(a=7, b=7)
    extract(runs, listing_of(runs, ("a", "x", 0, 2), ("b", "y", 0, 2), ("b", "z", 1, 2)))
    assert list(runs.store.video_ids) == ["a.mp4#t=0,2", "b.mp4#t=1,2", "b.mp4#t=0,2"]
    assert list(runs.store.duplicate_of) == [None, None, 0]


def test_a_file_is_a_video_as_a_whole_too_where_a_caption_is_about_all_of_it(runs: Runs) -> None:
    runs.put(a=7, b=9)
    listing = listing_of(runs, ("a", "part", 0, 2), ("a", "all"), ("b", "part", 1, 2))
    assert [video.video_id for video in sorted_listing(listing).videos] == [
        "a.mp4",
        "a.mp4#t=0,2",
        "b.mp4#t=1,2",
    ]


def test_one_window_may_be_given_for_a_whole_folder(runs: Runs) -> None:
    runs.put(a=7, b=9)
    listing = listing_of(runs, ("a", "x"), clip_window=window(0, 31))
    assert {v.video_id: v.window for v in listing.videos} == {
        "a.mp4": window(0, 31),
        "b.mp4": window(0, 31),
    }
    with pytest.raises(ManifestError, match=r"has windows of its own \(first: 0:2 of 'a'\)"):
        listing_of(runs, ("a", "x", 0, 2), clip_window=window(0, 31))


def test_whole_files_may_be_asked_for_whatever_the_columns_say(runs: Runs) -> None:
    runs.put(a=7)
    listing = listing_of(runs, ("a", "x", 0, 2), clip_window="none")
    assert [(v.video_id, v.window) for v in listing.videos] == [("a.mp4", None)]


@pytest.mark.parametrize(
    ("start", "end"), [(0, None), (None, 2), ("x", 2), (2, 1), (-1, 2), (True, "")]
)
def test_a_half_or_false_window_is_refused_with_its_place(
    runs: Runs, start: object, end: object
) -> None:
    runs.put(a=7)
    with pytest.raises(ManifestError, match=r"captions\.json, object 0: start is .* and end"):
        listing_of(runs, ("a", "x", start, end))


def test_a_table_s_windows_are_read_and_empty_cells_are_none(runs: Runs) -> None:
    from muse.pipeline.datasets.folder import list_folder

    runs.put(a=7, b=9)
    file = runs.folder.parent / "captions.csv"
    file.write_text("video,caption,start,end\na,x,0.5,2\nb,y,,\n", encoding="utf-8")
    videos = sorted_listing(list_folder(runs.folder, file)).videos
    assert [v.window for v in videos] == [window(0.5, 2), None]


def test_a_run_with_another_window_is_refused_also_to_append(runs: Runs) -> None:
    runs.put(a=7)
    extract(runs, listing_of(runs, ("a", "x"), clip_window=window(0, 31)))
    words = r"1 videos were made of other seconds .* made of --clip-window 0:31; this run has "
    for other, name in ((window(0, 30), "--clip-window 0:30"), ("none", "the whole file")):
        listing = listing_of(runs, ("a", "x"), clip_window=other)
        for append in (False, True):
            with pytest.raises(IncompatibleStoreError, match=words + name):
                extract(runs, listing, append=append)


def test_a_finished_store_of_windows_is_complete_and_as_it_was_written(runs: Runs) -> None:
    runs.put(a=7)
    listing = listing_of(runs, ("a", "first", 0, 2), ("a", "second", 2, 4))
    extract(runs, listing)
    root = runs.store.root_sha256
    extract(runs, listing)
    assert (runs.store.root_sha256, verify(runs.store).problems) == (root, ())
    assert len(runs.decoded) == 2


def test_a_window_waits_for_its_file(runs: Runs) -> None:
    runs.put(b=9)
    rows = [("a", "x", 0, 1.5), ("b", "y")]
    extract(runs, listing_of(runs, *rows))
    assert runs.states["a#t=0,1.5"] == "missing"
    runs.put(a=7)
    from muse.pipeline.redo import RedoRules

    extract(runs, listing_of(runs, *rows), redo=RedoRules(failed=("missing",)))
    assert runs.states["a#t=0,1.5"] == 7


def test_rows_without_windows_are_hashed_as_before_there_were_any(runs: Runs) -> None:
    runs.put(a=7)
    rows = rows_of_new_store(sorted_listing(runs.listing([("a", "x")])))
    assert rows.sha256 == hash_of_json([["a.mp4"], [["a.mp4", "x", "all"]]])
    (shard,) = all_video_shards(rows, shard_size=2)
    assert shard.members_sha256 == hash_of_json(["a.mp4"])


def test_rows_with_a_window_have_it_in_their_hashes(runs: Runs) -> None:
    runs.put(a=7)
    rows = rows_of_new_store(sorted_listing(listing_of(runs, ("a", "x"))))
    cut = dataclasses.replace(
        rows, videos=(dataclasses.replace(rows.videos[0], window=window(0, 31)),)
    )
    shards = [all_video_shards(each, shard_size=2)[0] for each in (rows, cut)]
    assert rows.sha256 != cut.sha256
    assert shards[0].members_sha256 != shards[1].members_sha256
    assert cut.sha256 == hash_of_json([[["a.mp4", 0, 31]], [["a.mp4", "x", "all"]]])


def test_a_table_has_columns_of_windows_only_where_there_are_any(runs: Runs) -> None:
    import pyarrow.parquet as pq

    runs.put(a=7)
    extract(runs, listing_of(runs, ("a", "x")))
    assert pq.read_schema(runs.out / "videos.parquet").names == ["video_id", "path", "duplicate_of"]


def test_a_difference_of_two_stores_names_the_videos_of_other_windows(runs: Runs) -> None:
    runs.put(a=7)
    extract(runs, listing_of(runs, ("a", "x")))
    left = runs.store
    runs.out = runs.out.with_name("right")
    extract(runs, listing_of(runs, ("a", "x"), clip_window=window(0, 31)))
    found = diff_stores(left, runs.store)
    assert (found.windows, found.is_empty) == (("a.mp4",), False)


def test_windows_survive_an_export(runs: Runs) -> None:
    runs.put(a=7, b=9)
    extract(runs, listing_of(runs, ("a", "x", 0, 2), ("b", "y")))
    file = runs.out.with_name("x.h5")
    write_hdf5(runs.store, file)
    exported = open_raw_store(file)
    assert list(exported.windows) == [window(0, 2), None]
    assert diff_stores(runs.store, exported).is_empty
    with h5py.File(file) as content:
        assert content["videos/start_seconds"].shape == (2,)
