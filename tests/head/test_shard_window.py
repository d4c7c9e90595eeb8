"""Shards in memory while batches show them, on a store that answers when it likes."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from muse.head.shard_window import VIDEOS_A_READ, ShardWindow

SHARD_SIZE = VIDEOS_A_READ + 4  # two pieces each


class SlowStore:
    """Tokens are the row's number; one piece is late."""

    def __init__(self, *, late_from: int) -> None:
        self.header = SimpleNamespace(
            shard_size=SHARD_SIZE,
            encoder=SimpleNamespace(tokens_per_frame=1, dim=1),
            sampling=SimpleNamespace(num_frames=1),
        )
        self.token_view = "tokens"
        self.may_go = threading.Event()
        self._late_from = late_from

    def read_clips_into(
        self, rows: Sequence[int], tokens_NTKD: NDArray[np.float16]
    ) -> NDArray[np.bool_]:
        if rows[0] == self._late_from:
            self.may_go.wait(10)
        tokens_NTKD[...] = np.array(rows)[:, None, None, None]
        return np.ones((len(rows), 1), dtype=np.bool_)


def test_a_late_piece_of_a_shard_that_was_left_overwrites_no_other() -> None:
    late_from = 2 * SHARD_SIZE + VIDEOS_A_READ  # of the second batch's shard; no batch shows it
    store = SlowStore(late_from=late_from)
    starts = (0, 2 * SHARD_SIZE, SHARD_SIZE, 2 * SHARD_SIZE - 4)
    batches = [np.arange(start, start + 4) for start in starts]
    window = ShardWindow(store, np.arange(3 * SHARD_SIZE), batches, window_shards=1)  # type: ignore[arg-type]
    threading.Timer(0.1, store.may_go.set).start()
    with ThreadPoolExecutor(4) as pool:
        for rows_V in batches:
            window.start(pool, rows_V)
            if rows_V is batches[-1]:
                store.may_go.wait(10)
            tokens_VTKD = np.zeros((len(rows_V), 1, 1, 1), dtype=np.float16)
            window.read(rows_V.tolist(), tokens_VTKD)
            window.finish()
            assert tokens_VTKD.ravel().tolist() == rows_V.tolist()
