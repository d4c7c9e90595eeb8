"""Both forms of a store say the same, and a file that is not whole is refused."""

import dataclasses
import json
import multiprocessing
import pickle
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from tests.pipeline.full_disk import files_up_to
from tests.pipeline.raw_memory import ALL_VIEWS, IDS, RawMemoryStore, make_raw, written_as_zarr

from muse.errors import StoreError
from muse.pipeline.exports import store_hdf5
from muse.pipeline.exports.hdf5_writer import write_hdf5
from muse.pipeline.records import Caption, ClipFeatures
from muse.pipeline.store import RawStore, StoreCounts, open_raw_store, open_store

OK_ROWS = (0, 1, 3, 5)


@pytest.fixture
def source() -> RawMemoryStore:
    return make_raw()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written_as_zarr(make_raw(), tmp_path_factory.mktemp("zarr") / "store")


@pytest.fixture(scope="module")
def _exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("hdf5") / "store.h5"
    write_hdf5(make_raw(), file)
    return file


@pytest.fixture
def file(_exported: Path, tmp_path: Path) -> Path:
    """This test's own."""
    return Path(shutil.copy(_exported, tmp_path))


@pytest.fixture(params=["zarr", "hdf5"])
def store(request: pytest.FixtureRequest, file: Path, folder: Path) -> RawStore:
    return open_raw_store(folder if request.param == "zarr" else file)


def assert_same_features(found: ClipFeatures, wanted: ClipFeatures) -> None:
    assert (found.video_id, found.source) == (wanted.video_id, wanted.source)
    assert list(found.arrays) == list(wanted.arrays)
    for name, array in wanted.arrays.items():
        assert found.arrays[name].dtype == array.dtype
        assert found.arrays[name].tobytes() == array.tobytes()
        assert found.arrays[name].shape == array.shape
    assert found.valid_T.tolist() == wanted.valid_T.tolist()
    assert found.pts_seconds_T.tobytes() == wanted.pts_seconds_T.tobytes()


# -- both forms ----------------------------------------------------------------------------------


def test_every_array_of_a_video_is_read_to_the_bit(store: RawStore, source: RawMemoryStore) -> None:
    for row in OK_ROWS:
        assert_same_features(store.read_features(row), source.read_features(row))


def test_a_clip_is_its_tokens(store: RawStore, source: RawMemoryStore) -> None:
    for row in OK_ROWS:
        found, wanted = store.read_clip(row), source.read_features(row)
        assert found.tokens_TKD.tobytes() == wanted.arrays["tokens"].tobytes()
        assert found.valid_T.tolist() == wanted.valid_T.tolist()
        assert found.pts_seconds_T.tobytes() == wanted.pts_seconds_T.tobytes()


@pytest.mark.parametrize("view", ["tokens", "int8"])
@pytest.mark.parametrize("form", ["zarr", "hdf5"])
def test_clips_read_into_an_array_are_those_read_one_by_one(
    form: str, view: str, tmp_path: Path
) -> None:
    source = make_raw(views=("tokens", "int8"))
    if form == "zarr":
        path = written_as_zarr(source, tmp_path / "store")
    else:
        path = tmp_path / "store.h5"
        write_hdf5(source, path)
    store, rows = open_store(path, view=view), [*OK_ROWS[::-1], *OK_ROWS]  # runs, and a way back
    tokens_NTKD = np.full((len(rows), *source.arrays[0].shape), np.nan, np.float16)
    valid_NT = store.read_clips_into(rows, tokens_NTKD)
    for place, row in enumerate(rows):
        clip = store.read_clip(row)
        assert tokens_NTKD[place].tobytes() == clip.tokens_TKD.tobytes()
        assert valid_NT[place].tolist() == clip.valid_T.tolist()
    with pytest.raises(StoreError, match="has no features"):
        store.read_clips_into([0, 2], tokens_NTKD[:2])


