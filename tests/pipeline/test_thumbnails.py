"""Thumbnails: a picture of a frame, a shard's file of them, and what runs make of that."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from runs import Runs, pictures_of_word
from small_store import SmallStore

from muse.errors import IncompatibleStoreError, StoreError
from muse.pipeline import shards
from muse.pipeline.datasets.folder import list_folder
from muse.pipeline.decoding.decode import decode_clip
from muse.pipeline.decoding.thumbnail import MOST_ELONGATED, SIDE, thumbnail_of
from muse.pipeline.encoders.base import Encoder
from muse.pipeline.exports.hdf5_writer import write_hdf5
from muse.pipeline.extract import ExtractConfig, extract
from muse.pipeline.header import Preprocessing, Sampling
from muse.pipeline.picture_files import THUMBNAILS_FOLDER, PictureFiles, pictures_content
from muse.pipeline.records import ClipFeatures, Failure, VideoRef
from muse.pipeline.redo import RedoRules
from muse.pipeline.schedule import Workers
from muse.pipeline.storage.files import LocalStorage
from muse.pipeline.store import open_raw_store
from muse.pipeline.store_writer import StoreWriter
from muse.pipeline.store_zarr import ZarrStore
from muse.pipeline.verify import Repair, repair, verify

FIRST_FILE = "thumbnails/videos-000000.jpegs"


def picture_of(jpeg: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(jpeg)))


# -- a picture -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "wanted"),
    [
        (1080, 1920, (SIDE, 199)),
        (1920, 1080, (199, SIDE)),
        (48, 64, (48, 64)),  # smaller than a thumbnail: as it is
        (1, 1, (1, 1)),
        (200, 5000, (SIDE, MOST_ELONGATED * SIDE)),
        (5000, 2, (MOST_ELONGATED * 2, 2)),
    ],
)
def test_a_thumbnail_is_the_whole_frame_made_small(
    height: int, width: int, wanted: tuple[int, int]
) -> None:
    frame = np.full((height, width, 3), (200, 100, 50), np.uint8)
    picture = picture_of(thumbnail_of(frame))
    assert picture.shape == (*wanted, 3)
    assert np.abs(picture.astype(int) - (200, 100, 50)).max() <= 4


def test_a_thumbnail_of_a_long_frame_shows_its_middle() -> None:
    frame = np.zeros((10, 100, 3), np.uint8)
    frame[:, 35:65] = 255
    assert picture_of(thumbnail_of(frame)).min() > 250


def test_each_sampled_frame_has_a_thumbnail_where_they_are_asked_for(
    two_second_video: Path,
    preprocessing: Preprocessing,
    frame_index: Callable[[NDArray[np.uint8]], int],
) -> None:
    video = VideoRef(video_id="a", path=two_second_video)
    settings = {"sampling": Sampling(num_frames=4, kind="uniform"), "preprocessing": preprocessing}
    clip = decode_clip(video, **settings, thumbnail_side=SIDE)  # type: ignore[arg-type]
    shown = [frame_index(picture_of(jpeg)) for jpeg in clip.thumbnails]
    assert shown == [frame_index(frame) for frame in clip.frames_THWC] == [2, 7, 12, 17]
    assert decode_clip(video, **settings).thumbnails == ()  # type: ignore[arg-type]


# -- a shard's file ------------------------------------------------------------------------------

PICTURES = {0: (b"abc", b"d"), 2: (b"efgh",), 3: (b"i", b"jk", b"lmn")}


@pytest.fixture
def files(tmp_path: Path) -> PictureFiles:
    """Of a store with four rows a shard and three frames a row; the second shard has a file."""
    storage = LocalStorage(tmp_path)
    content = pictures_content(PICTURES, rows_per_shard=4, num_frames=3)
    storage.write("thumbnails/videos-000001.jpegs", content)
    return PictureFiles(storage, THUMBNAILS_FOLDER, shard_size=4, num_frames=3)


def test_a_row_has_the_pictures_that_were_written(files: PictureFiles) -> None:
    assert [files.read(4 + place) for place in range(4)] == [
        PICTURES.get(place, ()) for place in range(4)
    ]
    assert files.read(0) == ()  # of a shard without a file


def test_a_stranger_reads_the_file_by_its_end(files: PictureFiles, tmp_path: Path) -> None:
    content = (tmp_path / "thumbnails/videos-000001.jpegs").read_bytes()
    lengths = np.frombuffer(content[-4 * 3 * 4 :], "<u4").reshape(4, 3)
    assert lengths.tolist() == [[3, 1, 0], [0, 0, 0], [4, 0, 0], [1, 2, 3]]
    assert content[: lengths.sum()] == b"abcdefghijklmn"


@pytest.mark.parametrize("num_bytes", [0, 1, 40, 48, 61])
def test_a_file_that_is_cut_short_is_refused(
    files: PictureFiles, tmp_path: Path, num_bytes: int
) -> None:
    file = tmp_path / "thumbnails/videos-000001.jpegs"
    file.write_bytes(file.read_bytes()[:num_bytes])
    with pytest.raises(StoreError, match=r"videos-000001.*store verify --repair"):
        files.read(4)


def test_a_file_that_is_written_again_during_a_read_is_read_again(
    files: PictureFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row is at another place then, with the same bytes."""
    read_into = LocalStorage.read_into

    def after_a_run(storage: LocalStorage, name: str, buffer: memoryview, *, offset: int) -> int:
        monkeypatch.setattr(LocalStorage, "read_into", read_into)
        num_read = read_into(storage, name, buffer, offset=offset)
        more = {**PICTURES, 1: (b"a row before it",)}
        storage.write(name, pictures_content(more, rows_per_shard=4, num_frames=3))
        return num_read

    monkeypatch.setattr(LocalStorage, "read_into", after_a_run)
    assert files.read(6) == PICTURES[2]


