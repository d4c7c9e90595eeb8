"""Rows read straight from files are those that zarr reads; zarr reads what is written here."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from muse.errors import StoreError
from muse.pipeline.chunks import RowArray, chunk_content, chunk_name, shard_content
from muse.pipeline.storage.files import open_storage

ROWS, SHAPE = 7, (7, 2, 3)


def opened(array: Path) -> RowArray:
    return RowArray(open_storage(array.parent), array.name)


def put(array: Path, index: int, content: bytes | list[memoryview | bytes]) -> None:
    """A file of an array, in the way that a store's files come."""
    num_axes = len(json.loads((array / "zarr.json").read_text(encoding="utf-8"))["shape"])
    open_storage(array.parent).write(chunk_name(array.name, index, num_axes), content)


@pytest.fixture
def make_array(tmp_path: Path) -> Callable[..., Path]:
    """An array of ``ROWS`` rows as zarr describes it, four a file; nothing is written yet."""

    def make(
        row_shape: tuple[int, ...], dtype: str, *, fill_value: Any = 0, sharded: bool = True
    ) -> Path:
        zarr.create_array(
            tmp_path / "array",
            shape=(ROWS, *row_shape),
            chunks=(1 if sharded else 4, *row_shape),
            shards=(4, *row_shape) if sharded else None,
            dtype=dtype,
            compressors=None,
            fill_value=fill_value,
        )
        return tmp_path / "array"

    return make


@pytest.fixture(params=["sharded", "plain"])
def array(request: pytest.FixtureRequest, make_array: Callable[..., Path]) -> Path:
    """(7, 2, 3) float16 of random values, four rows a file; row 2 was never written."""
    made = make_array((2, 3), "float16", sharded=request.param == "sharded")
    values = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float16)
    values[2] = 0  # all fill value: zarr leaves its inner chunk out
    zarr.open_array(made, mode="r+")[:] = values
    return made


# -- what zarr wrote -----------------------------------------------------------------------------


def test_each_row_is_zarr_s(array: Path) -> None:
    wanted = zarr.open_array(array, mode="r")[:]
    found = opened(array)
    for row in range(ROWS):
        np.testing.assert_array_equal(found.row(row), wanted[row])


@pytest.mark.parametrize("rows", [[], [6], [3, 0, 3], [6, 5, 4, 3, 2, 1, 0]])
def test_rows_come_in_the_order_asked_for(array: Path, rows: list[int]) -> None:
    wanted = zarr.open_array(array, mode="r")[:]
    found = opened(array).rows(np.array(rows, dtype=np.intp))
    assert found.shape == (len(rows), 2, 3)
    np.testing.assert_array_equal(found, wanted[rows])


def test_all_rows_are_zarr_s(array: Path) -> None:
    np.testing.assert_array_equal(opened(array).all_rows(), zarr.open_array(array, mode="r")[:])


@pytest.mark.parametrize(
    ("rows", "runs"),
    [
        ([], []),
        ([5], [(0, 1)]),
        ([2, 3, 4, 5], [(0, 2), (2, 4)]),  # four rows a file
        ([0, 1, 3, 3, 2], [(0, 2), (2, 3), (3, 4), (4, 5)]),
    ],
)
def test_a_run_is_of_rows_that_follow_each_other_in_a_file(
    array: Path, rows: list[int], runs: list[tuple[int, int]]
) -> None:
    assert list(opened(array).runs_of(rows)) == runs


@pytest.mark.parametrize(("first", "num_rows"), [(0, 2), (3, 1), (4, 3)])
def test_a_run_is_zarr_s_rows(array: Path, first: int, num_rows: int) -> None:
    target = np.full((num_rows, 2, 3), np.nan, "<f2")
    assert opened(array).read_run(first, target)
    wanted = zarr.open_array(array, mode="r")[first : first + num_rows]
    np.testing.assert_array_equal(target, wanted)


