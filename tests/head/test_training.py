import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from memory_store import make_store, other_frames, with_header
from safetensors.torch import load_file

from muse.errors import (
    CheckpointError,
    IncompatibleStoreError,
    ManifestError,
    MuseError,
    UsageError,
)
from muse.head import learner as learner_module
from muse.head.evaluate import evaluate, open_head
from muse.head.head_config import HeadConfig, paper_head
from muse.head.model import MeanPoolHead, RetrievalHead
from muse.head.optimizer import HeadOptimizer, has_weight_decay, scheduled_rate
from muse.head.train import StepReport, train
from muse.head.train_config import TrainConfig

HEAD = HeadConfig(dim=16, factors=(0.5, 1.0), depth=2, d_state=4, dropout=0.5)
SEQ_TRANSF = dataclasses.replace(HEAD, aggregator="seq-transf", max_frames=4)
CLASS_TOKENS = dataclasses.replace(HEAD, factors=())
CONFIG = TrainConfig(epochs=2, batch_size=8, device="cpu", checkpoint_every=2)


class KilledError(Exception):
    """Stands for a kill: nothing after it runs."""


def kill_after(step: int):
    def on_step(report: StepReport) -> None:
        if report.step == step:
            raise KilledError

    return on_step


def log_lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(
    "head",
    [
        HEAD,
        pytest.param(SEQ_TRANSF, marks=pytest.mark.slow),
        pytest.param(CLASS_TOKENS, marks=pytest.mark.slow),
    ],
)
def test_training_lowers_the_loss_and_beats_mean_pooling(head: HeadConfig, tmp_path: Path) -> None:
    store = make_store(num_videos=24, captions_per_video=2)
    losses: list[float] = []
    train(
        store,
        tmp_path / "run",
        head=dataclasses.replace(head, dropout=0.0),
        config=dataclasses.replace(CONFIG, epochs=20, batch_size=24, lr=1e-2),
        on_step=lambda report: losses.append(report.loss),
    )
    assert np.mean(losses[-4:]) < 0.5 * np.mean(losses[:4])
    loaded, _ = open_head(str(tmp_path / "run"), store, device="cpu")
    assert loaded.name == head.aggregator
    trained = evaluate(store, loaded, split="train")
    pooled = evaluate(store, MeanPoolHead(), split="train")
    assert trained.text_to_video.recall_at[1] > pooled.text_to_video.recall_at[1] + 20
    assert trained.video_to_text.recall_at[1] > pooled.video_to_text.recall_at[1] + 20


