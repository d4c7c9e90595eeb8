"""Views of frames: the squares that are kept of a video, and what a store makes of them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import av
import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from runs import Runs

from muse.cli.store import info
from muse.errors import IncompatibleStoreError, StoreError
from muse.head.loader import read_video_batches
from muse.pipeline import shards
from muse.pipeline.datasets.folder import list_folder
from muse.pipeline.decoding.decode import decode_clip
from muse.pipeline.decoding.kept_frame import square_of
from muse.pipeline.diff import diff_stores
from muse.pipeline.encoders.base import Encoder
from muse.pipeline.exports.hdf5_writer import write_hdf5
from muse.pipeline.extract import ExtractConfig, extract
from muse.pipeline.frame_pictures import decode_pictures, picture_of
from muse.pipeline.header import EncoderInfo, Preprocessing, Sampling
from muse.pipeline.records import VideoRef
from muse.pipeline.redo import RedoRules
from muse.pipeline.schedule import Workers
from muse.pipeline.store import clip_map, open_raw_store, open_store
from muse.pipeline.store_writer import StoreWriter
from muse.pipeline.verify import Repair, repair, verify
from muse.pipeline.views import FRAME_VIEWS, map_of, readable_views

SIDE = 36  # of frames that are kept where an encoder's input has 32 pixels


@pytest.fixture(params=FRAME_VIEWS)
def view(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


# -- a frame -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "side"), [(224, 256), (336, 384), (288, 330), (384, 438), (32, 36)]
)
def test_a_side_is_eight_sevenths_of_the_input_and_even(
    preprocessing: Preprocessing, size: int, side: int
) -> None:
    assert dataclasses.replace(preprocessing, size=size).kept_side == side


@pytest.mark.parametrize(("height", "width"), [(90, 160), (160, 90), (36, 36), (20, 31)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_a_square_is_pil_s_own_resize_and_centre_crop(
    preprocessing: Preprocessing, height: int, width: int, interpolation: str
) -> None:
    crop = dataclasses.replace(preprocessing, interpolation=interpolation)
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    short = min(height, width)
    resized = Image.fromarray(frame).resize(
        (SIDE * width // short, SIDE * height // short), Image.Resampling[interpolation.upper()]
    )
    left, top = round((resized.width - SIDE) / 2), round((resized.height - SIDE) / 2)
    wanted = np.asarray(resized.crop((left, top, left + SIDE, top + SIDE)))
    assert np.array_equal(square_of(frame, crop), wanted)


def test_the_squares_are_those_of_the_frames_that_the_encoder_sees(
    two_second_video: Path, preprocessing: Preprocessing
) -> None:
    video = VideoRef(video_id="a", path=two_second_video)
    sampling = Sampling(num_frames=4, kind="uniform")
    clip = decode_clip(
        video, sampling=sampling, preprocessing=preprocessing, frame_views=("frames:uint8",)
    )
    with av.open(str(two_second_video)) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    wanted = [square_of(decoded[index], preprocessing) for index in (2, 7, 12, 17)]
    assert clip.squares_TSSC is not None
    assert np.array_equal(clip.squares_TSSC, wanted)
    assert clip.frame_pictures == ()
    plain = decode_clip(video, sampling=sampling, preprocessing=preprocessing)
    assert plain.squares_TSSC is None
    assert np.array_equal(plain.frames_THWC, clip.frames_THWC)


def smooth_squares() -> NDArray[np.uint8]:
    """Three of them, of colours that change slowly, as in real frames."""
    x, y = np.meshgrid(np.arange(SIDE), np.arange(SIDE))
    squares = [np.stack([5 * x, 5 * y, 40 * shade + x + y], axis=-1) for shade in range(3)]
    return np.array(squares, np.uint8)


def test_a_picture_shows_each_pixel_within_a_few_levels_in_colour_too() -> None:
    squares = smooth_squares()
    found = np.empty_like(squares)
    decode_pictures([picture_of(square) for square in squares], found)
    assert np.abs(found.astype(int) - squares).max() <= 8
    assert np.abs(found.astype(int) - squares).mean() <= 1.5


def test_frames_behind_the_last_picture_are_zeros() -> None:
    squares = smooth_squares()
    found = np.full_like(squares, 9)
    decode_pictures([picture_of(squares[0])], found)
    assert found[0].any()
    assert not found[1:].any()


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (b"", "can't be decoded"),
        (b"no JPEG file", "can't be decoded"),
        (picture_of(smooth_squares()[0])[:-100], "can't be decoded"),
        (picture_of(smooth_squares()[0][:20]), r"shape \(20, 36, 3\), not"),
    ],
)
def test_what_is_no_picture_of_a_frame_is_refused(picture: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        decode_pictures([picture], np.empty((3, SIDE, SIDE, 3), np.uint8))


def test_a_clip_has_the_pictures_of_its_squares(
    two_second_video: Path, preprocessing: Preprocessing
) -> None:
    video = VideoRef(video_id="a", path=two_second_video)
    settings = {"sampling": Sampling(num_frames=4), "preprocessing": preprocessing}
    both = decode_clip(video, **settings, frame_views=FRAME_VIEWS)  # type: ignore[arg-type]
    assert both.squares_TSSC is not None
    assert both.frame_pictures == tuple(map(picture_of, both.squares_TSSC))
    alone = decode_clip(video, **settings, frame_views=("frames:jpeg",))  # type: ignore[arg-type]
    assert alone.squares_TSSC is None
    assert alone.frame_pictures == both.frame_pictures


def test_a_reader_gets_squares_of_bytes(encoder_info: EncoderInfo, view: str) -> None:
    spec = map_of(view, encoder_info, 3)
    assert (spec.dtype, spec.shape) == ("uint8", (3, SIDE, SIDE, 3))
    assert readable_views(("tokens", "pooled", view)) == ("tokens", view)


# -- runs ----------------------------------------------------------------------------------------


def frames_of(path: Path, view: str) -> dict[str, NDArray[np.uint8]]:
    """Id -> the frames of each video that has features."""
    store = open_store(path, view=view)
    return {
        store.video_ids[row].removesuffix(".mp4"): store.read_clip(row).tokens_TKD
        for row in np.flatnonzero(store.has_features_N).tolist()
    }


def greys(path: Path, view: str) -> dict[str, int]:
    """Id -> the grey that both frames of a video have; the third is padding."""
    found = {}
    for name, frames in frames_of(path, view).items():
        assert (frames.dtype, frames.shape) == (np.uint8, (3, SIDE, SIDE, 3))
        assert len(np.unique(frames[:2])) == 1
        assert not frames[2].any()
        found[name] = int(frames[0, 0, 0, 0])
    return found


def test_videos_have_their_frames_duplicates_too_and_failed_ones_have_none(
    runs: Runs, view: str
) -> None:
    runs.put(a=1, b="corrupt", c=3, d=1)
    runs.run(views=("tokens", view))
    assert greys(runs.out, view) == {"a": 1, "c": 3, "d": 1}
    assert runs.decoded == ["a.mp4", "b.mp4", "c.mp4"]
    assert verify(runs.store).problems == ()


def test_tokens_stay_what_is_read_without_a_word_and_stay_the_same(
    runs: Runs, view: str, bytes_of: Callable[[Path], dict[str, bytes]]
) -> None:
    runs.put(a=1, b=3)
    runs.run()
    plain, runs.out = runs.out, runs.out.with_name("with")
    runs.run(views=("tokens", view))
    assert open_store(runs.out).token_view == "tokens"
    files = [bytes_of(path / "features.zarr" / "tokens") for path in (plain, runs.out)]
    assert files[0] == files[1]


def test_a_store_of_frames_alone_asks_the_encoder_for_no_frame(
    runs: Runs, view: str, monkeypatch: pytest.MonkeyPatch, plain_encoder: Callable[..., Encoder]
) -> None:
    def built(spec: str, *, device: str, precision: str) -> Encoder:
        encoder = plain_encoder(spec, device=device, precision=precision)
        monkeypatch.setattr(shards, "measure_golden", lambda encoder: None)
        monkeypatch.setattr(encoder, "encode_frames", None)
        monkeypatch.setattr(encoder, "frame_maps", None)
        return encoder

    monkeypatch.setattr(shards, "build_encoder", built)
    runs.put(a=1)
    runs.run(views=(view,))
    assert greys(runs.out, view) == {"a": 1}
    with pytest.raises(StoreError, match=f"only the views {view}"):
        open_store(runs.out).read_clip(0)


def test_many_are_read_into_an_array_as_one_by_one(runs: Runs, view: str) -> None:
    runs.put(a=1, b=2, c=3, d="corrupt", e=5)
    runs.run(views=("tokens", view))
    store = open_store(runs.out, view=view)
    spec, rows = clip_map(store), [4, 0, 1, 2]
    found = np.full((len(rows), *spec.shape), 77, spec.dtype)
    valid = store.read_clips_into(rows, found)
    clips = [store.read_clip(row) for row in rows]
    assert np.array_equal(found, [clip.tokens_TKD for clip in clips])
    assert np.array_equal(valid, [clip.valid_T for clip in clips])
    with pytest.raises(StoreError, match=r"'d.mp4' \(row 3\) has no features"):
        store.read_clips_into([3], found[:1])


def test_the_loader_hands_out_bytes(runs: Runs, view: str) -> None:
    runs.put(a=1, b=2, c=3)
    runs.run(views=("tokens", view))
    store = open_store(runs.out, view=view)
    (batch,) = read_video_batches(store, [np.array([0, 2])], device=torch.device("cpu"))
    assert batch.tokens_BTKD.dtype == torch.uint8
    assert batch.tokens_BTKD[:, 0, 0, 0, 0].tolist() == [1, 3]


def test_the_root_tells_views_and_their_bytes_apart(runs: Runs, view: str) -> None:
    runs.put(a=1)
    roots = set()
    for name, views in {"tokens": ("tokens",), "both": ("tokens", view)}.items():
        runs.out = runs.out.with_name(name)
        runs.run(views=views)
        roots.add(runs.store.root_sha256)
    assert len(roots) == 2
    runs.put(a="1 of the same grey")
    runs.run(views=views, redo=RedoRules(changed="stat"))
    assert runs.store.root_sha256 in roots
    runs.put(a=2)
    runs.run(views=views, redo=RedoRules(changed="stat"))
    assert runs.store.root_sha256 not in roots


def test_a_run_that_was_cut_off_ends_with_the_same_bytes(
    runs: Runs, view: str, bytes_of: Callable[[Path], dict[str, bytes]]
) -> None:
    def content() -> dict[str, bytes]:
        files = bytes_of(runs.out)
        return {n: c for n, c in files.items() if n.startswith(("features.zarr/", "frames/"))}

    runs.put(a=1, b=2, c=3, d=1, e=5)
    runs.run(views=("tokens", view))
    whole, root = content(), runs.store.root_sha256
    runs.out = runs.out.with_name("cut off")
    with pytest.raises(KeyboardInterrupt):
        runs.run(views=("tokens", view), cut_off_after=3)
    runs.run(views=("tokens", view))
    assert (content(), runs.store.root_sha256) == (whole, root)


def test_a_store_that_grows_and_changes_has_the_frames_of_what_it_holds(
    runs: Runs, view: str
) -> None:
    runs.put(a=1, b="corrupt", c=3)
    runs.run(views=("tokens", view))
    (runs.folder / "c.mp4").unlink()  # a row that is kept is not decoded again
    runs.put(a="7 changed", b=5, d=4, e=6)
    redo = RedoRules(failed=("all",), changed="stat")
    runs.run(views=("tokens", view), append=True, redo=redo)
    assert greys(runs.out, view) == {"a": 7, "b": 5, "c": 3, "d": 4, "e": 6}
    assert verify(runs.store).problems == ()


def test_a_row_that_is_being_done_again_has_no_frames_meanwhile(runs: Runs, view: str) -> None:
    runs.put(a=1, b=2)
    runs.run(views=("tokens", view))
    StoreWriter.open(runs.out).reopen(runs.store.video_receipts[0], [0])
    assert greys(runs.out, view) == {"b": 2}


def test_a_store_made_without_frames_is_refused(runs: Runs, view: str) -> None:
    runs.put(a=1)
    runs.run()
    with pytest.raises(IncompatibleStoreError, match=f"views = 'tokens', this.*tokens,{view}"):
        runs.run(views=("tokens", view))


def test_an_exported_file_has_the_same_frames(runs: Runs, view: str, tmp_path: Path) -> None:
    runs.put(a=1, b="corrupt", c=3)
    runs.run(views=("tokens", view))
    write_hdf5(open_raw_store(runs.out), tmp_path / "x.h5")
    found, wanted = frames_of(tmp_path / "x.h5", view), frames_of(runs.out, view)
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("is_exported", [False, True])
def test_stores_of_other_frames_are_told_apart(
    runs: Runs, view: str, tmp_path: Path, is_exported: bool
) -> None:
    runs.put(a=1, b=3)
    runs.run(views=(view,))
    first, runs.out = runs.out, runs.out.with_name("second")
    runs.put(b=200)
    runs.run(views=(view,))
    if is_exported:
        write_hdf5(open_raw_store(runs.out), tmp_path / "x.h5")
        runs.out = tmp_path / "x.h5"
    found = diff_stores(open_raw_store(first), open_raw_store(runs.out)).features
    assert [difference.video_id for difference in found] == ["b.mp4"]
    assert found[0].relative_error == pytest.approx(197 / 3, rel=0.01)
    assert diff_stores(open_raw_store(first), open_raw_store(first)).features == ()


@pytest.mark.slow
def test_any_number_of_decoders_keeps_the_same_frames(
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
            views=FRAME_VIEWS,
            shard_size=3,
            batch_videos=2,
            workers=Workers(num_decoders=num_decoders),
        )
        extract(config, list_folder(video_folder, None))
    found = [bytes_of(tmp_path / name / "frames") for name in ("1", "3")]
    assert len(found[0]) == 2
    assert found[0] == found[1]
    as_bytes, as_pictures = (frames_of(tmp_path / "1", view) for view in FRAME_VIEWS)
    for name, frames in as_bytes.items():
        assert np.abs(frames.astype(int) - as_pictures[name]).mean() < 2


# -- damage --------------------------------------------------------------------------------------

FIRST_FILE = "frames/videos-000000.jpegs"


@pytest.fixture
def whole(runs: Runs) -> Runs:
    runs.put(a=1, b=2, c=3)
    runs.run(views=("tokens", "frames:jpeg"))
    return runs


def test_verify_finds_a_flipped_bit(whole: Runs) -> None:
    file = whole.out / FIRST_FILE
    content = file.read_bytes()
    for place in range(0, len(content), 97):  # of pictures and of the index at the end
        damaged = bytearray(content)
        damaged[place] ^= 1
        file.write_bytes(bytes(damaged))
        (problem,) = verify(whole.store).problems
        assert (problem.name, "SHA-256 differs" in problem.words) == (FIRST_FILE, True)


@pytest.mark.parametrize("damage", ["gone", "cut short", "zeroed", "of another row"])
def test_a_row_whose_frames_are_lost_is_an_error_and_is_written_again(
    whole: Runs, damage: str
) -> None:
    file, root = whole.out / FIRST_FILE, whole.store.root_sha256
    content = file.read_bytes()
    index_bytes = 2 * 3 * 4
    if damage == "gone":
        file.unlink()
    elif damage == "cut short":
        file.write_bytes(content[:-1])
    elif damage == "zeroed":
        file.write_bytes(bytes(len(content) - index_bytes) + content[-index_bytes:])
    else:  # one picture of row 0 is said to be row 1's
        lengths = np.frombuffer(content[-index_bytes:], "<u4")
        moved = lengths[[0, 2, 2, 1, 3, 4]]  # 2 and 5 are padding, without a picture
        file.write_bytes(content[:-index_bytes] + moved.tobytes())
    store = open_store(whole.out, view="frames:jpeg")
    words = r"frames/.*`muse store verify --repair` and then `muse extract`"
    with pytest.raises(StoreError, match=words):
        store.read_clip(0)
    with pytest.raises(StoreError, match=words):
        store.read_clips_into([0], np.empty((1, 3, SIDE, SIDE, 3), np.uint8))
    assert open_store(whole.out).read_clip(0).tokens_TKD.any()
    assert repair(str(whole.out)) == Repair(num_withdrawn=1, num_without_thumbnails=0)
    whole.run(views=("tokens", "frames:jpeg"))
    assert greys(whole.out, "frames:jpeg") == {"a": 1, "b": 2, "c": 3}
    assert (file.read_bytes(), whole.store.root_sha256) == (content, root)


def test_a_run_that_should_keep_damaged_frames_says_what_to_do(whole: Runs) -> None:
    (whole.out / FIRST_FILE).unlink()
    whole.put(b="8 changed")
    with pytest.raises(StoreError, match=r"row 0 is not in its file.*verify --repair"):
        whole.run(views=("tokens", "frames:jpeg"), redo=RedoRules(changed="stat"))


def test_thumbnails_are_given_up_and_frames_beside_them_are_kept(runs: Runs) -> None:
    runs.put(a=1)
    runs.run(views=("frames:jpeg",), thumbnails=True)
    (runs.out / "thumbnails/videos-000000.jpegs").unlink()
    assert repair(str(runs.out)) == Repair(num_withdrawn=0, num_without_thumbnails=1)
    assert greys(runs.out, "frames:jpeg") == {"a": 1}
    assert verify(runs.store).problems == ()


def test_an_exported_file_that_lacks_a_picture_is_refused(whole: Runs, tmp_path: Path) -> None:
    write_hdf5(open_raw_store(whole.out), tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "r+") as content:
        sizes = content["frames/num_bytes"][()]
        sizes[1, :2] = 0, sizes[1, :2].sum()
        content["frames/num_bytes"][...] = sizes
    with pytest.raises(StoreError, match="frames/num_bytes has not the pictures of row 1"):
        open_raw_store(tmp_path / "x.h5")


def test_info_says_that_frames_are_there_and_how_large(
    runs: Runs, view: str, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.put(a=1)
    runs.run(views=("tokens", view))
    info(str(runs.out), as_json=False)
    wanted = "JPEG, 36 x 36 pixels" if view == "frames:jpeg" else "frames (3, 36, 36, 3) uint8"
    assert wanted in capsys.readouterr().out
