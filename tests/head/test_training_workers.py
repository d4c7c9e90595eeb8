"""A run of several processes is the run of one; cut short, it goes on as it would have."""

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from killed_training import require_same
from safetensors.torch import load_file

from muse.head.process_group import ProcessGroup
from muse.head.run_log import read_log
from muse.head.training_state import read_state

pytestmark = pytest.mark.slow
SETTINGS: dict[str, object] = {
    "epochs": 2,
    "batch_size": 4,
    "checkpoint_every": 2,
    "hold_out": 0.2,
    "ema": 0.9,
    "warmup": 0.0,
    "dropout": 0.0,
}


@contextmanager
def started(
    run: Path, settings: Mapping[str, object], size: int
) -> Iterator[list[subprocess.Popen[str]]]:
    script = Path(__file__).with_name("training_worker.py")
    meeting_point = run.with_name(f"meet-{uuid.uuid4().hex}")
    workers = []
    try:
        for rank in range(size):
            command = [
                *(sys.executable, "-W", "error", str(script), str(run), json.dumps(settings)),
                *(str(rank), str(size), str(meeting_point)),
            ]
            workers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        yield workers
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def finish(run: Path, settings: Mapping[str, object], *, size: int) -> None:
    with started(run, settings, size) as workers:
        assert [worker.wait(timeout=120) for worker in workers] == [0] * size


def kill_one_after(step: int, run: Path, settings: Mapping[str, object], *, size: int) -> None:
    with started(run, settings, size) as workers:
        assert workers[0].stdout is not None
        for line in workers[0].stdout:
            if int(line) == step:
                workers[-1].kill()
                break
        assert workers[0].wait(timeout=60) != 0  # alone it does not go on


def require_close(found: Path, wanted: Path) -> None:
    """The same run but for rounding."""
    for its, ours in zip(read_log(found), read_log(wanted), strict=True):
        for name in ("step", "epoch", "loss", "lr", "logit_scale", "grad_norm"):
            assert its[name] == pytest.approx(ours[name], rel=2e-3), (its["step"], name)
    weights, wanted_weights = (load_file(run / "head.safetensors") for run in (found, wanted))
    for name, tensor in wanted_weights.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-2, atol=1e-3)
    chosen = [json.loads((run / "selection.json").read_text()) for run in (found, wanted)]
    assert chosen[0]["epochs"] == chosen[1]["epochs"]  # ranks


@pytest.mark.parametrize(
    ("size", "change"),
    [
        (2, {}),
        (3, {}),
        (2, {"accumulate": 2}),
        (2, {"videos_at_once": 1}),
        (2, {"shuffle": "shards", "shuffle_window": 8}),
        (3, {"batch_size": 2}),  # fewer videos than workers in every step
    ],
)
def test_workers_train_what_one_trains(
    size: int, change: dict[str, object], tmp_path: Path
) -> None:
    settings = SETTINGS | change
    finish(tmp_path / "one", settings, size=1)
    finish(tmp_path / "several", settings, size=size)
    require_close(tmp_path / "several", tmp_path / "one")


def test_run_that_lost_a_worker_goes_on_bit_for_bit(tmp_path: Path) -> None:
    settings = SETTINGS | {"dropout": 0.5, "videos_at_once": 1}
    finish(tmp_path / "whole", settings, size=2)
    kill_one_after(3, tmp_path / "cut", settings, size=2)
    state = read_state(tmp_path / "cut")
    assert state is not None
    assert 2 <= state.step < len(read_log(tmp_path / "whole"))
    finish(tmp_path / "cut", settings, size=2)
    require_same(tmp_path / "cut", tmp_path / "whole")


def test_the_same_workers_give_the_same_bytes_and_draw_apart(tmp_path: Path) -> None:
    settings = SETTINGS | {"dropout": 0.5}
    for name in ("one", "two"):
        finish(tmp_path / name, settings, size=2)
    require_same(tmp_path / "one", tmp_path / "two")
    state = read_state(tmp_path / "one")
    assert state is not None
    own = [ProcessGroup(rank=rank, size=2).own_state(state.random) for rank in (0, 1)]
    assert not torch.equal(own[0]["cpu"], own[1]["cpu"])


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3)])
def test_run_goes_on_with_other_workers(before: int, after: int, tmp_path: Path) -> None:
    finish(tmp_path / "one", SETTINGS, size=1)
    kill_one_after(3, tmp_path / "run", SETTINGS, size=before)
    finish(tmp_path / "run", SETTINGS, size=after)
    require_close(tmp_path / "run", tmp_path / "one")
