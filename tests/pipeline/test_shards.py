"""One shard: batches of a constant shape, so a video's bits do not depend on its neighbours."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from muse.errors import IncompatibleStoreError
from muse.pipeline import shards
from muse.pipeline.encoders.base import Encoder
from muse.pipeline.encoders.batches import BatchEncoder
from muse.pipeline.encoders.setting import EncoderSetting
from muse.pipeline.encoders.transfers import NoTransfer
from muse.pipeline.header import Sampling
from muse.pipeline.listing import ListedRows
from muse.pipeline.plan import CaptionShard, VideoShard, header_of
from muse.pipeline.records import Clip, Failure
from muse.pipeline.shards import ShardEncoder
from muse.pipeline.store_writer import StoreWriter
from muse.pipeline.store_zarr import ZarrStore

MakeClip = Callable[..., Clip]
FRAMES = 3


@pytest.fixture(scope="module", params=["plain", pytest.param("clip", marks=pytest.mark.slow)])
def setting(
    request: pytest.FixtureRequest, plain_encoder: Callable[..., Encoder]
) -> Iterator[EncoderSetting]:
    """Of an encoder without weights, and of a real if tiny one."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "plain":
            patch.setattr(shards, "build_encoder", plain_encoder)
        spec = "plain" if request.param == "plain" else request.getfixturevalue("tiny_clip")
        yield EncoderSetting(spec=spec, device="cpu", precision="fp32", num_threads=1)


@pytest.fixture(scope="module")
def shard_encoder(setting: EncoderSetting) -> ShardEncoder:
    return ShardEncoder(setting)


@pytest.fixture(scope="module")
def make_clip(shard_encoder: ShardEncoder) -> Callable[..., Clip]:
    """The clip of video number n: noise of the size that the encoder looks at."""

    def make(number: int, *, num_frames: int = FRAMES) -> Clip:
        size = shard_encoder.info().preprocessing.size
        shape = (num_frames, size, size, 3)
        generator = np.random.default_rng(number)
        return Clip(
            video_id=f"v{number}",
            frames_THWC=generator.integers(0, 256, shape, dtype=np.uint8),
            pts_seconds_T=np.arange(num_frames) / 2,
        )

    return make


@pytest.fixture
def encode(
    shard_encoder: ShardEncoder, make_rows: Callable[..., ListedRows], tmp_path: Path
) -> Callable[..., ZarrStore]:
    """A store with one shard of the given rows, encoded in batches of two videos."""

    def encoded(rows: list[Clip | Failure], *, name: str = "store") -> ZarrStore:
        listing = make_rows(len(rows))
        header = header_of(
            listing,
            encoder=shard_encoder.info(),
            sampling=Sampling(num_frames=FRAMES),
            shard_size=8,
            batch_videos=2,
        )
        location = StoreWriter.create(tmp_path / name, header, listing).storage.location
        shard_encoder.open_store(location)
        shard = VideoShard(index=0, first_row=0, videos=listing.videos)
        shard_encoder.write(shard_encoder.encode_videos(shard, rows, wait_seconds=1.5))
        return ZarrStore.open(location)

    return encoded


@pytest.mark.parametrize("failed", [0, 1, 2, 3, 4])
def test_a_video_s_tokens_are_the_same_bits_whichever_other_failed(
    make_clip: MakeClip,
    encode: Callable[..., ZarrStore],
    make_failure: Callable[[int], Failure],
    failed: int,
) -> None:
    rows: list[Clip | Failure] = [make_clip(number) for number in range(5)]
    whole = encode(rows, name="whole")
    rows[failed] = make_failure(failed)
    broken = encode(rows, name="broken")
    for row in range(5):
        if row != failed:
            left, right = whole.read_clip(row).tokens_TKD, broken.read_clip(row).tokens_TKD
            assert left.tobytes() == right.tobytes()