# -- runs ----------------------------------------------------------------------------------------


def thumbnails(runs: Runs) -> dict[str, tuple[bytes, ...] | None]:
    """Id -> its thumbnails."""
    store = runs.store
    return {i.removesuffix(".mp4"): store.read_thumbnails(r) for r, i in enumerate(store.video_ids)}


def test_videos_have_thumbnails_duplicates_too_and_failed_ones_have_none(runs: Runs) -> None:
    runs.put(a=1, b="corrupt", c=3, d=1)
    runs.run(thumbnails=True)
    one, three = pictures_of_word(1), pictures_of_word(3)
    assert thumbnails(runs) == {"a": one, "b": None, "c": three, "d": one}
    assert runs.decoded == ["a.mp4", "b.mp4", "c.mp4"]


def test_without_the_flag_a_store_has_none(runs: Runs) -> None:
    runs.put(a=1)
    runs.run()
    assert thumbnails(runs) == {"a": None}
    assert not (runs.out / "thumbnails").exists()


def test_features_and_root_are_the_same_with_thumbnails_and_without(
    runs: Runs, same_store: Callable[[Path, Path], bool]
) -> None:
    runs.put(a=1, b="corrupt", c=3, d=1)
    runs.run()
    plain = runs.out
    runs.out = plain.with_name("with")
    runs.run(thumbnails=True)
    assert same_store(plain, runs.out)
    assert runs.store.header.fingerprint == ZarrStore.open(plain).header.fingerprint


def test_a_store_that_grows_and_changes_has_the_thumbnails_of_what_it_holds(runs: Runs) -> None:
    runs.put(a=1, b="corrupt", c=3)
    runs.run(thumbnails=True)
    runs.put(a="7 changed", b=5, d=4, e=6)
    redo = RedoRules(failed=("all",), changed="stat")
    runs.run(thumbnails=True, append=True, redo=redo)
    wanted = {"a": 7, "b": 5, "c": 3, "d": 4, "e": 6}
    assert thumbnails(runs) == {name: pictures_of_word(word) for name, word in wanted.items()}
    assert verify(runs.store).problems == ()


