"""How many chunks a scan's sequences are cut into."""

import pytest
import torch

from muse.head.scan.grid import (
    TILE,
    Chunks,
    chunks_of,
    directions_at_once,
    in_chunks,
    shape_of,
    videos_at_once,
)

H200 = 132  # multiprocessors


def chunks(videos: int, length: int, num_states: int = 16, width: int = 512) -> Chunks:
    u, A = torch.empty(2, videos, length, width, device="meta"), torch.empty(2, width, num_states)
    return chunks_of(shape_of(u, A, 2), num_states, H200)


@pytest.mark.parametrize("videos", [128, 64, 16, 8, 6])
@pytest.mark.parametrize("length", [1, 3_060, 16_320])
def test_many_videos_fill_a_gpu_uncut(videos: int, length: int) -> None:
    assert chunks(videos, length).number == 1


def test_one_long_video_is_cut_into_as_many_blocks_as_run_at_once() -> None:
    # 2 directions of 8 blocks of 64 channels, of which a multiprocessor takes two.
    assert chunks(1, 100_000) == Chunks(16, 196)
    assert chunks(5, 100_000).number == 3
    assert 16 * 8 * 2 <= 2 * H200 < 17 * 8 * 2


def test_one_short_video_is_scanned_sooner_than_more_kernels_are_launched() -> None:
    assert chunks(1, 192 * 32) == Chunks(16, 12)
    assert chunks(1, 192 * 32 - 32) == Chunks(1, 191)
    assert chunks(1, 0).number == 1


@pytest.mark.parametrize("num_states", list(TILE))
def test_what_is_no_gpu_cuts_nothing(num_states: int) -> None:
    u = torch.empty(1, 1, 10_000, 8, device="meta")
    assert chunks_of(shape_of(u, torch.empty(1, 8, num_states), 0), num_states, 0).number == 1


def test_chunks_are_all_tiles_and_none_is_empty() -> None:
    for num_tiles in range(1, 40):
        for number in range(1, 20):
            found = in_chunks(num_tiles, number)
            assert found.number <= number
            assert (found.number - 1) * found.tiles < num_tiles <= found.number * found.tiles


@pytest.mark.parametrize(
    ("num_states", "length", "size", "videos"),
    [
        (64, 3_060, 4, 5),  # of 401 MB each: 2 directions, 3,060 tokens, 128 blocks, 128 sums
        (64, 3_060, 2, 10),  # of half the bytes
        (16, 3_060, 4, 171),  # an eighth of the blocks, a quarter of the sums
        (64, 1_000_000, 4, 1),
    ],
)
def test_sums_of_the_videos_at_once_take_two_gigabytes(
    num_states: int, length: int, size: int, videos: int
) -> None:
    u, A = torch.empty(2, 999, length, 1024, device="meta"), torch.empty(2, 1024, num_states)
    assert videos_at_once(shape_of(u, A, 2), num_states, size) == videos


@pytest.mark.parametrize(
    ("videos", "together"),
    [(32, 1), (30, 1), (29, 2), (1, 2)],  # 8 blocks of channels each; 264 are resident at once
)
def test_a_direction_that_fills_a_gpu_has_its_gradient_alone(videos: int, together: int) -> None:
    u, A = torch.empty(2, videos, 99, 512, device="meta"), torch.empty(2, 512, 16)
    assert directions_at_once(shape_of(u, A, 2), 16, 132) == together
