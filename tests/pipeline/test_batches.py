"""Batches on their way through an encoder: in order, in their places, in halves if need be."""

import logging
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
from mean_encoder import SIDE, VIEWS, MeanEncoder, batch_of
from torch import Tensor

from muse.errors import EncoderError
from muse.pipeline.encoders import batches
from muse.pipeline.encoders.batches import BatchEncoder, FrameBatch, FramePart
from muse.pipeline.encoders.exact_resize import resized_levels
from muse.pipeline.encoders.pil_resize import Resize, resize_of
from muse.pipeline.encoders.preprocessing import crop_to_input
from muse.pipeline.encoders.transfers import NoTransfer


@pytest.fixture(autouse=True, params=[1, 2])
def num_transfers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """One as on a CPU, and two as on a GPU."""
    number: int = request.param
    monkeypatch.setattr(
        batches, "transfers_of", lambda device: [NoTransfer() for _ in range(number)]
    )
    return number


def levels_of(
    encoder: MeanEncoder | BatchEncoder, *levels: tuple[int, ...], view: str = "tokens"
) -> list[list[float]]:
    """What comes out of batches of plain frames: of each batch its frames' means."""
    through = encoder if isinstance(encoder, BatchEncoder) else BatchEncoder(encoder, device="cpu")
    sent = (batch_of(*batch) for batch in levels)
    return [maps[view][:, 0, 0].tolist() for maps in through.maps_of(sent, VIEWS)]


def test_maps_come_in_the_order_of_batches_and_frames() -> None:
    sent = [(1, 2, 3), (4, 5, 6), (7, 8, 9), (10, 11, 12)]
    assert levels_of(MeanEncoder(), *sent) == [list(batch) for batch in sent]
    assert levels_of(MeanEncoder()) == []


def test_all_views_come_as_float16_of_their_shapes() -> None:
    through = BatchEncoder(MeanEncoder(), device="cpu")
    (maps,) = through.maps_of([batch_of(5, 6)], ("unprojected", "tokens"))
    assert list(maps) == ["unprojected", "tokens"]
    assert maps["unprojected"].tolist() == [[[5, -5]], [[6, -6]]]
    assert (maps["tokens"].dtype, maps["tokens"].shape) == (np.float16, (2, 1, 1))


def test_places_without_a_part_are_encoded_as_zeros_so_that_shapes_are_constant() -> None:
    encoder = MeanEncoder()
    assert levels_of(encoder, (0, 2, 0), (3, 0, 0)) == [[0, 2, 0], [3, 0, 0]]
    assert encoder.passes == [3, 3]


def test_no_more_batches_are_asked_for_than_can_be_under_way(num_transfers: int) -> None:
    asked: list[int] = []

    def sent() -> Iterator[FrameBatch]:
        for level in range(1, 6):
            asked.append(level)
            yield batch_of(level)

    maps = BatchEncoder(MeanEncoder(), device="cpu").maps_of(sent(), ("tokens",))
    for number in range(1, 6):
        assert next(maps)["tokens"].item() == number
        assert len(asked) <= number + num_transfers


def test_batches_that_nobody_waited_for_do_not_come_with_the_next_ones() -> None:
    through = BatchEncoder(MeanEncoder(), device="cpu")
    maps = through.maps_of([batch_of(1), batch_of(2), batch_of(3)], ("tokens",))
    assert next(maps)["tokens"].item() == 1
    del maps
    assert levels_of(through, (7,), (8,), (9,)) == [[7], [8], [9]]


def test_frames_that_come_unresized_get_the_bits_of_pil() -> None:
    info = MeanEncoder().info
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    resize = resize_of(20, 30, info.preprocessing)
    seen: list[Tensor] = []

    class Watcher(MeanEncoder):
        def frame_maps(self, frames_BHWC: Tensor, views: object = ()) -> dict[str, Tensor]:
            seen.append(frames_BHWC)
            return super().frame_maps(frames_BHWC, ("tokens",))

    part = FramePart(first=1, frames_NHWC=resize.part_of(picture)[None], resize=resize)
    batch = FrameBatch(num_frames=3, parts=[*batch_of(9).parts, part])
    list(BatchEncoder(Watcher(), device="cpu").maps_of([batch], ("tokens",)))
    wanted = np.zeros((3, SIDE, SIDE, 3), np.uint8)
    wanted[0], wanted[1] = 9, crop_to_input(picture, info.preprocessing)
    assert np.array_equal(seen[0].numpy(), wanted)