def test_rows_that_lie_in_another_order_are_still_right(make_array: Callable[..., Path]) -> None:
    array = make_array((2, 3), "float16")
    values = np.arange(24, dtype="<f2").reshape(4, 2, 3)
    content = b"".join(shard_content({p: values[3 - p] for p in range(4)}, rows_per_shard=4))
    index = np.frombuffer(content[4 * 12 : -4], "<u8").reshape(4, 2)[::-1]  # row 0 lies last
    put(array, 0, content[: 4 * 12] + index.tobytes() + content[-4:])
    target = np.empty_like(values)
    assert opened(array).read_run(0, target)
    np.testing.assert_array_equal(target, values)


def test_a_row_that_was_not_written_is_known(tmp_path: Path) -> None:
    written = zarr.create_array(
        tmp_path / "a", shape=(4, 2), chunks=(1, 2), shards=(2, 2), dtype="float16",
        compressors=None, fill_value=0,
    )  # fmt: skip
    written[0:2] = np.array([[1, 1], [0, 0]])
    has_row = [opened(tmp_path / "a").has_row(row) for row in range(4)]
    assert has_row == [True, False, False, False]


@pytest.mark.parametrize("num_bytes", [1, 20, 60])
def test_a_file_that_was_cut_short_is_an_error(array: Path, num_bytes: int) -> None:
    file = array / "c" / "0" / "0" / "0"
    file.write_bytes(file.read_bytes()[:-num_bytes])
    with pytest.raises(StoreError, match="damaged or cut short"):
        opened(array).row(3)


