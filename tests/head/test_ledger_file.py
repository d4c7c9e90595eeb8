from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from memory_store import MemoryStore, make_store

from muse.errors import UsageError
from muse.head.data import read_captions
from muse.head.embeddings import SplitEmbeddings, embed_split
from muse.head.ledger import QueryLedger, text_to_video_ledger
from muse.head.ledger_file import NUM_ANSWERS, SCHEMA, write_ledgers
from muse.head.model import MeanPoolHead


def evaluated() -> tuple[MemoryStore, SplitEmbeddings, QueryLedger]:
    store = make_store(num_videos=12, num_test_videos=8, axes=("what", ""), missing_videos=(6,))
    embedded = embed_split(store, MeanPoolHead())
    ledger = text_to_video_ledger(
        embedded.text_QD, embedded.video_VD, embedded.video_of_caption_Q, k=NUM_ANSWERS
    )
    return store, embedded, ledger


def test_a_row_tells_of_a_caption_what_a_loop_finds(tmp_path: Path) -> None:
    store, embedded, ledger = evaluated()
    file = tmp_path / "new folder" / "ledger.parquet"
    write_ledgers(file, store, embedded.selection, {"mean-pool": ledger})
    table = pq.ParquetFile(file).read()
    assert table.schema.equals(SCHEMA)
    rows = table.to_pylist()
    assert len(rows) == 14
    names = [f"video{row}" for row in (4, 5, 7, 8, 9, 10, 11)]
    for row in rows:
        caption = store.captions[row["query"]]
        assert (row["text"], row["axis"]) == (caption.text, caption.axis)
        assert (row["head"], row["video_id"]) == ("mean-pool", caption.video_id)
        text_D = read_captions(store, np.array([row["query"]]))[0]
        text_D = text_D / text_D.norm()
        cosines = {
            name: float(text_D @ video)
            for name, video in zip(names, embedded.video_VD, strict=True)
        }
        ordered = sorted(names, key=lambda name: -cosines[name])
        assert row["top_video_ids"] == ordered[:5]
        assert row["top_scores"] == pytest.approx([cosines[name] for name in ordered[:5]], abs=1e-5)
        assert row["rank"] == 1 + ordered.index(caption.video_id)
        assert row["score"] == pytest.approx(cosines[caption.video_id], abs=1e-5)


def test_two_heads_follow_each_other(tmp_path: Path) -> None:
    store, embedded, ledger = evaluated()
    file = tmp_path / "ledger.parquet"
    write_ledgers(file, store, embedded.selection, {"run": ledger, "mean-pool": ledger})
    heads = pq.ParquetFile(file).read()["head"].to_pylist()
    assert heads == ["run"] * 14 + ["mean-pool"] * 14


def test_a_file_that_can_t_be_written_is_told(tmp_path: Path) -> None:
    store, embedded, ledger = evaluated()
    with pytest.raises(UsageError, match="can't be written"):
        write_ledgers(tmp_path, store, embedded.selection, {"mean-pool": ledger})
