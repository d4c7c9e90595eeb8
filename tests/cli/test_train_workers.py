"""`muse train-head --num-workers`: Ray starts the workers, and starts them again if one is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from muse.head.run_log import read_log

RESULTS = ("head.safetensors", "state.safetensors", "selection.json")
SECONDS = 120.0  # for Ray to start on a busy machine
FLAGS = (
    *("--batch-size", "4", "--hold-out", "0.25", "--device", "cpu"),
    *("--depth", "1", "--factors", "1", "--json"),
)


def started(store: Path, run: Path, *flags: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "muse", "train-head", str(store), "--out", str(run)]
    return subprocess.Popen(
        [*command, *FLAGS, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def workers_of(process: "subprocess.Popen[str]") -> list[int]:
    """Ids of the training workers that a command has started, by way of Ray's own processes."""
    parent_of, names = {}, {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            names[int(folder.name)] = (folder / "cmdline").read_bytes()
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        parent_of[int(folder.name)] = int(stat[1])

    def is_below(pid: int) -> bool:
        while pid in parent_of:
            if pid == process.pid:
                return True
            pid = parent_of[pid]
        return False

    found = [pid for pid, name in names.items() if name.startswith(b"ray::RayTrainWorker")]
    return sorted(filter(is_below, found))


def wait_for_step(run: Path, step: int) -> None:
    limit = time.monotonic() + SECONDS
    while len(read_log(run)) < step:
        assert time.monotonic() < limit, f"{run}: no step {step}"
        time.sleep(0.02)


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_log(run)]


@pytest.mark.timeout(900)  # two runs, and a worker that is started again
@pytest.mark.slow
def test_a_worker_that_is_killed_costs_steps_and_no_bit(store: Path, tmp_path: Path) -> None:
    flags = ("--num-workers", "2", "--epochs", "60")
    with started(store, tmp_path / "whole", *flags) as process:
        out, err = process.communicate(timeout=2 * SECONDS)
    assert process.returncode == 0, err
    events = [json.loads(line) for line in out.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds.count("step") == events[-1]["steps"] == len(losses(tmp_path / "whole"))
    assert (kinds.count("epoch"), kinds[-1]) == (60, "done")

    with started(store, tmp_path / "cut", *flags) as process:
        wait_for_step(tmp_path / "cut", 20)
        workers = workers_of(process)
        assert len(workers) == 2
        os.kill(workers[-1], signal.SIGKILL)
        killed_at = len(read_log(tmp_path / "cut"))
        _, err = process.communicate(timeout=3 * SECONDS)
    assert process.returncode == 0, err
    assert killed_at < kinds.count("step")
    for name in RESULTS:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


@pytest.mark.slow
def test_workers_that_may_not_be_made_up_for_end_the_run_in_one_line(
    store: Path, tmp_path: Path
) -> None:
    run, flags = tmp_path / "run", ("--num-workers", "2", "--epochs", "300")
    with started(store, run, *flags, "--max-restarts", "0") as process:
        wait_for_step(run, 10)
        os.kill(workers_of(process)[0], signal.SIGKILL)
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    *of_ray, line = err.splitlines()  # Ray may say whom it lost
    assert not [text for text in of_ray if text.startswith("muse: ")]
    assert line.startswith(f"muse: {run}: workers were lost more than 0 times (")
    assert line.endswith("--max-restarts allows more.")


@pytest.mark.slow
def test_an_error_of_a_worker_is_its_one_line(store: Path, tmp_path: Path) -> None:
    flags = ("--num-workers", "2", "--precision", "bf16")
    with started(store, tmp_path / "run", *flags) as process:
        _, err = process.communicate(timeout=2 * SECONDS)
    assert process.returncode == 2
    assert err == "muse: precision bf16: only on CUDA, and this run is on cpu\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_missing_ray_train_is_named_with_what_installs_it(
    muse: Callable[..., object], store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray.train.torch", None)
    outcome = muse("train-head", store, "--out", tmp_path / "run", *FLAGS, "--num-workers", "2")
    assert outcome.code == 2  # type: ignore[attr-defined]
    assert outcome.err.startswith("muse: num_workers: Ray Train is not all here")  # type: ignore[attr-defined]
    assert "'muse-retrieval[workers]'" in outcome.err  # type: ignore[attr-defined]


@pytest.mark.slow
def test_an_interrupted_run_leaves_no_worker_and_one_worker_goes_on(
    store: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with started(store, run, "--num-workers", "2", "--epochs", "60") as process:
        wait_for_step(run, 10)
        workers = workers_of(process)
        assert len(workers) == 2
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    done = len(read_log(run))
    with started(store, run, "--epochs", "60") as process:
        out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    events = [json.loads(line) for line in out.splitlines()]
    steps = [event["step"] for event in events if event["event"] == "step"]
    assert 1 < steps[0] <= done + 1
    assert len(losses(run)) == events[-1]["steps"]


@pytest.mark.slow
def test_one_worker_imports_no_ray(store: Path, tmp_path: Path) -> None:
    script = "import sys, muse.cli.app; muse.cli.app.main()"
    ending = f"try:\n {script}\nfinally:\n assert 'ray' not in sys.modules"
    command = [sys.executable, "-c", ending, "train-head", str(store), "--out", str(tmp_path / "r")]
    subprocess.run([*command, *FLAGS, "--epochs", "1"], check=True, timeout=60)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--ray-address", "here:1"), "muse: --ray-address here:1: one worker trains here."),
        (("--num-workers", "0"), "muse: num_workers 0: at least 1 is needed"),
        (("--num-workers", "2", "--seeds", "2"), "muse: num_workers 2: this call is made by 1."),
    ],
)
def test_flags_that_do_not_go_together_are_refused(
    flags: tuple[str, ...], words: str, muse: Callable[..., object], store: Path, tmp_path: Path
) -> None:
    outcome = muse("train-head", store, "--out", tmp_path / "run", *FLAGS, *flags)
    assert outcome.code == 2  # type: ignore[attr-defined]
    assert outcome.err.startswith(words)  # type: ignore[attr-defined]
    assert not (tmp_path / "run").exists()
