"""Batches through an encoder on a GPU: the bytes of one at a time, and nobody waits."""

import logging
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from mean_encoder import VIEWS, MeanEncoder, batch_of
from numpy.typing import NDArray
from torch import Tensor

from muse.errors import EncoderError
from muse.pipeline.encoders.base import Encoder, build_encoder
from muse.pipeline.encoders.batches import BatchEncoder, FrameBatch, FramePart
from muse.pipeline.encoders.pil_resize import resize_of
from muse.pipeline.encoders.preprocessing import crop_to_input
from muse.pipeline.encoders.recorded_pass import ForwardPass
from muse.pipeline.encoders.transfers import PinnedTransfer

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("cuda")]

NUM_FRAMES = 24  # of a batch
BATCH_SECONDS = 0.02
SIZES = ((240, 320), (320, 240), (224, 224))


@pytest.fixture(params=["openclip:muse-nano", "conse"])
def encoder(request: pytest.FixtureRequest, cuda: torch.device) -> Encoder:
    try:
        return build_encoder(request.param, device="cuda", precision="auto")
    except EncoderError as error:
        pytest.skip(str(error))


def random_batch(encoder: Encoder, seed: int) -> tuple[FrameBatch, NDArray[np.uint8]]:
    """Two parts with a gap behind each, one to be resized; and the frames that they become."""
    rng, preprocessing = np.random.default_rng(seed), encoder.info.preprocessing
    height, width = SIZES[seed % len(SIZES)]
    pictures = rng.integers(0, 256, (5, height, width, 3), np.uint8)
    inputs = rng.integers(0, 256, (9, preprocessing.size, preprocessing.size, 3), np.uint8)
    resize = resize_of(height, width, preprocessing)
    read = np.stack([resize.part_of(picture) for picture in pictures])
    parts = [
        FramePart(first=0, frames_NHWC=inputs),
        FramePart(first=12, frames_NHWC=read, resize=resize),
    ]
    frames = np.zeros((NUM_FRAMES, *inputs.shape[1:]), np.uint8)
    frames[:9] = inputs
    frames[12:17] = [crop_to_input(picture, preprocessing) for picture in pictures]
    return FrameBatch(num_frames=NUM_FRAMES, parts=parts), frames


def test_bytes_are_those_of_one_batch_at_a_time(encoder: Encoder) -> None:
    views = ("tokens", "unprojected", "block:1") if encoder.info.num_blocks else ("tokens",)
    batches = [random_batch(encoder, seed) for seed in range(7)]
    wanted = [encoder.encode_frames(frames, views) for _, frames in batches]
    through = BatchEncoder(encoder, device="cuda")
    for _ in range(3):  # the pinned memory is used again
        maps_of_batches = through.maps_of((batch for batch, _ in batches), views)
        for maps, expected in zip(maps_of_batches, wanted, strict=True):
            assert {v: m.tobytes() for v, m in maps.items()} == {
                v: m.tobytes() for v, m in expected.items()
            }


def test_bytes_stay_when_batches_grow_and_when_one_run_was_left() -> None:
    through = BatchEncoder(MeanEncoder(), device="cuda")
    left = through.maps_of([batch_of(1, 2), batch_of(3, 4), batch_of(5, 6)], VIEWS)
    assert next(left)["tokens"].ravel().tolist() == [1, 2]
    del left
    for num_frames in (1, 5, 3, 40):
        levels = [tuple(range(first, first + num_frames)) for first in (1, 50, 100, 150)]
        found = through.maps_of([batch_of(*each) for each in levels], VIEWS)
        assert [tuple(maps["tokens"].ravel().tolist()) for maps in found] == levels


def test_a_recorded_pass_has_the_bytes_of_one_that_is_launched(encoder: Encoder) -> None:
    size = encoder.info.preprocessing.size
    generator = torch.Generator("cuda").manual_seed(0)
    batches = [
        torch.randint(0, 256, (6, size, size, 3), dtype=torch.uint8, device="cuda",
                      generator=generator)
        for _ in range(4)
    ]  # fmt: skip
    recorded = ForwardPass(encoder, device="cuda")
    found = [recorded(batch, ("tokens",))["tokens"] for batch in batches]
    assert recorded._recording is not None, "this encoder can be recorded"
    for batch, tokens in zip(batches, found, strict=True):  # none was written over
        launched = encoder.frame_maps(batch, ("tokens",))["tokens"].to(torch.float16)
        assert tokens.cpu().numpy().tobytes() == launched.cpu().numpy().tobytes()


def test_another_shape_or_view_is_another_recording() -> None:
    encoder = MeanEncoder()
    recorded = ForwardPass(encoder, device="cuda")

    def levels(num_frames: int, level: int, view: str) -> list[float]:
        frames = torch.full((num_frames, 8, 8, 3), level, dtype=torch.uint8, device="cuda")
        found: list[float] = recorded(frames, (view,))[view][:, 0, 0].tolist()
        return found

    for num_frames, view in ((2, "tokens"), (3, "tokens"), (3, "unprojected"), (2, "tokens")):
        encoder.passes = []
        for level in (5, 6, 7, 8):
            assert levels(num_frames, level, view) == [level] * num_frames
        assert encoder.passes == [num_frames] * 2  # one launched, one recorded


