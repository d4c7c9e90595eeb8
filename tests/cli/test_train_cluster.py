"""Training on the nodes of a Ray cluster: a lost node costs steps, another takes its place."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from muse.head.run_log import read_log

pytestmark = [
    pytest.mark.slow,
    # Of ray itself, on what it finds in the environment.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning"),
    pytest.mark.timeout(900),  # Ray starts what was lost as quickly as the machine lets it
]
SECONDS = 150.0  # for Ray to find that a node is gone, and to start workers, on a busy machine
FLAGS = (
    *("--batch-size", "4", "--hold-out", "0.25", "--device", "cpu", "--epochs", "80"),
    *("--depth", "1", "--factors", "1", "--checkpoint-every", "10", "--json"),
)


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head without CPUs, which runs no worker, and two nodes of one CPU each."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    made = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    made.first, made.second = (made.add_node(num_cpus=1) for _ in range(2))
    yield made
    made.shutdown()


def started(store: Path, run: Path, *flags: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "muse", "train-head", str(store), "--out", str(run)]
    return subprocess.Popen(
        [*command, *FLAGS, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_lost_node_costs_steps_and_another_takes_its_place(
    cluster: Any, store: Path, tmp_path: Path
) -> None:
    with started(store, tmp_path / "one") as process:
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    run, flags = tmp_path / "run", ("--num-workers", "2", "--ray-address", cluster.address)
    with started(store, run, *flags) as process:
        limit = time.monotonic() + SECONDS
        while len(read_log(run)) < 20:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < limit
            time.sleep(0.02)
        cluster.remove_node(cluster.second, allow_graceful=False)
        lost_at = len(read_log(run))
        cluster.add_node(num_cpus=1)
        _, err = process.communicate(timeout=2 * SECONDS)
    assert process.returncode == 0, err
    lines, wanted = read_log(run), read_log(tmp_path / "one")
    assert lost_at < len(wanted)
    assert [line["step"] for line in lines] == [line["step"] for line in wanted]
    assert lines[0]["loss"] == pytest.approx(wanted[0]["loss"], rel=1e-4)
    # Dropout is drawn apart, so the weights are near, not equal.
    for name, tensor in load_file(run / "head.safetensors").items():
        assert torch.isfinite(tensor).all(), name
