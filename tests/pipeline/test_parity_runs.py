"""The parity certificate of a run: which frames it is of, which stores have one, what it stops."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from own_reference import PERFECT
from runs import Runs, WithoutProcess, clip_of_word

from muse.errors import ParityError
from muse.pipeline import extract as extract_module
from muse.pipeline import schedule_local, shards
from muse.pipeline.decoding.decoder import DecodeLimits, DecodeTask
from muse.pipeline.encoders.base import Encoder
from muse.pipeline.header import Parity
from muse.pipeline.records import Clip, Failure
from muse.pipeline.store_zarr import ZarrStore

ORANGE = (200, 100, 50)


def test_a_new_store_has_the_certificate_of_its_first_videos(runs: Runs) -> None:
    runs.put(a=10, b="corrupt", c="timeout", d=40, e=50, f=60, g=70)
    runs.run()
    # d, e, f and g are in the second wave.
    assert runs.store.header.parity == dataclasses.replace(PERFECT, num_videos=4, num_frames=4)


def test_videos_are_asked_in_the_order_of_rows_until_there_are_enough(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    sample = extract_module.LocalEngine.sample

    def noted(self: Any, videos: Any, **settings: Any) -> Any:
        asked.append([video.video_id for video in videos])
        return sample(self, videos, **settings)

    monkeypatch.setattr(extract_module.LocalEngine, "sample", noted)
    runs.put(a=1, b=2, c="corrupt", d=3, e=4, f="corrupt too", g=5, h=6, i=7)
    runs.run()
    assert asked == [["a.mp4", "b.mp4", "c.mp4", "d.mp4"], ["e.mp4", "f.mp4", "g.mp4", "h.mp4"]]


def test_no_more_than_the_first_eight_are_asked(
    runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    runs.put(**{name: f"corrupt {name}" for name in "abcdefgh"}, i=7)
    with caplog.at_level(logging.WARNING):
        runs.run()
    assert runs.states["i.mp4"] == 7
    assert runs.store.header.parity is None
    assert "none of the first 8 videos could be decoded" in caplog.text


class DecoderOfOrange(WithoutProcess):
    """Every video is orange, whatever its word."""

    def __init__(self, limits: DecodeLimits) -> None:
        pass

    def __call__(self, task: DecodeTask) -> Clip | Failure:
        clip = clip_of_word(task)
        assert isinstance(clip, Clip)
        clip.frames_THWC[:] = ORANGE
        for frame_HWC in clip.whole_frames.values():
            frame_HWC[:] = ORANGE
        return clip


@pytest.fixture
def swapped_channels(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, plain_encoder: Callable[..., Any]
) -> None:
    """Frames are BGR on their way into the encoder, and RGB in its library."""

    def build(spec: str, **settings: Any) -> Encoder:
        encoder: Any = plain_encoder(spec, **settings)
        reference, maps = plain_encoder(spec, **settings).reference(), encoder.frame_maps
        encoder.frame_maps = lambda frames, views: maps(frames.flip(3), views)
        encoder.reference = lambda: reference
        return encoder

    monkeypatch.setattr(schedule_local, "IsolatedDecoder", DecoderOfOrange)
    monkeypatch.setattr(shards, "build_encoder", build)


@pytest.mark.usefixtures("swapped_channels")
def test_a_run_that_is_too_far_away_leaves_no_store(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, plain_encoder: Callable[..., Encoder]
) -> None:
    runs.put(a=10, b=20)
    with pytest.raises(ParityError, match=r"plain \(fp32\): .* class_token_min, is 0\.\d+ \(limit"):
        runs.run()
    assert not (runs.out / "store.json").exists()
    assert not list(runs.out.rglob("*.zarr"))
    monkeypatch.setattr(shards, "build_encoder", plain_encoder)
    assert runs.run().counts.ok == 2  # the folder is as good as new


def test_a_certificate_stays_when_a_store_is_continued_or_grows(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.put(a=10, b=20, c=30)
    with pytest.raises(KeyboardInterrupt):
        runs.run(cut_off_after=1)
    written = runs.store.header.parity
    assert written is not None
    monkeypatch.setattr(extract_module, "certified", _never)
    runs.run()
    runs.put(d=40)
    runs.run(append=True)
    assert runs.store.header.parity == written
    assert runs.store.header.num_videos == 4


def _never(*args: object) -> Parity:
    raise AssertionError("measured again")


def test_a_store_without_one_is_continued_without_one(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.put(a=10, b=20)
    with monkeypatch.context() as patch:
        patch.setattr(extract_module, "certified", lambda *args: None)
        runs.run()
    assert "parity" not in runs.store.header.as_json()
    runs.put(c=30)
    runs.run(append=True)
    assert runs.store.header.parity is None
    assert runs.states["c.mp4"] == 30


def test_no_root_depends_on_it(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, same_store: Callable[[Path, Path], bool]
) -> None:
    runs.put(a=10, b=20)
    runs.run()
    monkeypatch.setattr(extract_module, "certified", lambda *args: None)
    other = runs.out.with_name("other")
    runs.run(out=other)
    assert same_store(runs.out, other)
    headers = [ZarrStore.open(path).header for path in (runs.out, other)]
    assert headers[0].fingerprint == headers[1].fingerprint


def test_where_every_video_is_missing_there_is_nothing_to_warn_of(
    runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    runs.put(a=10)
    listing = runs.listing()
    gone = dataclasses.replace(listing.videos[0], path=None)
    with caplog.at_level(logging.WARNING):
        extract_module.extract(runs.config(), dataclasses.replace(listing, videos=(gone,)))
    assert runs.store.header.parity is None
    assert "parity" not in caplog.text


def test_a_store_of_frames_alone_has_no_features_to_compare(runs: Runs) -> None:
    runs.put(a=10)
    runs.run(views=("frames:uint8",))
    assert runs.store.header.parity is None