def test_the_listing_and_the_header_survive(store: RawStore, source: RawMemoryStore) -> None:
    assert tuple(store.video_ids) == IDS
    assert list(store.captions) == source.captions
    assert dataclasses.replace(store.header, files={}) == source.header
    assert store.arrays == source.arrays


def test_failed_skipped_and_pending_videos_keep_their_reasons(
    store: RawStore, source: RawMemoryStore
) -> None:
    assert list(store.failures) == source.failures
    assert np.flatnonzero(store.has_features_N).tolist() == list(OK_ROWS)
    assert store.counts() == StoreCounts(
        listed=8, ok=4, failed=1, skipped=1, pending=2, captions=16, captions_embedded=14
    )


@pytest.mark.parametrize("row", [2, 4, 6])
def test_a_row_without_features_is_an_error_and_not_zeros(store: RawStore, row: int) -> None:
    for read in (store.read_clip, store.read_features):
        with pytest.raises(StoreError, match=rf"'{IDS[row]}' \(row {row}\) has no features"):
            read(row)


@pytest.mark.parametrize("rows", [[15, 0, 3, 3], [9], list(range(4)) + list(range(6, 16)), []])
def test_embeddings_are_read_in_the_order_asked_for(
    store: RawStore, source: RawMemoryStore, rows: list[int]
) -> None:
    found = store.read_caption_embeddings(np.array(rows, np.intp))
    assert found.tolist() == [source.embeddings[row].tolist() for row in rows]  # type: ignore[union-attr]
    assert (found.dtype, found.shape) == (np.float16, (len(rows), 4))


def test_few_embeddings_are_read_one_by_one(
    file: Path, source: RawMemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_hdf5, "_ALL_CAPTIONS_FROM", 1)
    found = open_store(file).read_caption_embeddings(np.array([15, 0, 3, 3]))
    assert found.tolist() == [source.embeddings[row].tolist() for row in (15, 0, 3, 3)]  # type: ignore[union-attr]


def test_a_caption_without_an_embedding_is_an_error(store: RawStore) -> None:
    with pytest.raises(StoreError, match=r"1 captions ha\w+ no embedding yet"):
        store.read_caption_embeddings(np.array([0, 4]))


def test_a_view_that_is_not_there_is_refused(store: RawStore) -> None:
    with pytest.raises(StoreError, match="view 'int8': the store has tokens"):
        open_store(store.location, view="int8")


# -- the file ------------------------------------------------------------------------------------


def test_every_view_is_kept_and_int8_reads_as_tokens(tmp_path: Path) -> None:
    source = make_raw(views=ALL_VIEWS)
    write_hdf5(source, tmp_path / "store.h5")
    store = open_raw_store(tmp_path / "store.h5", view="int8")
    assert [spec.name for spec in store.arrays] == [
        "tokens", "tokens_int8", "tokens_int8_scale", "class_tokens", "pooled",
    ]  # fmt: skip
    for row in OK_ROWS:
        assert_same_features(store.read_features(row), source.read_features(row))
        arrays = source.read_features(row).arrays
        for frame, token, place in np.ndindex(3, 5, 4):
            step, scale = arrays["tokens_int8"], arrays["tokens_int8_scale"]
            wanted = np.float16(
                np.float32(step[frame, token, place]) * np.float32(scale[frame, token])
            )
            assert store.read_clip(row).tokens_TKD[frame, token, place] == wanted


def test_a_store_without_tokens_says_which_views_it_has(tmp_path: Path) -> None:
    write_hdf5(make_raw(views=("class", "pooled")), tmp_path / "store.h5")
    with pytest.raises(StoreError, match="no tokens in it, only the views class, pooled"):
        open_store(tmp_path / "store.h5").read_clip(0)


def test_both_hashes_are_those_of_the_store_it_was_made_from(
    file: Path, source: RawMemoryStore
) -> None:
    store = open_store(file)
    assert store.root_sha256 == source.root_sha256
    assert store.timestamps_sha256 == source.timestamps_sha256