def test_parts_that_are_resized_alike_are_resized_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    info, rng = MeanEncoder().info, np.random.default_rng(0)
    resized: list[int] = []

    def counted(frames_NHWC: Tensor, resize: Resize) -> Tensor:
        resized.append(len(frames_NHWC))
        return resized_levels(frames_NHWC, resize)

    monkeypatch.setattr(batches, "resized_levels", counted)
    parts, wanted = [], np.zeros((12, SIDE, SIDE, 3), np.uint8)
    for first, num_frames, size in [(0, 2, (20, 30)), (3, 1, (20, 30)), (6, 3, (30, 20)),
                                    (9, 1, (20, 30)), (10, 2, (20, 30))]:  # fmt: skip
        pictures = rng.integers(0, 256, (num_frames, *size, 3), np.uint8)
        resize = resize_of(*size, info.preprocessing)
        read = np.stack([resize.part_of(picture) for picture in pictures])
        parts.append(FramePart(first=first, frames_NHWC=read, resize=resize))
        for place, picture in enumerate(pictures, start=first):
            wanted[place] = crop_to_input(picture, info.preprocessing)
    through = BatchEncoder(MeanEncoder(), device="cpu")
    batch = FrameBatch(num_frames=12, parts=parts)
    assert np.array_equal(through.input_of(batch), wanted)
    assert resized == [3, 3, 3]
    monkeypatch.setattr(batches, "_VALUES_OF_RUN", parts[0].frames_NHWC.size)
    assert np.array_equal(through.input_of(batch), wanted)
    assert resized[3:] == [2, 1, 3, 1, 2]  # large ones go alone


def test_frames_that_can_t_be_written_to_are_taken_too() -> None:
    batch = batch_of(5)
    batch.parts[0].frames_NHWC.flags.writeable = False  # as Ray hands them out
    (maps,) = BatchEncoder(MeanEncoder(), device="cpu").maps_of([batch], ("tokens",))
    assert maps["tokens"].item() == 5


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 7e4])
def test_a_value_that_is_not_finite_is_an_error_that_names_the_view(value: float) -> None:
    class Poisoned(MeanEncoder):
        def frame_maps(self, frames_BHWC: Tensor, views: object = ()) -> dict[str, Tensor]:
            maps = super().frame_maps(frames_BHWC, VIEWS)
            maps["unprojected"][1, 0, 1] = value
            return maps

    with pytest.raises(EncoderError, match=r"view 'unprojected': 1 of 6 values are not finite"):
        levels_of(Poisoned(), (1, 2, 3))


def test_a_batch_that_does_not_fit_goes_in_halves_and_so_do_those_after_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    encoder = MeanEncoder(most_frames=2)
    with caplog.at_level(logging.WARNING):
        found = levels_of(encoder, (1, 2, 3, 4, 5, 6, 7), (8, 0, 9, 10, 0, 0, 11))
    assert found == [[1, 2, 3, 4, 5, 6, 7], [8, 0, 9, 10, 0, 0, 11]]
    assert encoder.passes == [7, 4, *[2] * 4, *[2] * 4]  # filled up: every pass has one shape
    (warning,) = caplog.messages
    assert "memory of cpu: 7 frames do not fit at once, so 2 at a time are encoded" in warning
    assert "--batch-videos" in warning


def test_the_smaller_size_stays_and_shrinks_when_memory_runs_out_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    encoder = MeanEncoder(most_frames=4)
    through = BatchEncoder(encoder, device="cpu")
    levels_of(through, (1, 2, 3, 4, 5, 6, 7, 8))
    encoder.most_frames, encoder.passes = 8, []
    levels_of(through, (1, 2, 3, 4, 5, 6, 7, 8))
    assert encoder.passes == [4, 4]
    encoder.most_frames, encoder.passes = 3, []
    assert levels_of(through, (1, 2, 3, 4, 5, 6, 7, 8)) == [[1, 2, 3, 4, 5, 6, 7, 8]]
    assert encoder.passes == [4, 2, 2, 2, 2]
    assert len(caplog.messages) == 2


def test_what_filled_the_memory_is_let_go_before_the_halves_are_tried() -> None:
    made: list[weakref.ref[Tensor]] = []

    class Hungry(MeanEncoder):
        def frame_maps(self, frames_BHWC: Tensor, views: object = ()) -> dict[str, Tensor]:
            assert all(activation() is None for activation in made)
            activation = frames_BHWC + 1
            made.append(weakref.ref(activation))
            return super().frame_maps(activation - 1, VIEWS)

    assert levels_of(Hungry(most_frames=1), (1, 2, 3)) == [[1, 2, 3]]
    assert len(made) == 2 + 3


def test_one_frame_that_does_not_fit_ends_the_run_with_what_to_do() -> None:
    with pytest.raises(EncoderError, match=r"encoder mean: one frame does not fit .* cpu\. Free"):
        levels_of(MeanEncoder(most_frames=0), (1, 2, 3))


def test_other_errors_of_an_encoder_pass_and_are_not_tried_again() -> None:
    class Broken(MeanEncoder):
        def frame_maps(self, frames_BHWC: Tensor, views: object = ()) -> dict[str, Tensor]:
            self.passes.append(len(frames_BHWC))
            raise RuntimeError("mat1 and mat2")

    encoder = Broken()
    with pytest.raises(RuntimeError, match="mat1"):
        levels_of(encoder, (1, 2))
    assert encoder.passes == [2]


def test_a_batch_smaller_than_the_pass_that_fits_goes_whole() -> None:
    encoder = MeanEncoder(most_frames=4)
    through = BatchEncoder(encoder, device="cpu")
    levels_of(through, (1, 2, 3, 4, 5, 6, 7, 8))
    encoder.passes = []
    assert levels_of(through, (1, 2, 3)) == [[1, 2, 3]]
    assert encoder.passes == [3]
