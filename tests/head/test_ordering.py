from typing import get_args

import pytest
import torch
from torch import Tensor

from muse.head.ordering import (
    ORDERS,
    ClassTokens,
    Order,
    frame_wise,
    read_frames,
    reverse_sequences,
    scale_wise,
    spatial_wise,
    valid_frames,
)

CELLS = (2, 3)


def frames(num_videos: int, num_frames: int) -> tuple[Tensor, list[Tensor]]:
    """Tokens that say where they come from: 1000 b + 100 t + 10 scale + cell."""
    frame = 1000 * torch.arange(num_videos)[:, None] + 100 * torch.arange(num_frames)
    class_BTD = (frame[..., None] + torch.zeros(1)).float()
    scales = [
        (frame[..., None] + 10 * (scale + 1) + torch.arange(cells)).float()[..., None]
        for scale, cells in enumerate(CELLS)
    ]
    return class_BTD, scales


def order(valid_BT: Tensor, class_BTD: Tensor, scales: list[Tensor]):
    class_FD = class_BTD[valid_BT]
    return scale_wise(class_FD, [scale[valid_BT] for scale in scales], valid_BT)


def child_order(valid_T: list[bool], b: int) -> list[float]:
    present = [t for t, is_valid in enumerate(valid_T) if is_valid]
    sequence = [1000 * b + 100 * t for t in present]
    for scale, cells in enumerate(CELLS):
        for t in present:
            for cell in range(cells):
                sequence.append(1000 * b + 100 * t + 10 * (scale + 1) + cell)
    return sequence


def test_full_videos_become_class_tokens_then_scale_after_scale() -> None:
    valid_BT = torch.ones(2, 3, dtype=torch.bool)
    sequence = order(valid_BT, *frames(2, 3))
    assert sequence.length_B is None
    for b in range(2):
        assert sequence.tokens_BLD[b, :, 0].tolist() == child_order([True] * 3, b)


def test_padded_frames_leave_no_token_whatever_the_pattern() -> None:
    valid_BT = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]).bool()
    sequence = order(valid_BT, *frames(4, 4))
    assert sequence.length_B is not None
    assert sequence.tokens_BLD.shape[1] == 3 * (1 + sum(CELLS))  # the longest, and no more
    for b in range(4):
        wanted = child_order(valid_BT[b].tolist(), b)
        assert int(sequence.length_B[b]) == len(wanted)
        assert sequence.tokens_BLD[b, : len(wanted), 0].tolist() == wanted


def test_without_scales_a_sequence_is_the_class_tokens_of_its_frames() -> None:
    class_BTD, _ = frames(2, 3)
    for valid_BT in (torch.ones(2, 3).bool(), torch.tensor([[1, 0, 1], [0, 1, 0]]).bool()):
        sequence = order(valid_BT, class_BTD, [])
        for b in range(2):
            wanted = class_BTD[b, valid_BT[b]]
            assert torch.equal(sequence.tokens_BLD[b, : len(wanted)], wanted)
        read_BTD = read_frames(sequence.tokens_BLD, sequence, valid_BT)
        assert torch.equal(read_BTD, class_BTD * valid_BT[..., None])


def test_frames_are_read_out_at_their_own_places() -> None:
    valid_BT = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 1]]).bool()
    class_BTD, scales = frames(2, 4)
    sequence = order(valid_BT, class_BTD, scales)
    read_BTD = read_frames(sequence.tokens_BLD + 0.5, sequence, valid_BT)
    assert torch.equal(read_BTD, (class_BTD + 0.5) * valid_BT[..., None])


def test_full_videos_are_read_out_at_their_own_places() -> None:
    valid_BT = torch.ones(2, 4, dtype=torch.bool)
    class_BTD, scales = frames(2, 4)
    sequence = order(valid_BT, class_BTD, scales)
    assert torch.equal(read_frames(sequence.tokens_BLD, sequence, valid_BT), class_BTD)


def test_valid_frames_come_video_by_video() -> None:
    tokens_BTKD = torch.arange(6.0).view(2, 3, 1, 1)
    valid_BT = torch.tensor([[1, 0, 1], [0, 1, 0]]).bool()
    assert valid_frames(tokens_BTKD, valid_BT).flatten().tolist() == [0, 2, 4]
    assert valid_frames(tokens_BTKD, valid_BT | True).flatten().tolist() == [0, 1, 2, 3, 4, 5]


def test_reversal_turns_each_sequence_within_its_own_length() -> None:
    tokens_BLD = torch.tensor([[1, 2, 3, 4], [5, 6, 7, -1], [8, -2, -3, -4]])[..., None]
    turned_BLD = reverse_sequences(tokens_BLD, torch.tensor([4, 3, 1]))
    assert turned_BLD[..., 0].tolist() == [[4, 3, 2, 1], [7, 6, 5, -1], [8, -2, -3, -4]]
    assert torch.equal(reverse_sequences(turned_BLD, torch.tensor([4, 3, 1])), tokens_BLD)
    assert torch.equal(reverse_sequences(tokens_BLD, None), tokens_BLD.flip(1))