def with_axes(source: RawMemoryStore) -> RawMemoryStore:
    source.captions = [
        dataclasses.replace(caption, axis=("where", "", "Zahl 犬")[row % 3])
        for row, caption in enumerate(source.captions)
    ]
    return source


def test_what_captions_ask_for_survives_from_form_to_form(
    source: RawMemoryStore, tmp_path: Path
) -> None:
    folder = written_as_zarr(with_axes(source), tmp_path / "store")
    write_hdf5(open_raw_store(folder), tmp_path / "one.h5")
    write_hdf5(open_raw_store(tmp_path / "one.h5"), tmp_path / "two.h5")
    for place in (folder, tmp_path / "one.h5", tmp_path / "two.h5"):
        assert list(open_store(place).captions) == source.captions
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()


def test_a_file_of_captions_without_axes_has_no_place_for_them(file: Path) -> None:
    with h5py.File(file) as content:
        assert list(content["captions"]) == [
            "embedding", "has_embedding", "split", "text", "video_id",
        ]  # fmt: skip


@pytest.mark.parametrize("seconds", [0.0, pytest.param(1.1, marks=pytest.mark.slow)])
def test_an_export_of_an_export_has_the_same_bytes_whenever_it_is_made(
    file: Path, tmp_path: Path, seconds: float
) -> None:
    time.sleep(seconds)  # HDF5 notes times in seconds, unless it is told not to
    write_hdf5(open_raw_store(file), tmp_path / "again.h5")
    assert (tmp_path / "again.h5").read_bytes() == file.read_bytes()
    assert open_store(file).size_bytes() == len(file.read_bytes())


def test_a_stranger_reads_it_with_h5py_alone(file: Path, source: RawMemoryStore) -> None:
    with h5py.File(file) as content:
        assert json.loads(content.attrs["header"])["fingerprint"] == source.header.fingerprint
        rows = np.flatnonzero(content["videos/has_features"][()])
        assert rows.tolist() == list(OK_ROWS)
        assert content["videos/video_id"].asstr()[1] == "b\nwith a second line"
        assert content["features/tokens"].compression is None
        assert content["features/tokens"].id.get_num_chunks() == len(OK_ROWS)
        for row in rows.tolist():
            wanted = source.read_features(row).arrays["tokens"]
            assert content["features/tokens"][row].tobytes() == wanted.tobytes()
        assert content["failures/reason"].asstr()[()].tolist() == ["truncated", "too_long"]


def test_a_store_where_every_video_failed_and_without_captions_is_a_store(
    source: RawMemoryStore, tmp_path: Path
) -> None:
    failed = source.rows[2]
    rows = [dataclasses.replace(failed, video_id=i) for i in IDS]  # type: ignore[type-var, arg-type]
    header = dataclasses.replace(source.header, num_captions=0)
    empty = RawMemoryStore(header, source.arrays, IDS, rows, [], [])
    write_hdf5(empty, tmp_path / "store.h5")
    store = open_store(tmp_path / "store.h5")
    assert (store.counts().failed, store.counts().ok, store.counts().captions) == (8, 0, 0)
    assert store.read_caption_embeddings(np.array([], np.intp)).shape == (0, 4)


def test_a_text_that_hdf5_can_not_hold_is_refused_by_its_column(
    source: RawMemoryStore, tmp_path: Path
) -> None:
    source.captions = [
        Caption(video_id=c.video_id, text="a\0b", split="test") for c in source.captions
    ]
    with pytest.raises(StoreError, match="captions/text: a text in it can't be held by HDF5"):
        write_hdf5(source, tmp_path / "store.h5")
    assert list(tmp_path.iterdir()) == []


# -- written whole or not at all -----------------------------------------------------------------


