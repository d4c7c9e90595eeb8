"""Runs `training_process` in a process of its own, kills it, and compares two runs."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from training_process import SECONDS_A_STEP

RESULTS = ("head.safetensors", "state.safetensors", "selection.json")


def finish(run: Path, settings: Mapping[str, object]) -> None:
    """Trains to the end."""
    with _started(run, settings) as process:
        assert process.stdout is not None
        process.stdout.read()
    assert process.returncode == 0


MEASURED = ("seconds", "pairs_per_second", "waiting_seconds")


def kill_after(step: int, run: Path, settings: Mapping[str, object]) -> None:
    """SIGKILL some moment after a step, at most a step's time later."""
    with _started(run, settings) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == step:
                time.sleep(random.random() * 1.5 * SECONDS_A_STEP)
                process.kill()
                break
    assert process.returncode == -9


def require_same(found: Path, wanted: Path) -> None:
    """Same bytes of all that a run makes, seconds apart."""
    for name in RESULTS:
        assert (found / name).read_bytes() == (wanted / name).read_bytes(), name
    assert _log(found) == _log(wanted)


def _started(run: Path, settings: Mapping[str, object]) -> "subprocess.Popen[str]":
    script = Path(__file__).with_name("training_process.py")
    command = [sys.executable, "-W", "error", str(script), str(run), json.dumps(dict(settings))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _log(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in line if name not in MEASURED} for line in lines]
