"""What one step's gradient is: of several batches, and with activations made again."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from memory_store import MemoryStore, make_store
from torch import Tensor

from muse.head.data import HeadBatch, select_split
from muse.head.epoch_order import full_order
from muse.head.head_config import HeadConfig
from muse.head.learner import Learner
from muse.head.loader import read_pair_batches
from muse.head.loss import symmetric_info_nce
from muse.head.model import RetrievalHead
from muse.head.optimizer import HeadOptimizer
from muse.head.residual import ResMambaBlock
from muse.head.train import StepReport, train
from muse.head.train_config import TrainConfig
from muse.head.training_plan import PlannedStep, pair_order, plan_steps

HEAD = HeadConfig(dim=16, factors=(0.5, 1.0), depth=2, d_state=4, dropout=0.5)
CONFIG = TrainConfig(epochs=2, batch_size=8, device="cpu")


def kept_batches(store: MemoryStore, places: list[np.ndarray]) -> list[HeadBatch]:
    """Of split train; copies, as the loader fills its memory anew."""
    batches = read_pair_batches(
        store, select_split(store, "train"), places, device=torch.device("cpu")
    )
    return [batch.map(Tensor.clone) for batch in batches]


def plan(num_pairs: int, config: TrainConfig) -> list[PlannedStep]:
    store = make_store(num_videos=num_pairs, captions_per_video=1)
    return plan_steps(
        select_split(store, "train"),
        pair_order(store, config),
        epochs=config.epochs,
        accumulate=config.accumulate,
    )


def new_head() -> RetrievalHead:
    head = RetrievalHead(dataclasses.replace(HEAD, dropout=0.0))
    for parameter in head.aggregator.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return head


@pytest.mark.parametrize("videos_at_once", [100, 3])
def test_gradient_of_several_batches_is_the_mean_of_each_one_s(
    videos_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, head = make_store(num_videos=9), new_head()
    batches = kept_batches(store, [np.arange(start, start + 6) for start in (0, 6, 12)])
    losses, gradients = [], []
    for batch in batches:
        video_VD = head.embed_videos(batch.videos.tokens_BTKD, batch.videos.valid_BT)
        loss = symmetric_info_nce(
            *(batch.text_BD, video_VD[batch.video_of_pair_B], head.logit_scale, batch.video_rows_B)
        )
        losses.append(loss.item())
        gradients.append(torch.autograd.grad(loss, list(head.parameters())))
    optimizer = HeadOptimizer(
        head, peak_lr=0.1, warmup=0.0, num_steps=1, weight_decay=0.0, max_grad_norm=1e9
    )
    learner = Learner(
        head,
        optimizer,
        duplicates="masked",
        videos_at_once=videos_at_once,
        precision="fp32",
    )
    monkeypatch.setattr(optimizer, "update", lambda step: None)
    loss, grad_norm = learner.learn(iter(batches), num_batches=3)
    assert loss == pytest.approx(sum(losses) / 3, rel=1e-5)
    means = [sum(parts) / 3 for parts in zip(*gradients, strict=True)]
    for parameter, mean in zip(head.parameters(), means, strict=True):
        torch.testing.assert_close(parameter.grad, mean, rtol=1e-3, atol=1e-5)
    assert grad_norm == pytest.approx(sum(float(m.square().sum()) for m in means) ** 0.5, rel=1e-3)
    assert learner.step == 1


def test_steps_take_batches_in_order_and_leave_out_what_does_not_fill_one() -> None:
    config = dataclasses.replace(CONFIG, accumulate=2, epochs=2)
    steps = plan(47, config)  # 5 batches of 8 an epoch
    assert [(step.epoch, step.ends_epoch, step.num_pairs) for step in steps] == [
        *((1, False, 16), (1, True, 16)),
        *((2, False, 16), (2, True, 16)),
    ]
    order = full_order(47, seed=config.seed, epoch=1).tolist()
    found = [places_B.tolist() for step in steps[2:] for places_B in step.batches]
    assert found == [order[start : start + 8] for start in (0, 8, 16, 24)]


def test_an_epoch_of_fewer_batches_than_a_step_takes_is_one_step() -> None:
    steps = plan(20, dataclasses.replace(CONFIG, accumulate=9, epochs=1))
    assert [(len(step.batches), step.ends_epoch) for step in steps] == [(2, True)]


@pytest.mark.slow
def test_steps_and_checkpoints_count_updates(tmp_path: Path) -> None:
    reports: list[StepReport] = []
    config = dataclasses.replace(CONFIG, accumulate=2, warmup=0.0)
    store = make_store(num_videos=16)  # 4 batches an epoch
    train(store, tmp_path / "run", head=HEAD, config=config, on_step=reports.append)
    assert [(report.step, report.num_steps) for report in reports] == [
        (1, 4), (2, 4), (3, 4), (4, 4),
    ]  # fmt: skip
    assert reports[2].lr == pytest.approx(1e-3 / 2)  # half of the way down


@pytest.mark.parametrize("videos_at_once", [16, pytest.param(3, marks=pytest.mark.slow)])
def test_activations_that_are_made_again_change_no_bit(
    videos_at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, calls = make_store(num_videos=12), []
    forward = ResMambaBlock.forward

    def counted(*arguments: object) -> torch.Tensor:
        calls.append(torch.is_grad_enabled())
        return forward(*arguments)

    monkeypatch.setattr(ResMambaBlock, "forward", counted)
    num_calls = []
    for recompute in (False, True):
        config = dataclasses.replace(CONFIG, recompute=recompute, videos_at_once=videos_at_once)
        train(store, tmp_path / str(recompute), head=HEAD, config=config)
        num_calls.append(sum(calls))
        calls.clear()
    assert num_calls[1] == 2 * num_calls[0] > 0
    for name in ("head.safetensors", "state.safetensors"):
        kept, made_again = (tmp_path / str(is_on) / name for is_on in (False, True))
        assert kept.read_bytes() == made_again.read_bytes()


@pytest.mark.parametrize("videos_at_once", [16, 3])
def test_mean_pooling_learns_its_temperature(videos_at_once: int, tmp_path: Path) -> None:
    head = dataclasses.replace(HEAD, depth=0, factors=(), logit_scale_init=1.0)
    reports: list[StepReport] = []
    config = dataclasses.replace(CONFIG, videos_at_once=videos_at_once, warmup=0.0)
    store = make_store(num_videos=12)
    train(store, tmp_path / "run", head=head, config=config, on_step=reports.append)
    assert len({report.logit_scale for report in reports}) == len(reports) > 1


def test_run_that_an_older_muse_began_goes_on_with_what_it_did(tmp_path: Path) -> None:
    store, run = make_store(num_videos=8), tmp_path / "run"
    train(store, run, head=HEAD, config=CONFIG)
    content = json.loads((run / "config.json").read_text())
    for name in (
        *("accumulate", "decay", "deterministic", "ema", "hold_out"),
        *("optimizer", "recompute", "select_on"),
    ):
        del content["train"][name]
    (run / "config.json").write_text(json.dumps(content))
    assert train(store, run, head=HEAD, config=CONFIG).first_step == 4


@pytest.mark.slow
@pytest.mark.parametrize("aggregator", ["muse", "seq-transf"])
def test_published_optimiser_lowers_the_loss(aggregator: str, tmp_path: Path) -> None:
    losses: list[float] = []
    train(
        make_store(num_videos=24),
        tmp_path / "run",
        head=dataclasses.replace(HEAD, dropout=0.0, aggregator=aggregator, max_frames=4),
        config=dataclasses.replace(
            CONFIG, optimizer="bertadam", decay="published", epochs=15, batch_size=24, lr=1e-2
        ),
        on_step=lambda report: losses.append(report.loss),
    )
    assert np.mean(losses[-4:]) < 0.6 * np.mean(losses[:4])