def test_a_file_is_replaced_only_when_that_was_asked_for(
    file: Path, source: RawMemoryStore
) -> None:
    file.write_bytes(b"precious")
    with pytest.raises(
        StoreError, match=r"is there already\. Name another file, or add --overwrite"
    ):
        write_hdf5(source, file)
    assert file.read_bytes() == b"precious"
    write_hdf5(source, file, overwrite=True)
    assert open_store(file).counts().ok == 4


def test_a_store_at_hand_reads_the_file_it_opened_when_another_takes_its_place(
    file: Path, source: RawMemoryStore
) -> None:
    store = open_raw_store(file)
    source.rows = [None] * len(IDS)
    source.has_features_N, source.failures = np.zeros(len(IDS), np.bool_), []
    write_hdf5(source, file, overwrite=True)
    assert store.read_clip(0).tokens_TKD.any()
    assert open_store(file).counts().ok == 0


def test_a_row_that_can_not_be_read_leaves_no_file(source: RawMemoryStore, tmp_path: Path) -> None:
    source.has_features_N = np.ones(len(IDS), np.bool_)  # row 2 raises
    with pytest.raises(StoreError, match="row 2 has no features"):
        write_hdf5(source, tmp_path / "store.h5")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_export_leaves_the_old_file(file: Path, source: RawMemoryStore) -> None:
    before = file.read_bytes()

    def interrupt(done: int, total: int) -> None:
        assert total == len(OK_ROWS)
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_hdf5(source, file, overwrite=True, on_progress=interrupt)
    assert (list(file.parent.iterdir()), file.read_bytes()) == ([file], before)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_full_disk_is_one_line_and_leaves_no_file(
    source: RawMemoryStore, file: Path, tmp_path: Path, share: float
) -> None:
    size = file.stat().st_size
    file.unlink()
    with files_up_to(round(size * share)), pytest.raises(StoreError) as raised:
        write_hdf5(source, file)
    assert str(raised.value).startswith(f"{file}: can't be written (File too large). Nothing is")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_can_not_hold_it_is_refused_before_anything_is_written(
    source: RawMemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 4 * 3 * 5 * 4 * 2 + 16 * 4 * 2  # four videos, sixteen captions
    usage = shutil.disk_usage(tmp_path)
    told: list[int] = []
    for free in (needed, needed - 1):
        fake = usage._replace(free=free)
        monkeypatch.setattr(shutil, "disk_usage", lambda path, fake=fake: fake)
        if free < needed:
            with pytest.raises(StoreError, match=r"0.0 GB to write and 0.0 GB free there"):
                write_hdf5(
                    source, tmp_path / "b.h5", on_progress=lambda done, total: told.append(done)
                )
        else:
            write_hdf5(source, tmp_path / "a.h5")
    assert told == []


# -- damaged and foreign files -------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.9999])
def test_a_truncated_file_is_refused_when_it_is_opened(file: Path, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(StoreError, match="not a whole file of `muse store export`"):
        open_store(file)


def test_a_file_cut_short_while_it_is_open_is_an_error_and_not_zeros(file: Path) -> None:
    store = open_raw_store(file)
    with file.open("r+b") as stream:
        stream.truncate(100)
    with pytest.raises(StoreError, match="it ends before byte"):
        store.read_clip(0)


def _without(name: str) -> Callable[[h5py.File], None]:
    def change(content: h5py.File) -> None:
        if name in content.attrs:
            del content.attrs[name]
        else:
            del content[name]

    return change


def _compressed(content: h5py.File) -> None:
    tokens = content["features/tokens"]
    values = tokens[()]
    del content["features/tokens"]
    shape = values.shape
    content.create_dataset("features/tokens", data=values, chunks=(1, *shape[1:]), compression=1)


def _other_layout(content: h5py.File) -> None:
    content.attrs["muse_layout"] = 2


def _another_row(content: h5py.File) -> None:
    content["videos/has_features"][6] = True


def _failure_beyond(content: h5py.File) -> None:
    content["failures/row"][0] = 8


def _no_frame(content: h5py.File) -> None:
    content["videos/valid"][3] = False


def _other_length(content: h5py.File) -> None:
    values = content["captions/text"][:5]
    del content["captions/text"]
    content["captions/text"] = values


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without("header"), "attribute header is missing"),
        (_without("muse_layout"), "attribute muse_layout is missing"),
        (_without("root_sha256"), "attribute root_sha256 is missing"),
        (_without("features/tokens"), "dataset features/tokens is missing"),
        (_without("videos"), "dataset videos/has_features is missing"),
        (_without("failures/reason"), "dataset failures/reason is missing"),
        (_without("captions/embedding"), "dataset captions/embedding is missing"),
        (_other_length, r"dataset captions/text has shape \(5,\), not \(16,\)"),
        (_compressed, "dataset /features/tokens was rewritten, in another form"),
        (_other_layout, "muse_layout is 2, this muse reads 1"),
        (_failure_beyond, "failures/row names rows beyond 8"),
        (_no_frame, "videos/valid has no frame of row 3"),
        (_another_row, "features/tokens has no row 6"),
    ],
)
def test_a_file_that_lacks_something_is_refused_by_its_name(
    file: Path, change: Callable[[h5py.File], None], words: str
) -> None:
    with h5py.File(file, "r+") as content:
        change(content)
    with pytest.raises(StoreError, match=words):
        open_store(file)