def test_tokens_are_the_encoder_s(
    make_clip: MakeClip, encode: Callable[..., ZarrStore], shard_encoder: ShardEncoder
) -> None:
    clips = [make_clip(0), make_clip(1), make_clip(2)]
    store = encode(clips)
    for row, clip in enumerate(clips):
        alone = shard_encoder._encoder.encode_frames(clip.frames_THWC, ("tokens",))["tokens"]
        np.testing.assert_allclose(store.read_clip(row).tokens_TKD, alone, atol=5e-3)


def test_a_short_video_is_padded_with_zeros_that_are_not_valid(
    make_clip: MakeClip,
    encode: Callable[..., ZarrStore],
) -> None:
    clip = encode([make_clip(0), make_clip(1, num_frames=2)]).read_clip(1)
    assert clip.valid_T.tolist() == [True, True, False]
    assert not clip.tokens_TKD[2].any()
    assert clip.tokens_TKD[:2].any(axis=(1, 2)).all()


def test_times_of_padding_are_not_a_number(
    make_clip: MakeClip, encode: Callable[..., ZarrStore]
) -> None:
    times = encode([make_clip(0, num_frames=1)]).read_clip(0).pts_seconds_T
    np.testing.assert_array_equal(times, [0.0, np.nan, np.nan])


def test_failures_are_recorded_at_their_rows(
    make_clip: MakeClip, encode: Callable[..., ZarrStore], make_failure: Callable[[int], Failure]
) -> None:
    store = encode([make_failure(0), make_clip(1), make_failure(2)])
    assert store.has_features_N.tolist() == [False, True, False]
    assert store.failures == [make_failure(0), make_failure(2)]


def test_a_report_tells_the_seconds_of_each_stage(
    make_clip: MakeClip,
    shard_encoder: ShardEncoder,
    encode: Callable[..., ZarrStore],
    make_rows: Callable[..., ListedRows],
) -> None:
    encode([make_clip(0)])
    shard = VideoShard(index=0, first_row=0, videos=make_rows(1).videos)
    encoded = shard_encoder.encode_videos(shard, [make_clip(0)], wait_seconds=1.5)
    measured, report = shard_encoder.write(encoded)
    assert [span.activity for span in measured.spans] == ["encode", "write"]
    assert (sorted(report.seconds), report.seconds["wait"]) == (["encode", "wait", "write"], 1.5)


def test_captions_are_embedded_at_their_rows_and_those_of_missing_videos_are_not(
    make_clip: MakeClip,
    shard_encoder: ShardEncoder,
    encode: Callable[..., ZarrStore],
    make_rows: Callable[..., ListedRows],
) -> None:
    store, captions = encode([make_clip(0), make_clip(1)]), make_rows(2).captions
    shard = CaptionShard(index=0, first_row=0, captions=captions, left_out=(1,))
    shard_encoder.write(shard_encoder.encode_captions(shard))
    assert store.has_embedding_Q.tolist() == [True, False, True, True]
    rows = np.array([0, 2, 3])
    expected = shard_encoder._encoder.encode_texts([captions[row].text for row in rows])
    np.testing.assert_allclose(store.read_caption_embeddings(rows), expected, atol=5e-3)


@pytest.mark.parametrize("again", [[0], [1], [4], [0, 3]])
def test_a_video_that_is_done_again_without_its_neighbours_has_the_same_bits(
    make_clip: MakeClip,
    encode: Callable[..., ZarrStore],
    shard_encoder: ShardEncoder,
    make_rows: Callable[..., ListedRows],
    again: list[int],
) -> None:
    clips = [make_clip(number) for number in range(5)]
    before = encode(clips)
    tokens = [before.read_clip(row).tokens_TKD.tobytes() for row in range(5)]
    (receipt,) = before.video_receipts
    shard = VideoShard(
        index=0,
        first_row=0,
        videos=make_rows(5).videos,
        kept=frozenset(range(5)) - set(again),
        receipts=(receipt.reopened(again),),
    )
    _, final = shard_encoder.write(
        shard_encoder.encode_videos(shard, [clips[row] for row in again])
    )
    assert final.sha256 == receipt.sha256
    after = ZarrStore.open(before.location)
    assert [after.read_clip(row).tokens_TKD.tobytes() for row in range(5)] == tokens