def test_kept_thumbnails_are_kept_when_the_videos_are_gone(runs: Runs) -> None:
    runs.put(a=1, b=2, c=3)
    runs.run(thumbnails=True)
    (runs.folder / "c.mp4").unlink()
    runs.put(d=4)  # in the shard of c
    runs.run(thumbnails=True, append=True)
    assert thumbnails(runs)["c"] == pictures_of_word(3)


def test_a_run_that_was_cut_off_ends_with_the_same_bytes(
    runs: Runs, bytes_of: Callable[[Path], dict[str, bytes]]
) -> None:
    runs.put(a=1, b=2, c=3, d=1, e=5)
    runs.run(thumbnails=True)
    whole = bytes_of(runs.out / "thumbnails")
    runs.out = runs.out.with_name("cut off")
    with pytest.raises(KeyboardInterrupt):
        runs.run(thumbnails=True, cut_off_after=3)
    runs.run(thumbnails=True)
    assert bytes_of(runs.out / "thumbnails") == whole
    assert len(whole) == 3


@pytest.mark.parametrize("is_first", [True, False])
def test_a_store_made_with_the_other_setting_is_refused(runs: Runs, is_first: bool) -> None:
    runs.put(a=1)
    runs.run(thumbnails=is_first)
    words = rf"made with thumbnails = {is_first}.*Repeat the settings.*or choose another --out"
    with pytest.raises(IncompatibleStoreError, match=words):
        runs.run(thumbnails=not is_first)


def test_a_store_without_thumbnails_is_what_it_was_before_there_were_any(
    make_store: Callable[..., SmallStore],
    make_features: Callable[..., ClipFeatures],
    make_failure: Callable[[int], Failure],
) -> None:
    """The root was computed at the commit before; library versions are in none of this."""
    small = make_store(3)
    small.videos(0, [make_features(0), make_features(1, num_valid=2)])
    small.videos(1, [make_failure(2)])
    small.captions(0, np.ones((6, 4), np.float16))
    store = small.open()
    assert store.root_sha256 == "68ea8e738a940a3d1bed26e5230ea686c2890e4df95fdead18705b406c550ec7"
    assert " ".join(sorted(store.header.as_json())) == (
        "batch_videos encoder files fingerprint format_version golden listing_sha256 "
        "num_captions num_videos protocol sampling shard_size versions views"
    )
    assert sorted(store.video_receipts[0].sha256) == [
        "features.zarr/pts_seconds/c/0/0",
        "features.zarr/tokens/c/0/0/0/0",
        "features.zarr/valid/c/0/0",
    ]
    assert "thumbnails" not in {path.name for path in small.path.iterdir()}


@pytest.mark.slow
def test_any_number_of_decoders_makes_the_same_thumbnails(
    video_folder: Path,
    tmp_path: Path,
    plain_encoder: Callable[..., Encoder],
    monkeypatch: pytest.MonkeyPatch,
    bytes_of: Callable[[Path], dict[str, bytes]],
) -> None:
    monkeypatch.setattr(shards, "build_encoder", plain_encoder)
    for num_decoders in (1, 3):
        config = ExtractConfig(
            out=tmp_path / str(num_decoders),
            encoder="plain",
            engine="local",
            device="cpu",
            sampling=Sampling(num_frames=3),
            thumbnails=True,
            shard_size=3,
            batch_videos=2,
            workers=Workers(num_decoders=num_decoders),
        )
        extract(config, list_folder(video_folder, None))
    found = bytes_of(tmp_path / "1" / "thumbnails")
    assert len(found) == 2
    assert found == bytes_of(tmp_path / "3" / "thumbnails")


# -- damage --------------------------------------------------------------------------------------


@pytest.fixture
def whole(runs: Runs) -> Runs:
    runs.put(a=1, b=2, c=3)
    runs.run(thumbnails=True)
    return runs