@pytest.mark.parametrize(
    "killed_after",
    [3, pytest.param(1, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)],
)
def test_killed_and_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    killed_after: int, tmp_path: Path
) -> None:
    store = make_store(num_videos=12, captions_per_video=2)  # 3 steps an epoch, saved after 2
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(store, whole, head=HEAD, config=CONFIG)
    with pytest.raises(KilledError):
        train(store, cut, head=HEAD, config=CONFIG, on_step=kill_after(killed_after))
    torch.rand(7)  # what the caller draws in between is no business of the run
    steps: list[int] = []
    summary = train(
        store, cut, head=HEAD, config=CONFIG, on_step=lambda report: steps.append(report.step)
    )
    assert summary.first_step == {1: 0, 3: 3, 4: 4}[killed_after]
    assert steps == list(range(summary.first_step + 1, 7))
    for name in ("head.safetensors", "state.safetensors"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()
    measured = ("seconds", "pairs_per_second", "waiting_seconds")
    for found, wanted in zip(log_lines(cut), log_lines(whole), strict=True):
        assert [found[key] for key in found if key not in measured] == [
            wanted[key] for key in wanted if key not in measured
        ]


@pytest.mark.slow
@pytest.mark.parametrize("head", [SEQ_TRANSF, CLASS_TOKENS])
def test_resumed_baseline_equals_the_uninterrupted_one_bit_for_bit(
    head: HeadConfig, tmp_path: Path
) -> None:
    store, whole, cut = make_store(num_videos=12), tmp_path / "whole", tmp_path / "cut"
    train(store, whole, head=head, config=CONFIG)
    with pytest.raises(KilledError):
        train(store, cut, head=head, config=CONFIG, on_step=kill_after(3))
    assert train(store, cut, head=head, config=CONFIG).first_step == 3
    for name in ("head.safetensors", "state.safetensors"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()


def test_kill_between_checkpoints_goes_back_to_the_last_and_cuts_the_log(tmp_path: Path) -> None:
    store = make_store(num_videos=20, captions_per_video=2)
    config = dataclasses.replace(CONFIG, epochs=1)  # 5 steps, saved after 2 and 4
    with pytest.raises(KilledError):
        train(store, tmp_path / "run", head=HEAD, config=config, on_step=kill_after(3))
    with (tmp_path / "run" / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    assert train(store, tmp_path / "run", head=HEAD, config=config).first_step == 2
    assert [line["step"] for line in log_lines(tmp_path / "run")] == [1, 2, 3, 4, 5]


def test_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    store = make_store(num_videos=6)
    train(store, tmp_path / "run", head=HEAD, config=CONFIG)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
    reports: list[StepReport] = []
    summary = train(store, tmp_path / "run", head=HEAD, config=CONFIG, on_step=reports.append)
    assert reports == []
    assert summary.first_step == summary.num_steps
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()} == before


@pytest.mark.parametrize(
    ("head", "config", "field"),
    [
        (HEAD, dataclasses.replace(CONFIG, lr=1e-2), "lr 0.001, asked for 0.01"),
        (HEAD, dataclasses.replace(CONFIG, seed=1), "seed 42, asked for 1"),
        (dataclasses.replace(HEAD, depth=1), CONFIG, "head.depth 2, asked for 1"),
    ],
)
def test_run_of_other_settings_is_refused_by_the_field_that_differs(
    head: HeadConfig, config: TrainConfig, field: str, tmp_path: Path
) -> None:
    store = make_store(num_videos=6)
    train(store, tmp_path / "run", head=HEAD, config=CONFIG)
    with pytest.raises(CheckpointError, match=f"made with {field}"):
        train(store, tmp_path / "run", head=head, config=config)


def test_settings_of_the_machine_may_change_between_resumes(tmp_path: Path) -> None:
    store = make_store(num_videos=6)
    train(store, tmp_path / "run", head=HEAD, config=CONFIG)
    other = dataclasses.replace(CONFIG, device="auto", scan="cpu", checkpoint_every=9)
    train(store, tmp_path / "run", head=HEAD, config=other)


def test_run_of_another_store_is_refused_by_the_field_that_differs(tmp_path: Path) -> None:
    store = make_store(num_videos=6)
    train(store, tmp_path / "run", head=HEAD, config=CONFIG)
    with pytest.raises(IncompatibleStoreError, match=r"sampling\.num_frames is 5, but 4"):
        train(other_frames(store), tmp_path / "run", head=HEAD, config=CONFIG)
    listing = dataclasses.replace(store.header, listing_sha256="other")
    with pytest.raises(IncompatibleStoreError, match=r"listing_sha256 is 'other', but was '6-12'"):
        train(with_header(store, listing), tmp_path / "run", head=HEAD, config=CONFIG)


@pytest.mark.parametrize(
    ("state", "named"),
    [
        ("root_sha256", "root_sha256"),
        ("timestamps_sha256", "timestamps_sha256"),
        ("token_view", "view"),
    ],
)
def test_run_of_a_store_with_other_content_is_refused_by_what_differs(
    tmp_path: Path, state: str, named: str
) -> None:
    store = make_store(num_videos=6)
    train(store, tmp_path / "run", head=HEAD, config=CONFIG)
    setattr(store, state, "other")
    with pytest.raises(IncompatibleStoreError, match=rf": {named} is 'other', but was"):
        train(store, tmp_path / "run", head=HEAD, config=CONFIG)


def test_store_that_has_grown_since_is_refused(tmp_path: Path) -> None:
    train(make_store(missing_videos=[3]), tmp_path / "run", head=HEAD, config=CONFIG)
    with pytest.raises(CheckpointError, match="num_videos 11, asked for 12"):
        train(make_store(), tmp_path / "run", head=HEAD, config=CONFIG)


def test_folder_with_something_else_in_it_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match="not empty and no training run"):
        train(make_store(num_videos=6), tmp_path, head=HEAD, config=CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_run_folder_says_all_that_is_needed_to_make_it_again(tmp_path: Path) -> None:
    store = make_store(num_videos=6)
    command = ["muse", "train-head", "STORE"]
    train(store, tmp_path / "run", head=HEAD, config=CONFIG, command=command)
    content = json.loads((tmp_path / "run" / "config.json").read_text())
    assert content["command"] == command
    assert content["store"]["fingerprint"] == store.header.fingerprint
    assert content["train"] == dataclasses.asdict(CONFIG)
    assert content["head"] == {**dataclasses.asdict(HEAD), "factors": [0.5, 1.0]}
    assert content["ran_on"] == {"device": "cpu", "precision": "fp32", "scan": "cpu"}
    assert set(content["versions"]) == {"muse", "torch", "python"}
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        *("config.json", "head.safetensors", "state.safetensors", "log.jsonl", "tensorboard"),
    }
    assert any((tmp_path / "run" / "tensorboard").iterdir())
    weights = load_file(tmp_path / "run" / "head.safetensors")
    assert set(weights) == set(RetrievalHead(HEAD).state_dict())


def test_steps_report_what_the_log_holds(tmp_path: Path) -> None:
    reports: list[StepReport] = []
    train(
        make_store(num_videos=12),
        tmp_path / "run",
        head=HEAD,
        config=CONFIG,
        on_step=reports.append,
    )
    assert [report.step for report in reports] == [1, 2, 3, 4, 5, 6]
    assert [report.epoch for report in reports] == [1, 1, 1, 2, 2, 2]
    assert all(report.num_steps == 6 for report in reports)
    assert log_lines(tmp_path / "run") == [dataclasses.asdict(report) for report in reports]


def test_caller_keeps_its_random_state(tmp_path: Path) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    train(make_store(num_videos=6), tmp_path / "run", head=HEAD, config=CONFIG)
    assert torch.equal(torch.rand(3), wanted)


def test_loss_that_is_not_finite_stops_the_run_and_names_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def broken(*arguments, **options) -> torch.Tensor:
        calls.append(1)
        loss = train_loss(*arguments, **options)
        return loss * math.nan if len(calls) == 3 else loss

    train_loss = learner_module.symmetric_info_nce
    monkeypatch.setattr(learner_module, "symmetric_info_nce", broken)
    with pytest.raises(MuseError, match=r"^step 3: the loss is nan.*lower --lr \(now 0\.001\)"):
        train(make_store(num_videos=12), tmp_path / "run", head=HEAD, config=CONFIG)
    weights = load_file(tmp_path / "run" / "head.safetensors")  # of step 2
    assert all(tensor.isfinite().all() for tensor in weights.values())


@pytest.mark.slow
def test_temperature_never_passes_its_limit_while_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muse.head.model.MAX_LOGIT_SCALE", 0.5)  # low enough that it wants to rise
    scales: list[float] = []
    train(
        make_store(num_videos=12, is_turned=False),
        tmp_path / "run",
        head=HEAD,
        config=dataclasses.replace(CONFIG, lr=1e-2, epochs=8),
        on_step=lambda report: scales.append(report.logit_scale),
    )
    assert max(scales) == scales[-1] == 0.5


def test_gradients_are_scaled_down_to_the_norm_allowed() -> None:
    layer = torch.nn.Linear(3, 1)
    optimizer = HeadOptimizer(
        layer, peak_lr=0.01, warmup=0.0, num_steps=10, weight_decay=0.0, max_grad_norm=1.0
    )
    (3 * layer(torch.ones(1, 3))).sum().backward()
    assert optimizer.clip().item() == pytest.approx(6.0)  # three weights and a bias, 3 each
    assert layer.weight.grad.tolist() == [pytest.approx([0.5, 0.5, 0.5])]


def test_first_update_is_adams_with_decay_on_the_matrix_alone() -> None:
    layer = torch.nn.Linear(1, 1)
    weight, bias = layer.weight.item(), layer.bias.item()
    optimizer = HeadOptimizer(
        layer, peak_lr=0.01, warmup=0.0, num_steps=10, weight_decay=0.2, max_grad_norm=9.0
    )
    layer(torch.ones(1, 1)).sum().backward()
    optimizer.update(0)  # the first step of Adam is the learning rate, against the gradient
    assert layer.weight.item() == pytest.approx(weight * (1 - 0.01 * 0.2) - 0.01, abs=1e-6)
    assert layer.bias.item() == pytest.approx(bias - 0.01, abs=1e-6)
    assert layer.weight.grad is None


@pytest.mark.slow
def test_batch_embedded_in_parts_has_the_gradient_of_the_whole(tmp_path: Path) -> None:
    store, found = make_store(num_videos=12), {}
    for videos_at_once in (5, 12):
        config = dataclasses.replace(CONFIG, batch_size=24, videos_at_once=videos_at_once, epochs=6)
        run = tmp_path / str(videos_at_once)
        train(store, run, head=dataclasses.replace(HEAD, dropout=0.0), config=config)
        found[videos_at_once] = log_lines(run)
    for parts, whole in zip(found[5], found[12], strict=True):
        assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-4)
        assert parts["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-3)
        assert parts["logit_scale"] == pytest.approx(whole["logit_scale"], rel=1e-5)


def test_parts_are_embedded_twice_with_the_same_dropout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded: list[torch.Tensor] = []
    embed_videos = RetrievalHead.embed_videos

    def recorded(*arguments: torch.Tensor) -> torch.Tensor:
        embedded.append(embed_videos(*arguments))
        return embedded[-1]

    monkeypatch.setattr(RetrievalHead, "embed_videos", recorded)
    config = dataclasses.replace(CONFIG, batch_size=24, videos_at_once=6, epochs=4, lr=0.1)
    train(make_store(num_videos=12), tmp_path / "run", head=HEAD, config=config)
    *_, first, second, first_again, second_again = embedded
    torch.testing.assert_close(first_again, first)
    torch.testing.assert_close(second_again, second)


def test_duplicates_are_what_the_settings_say(tmp_path: Path) -> None:
    losses = []
    for duplicates in ("masked", "negatives"):
        config = dataclasses.replace(CONFIG, duplicates=duplicates, epochs=1)
        train(make_store(num_videos=4), tmp_path / duplicates, head=HEAD, config=config)
        losses.append(log_lines(tmp_path / duplicates)[0]["loss"])
    assert losses[0] < losses[1]


def test_schedule_is_the_published_one() -> None:
    rates = [scheduled_rate(step, num_steps=1000, peak=2.0, warmup=0.1) for step in range(1000)]
    assert rates[0] == 0
    assert rates[50] == pytest.approx(1.0)
    assert rates[99] == pytest.approx(1.98)
    assert rates[100] == pytest.approx(2 * 0.976, abs=1e-3)
    assert rates[500] == pytest.approx(1.0)
    assert rates[999] < 1e-5


def test_only_matrices_are_decayed() -> None:
    head = RetrievalHead(dataclasses.replace(HEAD, depth=1))
    plain = {name for name, value in head.named_parameters() if not has_weight_decay(name, value)}
    assert "logit_scale" in plain
    leaves = {name.removeprefix("aggregator.blocks.0.") for name in plain if "blocks" in name}
    assert leaves == {
        *("norm.weight", "norm.bias", "gate.bias"),
        *("mamba.A_log", "mamba.A_b_log", "mamba.D", "mamba.D_b"),
        *("mamba.conv1d.bias", "mamba.conv1d_b.bias", "mamba.dt_proj.bias"),
        "mamba.dt_proj_b.bias",
    }
    assert all(name.endswith("bias") or "norm" in name for name in plain if "pyramid" in name)


def test_paper_head_follows_the_store() -> None:
    head = paper_head(make_store(num_videos=2).header)
    assert (head.dim, head.logit_scale_init) == (16, 3.0)
    assert (head.factors, head.depth, head.expand) == ((0.5, 1.0, 2.0), 4, 1)
    assert (head.aggregator, head.max_frames) == ("muse", 4)  # a transformer has a place for each


def test_settings_out_of_range_are_refused() -> None:
    for changes, message in [
        ({"epochs": 0}, "epochs 0: at least 1"),
        ({"lr": 0.0}, "lr 0.0: choose a number above 0"),
        ({"warmup": 1.0}, "warmup 1.0"),
        ({"seed": -1}, "seed -1"),
        ({"duplicates": "dropped"}, "'dropped': choose one of masked, negatives"),
        ({"scan": "triton"}, "'triton': choose one of auto"),
    ]:
        with pytest.raises(UsageError, match=message):
            TrainConfig(**changes)


def test_bf16_without_cuda_is_refused(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, precision="bf16")
    with pytest.raises(UsageError, match="bf16: only on CUDA"):
        train(make_store(num_videos=6), tmp_path / "run", head=HEAD, config=config)
    assert not (tmp_path / "run").exists()


def test_split_without_pairs_leaves_no_folder(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, split="val")
    with pytest.raises(ManifestError, match="'val'"):
        train(make_store(num_videos=6), tmp_path / "run", head=HEAD, config=config)
    assert not (tmp_path / "run").exists()


@pytest.mark.gpu
def test_training_on_the_gpu_in_bf16_lowers_the_loss(tmp_path: Path, cuda: torch.device) -> None:
    losses: list[float] = []
    config = dataclasses.replace(CONFIG, epochs=20, batch_size=24, lr=1e-2, device="cuda")
    summary = train(
        make_store(num_videos=24),
        tmp_path / "run",
        head=dataclasses.replace(HEAD, dropout=0.0),
        config=config,
        on_step=lambda report: losses.append(report.loss),
    )
    assert summary.precision == "bf16"
    assert np.mean(losses[-4:]) < 0.5 * np.mean(losses[:4])
    shutil.rmtree(tmp_path / "run")