def test_a_copy_has_its_original_s_bits_and_its_own_name(
    make_clip: MakeClip,
    encode: Callable[..., ZarrStore],
    shard_encoder: ShardEncoder,
    make_rows: Callable[..., ListedRows],
) -> None:
    store = encode([make_clip(0), make_clip(1), make_clip(2)])
    shard = VideoShard(index=0, first_row=0, videos=make_rows(3).videos, copies={2: 0})
    shard_encoder.write(shard_encoder.encode_videos(shard, [make_clip(0), make_clip(1)]))
    copy = ZarrStore.open(store.location).read_clip(2)
    assert copy.video_id == "v2"
    assert copy.tokens_TKD.tobytes() == store.read_clip(0).tokens_TKD.tobytes()


def test_rows_are_whole_and_in_order_where_batches_have_to_go_in_halves(
    make_clip: MakeClip,
    encode: Callable[..., ZarrStore],
    shard_encoder: ShardEncoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clips = [make_clip(number, num_frames=3 - number % 2) for number in range(5)]
    whole = encode(clips, name="whole")
    encoder = shard_encoder._encoder
    maps_of_few = encoder.frame_maps

    def frame_maps(frames_BHWC: Tensor, views: Sequence[str]) -> dict[str, Tensor]:
        if len(frames_BHWC) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return maps_of_few(frames_BHWC, views)

    monkeypatch.setattr(encoder, "frame_maps", frame_maps)
    monkeypatch.setattr(shard_encoder, "_batch_encoder", BatchEncoder(encoder, device="cpu"))
    halves = encode(clips, name="halves")
    for row in range(5):
        left, right = whole.read_clip(row), halves.read_clip(row)
        np.testing.assert_array_equal(left.valid_T, right.valid_T)
        np.testing.assert_allclose(left.tokens_TKD, right.tokens_TKD, atol=5e-3)


@pytest.mark.parametrize("num_transfers", [1, 2])
def test_spans_of_encoding_tell_each_batch_and_never_overlap(
    make_clip: MakeClip,
    make_failure: Callable[[int], Failure],
    encode: Callable[..., ZarrStore],
    shard_encoder: ShardEncoder,
    make_rows: Callable[..., ListedRows],
    monkeypatch: pytest.MonkeyPatch,
    num_transfers: int,
) -> None:
    transfers = [NoTransfer() for _ in range(num_transfers)]
    monkeypatch.setattr(shard_encoder._batch_encoder, "_transfers", transfers)
    failed = {number: make_failure(number) for number in (1, 4, 5)}
    short = make_clip(7, num_frames=2)
    rows = [make_clip(0), failed[1], make_clip(2), make_clip(3), failed[4], failed[5], short]
    encode(rows)
    shard = VideoShard(index=0, first_row=0, videos=make_rows(7).videos)
    started = time.perf_counter()
    spans = shard_encoder.encode_videos(shard, rows).spans
    elapsed_seconds = time.perf_counter() - started
    assert [(span.num_items, span.num_frames) for span in spans] == [(1, 3), (2, 6), (1, 2)]
    assert [span.what for span in spans] == [
        "shard 0, places 0 to 0",
        "shard 0, places 2 to 3",
        "shard 0, places 6 to 6",
    ]
    assert all(left.end_seconds <= right.start_seconds + 1e-3 for left, right in pairwise(spans))
    assert sum(span.seconds for span in spans) <= elapsed_seconds


def test_a_store_of_another_encoder_is_refused(
    encode: Callable[..., ZarrStore], make_clip: MakeClip, setting: EncoderSetting
) -> None:
    store = encode([make_clip(0)])
    other = dataclasses.replace(setting, precision="bf16")
    with pytest.raises(IncompatibleStoreError, match=r"encoder\.precision is 'fp32'"):
        ShardEncoder(other).open_store(store.location)
