"""A run's settings are the defaults of another's flags."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Outcome

Muse = Callable[..., Outcome]
TRAIN = (
    *("--epochs", "1", "--batch-size", "4", "--depth", "1", "--device", "cpu", "--seed", "7"),
    *("--factors", "1", "--recompute", "--ema", "0.5", "--order", "frame", "--hold-out", "0.25"),
)


def settings(run: Path) -> dict[str, object]:
    content = json.loads((run / "config.json").read_text(encoding="utf-8"))
    return {**content["head"], **content["train"]}


@pytest.mark.slow
def test_a_run_s_settings_are_repeated(muse: Muse, store: Path, tmp_path: Path) -> None:
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    assert muse("train-head", store, "--out", one, *TRAIN).code == 0
    assert muse("train-head", store, "--out", two, "--config", one / "config.json").code == 0
    assert settings(two) == settings(one)
    assert (two / "head.safetensors").read_bytes() == (one / "head.safetensors").read_bytes()
    more = ("--config", one, "--factors", "none", "--seed", "8")  # what is typed wins
    assert muse("train-head", store, "--out", three, *more).code == 0
    assert settings(three) == {**settings(one), "factors": [], "seed": 8}


def test_what_can_t_be_repeated_is_named(muse: Muse, store: Path, tmp_path: Path) -> None:
    outcome = muse("train-head", store, "--out", tmp_path / "two", "--config", tmp_path / "none")
    assert (outcome.code, "no training run here" in outcome.err) == (1, True)
    one = tmp_path / "one"
    assert muse("train-head", store, "--out", one, *TRAIN).code == 0
    content = json.loads((one / "config.json").read_text(encoding="utf-8"))
    content["train"]["max_grad_norm"] = 2.0
    (one / "config.json").write_text(json.dumps(content), encoding="utf-8")
    outcome = muse("train-head", store, "--out", tmp_path / "two", "--config", one)
    assert (outcome.code, "max_grad_norm 2.0 has no flag" in outcome.err) == (2, True)