def test_verify_finds_a_flipped_bit(whole: Runs) -> None:
    file = whole.out / FIRST_FILE
    content = file.read_bytes()
    for place in range(0, len(content), 5):  # of pictures and of the index at the end
        damaged = bytearray(content)
        damaged[place] ^= 1
        file.write_bytes(bytes(damaged))
        (problem,) = verify(whole.store).problems
        assert (problem.name, "SHA-256 differs" in problem.words) == (FIRST_FILE, True)


@pytest.mark.parametrize("is_gone", [True, False])
def test_a_repair_gives_thumbnails_up_and_keeps_features_of_videos_that_are_gone(
    whole: Runs, is_gone: bool
) -> None:
    rows, root = whole.rows(), whole.store.root_sha256
    shutil.rmtree(whole.folder)
    file = whole.out / FIRST_FILE
    file.unlink() if is_gone else file.write_bytes(file.read_bytes()[:-1])
    assert [problem.name for problem in verify(whole.store).problems] == [FIRST_FILE]
    assert repair(str(whole.out)) == Repair(num_withdrawn=0, num_without_thumbnails=1)
    assert verify(whole.store).problems == ()
    assert (whole.rows(), whole.store.root_sha256) == (rows, root)
    assert thumbnails(whole) == {"a": None, "b": None, "c": pictures_of_word(3)}


def test_a_shard_whose_features_are_damaged_too_is_written_again_with_its_thumbnails(
    whole: Runs,
) -> None:
    for name in (FIRST_FILE, "features.zarr/tokens/c/0/0/0/0"):
        (whole.out / name).unlink()
    assert repair(str(whole.out)) == Repair(num_withdrawn=1, num_without_thumbnails=0)
    whole.run(thumbnails=True)
    assert thumbnails(whole)["a"] == pictures_of_word(1)
    assert verify(whole.store).problems == ()


def test_a_row_whose_thumbnails_were_given_up_keeps_its_features_when_another_is_done_again(
    whole: Runs,
) -> None:
    (whole.out / FIRST_FILE).unlink()
    repair(str(whole.out))
    whole.put(b="8 changed")
    whole.run(thumbnails=True, redo=RedoRules(changed="stat"))
    assert thumbnails(whole)["a"] is None
    assert thumbnails(whole)["b"] == pictures_of_word(8)
    assert verify(whole.store).problems == ()


def test_a_video_that_is_being_done_again_has_none_meanwhile(whole: Runs) -> None:
    StoreWriter.open(whole.out).reopen(whole.store.video_receipts[0], [0])
    assert thumbnails(whole)["a"] is None
    assert thumbnails(whole)["b"] == pictures_of_word(2)


def test_a_run_that_should_keep_damaged_thumbnails_says_what_to_do(whole: Runs) -> None:
    file = whole.out / FIRST_FILE
    file.write_bytes(file.read_bytes()[1:])
    whole.put(b="8 changed")
    with pytest.raises(StoreError, match="store verify --repair"):
        whole.run(thumbnails=True, redo=RedoRules(changed="stat"))


# -- the exported file ---------------------------------------------------------------------------


def test_an_exported_file_has_the_same_thumbnails(runs: Runs, tmp_path: Path) -> None:
    runs.put(a=1, b="corrupt", c=3, d=1)
    runs.run(thumbnails=True)
    write_hdf5(runs.store, tmp_path / "x.h5")
    write_hdf5(runs.store, tmp_path / "y.h5")
    assert (tmp_path / "x.h5").read_bytes() == (tmp_path / "y.h5").read_bytes()
    exported = open_raw_store(tmp_path / "x.h5")
    found = [exported.read_thumbnails(row) for row in range(4)]
    assert found == [runs.store.read_thumbnails(row) for row in range(4)]
    assert found[1] is None
    assert exported.read_features(0).thumbnails == pictures_of_word(1)


def test_an_exported_file_with_no_video_that_decoded_has_none(runs: Runs, tmp_path: Path) -> None:
    runs.put(a="corrupt")
    runs.run(thumbnails=True)
    write_hdf5(runs.store, tmp_path / "x.h5")
    assert open_raw_store(tmp_path / "x.h5").read_thumbnails(0) is None
