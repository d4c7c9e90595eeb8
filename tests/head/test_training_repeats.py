"""The same call gives the same bytes, whatever happened in between."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch
from killed_training import RESULTS, finish, kill_after, require_same
from memory_store import make_store
from training_process import SETTINGS

from muse.errors import UsageError
from muse.head import training_state
from muse.head.determinism import deterministic_algorithms
from muse.head.model import HeadConfig
from muse.head.run_files import replace_file
from muse.head.train import train
from muse.head.train_config import TrainConfig

HEAD = HeadConfig(dim=16, factors=(1.0,), depth=1, d_state=2, dropout=0.5)
CONFIG = TrainConfig(
    epochs=2, batch_size=4, checkpoint_every=1, device="cpu", ema=0.5, hold_out=0.25, accumulate=2
)
NUM_FILES = 2 + 3 * 3  # of four steps: head and state, and what was chosen from the second on


class KilledError(Exception):
    """Stands for a kill: nothing after it runs."""


def test_the_same_call_gives_the_same_bytes(tmp_path: Path) -> None:
    store = make_store(num_videos=8)
    for name in ("one", "two"):
        torch.rand(5)  # what the caller draws is no business of the run
        train(store, tmp_path / name, head=HEAD, config=CONFIG)
    require_same(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize(
    "num_written",
    [4, *(pytest.param(n, marks=pytest.mark.slow) for n in range(NUM_FILES) if n != 4)],
)
def test_kill_between_any_two_files_changes_no_byte(
    num_written: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(num_videos=14)  # 20 pairs trained on: 2 steps an epoch
    written: list[str] = []

    def replace_or_die(path: Path, content: bytes) -> None:
        if len(written) == num_written:
            raise KilledError
        written.append(path.name)
        replace_file(path, content)

    train(store, tmp_path / "whole", head=HEAD, config=CONFIG)
    monkeypatch.setattr(training_state, "replace_file", replace_or_die)
    with pytest.raises(KilledError):
        train(store, tmp_path / "cut", head=HEAD, config=CONFIG)
    monkeypatch.undo()
    train(store, tmp_path / "cut", head=HEAD, config=CONFIG)
    require_same(tmp_path / "cut", tmp_path / "whole")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `training_process` that was left alone."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    finish(run, {**SETTINGS, "device": "cpu"})
    return run


@pytest.mark.slow
@pytest.mark.parametrize("steps", [(1,), (3,), (5, 8)])
def test_killed_process_goes_on_to_the_same_bytes(
    steps: tuple[int, ...], whole: Path, tmp_path: Path
) -> None:
    settings = {**SETTINGS, "device": "cpu"}
    for step in steps:
        kill_after(step, tmp_path / "run", settings)
    finish(tmp_path / "run", settings)
    require_same(tmp_path / "run", whole)


def test_results_of_a_later_epoch_that_a_kill_left_are_put_back(tmp_path: Path) -> None:
    store, run = make_store(num_videos=14), tmp_path / "run"
    config = dataclasses.replace(CONFIG, checkpoint_every=2)

    def die(record: object) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        train(store, run, head=HEAD, config=config, on_epoch=die)
    before = {name: (run / name).read_bytes() for name in RESULTS}
    for name in ("head.safetensors", "selection.json"):
        (run / name).write_bytes(b"of another attempt")
    found: list[dict[str, bytes]] = []
    train(
        store,
        run,
        head=HEAD,
        config=config,
        on_step=lambda report: found.append({name: (run / name).read_bytes() for name in RESULTS}),
    )
    assert found[0] == before  # step 3, which saves nothing


def test_torch_refuses_what_does_not_repeat_and_is_put_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    with deterministic_algorithms(is_on=True, device=torch.device("cuda")):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark


def test_nothing_is_set_for_a_cpu_or_without_the_flag() -> None:
    for is_on, device in ((True, "cpu"), (False, "cuda")):
        with deterministic_algorithms(is_on=is_on, device=torch.device(device)):
            assert not torch.are_deterministic_algorithms_enabled()


def test_cublas_must_have_been_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with (
        pytest.raises(UsageError, match=r"is None.*:4096:8 or :16:8.*prepare_process\(\)"),
        deterministic_algorithms(is_on=True, device=torch.device("cuda")),
    ):
        pass
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
