"""On CUDA the same call gives the same bytes too, if it is asked for."""

from pathlib import Path

import pytest
import torch
from killed_training import finish, kill_after, require_same
from training_process import SETTINGS

CUDA = {**SETTINGS, "device": "cuda", "deterministic": True}

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("cuda")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was left alone; in a process of its own, as cuBLAS looks at its setting once."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    if torch.cuda.is_available():  # this comes before the fixture that skips
        finish(run, CUDA)
    return run


def test_the_same_call_gives_the_same_bytes_on_the_gpu(whole: Path, tmp_path: Path) -> None:
    finish(tmp_path / "run", CUDA)
    require_same(tmp_path / "run", whole)


@pytest.mark.parametrize("steps", [(1,), (3,), (5, 8)])
def test_killed_process_goes_on_to_the_same_bytes_on_the_gpu(
    steps: tuple[int, ...], whole: Path, tmp_path: Path
) -> None:
    for step in steps:
        kill_after(step, tmp_path / "run", CUDA)
    finish(tmp_path / "run", CUDA)
    require_same(tmp_path / "run", whole)


@pytest.mark.parametrize("changes", [{"recompute": True}, {"videos_at_once": 3}])
def test_memory_that_is_saved_repeats_on_the_gpu_too(
    changes: dict[str, object], tmp_path: Path
) -> None:
    for name in ("one", "two"):
        finish(tmp_path / name, {**CUDA, **changes})
    require_same(tmp_path / "one", tmp_path / "two")


def test_activations_that_are_made_again_change_no_bit_on_the_gpu(
    whole: Path, tmp_path: Path
) -> None:
    finish(tmp_path / "run", {**CUDA, "recompute": True})
    require_same(tmp_path / "run", whole)
