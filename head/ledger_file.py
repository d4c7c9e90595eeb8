"""The ledger as a parquet file that any tool reads: a row for each caption and head.

Its columns: head; query, the caption's row in the store; text; axis; video_id, the right video;
rank, expected under ties; score, the right video's cosine; top_video_ids and top_scores, the best
videos in order. Knows nothing of how a ledger is made.
"""

# Legend: Q captions, k answers kept.

import io
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from muse.errors import UsageError
from muse.head.data import SplitSelection
from muse.head.ledger import QueryLedger
from muse.head.run_files import replace_file
from muse.pipeline.store import FeatureStore

NUM_ANSWERS = 5
SCHEMA = pa.schema(
    [
        ("head", pa.string()),
        ("query", pa.int64()),
        ("text", pa.string()),
        ("axis", pa.string()),
        ("video_id", pa.string()),
        ("rank", pa.float64()),
        ("score", pa.float32()),
        ("top_video_ids", pa.list_(pa.string())),
        ("top_scores", pa.list_(pa.float32())),
    ]
)


def write_ledgers(
    file: Path,
    store: FeatureStore,
    selection: SplitSelection,
    ledgers: Mapping[str, QueryLedger],
) -> None:
    """Writes a row for each caption, of one head after another.

    Args:
        file: Appears whole, or stays as it was.
        store: Where the texts and names are.
        selection: The captions and videos that the ledgers are of.
        ledgers: By the name of the head.

    Raises:
        UsageError: If the file can't be written.
    """
    if file.is_dir():
        raise UsageError(f"--ledger {file}: can't be written (it is a folder).")
    tables = [_table(store, selection, head, ledger) for head, ledger in ledgers.items()]
    content = io.BytesIO()
    pq.write_table(pa.concat_tables(tables), content)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, content.getvalue())
    except OSError as error:
        raise UsageError(f"--ledger {file}: can't be written ({error.strerror}).") from error


def _table(
    store: FeatureStore, selection: SplitSelection, head: str, ledger: QueryLedger
) -> pa.Table:
    captions = [store.captions[row] for row in selection.caption_rows_Q.tolist()]
    video_ids = [store.video_ids[row] for row in selection.video_rows_V.tolist()]
    columns = {
        "head": [head] * len(captions),
        "query": selection.caption_rows_Q,
        "text": [caption.text for caption in captions],
        "axis": [caption.axis for caption in captions],
        "video_id": [caption.video_id for caption in captions],
        "rank": ledger.ranks.expected().numpy(),
        "score": ledger.score_Q.numpy(),
        "top_video_ids": [[video_ids[place] for place in top] for top in ledger.top_Qk.tolist()],
        "top_scores": ledger.top_score_Qk.tolist(),
    }
    return pa.table(columns, schema=SCHEMA)