def test_a_header_of_another_format_is_refused(file: Path) -> None:
    with h5py.File(file, "r+") as content:
        header = json.loads(content.attrs["header"])
        content.attrs["header"] = json.dumps({**header, "format_version": 99})
    with pytest.raises(StoreError, match="format version 99"):
        open_store(file)


def test_what_is_no_hdf5_file_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("not HDF5\n" * 100, encoding="utf-8")
    for name, words in (
        ("text.h5", "not a whole file of `muse store export` .*signature not found"),
        ("gone.h5", "not a whole file of `muse store export` .*No such file"),
        ("gone", "no feature store here"),
    ):
        with pytest.raises(StoreError, match=words) as raised:
            open_store(tmp_path / name)
        assert "\n" not in str(raised.value)


def test_a_file_is_known_by_its_content_and_a_folder_is_a_folder(
    file: Path, folder: Path, tmp_path: Path
) -> None:
    file.rename(tmp_path / "no suffix")
    assert open_store(tmp_path / "no suffix").counts().ok == 4
    shutil.copytree(folder, tmp_path / "folder.h5")
    assert open_store(tmp_path / "folder.h5").counts().ok == 4


# -- threads and processes -----------------------------------------------------------------------


def _reads_right(store: RawStore, source: RawMemoryStore, row: int) -> bool:
    wanted = source.read_features(row).arrays["tokens"]
    return store.read_clip(row).tokens_TKD.tobytes() == wanted.tobytes()


def test_many_threads_read_the_same_bits(file: Path, source: RawMemoryStore) -> None:
    store = open_raw_store(file)
    with ThreadPoolExecutor(8) as pool:
        right = pool.map(lambda place: _reads_right(store, source, OK_ROWS[place % 4]), range(400))
        assert all(right)


def test_a_fork_reads_the_same_bits(file: Path, source: RawMemoryStore) -> None:
    store = open_raw_store(file)
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(
        target=lambda: answers.put([_reads_right(store, source, row) for row in OK_ROWS])
    )
    child.start()
    assert answers.get() == [True] * 4
    child.join()
    assert _reads_right(store, source, 0)


def test_a_store_is_opened_again_where_it_is_unpickled(file: Path, source: RawMemoryStore) -> None:
    store = open_raw_store(file)
    again = pickle.loads(pickle.dumps(store))
    del store
    assert all(_reads_right(again, source, row) for row in OK_ROWS)


def test_a_store_that_is_let_go_closes_its_file(file: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    store = open_store(file)
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 1
    del store
    assert len(list(Path("/proc/self/fd").iterdir())) == before
