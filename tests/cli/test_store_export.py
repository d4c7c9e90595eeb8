"""``muse store export``, and the commands that read what it wrote."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from muse.head.evaluate import evaluate, open_head
from muse.head.head_config import HeadConfig
from muse.head.train import train
from muse.head.train_config import TrainConfig
from muse.pipeline.exports.hdf5_writer import write_hdf5
from muse.pipeline.store import open_store
from tests.cli.conftest import Outcome
from tests.pipeline.raw_memory import FeaturesInMemory, make_raw

Muse = Callable[..., Outcome]

HEAD = HeadConfig(dim=16, factors=(0.5, 1.0), depth=1, d_state=2, dropout=0.5)
CONFIG = TrainConfig(epochs=2, batch_size=4, device="cpu")


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """Of a store in which every state occurs."""
    write_hdf5(make_raw(), tmp_path / "store.h5")
    return tmp_path / "store.h5"


# -- the same numbers ----------------------------------------------------------------------------


@pytest.fixture
def learnable() -> FeaturesInMemory:
    return FeaturesInMemory(num_videos=12, num_test_videos=4, missing_videos=(2,))


@pytest.mark.slow
def test_training_and_evaluation_give_the_same_bits_on_the_exported_file(
    learnable: FeaturesInMemory, tmp_path: Path
) -> None:
    write_hdf5(learnable, tmp_path / "store.h5")
    results = []
    for name, store in (("source", learnable), ("file", open_store(tmp_path / "store.h5"))):
        run = tmp_path / name
        train(store, run, head=HEAD, config=CONFIG)
        trained, _ = open_head(str(run), store, device="cpu")
        pooled, _ = open_head("mean-pool", store, device="cpu")
        reports = [
            evaluate(store, head, split=split, head_name="a head").as_json()
            for head in (trained, pooled)
            for split in ("test", "all")
        ]
        results.append(((run / "head.safetensors").read_bytes(), reports))
    assert results[0] == results[1]


def test_a_run_goes_on_and_a_head_is_read_with_either_form(
    learnable: FeaturesInMemory, tmp_path: Path
) -> None:
    write_hdf5(learnable, tmp_path / "store.h5")
    store = open_store(tmp_path / "store.h5")
    train(learnable, tmp_path / "run", head=HEAD, config=CONFIG)
    summary = train(store, tmp_path / "run", head=HEAD, config=CONFIG)
    assert summary.first_step == summary.num_steps
    open_head(str(tmp_path / "run"), store, device="cpu")


@pytest.mark.slow
def test_every_command_reads_the_file_as_it_reads_the_store(
    muse: Muse, store: Path, tmp_path: Path, tiny_clip: str
) -> None:
    file = tmp_path / "store.h5"
    assert muse("store", "export", store, file).code == 0
    for command in (
        ("evaluate", "STORE", "--split", "all", "--device", "cpu"),
        ("search", "STORE", "text 1 of clip 2", "--device", "cpu"),
        ("store", "errors", "STORE"),
    ):
        found, wanted = (
            muse(*(path if word == "STORE" else word for word in command)) for path in (file, store)
        )
        assert (found.code, found.out) == (0, wanted.out)
    assert muse("store", "diff", store, file).code == 0
    described = [json.loads(muse("store", "info", path, "--json").out) for path in (store, file)]
    for content in described:
        del content["path"], content["size_bytes"]
    assert described[0] == described[1]


# -- what the command says -----------------------------------------------------------------------


def test_info_and_errors_tell_of_an_exported_file(muse: Muse, exported: Path) -> None:
    info = json.loads(muse("store", "info", exported, "--json").out)
    assert info["size_bytes"] == exported.stat().st_size
    assert info["counts"]["pending"] == 2
    assert "moov atom not found" in muse("store", "errors", exported, "--json").out
    assert muse("store", "info", exported).out.startswith(f"store        {exported}")


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("new.h5", ()), ("new.HDF5", ()), ("new", ("--to", "h5")), ("a folder/new.h5", ()),
    ],
)  # fmt: skip
def test_a_store_is_exported_whole_with_a_note_on_what_is_pending(
    muse: Muse, exported: Path, tmp_path: Path, name: str, flags: tuple[str, ...]
) -> None:
    outcome = muse("store", "export", exported, tmp_path / name, *flags)
    assert outcome.code == 0
    assert (tmp_path / name).read_bytes() == exported.read_bytes()
    assert "listed 8 = ok 4 + failed 1 + skipped 1 + pending 2; captions embedded 14" in outcome.out
    assert outcome.err.startswith("note: 2 of 8 videos are pending and not in it. Finish")


def test_vectors_are_exported_by_the_name_of_the_file(
    muse: Muse, exported: Path, tmp_path: Path
) -> None:
    outcome = muse("store", "export", exported, tmp_path / "x.parquet")
    assert (outcome.code, "4 of 8 videos" in outcome.out) == (0, True)
    assert pq.read_table(tmp_path / "x.parquet").num_rows == 4
    outcome = muse("store", "export", exported, tmp_path / "x.npy")
    assert (outcome.code, str(tmp_path / "x.ids.json") in outcome.out) == (0, True)
    assert np.load(tmp_path / "x.npy").shape == (4, 4)


def test_captions_are_exported_where_they_are_asked_for(
    muse: Muse, exported: Path, tmp_path: Path
) -> None:
    outcome = muse("store", "export", exported, tmp_path / "x.parquet", "--captions")
    assert (outcome.code, "14 of 16 captions" in outcome.out) == (0, True)
    assert pq.read_table(tmp_path / "x.parquet").column_names == [
        "video_id", "text", "split", "vector",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("store.txt",), 2, "its name says no form. Give --to h5, parquet or npy."),
        (("x.npy", "--to", "h5"), 2, "its name says npy, --to says h5."),
        (("x.h5", "--captions"), 2, "--captions: goes with --to parquet or npy."),
        (("store.h5",), 1, "is there already. Name another file, or add --overwrite."),
        (("folder.h5",), 1, "a folder is in the way. Name a file."),
        (("store.h5/x.h5",), 1, "can't be written"),
    ],
)
def test_what_can_not_be_exported_is_one_line(
    muse: Muse,
    exported: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    (tmp_path / "folder.h5").mkdir()
    before = exported.read_bytes()
    name, *flags = arguments
    outcome = muse("store", "export", exported, tmp_path / name, *flags)
    assert (outcome.code, outcome.out) == (code, "")
    assert words in outcome.err
    assert outcome.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.h5", "store.h5"]
    assert exported.read_bytes() == before


def test_a_file_may_take_its_own_place(muse: Muse, exported: Path) -> None:
    before = exported.read_bytes()
    assert muse("store", "export", exported, exported, "--overwrite").code == 0
    assert exported.read_bytes() == before


def test_a_file_that_is_no_store_is_one_line(muse: Muse, tmp_path: Path) -> None:
    (tmp_path / "x.h5").write_bytes(b"\x89HDF\r\n\x1a\n and nothing else")
    for command in ("evaluate", "train-head"):
        flags = ("--out", tmp_path / "run") if command == "train-head" else ()
        outcome = muse(command, tmp_path / "x.h5", *flags)
        assert (outcome.code, outcome.err.count("\n")) == (1, 1)
        assert "not a whole file of `muse store export`" in outcome.err
