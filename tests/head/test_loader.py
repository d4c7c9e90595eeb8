"""What the loader gives is what a plain loop over the store gives, whatever reads it."""

import itertools
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from memory_store import MemoryStore, make_store
from numpy.typing import NDArray

from muse.errors import StoreError
from muse.head import loader
from muse.head.data import HeadBatch, SplitSelection, select_split
from muse.head.epoch_order import PairOrder, epoch_batches
from muse.head.loader import read_pair_batches, read_video_batches
from muse.head.model import HeadConfig
from muse.head.train import StepReport, train
from muse.head.train_config import TrainConfig

CPU = torch.device("cpu")


def make_batches(selection: SplitSelection, *, epochs: int = 2) -> list[NDArray[np.intp]]:
    order = PairOrder(batch_size=7, seed=0, shuffle="shards", window_shards=3, shard_size=4)
    batches = [epoch_batches(selection, order, epoch=epoch) for epoch in range(epochs)]
    return list(itertools.chain(*batches))


def assert_same_pairs(
    batch: HeadBatch, store: MemoryStore, selection: SplitSelection, places: NDArray[np.intp]
) -> None:
    rows = [int(selection.video_rows_V[selection.video_of_caption_Q[place]]) for place in places]
    assert batch.video_rows_B.tolist() == rows
    assert len(batch.videos.tokens_BTKD) == len(batch.videos.valid_BT) == len(set(rows))
    texts = store.read_caption_embeddings(selection.caption_rows_Q[places]).astype(np.float32)
    assert np.array_equal(batch.text_BD.numpy(), texts)
    assert batch.videos.tokens_BTKD.dtype == torch.float16
    for row, video in zip(rows, batch.video_of_pair_B.tolist(), strict=True):
        clip = store.read_clip(row)
        assert np.array_equal(batch.videos.tokens_BTKD[video].numpy(), clip.tokens_TKD)
        assert np.array_equal(batch.videos.valid_BT[video].numpy(), clip.valid_T)


@pytest.mark.parametrize("window_shards", [None, 1, 3])
@pytest.mark.parametrize("num_threads", [1, 5])
def test_batches_hold_each_caption_and_its_own_video(
    num_threads: int, window_shards: int | None
) -> None:
    store = make_store(num_videos=30, captions_per_video=3, missing_videos=[4, 5, 11])
    selection = select_split(store, "train")
    batches = make_batches(selection)
    read = read_pair_batches(
        store,
        selection,
        batches,
        device=CPU,
        window_shards=window_shards,
        num_threads=num_threads,
    )
    for places, batch in zip(batches, read, strict=True):
        assert_same_pairs(batch, store, selection, places)


def test_a_video_that_several_pairs_show_is_read_once() -> None:
    store = make_store(num_videos=3, captions_per_video=3)
    selection = select_split(store, "train")
    places = np.array([8, 0, 7, 4, 2])
    (batch,) = read_pair_batches(store, selection, [places], device=CPU)
    assert sorted(store.reads) == [0, 1, 2]
    assert batch.video_of_pair_B.tolist() == [2, 0, 2, 1, 0]
    assert batch.video_rows_B.tolist() == [2, 0, 2, 1, 0]


def test_captions_that_do_not_fit_in_memory_are_read_with_their_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loader, "CAPTIONS_KEPT_BYTES", 100)
    store = make_store(num_videos=9, captions_per_video=2)
    selection = select_split(store, "train")
    batches = make_batches(selection)
    for places, batch in zip(
        batches, read_pair_batches(store, selection, batches, device=CPU), strict=True
    ):
        assert_same_pairs(batch, store, selection, places)


def test_batches_of_videos_come_in_order_and_of_any_size() -> None:
    store = make_store(num_videos=9)
    blocks = [np.array([3, 1, 2]), np.array([8]), np.array([0, 4, 5, 6, 7])]
    for rows, videos in zip(blocks, read_video_batches(store, blocks, device=CPU), strict=True):
        wanted = np.stack([store.read_clip(row).tokens_TKD for row in rows])
        assert np.array_equal(videos.tokens_BTKD.numpy(), wanted)
    assert list(read_video_batches(store, [], device=CPU)) == []


class GatedStore(MemoryStore):
    """Notes who reads what, and lets rows from ``first_shut`` on wait for a gate."""

    def __init__(self, *, first_shut: int = 10**9) -> None:
        made = make_store(num_videos=12, captions_per_video=1)
        super().__init__(
            made.header, made._clips, made.captions, made._embeddings_QD, made.has_embedding_Q
        )
        self.first_shut = first_shut
        self.gate = threading.Event()
        self.threads: set[threading.Thread] = set()

    def read_clips_into(
        self, rows: Sequence[int], tokens_NTKD: NDArray[np.float16]
    ) -> NDArray[np.bool_]:
        self.threads.add(threading.current_thread())
        if max(rows) >= self.first_shut:
            assert self.gate.wait(timeout=20)
        return super().read_clips_into(rows, tokens_NTKD)


def test_other_threads_read_and_no_more_than_two_batches_ahead() -> None:
    store = GatedStore()
    batches = read_video_batches(store, [np.array([row]) for row in range(6)], device=CPU)
    next(batches)
    for _ in range(1000):
        if len(store.reads) == 3:
            break
        threading.Event().wait(0.001)
    assert sorted(store.reads) == [0, 1, 2]
    assert threading.current_thread() not in store.threads
    batches.close()  # type: ignore[attr-defined]


