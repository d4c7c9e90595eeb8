"""Vectors of a store as tables: what mean pooling gives, and nothing of what is not there."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tests.pipeline.full_disk import files_up_to
from tests.pipeline.raw_memory import ALL_VIEWS, IDS, RawMemoryStore, make_raw

from muse.errors import StoreError
from muse.head.model import MeanPoolHead
from muse.pipeline.exports import export
from muse.pipeline.exports.export import write_captions, write_pooled
from muse.pipeline.records import ClipFeatures

OK_ROWS = (0, 1, 3, 5)
OK_IDS = [IDS[row] for row in OK_ROWS]


@pytest.fixture
def source() -> RawMemoryStore:
    return make_raw()


def pooled_by_hand(features: ClipFeatures) -> list[float]:
    """Mean of the class tokens of the valid frames, each and then all at unit length."""
    total = [0.0] * 4
    for frame in range(3):
        if features.valid_T[frame]:
            token = [float(value) for value in features.arrays["tokens"][frame, 0]]
            length = math.sqrt(sum(value * value for value in token))
            total = [sum_ + value / length for sum_, value in zip(total, token, strict=True)]
    length = math.sqrt(sum(value * value for value in total))
    return [value / length for value in total]


def read_npy(file: Path) -> tuple[np.ndarray, dict]:
    return np.load(file), json.loads(file.with_suffix(".ids.json").read_text(encoding="utf-8"))


def test_a_vector_is_the_mean_of_the_unit_class_tokens(
    source: RawMemoryStore, tmp_path: Path
) -> None:
    write_pooled(source, tmp_path / "x.npy", kind="npy")
    vectors, about = read_npy(tmp_path / "x.npy")
    assert (vectors.dtype, about["video_id"], about["num_frames"]) == (
        np.float32, OK_IDS, [1, 2, 1, 3],
    )  # fmt: skip
    for vector, row in zip(vectors, OK_ROWS, strict=True):
        assert vector == pytest.approx(pooled_by_hand(source.read_features(row)), abs=1e-6)


def test_a_vector_is_the_one_of_the_mean_pool_head(source: RawMemoryStore, tmp_path: Path) -> None:
    write_pooled(source, tmp_path / "x.npy", kind="npy")
    clips = [source.read_clip(row) for row in OK_ROWS]
    tokens = torch.from_numpy(np.stack([clip.tokens_TKD for clip in clips]))
    valid = torch.from_numpy(np.stack([clip.valid_T for clip in clips]))
    wanted = MeanPoolHead().embed_videos(tokens, valid).numpy()
    assert np.load(tmp_path / "x.npy") == pytest.approx(wanted, abs=2e-7)


@pytest.mark.parametrize("views", [("tokens",), ("class",), ("int8", "class"), ("tokens", "int8")])
def test_every_view_with_class_tokens_gives_the_same_vector(
    views: tuple[str, ...], source: RawMemoryStore, tmp_path: Path
) -> None:
    write_pooled(make_raw(views=views), tmp_path / "x.npy", kind="npy")
    for vector, row in zip(np.load(tmp_path / "x.npy"), OK_ROWS, strict=True):
        assert vector == pytest.approx(pooled_by_hand(source.read_features(row)), abs=1e-6)


def test_int8_gives_nearly_the_same_vector(source: RawMemoryStore, tmp_path: Path) -> None:
    write_pooled(make_raw(views=("int8",)), tmp_path / "x.npy", kind="npy")
    for vector, row in zip(np.load(tmp_path / "x.npy"), OK_ROWS, strict=True):
        wanted = pooled_by_hand(source.read_features(row))
        assert 0.999 < float(vector @ np.array(wanted, np.float32)) < 1.0001


def test_a_pooled_view_is_exported_as_it_is(tmp_path: Path) -> None:
    source = make_raw(views=ALL_VIEWS)
    write_pooled(source, tmp_path / "x.npy", kind="npy")
    for vector, row in zip(np.load(tmp_path / "x.npy"), OK_ROWS, strict=True):
        assert vector.tobytes() == source.read_features(row).arrays["pooled"].tobytes()


def test_a_store_without_class_tokens_is_refused(source: RawMemoryStore, tmp_path: Path) -> None:
    source.arrays = (dataclasses.replace(source.arrays[0], name="unprojected"),)
    with pytest.raises(StoreError, match=r"its arrays \(unprojected\) hold no class tokens"):
        write_pooled(source, tmp_path / "x.npy", kind="npy")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rows_at_once", [4096, 4, 3, 1])
def test_parquet_has_the_same_vectors_and_says_where_they_are_from(
    source: RawMemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_at_once: int
) -> None:
    monkeypatch.setattr(export, "_ROWS_AT_ONCE", rows_at_once)
    write_pooled(source, tmp_path / "x.npy", kind="npy")
    assert write_pooled(source, tmp_path / "x.parquet", kind="parquet") == (tmp_path / "x.parquet",)
    table = pq.read_table(tmp_path / "x.parquet")
    assert str(table.schema.field("vector").type).startswith("fixed_size_list<element: float")
    assert table["video_id"].to_pylist() == OK_IDS
    assert table["num_frames"].to_pylist() == [1, 2, 1, 3]
    vectors = np.array(table["vector"].to_pylist(), np.float32)
    assert vectors.tobytes() == np.load(tmp_path / "x.npy").tobytes()
    about = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert about == {
        "vector": "unit mean of the frames' unit class tokens",
        "encoder": "made-up",
        "weights_sha256": "12ab",
        "fingerprint": source.header.fingerprint,
        "root_sha256": source.root_sha256,
    }


@pytest.mark.parametrize("kind", ["parquet", "npy"])
@pytest.mark.parametrize("rows_at_once", [4096, 5])
def test_captions_are_exported_with_their_texts(
    source: RawMemoryStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: export.TableKind,
    rows_at_once: int,
) -> None:
    monkeypatch.setattr(export, "_ROWS_AT_ONCE", rows_at_once)
    file = tmp_path / f"x.{kind}"
    write_captions(source, file, kind=kind)
    if kind == "parquet":
        columns = pq.read_table(file).to_pydict()
        vectors = np.array(columns["vector"], np.float32)
    else:
        vectors, columns = read_npy(file)
    rows = [row for row in range(16) if row not in (4, 5)]
    assert columns["text"] == [source.captions[row].text for row in rows]
    assert columns["video_id"] == [source.captions[row].video_id for row in rows]
    assert columns["split"] == [source.captions[row].split for row in rows]
    for vector, row in zip(vectors, rows, strict=True):
        embedding = np.array(source.embeddings[row], np.float64)
        assert vector == pytest.approx(embedding / math.sqrt((embedding**2).sum()), abs=1e-6)


@pytest.mark.parametrize("kind", ["parquet", "npy"])
def test_captions_are_exported_with_what_they_ask_for(
    source: RawMemoryStore, tmp_path: Path, kind: export.TableKind
) -> None:
    source.captions = [
        dataclasses.replace(caption, axis="order" if row == 9 else "")
        for row, caption in enumerate(source.captions)
    ]
    file = tmp_path / f"x.{kind}"
    write_captions(source, file, kind=kind)
    axes = (
        pq.read_table(file).to_pydict()["axis"] if kind == "parquet" else read_npy(file)[1]["axis"]
    )
    assert axes == ["order" if row == 9 else "" for row in range(16) if row not in (4, 5)]


@pytest.mark.parametrize("kind", ["parquet", "npy"])
def test_a_store_without_features_and_captions_gives_empty_tables(
    source: RawMemoryStore, tmp_path: Path, kind: export.TableKind
) -> None:
    source.has_features_N = np.zeros(len(IDS), np.bool_)
    source.captions, source.has_embedding_Q = [], np.zeros(0, np.bool_)
    for write in (write_pooled, write_captions):
        file = tmp_path / f"{write.__name__}.{kind}"
        write(source, file, kind=kind)
        if kind == "npy":
            assert np.load(file).shape == (0, 4)
        else:
            assert pq.read_table(file).num_rows == 0


def test_neither_file_is_replaced_unasked(source: RawMemoryStore, tmp_path: Path) -> None:
    (tmp_path / "x.ids.json").write_text("precious", encoding="utf-8")
    with pytest.raises(StoreError, match=r"x\.ids\.json: is there already"):
        write_pooled(source, tmp_path / "x.npy", kind="npy")
    assert [path.name for path in tmp_path.iterdir()] == ["x.ids.json"]
    write_pooled(source, tmp_path / "x.npy", kind="npy", overwrite=True)
    assert read_npy(tmp_path / "x.npy")[1]["video_id"] == OK_IDS


@pytest.mark.parametrize("kind", ["parquet", "npy"])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    source: RawMemoryStore, tmp_path: Path, kind: export.TableKind
) -> None:
    with (
        files_up_to(150),
        pytest.raises(StoreError, match=r"can't be written .*Nothing is left of it") as raised,
    ):
        write_pooled(source, tmp_path / "x", kind=kind)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_row_that_can_not_be_read_leaves_the_old_file(
    source: RawMemoryStore, tmp_path: Path
) -> None:
    file = tmp_path / "x.parquet"
    write_pooled(source, file, kind="parquet")
    before = file.read_bytes()
    source.has_features_N = np.ones(len(IDS), np.bool_)
    with pytest.raises(StoreError, match="row 2 has no features"):
        write_pooled(source, file, kind="parquet", overwrite=True)
    assert (list(tmp_path.iterdir()), file.read_bytes()) == ([file], before)
