"""Views of frames: the squares that are kept of a video, and what a store makes of them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from runs import Runs

from muse.errors import IncompatibleStoreError, StoreError
from muse.head.loader import read_video_batches
from muse.pipeline import shards
from muse.pipeline.decoding.decode import decode_clip
from muse.pipeline.decoding.kept_frame import square_of
from muse.pipeline.encoders.base import Encoder
from muse.pipeline.exports.hdf5_writer import write_hdf5
from muse.pipeline.header import EncoderInfo, Preprocessing, Sampling
from muse.pipeline.records import VideoRef
from muse.pipeline.redo import RedoRules
from muse.pipeline.store import clip_map, open_raw_store, open_store
from muse.pipeline.store_writer import StoreWriter
from muse.pipeline.verify import verify
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
    plain = decode_clip(video, sampling=sampling, preprocessing=preprocessing)
    assert plain.squares_TSSC is None
    assert np.array_equal(plain.frames_THWC, clip.frames_THWC)


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
