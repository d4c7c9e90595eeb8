"""Rows read straight from files are the rows that zarr reads."""

import json
from pathlib import Path

import numpy as np
import pytest
import zarr

from muse.errors import StoreError
from muse.pipeline.chunks import RowArray

ROWS, SHAPE = 7, (7, 2, 3)


@pytest.fixture(params=["sharded", "plain"])
def array(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """(7, 2, 3) float16 of random values, four rows a file; row 2 was never written."""
    sharded = request.param == "sharded"
    written = zarr.create_array(
        tmp_path / "array",
        shape=SHAPE,
        chunks=(1, 2, 3) if sharded else (4, 2, 3),
        shards=(4, 2, 3) if sharded else None,
        dtype="float16",
        compressors=None,
        fill_value=0,
    )
    values = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float16)
    values[2] = 0  # all fill value: zarr leaves its inner chunk out
    written[:] = values
    return tmp_path / "array"


def test_each_row_is_zarr_s(array: Path) -> None:
    wanted = zarr.open_array(array, mode="r")[:]
    found = RowArray(array)
    for row in range(ROWS):
        np.testing.assert_array_equal(found.row(row), wanted[row])


@pytest.mark.parametrize("rows", [[], [6], [3, 0, 3], [6, 5, 4, 3, 2, 1, 0]])
def test_rows_come_in_the_order_asked_for(array: Path, rows: list[int]) -> None:
    wanted = zarr.open_array(array, mode="r")[:]
    found = RowArray(array).rows(np.array(rows, dtype=np.intp))
    assert found.shape == (len(rows), 2, 3)
    np.testing.assert_array_equal(found, wanted[rows])


def test_a_row_that_was_not_written_is_known(tmp_path: Path) -> None:
    written = zarr.create_array(
        tmp_path / "a", shape=(4, 2), chunks=(1, 2), shards=(2, 2), dtype="float16",
        compressors=None, fill_value=0,
    )  # fmt: skip
    written[0:2] = np.array([[1, 1], [0, 0]])
    assert [RowArray(tmp_path / "a").has_row(row) for row in range(4)] == [
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize("num_bytes", [1, 20, 60])
def test_a_file_that_was_cut_short_is_an_error(array: Path, num_bytes: int) -> None:
    file = array / "c" / "0" / "0" / "0"
    file.write_bytes(file.read_bytes()[:-num_bytes])
    with pytest.raises(StoreError, match="damaged or cut short"):
        RowArray(array).row(3)


def test_a_compressed_array_is_refused(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a", shape=(4, 2), chunks=(2, 2), dtype="float16")
    with pytest.raises(StoreError, match="codecs are not those of a muse store"):
        RowArray(tmp_path / "a")


@pytest.mark.parametrize("lost", ["shape", "data_type", "codecs", "chunk_grid", "fill_value"])
def test_metadata_without_a_field_is_one_line(array: Path, lost: str) -> None:
    metadata = json.loads((array / "zarr.json").read_text(encoding="utf-8"))
    del metadata[lost]
    (array / "zarr.json").write_text(json.dumps(metadata), encoding="utf-8")
    with pytest.raises(StoreError, match=r"\A[^\n]*can't be read as an array[^\n]*\Z"):
        RowArray(array)