def test_a_batch_that_is_there_does_not_wait_for_the_next() -> None:
    store = GatedStore(first_shut=1)
    batches = read_video_batches(store, [np.array([0]), np.array([1])], device=CPU)
    next(batches)
    store.gate.set()
    assert len(next(batches).valid_BT) == 1


@pytest.mark.parametrize("window_shards", [None, 2])
def test_an_error_comes_when_its_batch_is_due_and_leaves_no_thread(
    window_shards: int | None,
) -> None:
    store = make_store(num_videos=12, captions_per_video=1)
    selection = select_split(store, "train")
    store._clips = [*store._clips[:8], None, *store._clips[9:]]
    before = threading.active_count()
    batches = [np.array([0, 1]), np.array([2, 3]), np.array([8, 4])]
    read = read_pair_batches(store, selection, batches, device=CPU, window_shards=window_shards)
    for _ in range(2):
        next(read)
    with pytest.raises(StoreError, match="video8"):
        next(read)
    half = read_pair_batches(store, selection, batches[:2] * 5, device=CPU)
    next(half)
    half.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


@pytest.mark.gpu
def test_memory_is_not_filled_again_before_the_device_has_its_copy(cuda: torch.device) -> None:
    store = make_store(num_videos=60, captions_per_video=2)
    selection = select_split(store, "train")
    batches = make_batches(selection)
    busy = torch.ones(4096, 4096, device=cuda)
    copies = []
    for batch in read_pair_batches(store, selection, batches, device=cuda):
        assert batch.videos.tokens_BTKD.is_pinned()
        for _ in range(20):  # the copies wait behind it
            busy = busy @ busy / 4096
        copies.append(batch.map(lambda tensor: tensor.to(cuda, non_blocking=True)))
    for places, copy in zip(batches, copies, strict=True):
        assert_same_pairs(copy.map(torch.Tensor.cpu), store, selection, places)


def test_a_batch_is_taken_before_the_next_read_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    # Reading threads hold the interpreter's lock: they would keep a batch back that is there.
    events: list[str] = []
    for event in ("start", "finish"):
        monkeypatch.setattr(loader.StoreSource, event, lambda *_, event=event: events.append(event))
    batches = [np.arange(2)] * 5
    for _ in read_video_batches(make_store(num_videos=2), batches, device=CPU):
        events.append("computing")
    first = ["start"] * loader.NUM_BUFFERS + ["finish", "computing"]
    assert events[: len(first) + 3] == [*first, "finish", "start", "computing"]
    assert events.count("start") == events.count("finish") == len(batches)


# -- windows of shards ---------------------------------------------------------------------------


def count_reads(window_shards: int | None, *, num_videos: int = 160) -> list[int]:
    """Of the epoch's videos, by row."""
    store = make_store(num_videos=num_videos, captions_per_video=20)
    selection = select_split(store, "train")
    order = PairOrder(batch_size=16, seed=0, shuffle="shards", window_shards=8, shard_size=4)
    batches = epoch_batches(selection, order, epoch=0)
    for _ in read_pair_batches(store, selection, batches, device=CPU, window_shards=window_shards):
        pass
    return [store.reads.count(row) for row in range(num_videos)]


def test_a_window_reads_a_video_once_an_epoch_and_those_at_its_start_twice() -> None:
    counts = count_reads(8)
    assert set(counts) <= {1, 2}
    assert sum(counts) / len(counts) < 1.25  # 8 of 40 shards
    assert np.mean(count_reads(None)) > 15  # what 20 captions cost without it


def test_a_window_keeps_no_more_than_it_says() -> None:
    store = make_store(num_videos=160, captions_per_video=20)
    selection = select_split(store, "train")
    order = PairOrder(batch_size=16, seed=0, shuffle="shards", window_shards=8, shard_size=4)
    batches = epoch_batches(selection, order, epoch=0)
    made: list[int] = []
    new_memory = loader.ShardWindow._new_memory

    def counted(window: loader.ShardWindow) -> NDArray[np.float16]:
        made.append(1)
        return new_memory(window)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader.ShardWindow, "_new_memory", counted)
        read = read_pair_batches(store, selection, batches, device=CPU, window_shards=8)
        assert len(list(read)) == len(batches)
    assert len(made) <= 8 + 3  # what the batches ahead begin


def test_a_run_with_a_window_goes_on_bit_for_bit(tmp_path: Path) -> None:
    store = make_store(num_videos=24, captions_per_video=2)
    head = HeadConfig(dim=16, factors=(), depth=1, d_state=4)
    config = TrainConfig(
        epochs=2, batch_size=8, device="cpu", checkpoint_every=2, captions="one",
        shuffle="shards", shuffle_window=9,
    )  # fmt: skip

    def kill(report: StepReport) -> None:
        if report.step == 5:
            raise KeyboardInterrupt

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train(store, whole, head=head, config=config).num_steps == 6  # 24 pairs an epoch
    with pytest.raises(KeyboardInterrupt):
        train(store, cut, head=head, config=config, on_step=kill)
    assert train(store, cut, head=head, config=config).first_step == 4
    for name in ("head.safetensors", "state.safetensors"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()
