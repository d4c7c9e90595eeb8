"""Frames decoded from the videos' own files: those that the store would have kept, or an error."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from runs import Runs, clip_of_word
from unruly import crash_on_b_and_hang_on_e

from muse.errors import StoreError
from muse.pipeline import decoded_frames, shards
from muse.pipeline.datasets.folder import list_folder
from muse.pipeline.decoding.decoder import DecodeTask, attempt
from muse.pipeline.encoders.base import Encoder
from muse.pipeline.exports.hdf5_writer import write_hdf5
from muse.pipeline.extract import ExtractConfig, extract
from muse.pipeline.header import Sampling
from muse.pipeline.records import Clip, Failure
from muse.pipeline.redo import RedoRules
from muse.pipeline.schedule import Workers
from muse.pipeline.store import FeatureStore, clip_map, open_raw_store, open_store
from muse.pipeline.window import Window

VIEW = "frames:decoded"


def in_this_process(
    function: Callable[[DecodeTask], Clip | Failure],
) -> Callable[..., Callable[[DecodeTask], Clip | Failure]]:
    """In place of `IsolatedFunction`: no process is started."""

    class Called:
        def __init__(self, _: object, **limits: object) -> None:
            pass

        def __call__(self, task: DecodeTask) -> Clip | Failure:
            return function(task)

        def close(self) -> None:
            pass

    return Called


@pytest.fixture
def words(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Runs over files of one word, which are read again as such."""
    monkeypatch.setattr(decoded_frames, "IsolatedFunction", in_this_process(clip_of_word))
    return runs


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, plain_encoder: Callable[..., Encoder]) -> None:
    """Videos are decoded in this process when they are read, and their encoder has no weights."""
    monkeypatch.setattr(decoded_frames, "IsolatedFunction", in_this_process(attempt))
    monkeypatch.setattr(shards, "build_encoder", plain_encoder)


def extracted(folder: Path, out: Path, *, window: Window | None = None, **settings: Any) -> Path:
    usual: dict[str, Any] = {
        "encoder": "plain",
        "engine": "local",
        "device": "cpu",
        "sampling": Sampling(num_frames=4),
        "views": ("tokens", "frames:uint8"),
        "workers": Workers(num_decoders=1),
    }
    listing = list_folder(folder, None)
    videos = tuple(dataclasses.replace(video, window=window) for video in listing.videos)
    listing = dataclasses.replace(listing, videos=videos)
    extract(ExtractConfig(out=out, **{**usual, **settings}), listing)
    return out