def test_a_pass_that_makes_the_host_wait_is_launched_each_time() -> None:
    class Waiting(MeanEncoder):
        def frame_maps(
            self, frames_BHWC: Tensor, views: Sequence[str] = ("tokens",)
        ) -> dict[str, Tensor]:
            maps = super().frame_maps(frames_BHWC, views)
            assert float(maps["tokens"].sum().cpu()) >= 0
            return maps

    recorded = ForwardPass(Waiting(), device="cuda")
    for level in (1, 2, 3, 4):
        frames = torch.full((1, 8, 8, 3), level, dtype=torch.uint8, device="cuda")
        assert recorded(frames, ("tokens",))["tokens"].item() == level


class SpinningEncoder(MeanEncoder):
    """Keeps the GPU busy for `BATCH_SECONDS` a pass."""

    def __init__(self) -> None:
        super().__init__()
        self._cycles = int(BATCH_SECONDS * cycles_per_second())

    def frame_maps(
        self, frames_BHWC: Tensor, views: Sequence[str] = ("tokens",)
    ) -> dict[str, Tensor]:
        torch.cuda._sleep(self._cycles)
        return super().frame_maps(frames_BHWC, views)


def cycles_per_second() -> float:
    """Of the GPU's spinning, measured."""
    cycles = 50_000_000
    torch.cuda._sleep(cycles)
    return cycles / seconds_of(lambda: torch.cuda._sleep(cycles))


def seconds_of(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def test_the_gpu_computes_while_the_host_prepares_and_takes_over() -> None:
    through, batches = BatchEncoder(SpinningEncoder(), device="cuda"), [batch_of(1, 2)] * 12

    def run() -> None:
        for _ in through.maps_of(batches, VIEWS):
            time.sleep(BATCH_SECONDS)  # the host's work

    run()
    one_after_the_other = 2 * BATCH_SECONDS * len(batches)
    assert seconds_of(run) < 0.75 * one_after_the_other  # side by side it would be 0.5 and a bit


def test_an_upload_does_not_wait_for_what_is_computed() -> None:
    transfer = PinnedTransfer()
    array = np.arange(1 << 22, dtype=np.uint32).astype(np.uint8)
    transfer.upload([[array]])  # makes room, which is waited for
    torch.cuda.synchronize()
    torch.cuda._sleep(int(1.0 * cycles_per_second()))
    (uploaded,) = transfer.upload([[array]])
    transfer._stream.synchronize()
    assert not torch.cuda.current_stream().query()  # it is still at work
    assert np.array_equal(uploaded.cpu().numpy(), array)


def test_a_download_does_not_wait_for_what_is_computed_after_it() -> None:
    transfer = PinnedTransfer()
    transfer.download([torch.zeros(3, device="cuda")])
    transfer.arrived()
    second = int(1.0 * cycles_per_second())
    transfer.download([torch.full((3,), 7.0, device="cuda")])
    torch.cuda._sleep(second)
    assert transfer.arrived()[0].tolist() == [7, 7, 7]
    assert not torch.cuda.current_stream().query()


def test_what_runs_out_of_real_memory_goes_in_halves(caplog: pytest.LogCaptureFixture) -> None:
    """Each frame asks for a share of the memory, so that a batch's is more than there is."""
    share = torch.cuda.get_device_properties(0).total_memory // 6

    class Hungry(MeanEncoder):
        def frame_maps(
            self, frames_BHWC: Tensor, views: Sequence[str] = ("tokens",)
        ) -> dict[str, Tensor]:
            activations = torch.empty(len(frames_BHWC) * share, dtype=torch.uint8, device="cuda")
            maps = super().frame_maps(frames_BHWC, views)
            del activations
            return maps

    through = BatchEncoder(Hungry(), device="cuda")
    levels = [tuple(range(first, first + 8)) for first in (1, 20, 40, 60)]
    with caplog.at_level(logging.WARNING):
        found = list(map(_copied, through.maps_of([batch_of(*each) for each in levels], VIEWS)))
    torch.cuda.empty_cache()
    assert [tuple(maps["tokens"].ravel().tolist()) for maps in found] == levels
    assert len(caplog.messages) == 1
    assert "8 frames do not fit at once" in caplog.messages[0]


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_encoders_leave_all_to_the_gpu(encoder: Encoder) -> None:
    """No call makes the host wait: torch says so of each that would."""
    size = encoder.info.preprocessing.size
    frames = torch.zeros((2, size, size, 3), dtype=torch.uint8, device="cuda")
    encoder.frame_maps(frames)  # what is kept on the device is brought there
    torch.cuda.set_sync_debug_mode("error")
    try:
        encoder.frame_maps(frames)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _copied(maps: dict[str, NDArray[np.float16]]) -> dict[str, NDArray[np.float16]]:
    return {view: tokens.copy() for view, tokens in maps.items()}
