"""Workers compute together what one computes alone."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from memory_store import MemoryStore, make_store
from torch import Tensor, nn
from worker_threads import WorkerThreads

from muse.errors import CheckpointError
from muse.head import process_group
from muse.head.aggregator import MuseAggregator
from muse.head.data import HeadBatch, select_split
from muse.head.devices import Precision
from muse.head.head_config import HeadConfig
from muse.head.learner import Learner
from muse.head.loader import read_pair_batches
from muse.head.model import RetrievalHead
from muse.head.optimizer import HeadOptimizer
from muse.head.process_group import ALONE, ProcessGroup, num_workers_of
from muse.head.selection import ModelSelector, SelectionRecord
from muse.head.train import train
from muse.head.train_config import TrainConfig

CPU = torch.device("cpu")
HEAD = HeadConfig(dim=16, factors=(0.5, 1.0), depth=1, d_state=4, dropout=0.0)
# 6 videos, 6 others, and 2: a third worker has none of these.
PLACES = [np.arange(6) * 2, np.arange(6, 18), np.array([3, 4, 5])]


def read_part(
    store: MemoryStore, group: ProcessGroup, *, window_shards: int | None = None
) -> list[HeadBatch]:
    """Copies, as the loader fills its memory anew."""
    selection = select_split(store, "train")
    read = read_pair_batches(
        store, selection, PLACES, device=CPU, window_shards=window_shards, group=group
    )
    return [batch.map(Tensor.clone) for batch in read]


def new_learner(
    head: RetrievalHead, group: ProcessGroup, *, videos_at_once: int, **settings: Any
) -> Learner:
    """Of a copy."""
    own = copy.deepcopy(head)
    optimizer = HeadOptimizer(
        own, peak_lr=0.1, warmup=0.0, num_steps=1, weight_decay=0.0, max_grad_norm=1e9
    )
    settings = {"duplicates": "masked", "precision": "fp32"} | settings
    return Learner(own, optimizer, videos_at_once=videos_at_once, group=group, **settings)


def learn(
    head: RetrievalHead,
    store: MemoryStore,
    group: ProcessGroup,
    *,
    videos_at_once: int,
    precision: Precision = "fp32",
) -> tuple[float, float, list[Tensor]]:
    """Loss, norm and gradients of a step of three batches."""
    learner = new_learner(head, group, videos_at_once=videos_at_once, precision=precision)
    learner.optimizer.update = lambda step: None  # type: ignore[method-assign]
    loss, norm = learner.learn(iter(read_part(store, group)), num_batches=3)
    return loss, norm, [parameter.grad for parameter in learner.head.parameters()]  # type: ignore[misc]


def test_parts_are_contiguous_even_and_perhaps_empty() -> None:
    rows = np.array([2, 3, 5, 7, 11])
    parts = [ProcessGroup(rank=rank, size=3).part(rows).tolist() for rank in range(3)]
    assert parts == [[2, 3], [5, 7], [11]]
    assert ProcessGroup(rank=6, size=7).part(rows).tolist() == []
    assert ALONE.part(rows).tolist() == rows.tolist()


@pytest.mark.parametrize("size", [2, 3, 7])
def test_rows_are_gathered_in_order_and_each_worker_s_own_have_a_gradient(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows_VD = torch.arange(10.0).view(5, 2)

    def work(group: ProcessGroup) -> tuple[Tensor, Tensor]:
        places = torch.from_numpy(group.part(np.arange(5)))
        own = rows_VD.clone().requires_grad_()
        gathered = group.gather_rows(own[places], num_rows=5)
        gathered.sum().backward()
        wanted = torch.zeros(5, 2)
        wanted[places] = 1
        assert torch.equal(own.grad, wanted)  # type: ignore[arg-type]
        return gathered.detach(), places

    for gathered, _ in WorkerThreads(size, monkeypatch).run(work):
        assert torch.equal(gathered, rows_VD)


@pytest.mark.parametrize("bucket_elements", [1, 4, 100])
def test_gradients_are_summed_in_buckets_and_one_that_nobody_has_stays_none(
    bucket_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_group, "BUCKET_ELEMENTS", bucket_elements)

    def work(group: ProcessGroup) -> list[Tensor | None]:
        parameters = [nn.Parameter(torch.zeros(shape)) for shape in ((2, 3), (1,), (2,), ())]
        parameters[0].grad = torch.full((2, 3), 1.0 + group.rank)
        if group.rank == 1:  # the others' videos did not use it
            parameters[2].grad = torch.tensor([5.0, 6.0])
        parameters[3].grad = torch.tensor(10.0)
        group.sum_gradients(parameters)
        return [parameter.grad for parameter in parameters]

    for first, second, third, fourth in WorkerThreads(3, monkeypatch).run(work):
        assert torch.equal(first, torch.full((2, 3), 6.0))  # type: ignore[arg-type]
        assert second is None
        assert third.tolist() == [5, 6]  # type: ignore[union-attr]
        assert fourth.item() == 30  # type: ignore[union-attr]


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("videos_at_once", [100, 2])
def test_workers_gradients_are_the_one_worker_s(
    videos_at_once: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, head = make_store(num_videos=9), RetrievalHead(HEAD)
    for parameter in head.aggregator.parameters():
        nn.init.normal_(parameter, std=0.1)
    loss, norm, gradients = learn(head, store, ALONE, videos_at_once=videos_at_once)
    found = WorkerThreads(size, monkeypatch).run(
        lambda group: learn(head, store, group, videos_at_once=videos_at_once)
    )
    for its_loss, its_norm, its_gradients in found:
        assert its_loss == pytest.approx(loss, rel=1e-5)
        assert its_norm == pytest.approx(norm, rel=1e-4)
        for its, wanted in zip(its_gradients, gradients, strict=True):
            torch.testing.assert_close(its, wanted, rtol=1e-3, atol=1e-5)
        # They go on from the same weights: the sums have the same bits everywhere.
        for its, first in zip(its_gradients, found[0][2], strict=True):
            assert torch.equal(its, first)


@pytest.mark.slow
@pytest.mark.parametrize("videos_at_once", [100, 2])
def test_workers_gradients_in_bf16_are_the_one_worker_s_to_its_rounding(
    videos_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, head = make_store(num_videos=9), RetrievalHead(HEAD)
    settings: dict[str, Any] = {"videos_at_once": videos_at_once, "precision": "bf16"}
    loss, norm, gradients = learn(head, store, ALONE, **settings)
    found = WorkerThreads(3, monkeypatch).run(lambda group: learn(head, store, group, **settings))
    for its_loss, its_norm, its_gradients in found:
        assert its_loss == pytest.approx(loss, rel=1e-2)
        assert its_norm == pytest.approx(norm, rel=1e-2)
        for its, wanted in zip(its_gradients, gradients, strict=True):
            assert its.dtype == torch.float32
            torch.testing.assert_close(its, wanted, rtol=5e-2, atol=5e-2 * norm)


@pytest.mark.slow
def test_activations_that_workers_make_again_give_the_same_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, head = make_store(num_videos=9), RetrievalHead(HEAD)
    _, _, gradients = learn(head, store, ALONE, videos_at_once=2)
    assert isinstance(head.aggregator, MuseAggregator)
    head.aggregator.recompute = True
    found = WorkerThreads(2, monkeypatch).run(
        lambda group: learn(head, store, group, videos_at_once=2)
    )
    for _, _, its_gradients in found:
        for its, wanted in zip(its_gradients, gradients, strict=True):
            torch.testing.assert_close(its, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_workers_average_the_same_weights_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    store, head = make_store(num_videos=9), RetrievalHead(HEAD)

    def average(group: ProcessGroup) -> Mapping[str, Tensor]:
        learner = new_learner(head, group, videos_at_once=2, ema=0.5)
        learner.optimizer.adam = torch.optim.SGD(learner.head.parameters(), lr=0)
        for batch in read_part(store, group):
            learner.learn([batch])
        return learner.weights

    wanted = average(ALONE)
    assert not torch.equal(wanted["logit_scale"], head.logit_scale)
    found = WorkerThreads(2, monkeypatch).run(average)
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[0][name], tensor, rtol=1e-4, atol=1e-6)
        assert torch.equal(found[1][name], found[0][name])


@pytest.mark.parametrize("size", [2, 7])
def test_workers_measure_held_out_videos_as_one_does(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 7 workers some have none of the 5 videos."""
    store, head = make_store(num_videos=9, num_test_videos=5), RetrievalHead(HEAD)
    measured_on = select_split(store, "test")

    def measured(group: ProcessGroup) -> SelectionRecord | None:
        selector = ModelSelector(store, measured_on, head, held_out=0.5, group=group)
        return selector.measure(head.state_dict(), epoch=1, step=3)

    first, *others = WorkerThreads(size, monkeypatch).run(measured)
    assert first == measured(ALONE)
    assert others == [None] * (size - 1)