def frames_of(store: FeatureStore) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Of all videos with features, read together."""
    rows = np.flatnonzero(store.has_features_N).tolist()
    frames = np.full((len(rows), *clip_map(store).shape), 77, np.uint8)
    return frames, store.read_clips_into(rows, frames)


def require_equal(path: Path) -> None:
    """Both ways to read them, bit for bit."""
    kept, decoded = open_store(path, view="frames:uint8"), open_store(path, view=VIEW)
    assert decoded.token_view == VIEW
    for found, wanted in zip(frames_of(decoded), frames_of(kept), strict=True):
        assert np.array_equal(found, wanted)
    for row in np.flatnonzero(kept.has_features_N).tolist():
        found, wanted = decoded.read_clip(row).tokens_TKD, kept.read_clip(row).tokens_TKD
        assert np.array_equal(found, wanted)


@pytest.mark.slow
def test_decoded_frames_are_the_kept_ones_bit_for_bit(
    here: None, video_folder: Path, tmp_path: Path
) -> None:
    require_equal(extracted(video_folder, tmp_path / "store"))


def test_words_are_read_again_failed_ones_excepted(words: Runs) -> None:
    words.put(a=1, b="corrupt", c=3, d=1)
    words.run(views=("tokens", "frames:uint8"))
    require_equal(words.out)
    with pytest.raises(StoreError, match=r"'b.mp4' \(row 1\) has no features"):
        open_store(words.out, view=VIEW).read_clip(1)


@pytest.mark.slow
def test_a_part_of_a_video_is_decoded_as_that_part(
    here: None, make_video: Callable[..., Path], tmp_path: Path
) -> None:
    make_video(tmp_path / "videos/a.mp4", num_frames=40)
    window = Window(start_seconds=1, end_seconds=3)
    extracted(tmp_path / "videos", tmp_path / "store", window=window)
    assert list(open_raw_store(tmp_path / "store").windows) == [window]
    require_equal(tmp_path / "store")


@pytest.mark.slow
def test_real_clips_are_decoded_as_they_were_kept(
    here: None, real_data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for kind in ("msvd", "misc"):
        for file in sorted((real_data / kind / "videos").iterdir())[:6]:
            (folder / f"{kind}-{file.name}").symlink_to(file)
    require_equal(extracted(folder, tmp_path / "store", workers=Workers(num_decoders=2)))


@pytest.mark.slow
def test_several_threads_read_by_processes_of_their_own(
    video_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plain_encoder: Callable[..., Encoder],
) -> None:
    monkeypatch.setattr(shards, "build_encoder", plain_encoder)
    path = extracted(video_folder, tmp_path / "store")
    kept, decoded = open_store(path, view="frames:uint8"), open_store(path, view=VIEW)
    rows = np.flatnonzero(kept.has_features_N).tolist() * 3
    with ThreadPoolExecutor(3) as pool:
        for row, clip in zip(rows, pool.map(decoded.read_clip, rows), strict=True):
            assert np.array_equal(clip.tokens_TKD, kept.read_clip(row).tokens_TKD)


def test_opening_a_store_loads_no_decoder(words: Runs) -> None:
    words.put(a=1)
    words.run()
    script = (
        "import sys; from muse.pipeline.store import open_store; "
        f"open_store({str(words.out)!r}).read_clip(0); print('av' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


# -- what is not as it was -----------------------------------------------------------------------


@pytest.fixture
def whole(words: Runs) -> Runs:
    """Three videos of which the store keeps no frame."""
    words.put(a=1, b=2, c=3)
    words.run()
    return words


def test_files_that_are_gone_are_counted_when_the_store_is_opened(whole: Runs) -> None:
    for name in ("b", "c"):
        (whole.folder / f"{name}.mp4").unlink()
    with pytest.raises(StoreError, match=r"2 of 3 are not where.*first: 'b.mp4', .*/b.mp4") as told:
        open_store(whole.out, view=VIEW)
    assert "extract with --views tokens,frames:jpeg" in str(told.value)
    assert open_store(whole.out).read_clip(1).tokens_TKD.any()


def test_a_file_of_another_size_is_found_when_the_store_is_opened(whole: Runs) -> None:
    whole.put(b="2 and more")
    with pytest.raises(StoreError, match=r"1 of 3 have another size.*first: 'b.mp4'"):
        open_store(whole.out, view=VIEW)


def test_a_raw_store_is_checked_when_its_first_frame_is_read(whole: Runs) -> None:
    store = open_raw_store(whole.out, view=VIEW)
    (whole.folder / "c.mp4").unlink()
    with pytest.raises(StoreError, match="1 of 3 are not where"):
        store.read_clip(0)


def test_frames_at_other_times_are_those_of_a_file_that_has_changed(
    whole: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(task: DecodeTask) -> Clip | Failure:
        clip = clip_of_word(task)
        assert isinstance(clip, Clip)
        clip.pts_seconds_T[1] += 1e-9
        return clip

    monkeypatch.setattr(decoded_frames, "IsolatedFunction", in_this_process(late))
    words = r"'a.mp4' \(row 0\): .*/a.mp4 has changed.*0.500000001\], then \[0.0, 0.5\]"
    with pytest.raises(StoreError, match=words):
        open_store(whole.out, view=VIEW).read_clip(0)


def test_a_file_that_changes_while_it_is_trained_on_is_an_error(whole: Runs) -> None:
    store = open_store(whole.out, view=VIEW)
    assert store.read_clip(1).tokens_TKD[0, 0, 0, 0] == 2
    whole.put(b="2 and more")
    with pytest.raises(StoreError, match=r"'b.mp4' \(row 1\).*a size in bytes of 10, then 1\."):
        store.read_clip(1)
    whole.put(b="corrupt")
    with pytest.raises(StoreError, match=r"'b.mp4' \(row 1\): b.mp4: corrupt"):
        store.read_clip(1)


def test_another_file_of_the_same_size_and_times_is_told_by_its_hash(words: Runs) -> None:
    words.put(a=1)
    words.run(hashes_content=True)
    words.put(a=2)
    with pytest.raises(StoreError, match=r"'a.mp4' \(row 0\).*has changed.*the SHA-256"):
        open_store(words.out, view=VIEW).read_clip(0)


def test_a_file_that_was_extracted_again_is_read_as_it_is_now(whole: Runs) -> None:
    whole.put(b="9 and more")
    whole.run(redo=RedoRules(changed="stat"))
    assert open_store(whole.out, view=VIEW).read_clip(1).tokens_TKD[0, 0, 0, 0] == 9


def test_a_copy_with_another_time_is_the_same_file(whole: Runs) -> None:
    os.utime(whole.folder / "a.mp4", (0, 0))
    assert open_store(whole.out, view=VIEW).read_clip(0).tokens_TKD[0, 0, 0, 0] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [("b", "ended by SIGSEGV. Replace the file"), ("e", "no answer in 2 s")],
)
def test_a_file_that_crashes_or_hangs_its_decoder_is_an_error(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    runs.put(**{name: 1})
    runs.run()
    store = open_store(runs.out, view=VIEW)
    monkeypatch.setattr(decoded_frames, "attempt", crash_on_b_and_hang_on_e)
    if name == "e":  # else its first import counts, and a busy machine takes its time
        monkeypatch.setattr(decoded_frames, "TIMEOUT_SECONDS", 2.0)
    with pytest.raises(StoreError, match=rf"'{name}.mp4' \(row 0\): .*{words}"):
        store.read_clip(0)


def test_an_exported_file_has_no_paths(whole: Runs, tmp_path: Path) -> None:
    write_hdf5(open_raw_store(whole.out), tmp_path / "x.h5")
    with pytest.raises(StoreError, match=r"frames:decoded.*has no paths of its videos"):
        open_store(tmp_path / "x.h5", view=VIEW)