def test_a_compressed_array_is_refused(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a", shape=(4, 2), chunks=(2, 2), dtype="float16")
    with pytest.raises(StoreError, match="codecs are not those of a muse store"):
        opened(tmp_path / "a")


@pytest.mark.parametrize("lost", ["shape", "data_type", "codecs", "chunk_grid", "fill_value"])
def test_metadata_without_a_field_is_one_line(array: Path, lost: str) -> None:
    metadata = json.loads((array / "zarr.json").read_text(encoding="utf-8"))
    del metadata[lost]
    (array / "zarr.json").write_text(json.dumps(metadata), encoding="utf-8")
    with pytest.raises(StoreError, match=r"\A[^\n]*can't be read as an array[^\n]*\Z"):
        opened(array)


# -- what is written here ------------------------------------------------------------------------


def random_rows(row_shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    values = np.random.default_rng(1).integers(-100, 100, (ROWS, *row_shape))
    return values.astype(dtype)


@pytest.mark.parametrize(
    ("row_shape", "dtype"),
    [
        ((2, 3), "float16"),
        ((4,), "float16"),
        ((3, 5, 4), "int8"),
        ((3, 2, 2, 2), "float32"),
        ((1,), "float64"),
        ((5,), "bool"),
    ],
)
@pytest.mark.parametrize("places", [(0, 1, 2, 3), (2,), (3, 0)])
def test_zarr_reads_the_rows_of_a_shard_and_its_fill_value_elsewhere(
    make_array: Callable[..., Path],
    row_shape: tuple[int, ...],
    dtype: str,
    places: tuple[int, ...],
) -> None:
    array, values = make_array(row_shape, dtype), random_rows(row_shape, dtype)
    put(array, 0, shard_content({place: values[place] for place in places}, rows_per_shard=4))
    found = zarr.open_array(array, mode="r")[:]
    for row in range(ROWS):
        expected = values[row] if row in places else np.zeros(row_shape, dtype)
        np.testing.assert_array_equal(found[row], expected)


def test_this_reader_and_zarr_agree_on_a_shard(make_array: Callable[..., Path]) -> None:
    array, values = make_array((2, 3), "int8"), random_rows((2, 3), "int8")
    put(array, 1, shard_content({2: values[6], 0: values[4]}, rows_per_shard=4))
    np.testing.assert_array_equal(opened(array).all_rows(), zarr.open_array(array, mode="r")[:])


def test_zarr_refuses_a_shard_whose_index_was_changed(make_array: Callable[..., Path]) -> None:
    array = make_array((2, 3), "float16")
    pieces = shard_content({0: random_rows((2, 3), "float16")[0]}, rows_per_shard=4)
    content = bytearray(b"".join(bytes(piece) for piece in pieces))
    content[-10] ^= 1  # so the checksum that zarr accepts above is one that it looks at
    put(array, 0, bytes(content))
    with pytest.raises(ValueError, match=r"(?i)checksum"):
        zarr.open_array(array, mode="r")[:]


def test_a_shard_s_bytes_are_zarr_s_own(make_array: Callable[..., Path]) -> None:
    array, values = make_array((2, 3), "float16"), random_rows((2, 3), "float16")
    zarr.open_array(array, mode="r+")[0:4] = values[0:4]
    by_zarr = (array / "c" / "0" / "0" / "0").read_bytes()
    pieces = shard_content(dict(enumerate(values[0:4])), rows_per_shard=4)
    assert b"".join(bytes(piece) for piece in pieces) == by_zarr


def test_a_shard_s_bytes_do_not_depend_on_the_order_in_which_its_rows_came() -> None:
    values = random_rows((2, 3), "float16")
    forwards = shard_content({0: values[0], 3: values[3]}, rows_per_shard=4)
    backwards = shard_content({3: values[3], 0: values[0]}, rows_per_shard=4)
    assert b"".join(map(bytes, forwards)) == b"".join(map(bytes, backwards))


def test_rows_that_are_not_contiguous_in_memory_are_written_as_they_read(
    make_array: Callable[..., Path],
) -> None:
    array, turned = make_array((2, 3), "float16"), random_rows((3, 2), "float16")[0].T
    put(array, 0, shard_content({1: turned}, rows_per_shard=4))
    np.testing.assert_array_equal(zarr.open_array(array, mode="r")[1], turned)


@pytest.mark.parametrize(
    ("dtype", "fill_value"), [("float64", float("nan")), ("bool", False), ("float16", 0)]
)
@pytest.mark.parametrize("num_rows", [1, 4])
def test_zarr_reads_the_rows_of_a_chunk_and_its_fill_value_elsewhere(
    make_array: Callable[..., Path], dtype: str, fill_value: Any, num_rows: int
) -> None:
    array = make_array((3,), dtype, fill_value=fill_value, sharded=False)
    block = random_rows((3,), dtype)[:num_rows]
    put(array, 0, chunk_content(block, rows_per_chunk=4, fill_value=fill_value))
    found = zarr.open_array(array, mode="r")[:]
    np.testing.assert_array_equal(found[:num_rows], block)
    np.testing.assert_array_equal(found[num_rows:], np.full((ROWS - num_rows, 3), fill_value))
    np.testing.assert_array_equal(opened(array).all_rows(), found)


# -- files that change ---------------------------------------------------------------------------


def test_a_reader_sees_the_rows_of_a_shard_that_was_replaced(
    make_array: Callable[..., Path],
) -> None:
    array, values = make_array((2, 3), "float16"), random_rows((2, 3), "float16")
    put(array, 0, shard_content({1: values[1], 3: values[3]}, rows_per_shard=4))
    reader = opened(array)
    np.testing.assert_array_equal(reader.row(3), values[3])  # its offsets are in memory now
    put(array, 0, shard_content(dict(enumerate(values[:4])), rows_per_shard=4))
    for row in range(4):
        np.testing.assert_array_equal(reader.row(row), values[row])


def test_a_reader_sees_a_shard_that_appears_and_disappears(
    make_array: Callable[..., Path],
) -> None:
    array, values = make_array((2, 3), "float16"), random_rows((2, 3), "float16")
    reader = opened(array)
    assert not reader.has_row(0)
    put(array, 0, shard_content({0: values[0]}, rows_per_shard=4))
    assert reader.has_row(0)
    open_storage(array.parent).remove(reader.file(0))
    assert not reader.has_row(0)
    assert not reader.row(0).any()