PATTERNS = (
    [[1, 1, 1], [1, 1, 1]],
    [[1, 1, 0], [1, 0, 1]],
    [[0, 0, 1], [1, 1, 1]],
    [[0, 0, 0], [1, 1, 0]],
)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_frame_wise_is_frame_after_frame(pattern: list[list[int]]) -> None:
    valid_BT = torch.tensor(pattern).bool()
    class_BTD, scales = frames(2, 3)
    sequence = frame_wise(class_BTD[valid_BT], [scale[valid_BT] for scale in scales], valid_BT)
    for b in range(2):
        wanted = []
        for t in (t for t in range(3) if pattern[b][t]):
            wanted.append(float(class_BTD[b, t, 0]))
            wanted += [float(cell) for scale in scales for cell in scale[b, t, :, 0]]
        assert sequence.tokens_BLD[b, : len(wanted), 0].tolist() == wanted
        if sequence.length_B is not None:
            assert int(sequence.length_B[b]) == len(wanted)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_spatial_wise_is_class_tokens_then_means_over_frames(pattern: list[list[int]]) -> None:
    valid_BT = torch.tensor(pattern).bool()
    class_BTD, scales = frames(2, 3)
    sequence = spatial_wise(class_BTD[valid_BT], [scale[valid_BT] for scale in scales], valid_BT)
    for b in range(2):
        present = [t for t in range(3) if pattern[b][t]]
        wanted = [float(class_BTD[b, t, 0]) for t in present]
        for scale in scales:
            for cell in range(scale.shape[2] if present else 0):
                wanted.append(sum(float(scale[b, t, cell, 0]) for t in present) / len(present))
        assert sequence.tokens_BLD[b, : len(wanted), 0].tolist() == pytest.approx(wanted)
        if sequence.length_B is not None:
            assert int(sequence.length_B[b]) == len(wanted)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("class_tokens", get_args(ClassTokens))
@pytest.mark.parametrize("name", ORDERS)
def test_each_order_reads_back_the_class_tokens_it_was_given(
    name: Order, class_tokens: ClassTokens, pattern: list[list[int]]
) -> None:
    valid_BT = torch.tensor(pattern).bool()
    class_BTD, scales = frames(2, 3)
    sequence = ORDERS[name](
        class_BTD[valid_BT], [scale[valid_BT] for scale in scales], valid_BT, class_tokens
    )
    read_BTD = read_frames(sequence.tokens_BLD, sequence, valid_BT)
    assert torch.equal(read_BTD, class_BTD * valid_BT[..., None])


SMALL = (["c1", "c2"], [["a1", "a2"], ["b1", "b2"]])  # two frames, two scales of a cell each
WITH_COPIES = {
    ("scale", "ends"): "c1 c2 a1 a2 b1 b2 c1 c2",
    ("scale", "interleaved"): "c1 c2 a1 c1 a2 c2 b1 c1 b2 c2",
    ("frame", "ends"): "c1 a1 b1 c1 c2 a2 b2 c2",
    ("frame", "interleaved"): "c1 a1 c1 b1 c1 c2 a2 c2 b2 c2",
    ("spatial", "ends"): "c1 c2 a b c1 c2",
    ("spatial", "interleaved"): "c1 c2 a c1 c2 b c1 c2",
}
VALUES = {"c1": 1, "c2": 2, "a1": 10, "a2": 20, "a": 15, "b1": 100, "b2": 200, "b": 150}


@pytest.mark.parametrize("is_padded", [False, True])
@pytest.mark.parametrize(("name", "class_tokens"), WITH_COPIES)
def test_class_tokens_stand_where_they_are_repeated(
    name: Order, class_tokens: ClassTokens, is_padded: bool
) -> None:
    valid_BT = torch.tensor([[True, False, True] if is_padded else [True, True]])
    class_F1 = torch.tensor([[VALUES[token]] for token in SMALL[0]]).float()
    scales = [torch.tensor([[[VALUES[cell]]] for cell in scale]).float() for scale in SMALL[1]]
    sequence = ORDERS[name](class_F1, scales, valid_BT, class_tokens)
    wanted = [VALUES[token] for token in WITH_COPIES[name, class_tokens].split()]
    assert sequence.tokens_BLD[0, :, 0].tolist() == wanted


@pytest.mark.parametrize("class_tokens", ["ends", "interleaved"])
def test_without_scales_there_is_nothing_to_repeat_class_tokens_behind(
    class_tokens: ClassTokens,
) -> None:
    valid_BT = torch.ones(1, 2).bool()
    for order_tokens in ORDERS.values():
        sequence = order_tokens(torch.tensor([[1.0], [2.0]]), [], valid_BT, class_tokens)
        assert sequence.tokens_BLD[0, :, 0].tolist() == [1, 2]
