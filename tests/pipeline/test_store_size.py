"""Bytes of a store before it is written, against files that zarr writes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from muse.errors import StoreError
from muse.pipeline.forecasting.store_size import StoreShape, require_space, store_bytes
from muse.pipeline.header import StoreHeader
from muse.pipeline.listing import ListedRows
from muse.pipeline.plan import all_caption_shards, all_video_shards
from muse.pipeline.views import arrays_of
from muse.pipeline.zarr_layout import array_metadata

SHARD_SIZE = 4


def shape_of(header: StoreHeader) -> StoreShape:
    frames = header.sampling.num_frames
    return StoreShape(
        arrays=tuple(arrays_of(header.views, header.encoder, frames)),
        shard_size=header.shard_size,
        num_frames=frames,
        dim=header.encoder.dim,
    )


def written_by_zarr(folder: Path, header: StoreHeader, rows: ListedRows) -> dict[str, int]:
    """Array -> bytes of its files, once zarr has written every present video and all captions."""
    for name, content in array_metadata(header).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    group = zarr.open_group(folder, mode="r+")
    present = [row for row, video in enumerate(rows.videos) if video.path is not None]
    for name, array in group.arrays():
        if name == "captions":
            array[:] = np.ones(array.shape, array.dtype)
            continue
        for row in present:
            array[row] = np.ones(array.shape[1:], array.dtype)
    return {
        name: sum(
            file.stat().st_size for file in (folder / name / "c").rglob("*") if file.is_file()
        )
        for name, _ in group.arrays()
    }


@pytest.mark.parametrize(
    ("num_videos", "missing"),
    [
        (SHARD_SIZE, ()),
        (2 * SHARD_SIZE + 1, ()),  # a last shard of one row has an index and chunks as long as any
        (2 * SHARD_SIZE + 1, (1, 2)),
        (2 * SHARD_SIZE, tuple(range(SHARD_SIZE))),  # a shard without a video has no files
    ],
)
def test_zarr_writes_as_many_bytes_as_are_said_before(
    num_videos: int,
    missing: tuple[int, ...],
    make_rows: Callable[..., ListedRows],
    make_header: Callable[..., StoreHeader],
    tmp_path: Path,
) -> None:
    rows = make_rows(num_videos, missing=missing)
    header = make_header(rows, shard_size=SHARD_SIZE)
    said = store_bytes(
        shape_of(header),
        all_video_shards(rows, shard_size=SHARD_SIZE),
        all_caption_shards(rows),
    )
    assert said == written_by_zarr(tmp_path, header, rows)


def test_each_failing_row_saves_its_bytes_and_the_last_one_of_a_shard_its_files(
    make_rows: Callable[..., ListedRows], make_header: Callable[..., StoreHeader]
) -> None:
    rows = make_rows(SHARD_SIZE)
    shape = shape_of(make_header(rows, shard_size=SHARD_SIZE))
    shards = all_video_shards(rows, shard_size=SHARD_SIZE)
    row = 3 * 5 * 4 * 2  # frames, tokens, width, float16

    def size(*failing: int) -> int:
        return sum(store_bytes(shape, shards, [], failing=failing).values())

    assert size() - size(1) == row
    assert size(0, 1, 2, 3) == 0


def test_what_is_kept_of_a_shard_is_not_counted_again(
    make_rows: Callable[..., ListedRows], make_header: Callable[..., StoreHeader]
) -> None:
    rows = make_rows(SHARD_SIZE)
    shape = shape_of(make_header(rows, shard_size=SHARD_SIZE))
    assert shape.video_shard_bytes(1, is_new=False) == {
        "tokens": 3 * 5 * 4 * 2,
        "valid": 0,
        "pts_seconds": 0,
    }


def test_a_disk_that_cannot_hold_the_store_is_refused_with_both_numbers() -> None:
    with pytest.raises(StoreError, match=r"out: needs 2\.0 GB, its disk has 1\.0 GB free\. Free"):
        require_space(2_000_000_000, 1_000_000_000, "out")


def test_two_percent_are_kept_free() -> None:
    require_space(1_000, 1_020, "out")
    with pytest.raises(StoreError, match="needs"):
        require_space(1_000, 1_019, "out")


def test_a_place_whose_free_bytes_nobody_knows_is_not_refused() -> None:
    require_space(10**18, None, "s3://bucket/store")
