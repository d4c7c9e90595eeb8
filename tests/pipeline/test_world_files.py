"""The files of a made world: the same from the same seed, whatever happened on the way."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_clips import timeline_in
from numpy.typing import NDArray

from muse.errors import ManifestError, UsageError
from muse.pipeline.datasets.benchmark import list_benchmark
from muse.pipeline.decoding.decode import decode_clip
from muse.pipeline.header import Preprocessing, Sampling
from muse.pipeline.records import VideoRef
from muse.pipeline.world import world
from muse.pipeline.world.frames import draw
from muse.pipeline.world.scenes import SIDE
from muse.pipeline.world.video_writer import write_video
from muse.pipeline.world.world import frames_of, make_world, read_world, world_videos

EVERY_FRAME = Sampling(kind="uniform", num_frames=500)
AS_IT_IS = Preprocessing(
    size=SIDE, resize_to=SIDE, interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1)
)


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world of three videos, of seed 0, to be left as it is."""
    folder = tmp_path_factory.mktemp("worlds") / "three"
    make_world(folder, num_videos=3, seed=0, num_processes=1)
    return folder


@pytest.fixture
def three_videos(made_once: Path, tmp_path: Path) -> Path:
    """The same, this test's own."""
    return Path(shutil.copytree(made_once, tmp_path / "world"))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The videos that were made since; their files are empty, which takes no time."""
    drawn: list[str] = []

    def write(folder: Path, video: world.WorldVideo) -> None:
        drawn.append(video.video_id)
        world.video_file(folder, video.video_id).touch()

    monkeypatch.setattr(world, "_write_video", write)
    return drawn


def make(folder: Path, num_videos: int | None = None, seed: int | None = None) -> Path:
    make_world(folder, num_videos=num_videos, seed=seed, num_processes=1)
    return folder


# -- seeds ---------------------------------------------------------------------------------------


def test_another_seed_gives_other_videos() -> None:
    one, other = (list(islice(world_videos(seed), 20)) for seed in (0, 1))
    assert not [1 for a, b in zip(one, other, strict=True) if a.scene == b.scene]


def test_the_captions_of_a_video_are_different_sentences() -> None:
    assert {len(set(video.captions)) for video in islice(world_videos(0), 200)} == {4}


@pytest.mark.slow
@pytest.mark.parametrize("hash_seed", ["1", "77"])
def test_another_process_makes_the_same_captions_and_frames(hash_seed: str) -> None:
    program = (
        "import hashlib; from itertools import islice\n"
        "from muse.pipeline.world.world import world_videos\n"
        "from muse.pipeline.world.frames import draw\n"
        "for video in islice(world_videos(0), 18):\n"
        "    frame = hashlib.sha256(draw(video.scene, 0.4)).hexdigest()\n"
        "    print(video.video_id, video.split, frame, *video.captions, sep='|')\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    arguments = [sys.executable, "-c", program]
    output = subprocess.run(arguments, env=environment, capture_output=True, check=True, text=True)
    here = [
        (v.video_id, v.split, hashlib.sha256(draw(v.scene, 0.4).tobytes()).hexdigest(), *v.captions)
        for v in islice(world_videos(0), 18)
    ]
    assert output.stdout.splitlines() == ["|".join(fields) for fields in here]


# -- making --------------------------------------------------------------------------------------


def test_a_larger_world_begins_with_the_smaller_one_s_files(three_videos: Path) -> None:
    before = files_of(three_videos)
    after = files_of(make(three_videos, 4))
    assert sorted(after.keys() - before.keys()) == ["videos/000003.mp4"]
    for name in before.keys() - {"world.json"}:
        assert after[name].startswith(before[name])


def test_a_removed_video_is_made_again_with_the_same_bytes(three_videos: Path) -> None:
    before = files_of(three_videos)
    (three_videos / "videos" / "000001.mp4").unlink()
    assert files_of(make(three_videos)) == before


@pytest.mark.slow
def test_several_processes_make_the_files_of_one(tmp_path: Path) -> None:
    make(tmp_path / "one", 10, 3)
    make_world(tmp_path / "many", num_videos=10, seed=3, num_processes=3)
    assert files_of(tmp_path / "many") == files_of(tmp_path / "one")


def test_only_what_is_missing_is_drawn(tmp_path: Path, drawn: list[str]) -> None:
    make(tmp_path, 5)
    (tmp_path / "videos" / "000002.mp4").unlink()
    drawn.clear()
    make(tmp_path, 7)
    assert drawn == ["000002", "000005", "000006"]


def test_progress_counts_the_videos_that_were_there(tmp_path: Path, drawn: list[str]) -> None:
    make(tmp_path, 3)
    seen: list[tuple[int, int]] = []
    make_world(tmp_path, num_videos=5, on_videos=lambda made, of: seen.append((made, of)))
    assert seen == [(4, 5), (5, 5)]


def test_a_world_that_was_stopped_goes_on_and_leaves_nothing_unfinished(
    three_videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(scene: Any) -> Iterator[NDArray[np.uint8]]:
        yield from islice(frames_of(scene), 20)  # an encoder looks ahead before it writes
        raise KeyboardInterrupt

    before = files_of(three_videos)
    (three_videos / "videos" / "000001.mp4").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(world, "frames_of", broken)
        with pytest.raises(KeyboardInterrupt):
            make(three_videos)
    assert (three_videos / "videos" / ".000001.partial.mp4").exists()
    assert files_of(make(three_videos)) == before


def test_a_world_that_was_stopped_at_its_first_file_goes_on(
    tmp_path: Path, drawn: list[str]
) -> None:
    (tmp_path / ".world.json.partial").write_text('{"versi', encoding="utf-8")
    make(tmp_path, 2)
    assert drawn == ["000000", "000001"]
    assert not list(tmp_path.rglob("*.partial*"))


def test_without_numbers_a_folder_s_world_goes_on_as_it_is(
    tmp_path: Path, drawn: list[str]
) -> None:
    make(tmp_path, 6, 9)
    (tmp_path / "videos" / "000004.mp4").unlink()
    make_world(tmp_path, num_processes=1)
    assert (read_world(tmp_path).num_videos, drawn[6:]) == (6, ["000004"])


def test_without_numbers_a_new_world_has_the_usual_ones(tmp_path: Path, drawn: list[str]) -> None:
    there = read_world(make(tmp_path / "new"))
    assert (there.num_videos, there.seed, len(drawn)) == (320, 0, 320)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"seed": 1}, r"the world of seed 0, asked for 1\. Name a new folder"),
        ({"num_videos": 2}, r"has 3 videos, asked for 2\. .* name a new folder"),
        ({"num_videos": 0}, "--num-videos 0: at least 1"),
        ({"num_processes": 0}, "--processes 0: at least 1"),
    ],
)
def test_another_world_in_the_same_folder_is_refused(
    made_once: Path, request_: dict[str, int], words: str
) -> None:
    before = files_of(made_once)
    with pytest.raises(UsageError, match=words):
        make_world(made_once, **request_)  # type: ignore[arg-type]
    assert files_of(made_once) == before


def test_a_folder_with_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match="muse world make NEW_FOLDER"):
        make(tmp_path, 2)
    assert list(files_of(tmp_path)) == ["thesis.tex"]


def test_a_file_in_the_folder_s_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"file: a file\. Name a new folder"):
        make(tmp_path / "file", 2)


def test_a_folder_that_can_t_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        UsageError, match=r"can't be written \(Not a directory\)\. Make room or name"
    ):
        make(tmp_path / "file" / "world", 2)


# -- video files ---------------------------------------------------------------------------------


def test_a_video_decodes_to_nearly_the_frames_that_were_drawn(made_once: Path) -> None:
    drawn = list(frames_of(next(world_videos(0)).scene))
    video = VideoRef(video_id="0", path=made_once / "videos" / "000000.mp4")
    clip = decode_clip(video, sampling=EVERY_FRAME, preprocessing=AS_IT_IS)
    assert clip.frames_THWC.shape == (len(drawn), SIDE, SIDE, 3)
    difference = np.abs(clip.frames_THWC.astype(float) - np.stack(drawn))
    assert difference.mean() < 4  # of 255; colours have half the resolution in H.264
    assert difference.mean(axis=(1, 2, 3)).max() < 6


def test_a_video_lasts_as_long_as_its_scene(made_once: Path) -> None:
    timeline = timeline_in(made_once / "videos" / "000000.mp4")
    assert timeline.duration_seconds == pytest.approx(next(world_videos(0)).scene.seconds)


def test_a_video_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def frames() -> Iterator[NDArray[np.uint8]]:
        yield np.zeros((32, 32, 3), dtype=np.uint8)
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        write_video(tmp_path / "a.mp4", frames(), frames_per_second=8, side=32)
    assert not (tmp_path / "a.mp4").exists()


# -- as a dataset --------------------------------------------------------------------------------


def test_the_dataset_has_the_world_s_captions_with_split_and_axis(
    tmp_path: Path, drawn: list[str]
) -> None:
    listing = list_benchmark("world", make(tmp_path, 110), ["train", "val", "test"])
    found = {(c.video_id, c.text, c.split, c.axis) for c in listing.captions}
    assert found == {
        (video.video_id, text, video.split, video.fact.axis)
        for video in islice(world_videos(0), 110)
        for text in video.captions
    }


def test_the_dataset_s_splits_share_no_video(tmp_path: Path, drawn: list[str]) -> None:
    make(tmp_path, 110)
    ids = [
        {video.video_id for video in list_benchmark("world", tmp_path, [split]).videos}
        for split in ("train", "val", "test")
    ]
    assert sum(map(len, ids)) == len(set().union(*ids)) == 110


def test_a_video_of_the_dataset_that_is_not_there_is_listed_as_missing(three_videos: Path) -> None:
    (three_videos / "videos" / "000001.mp4").unlink()
    videos = list_benchmark("world", three_videos, ["train"]).videos
    assert [video.path is None for video in videos] == [False, True, False]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"version": 1, "seed": 0}', '{"version": 1, "seed": "x", "num_videos": 3}'],
)
def test_a_damaged_description_is_refused_with_how_to_make_a_world(
    three_videos: Path, content: str
) -> None:
    (three_videos / "world.json").write_text(content, encoding="utf-8")
    with pytest.raises(ManifestError, match="muse world make NEW_FOLDER"):
        list_benchmark("world", three_videos, ["train"])
    with pytest.raises(UsageError, match="muse world make NEW_FOLDER"):
        make(three_videos)


def test_a_world_of_other_rules_is_refused(three_videos: Path) -> None:
    there = json.loads((three_videos / "world.json").read_text(encoding="utf-8"))
    (three_videos / "world.json").write_text(
        json.dumps({**there, "version": there["version"] + 1}), encoding="utf-8"
    )
    with pytest.raises(ManifestError, match="Make it again in a new folder"):
        list_benchmark("world", three_videos, ["train"])
    with pytest.raises(UsageError, match="Make it again in a new folder"):
        make(three_videos)


def test_a_folder_without_a_world_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no world\.json"):
        list_benchmark("world", tmp_path, ["train"])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"video,caption,split\n0.mp4,a,train\n",
        b"video,caption,split,axis\n0.mp4,a\n",
        b"video,caption,split,axis\n000000.mp4,one of three videos,train,what\n",
        b"\xff\xfe",
    ],
)
def test_damaged_captions_are_refused_with_how_to_mend_them(
    three_videos: Path, content: bytes
) -> None:
    (three_videos / "captions.csv").write_bytes(content)
    with pytest.raises(ManifestError, match=r"muse world make .* writes it again"):
        list_benchmark("world", three_videos, ["train"])
    make(three_videos)
    assert len(list_benchmark("world", three_videos, ["train"]).captions) == 12


def test_missing_captions_are_refused_with_how_to_mend_them(three_videos: Path) -> None:
    (three_videos / "captions.csv").unlink()
    with pytest.raises(ManifestError, match=r"captions\.csv: missing, .* writes it again"):
        list_benchmark("world", three_videos, ["train"])


def test_a_disk_that_is_full_is_an_error_that_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **settings: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("muse.pipeline.world.video_writer.write_video", full)
    with pytest.raises(UsageError, match=r"No space left on device\).* the same command goes on"):
        make(tmp_path / "world", 2)