@pytest.mark.parametrize("window_shards", [None, 2])
def test_workers_read_a_batch_s_videos_once_together(window_shards: int | None) -> None:
    store = make_store(num_videos=9)
    (*whole,) = read_part(store, ALONE)
    parts = [
        read_part(store, ProcessGroup(rank=rank, size=4), window_shards=window_shards)
        for rank in range(4)
    ]
    for place, batch in enumerate(whole):
        its = [part[place] for part in parts]
        tokens = torch.cat([part.videos.tokens_BTKD for part in its])
        assert torch.equal(tokens, batch.videos.tokens_BTKD)
        assert torch.equal(torch.cat([p.videos.valid_BT for p in its]), batch.videos.valid_BT)
        assert all(torch.equal(part.text_BD, batch.text_BD) for part in its)
        assert all(part.num_videos == batch.num_videos for part in its)
    assert [len(part[2].videos.valid_BT) for part in parts] == [1, 1, 0, 0]


def test_no_video_is_read_by_two_workers_in_a_step() -> None:
    reads = []
    for rank in range(3):
        store = make_store(num_videos=9)
        read_part(store, ProcessGroup(rank=rank, size=3))
        reads += store.reads
    rows = [np.unique(places // 2) for places in PLACES]
    assert sorted(reads) == sorted(np.concatenate(rows).tolist())


def test_each_worker_finds_its_own_random_state_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(group: ProcessGroup) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        states = group.gather_states({"cpu": torch.tensor([group.rank])})
        return states, group.own_state(states)

    found = WorkerThreads(11, monkeypatch).run(work)
    names = ["cpu", *(f"rank{rank}/cpu" for rank in range(1, 11))]
    for rank, (states, own) in enumerate(found):
        assert list(states) == names
        assert own["cpu"].item() == rank
    assert ProcessGroup(rank=11, size=12).own_state(found[0][0]) == {}
    assert num_workers_of(names) == 11
    assert num_workers_of(["cpu", "cuda"]) == 1


def test_a_worker_that_does_not_see_the_run_s_folder_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.distributed, "barrier", lambda: None)
    config, second = TrainConfig(num_workers=2, device="cpu"), ProcessGroup(rank=1, size=2)
    run = tmp_path / "run"
    with pytest.raises(CheckpointError, match=r"worker 1 of 2, on .* does not see .*share\."):
        train(make_store(), run, config=config, head=HEAD, group=second)
    assert not run.exists()


@pytest.mark.slow
def test_workers_that_find_different_checkpoints_in_one_folder_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(epochs=1, device="cpu")
    train(make_store(), tmp_path, config=config, head=HEAD)

    def other_has_none(states: list[object], own: dict[str, Tensor]) -> None:
        states[:] = [{"step": torch.tensor(0)}, own]

    monkeypatch.setattr(torch.distributed, "barrier", lambda: None)
    monkeypatch.setattr(torch.distributed, "all_gather_object", other_has_none)
    config, second = replace(config, num_workers=2), ProcessGroup(rank=1, size=2)
    with pytest.raises(CheckpointError, match=r"workers find steps \[0, 1\] there"):
        train(make_store(), tmp_path, config=config, head=HEAD, group=second)
