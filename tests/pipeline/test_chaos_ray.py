"""Runs on Ray whose workers, nodes and drivers are killed end with the bytes of one that is not."""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from chaos import Driver, Run, decoders_of, descendants, kill, title, wait_until
from test_chaos import (  # noqa: F401  # the fixtures are used by their names
    assert_lock_is_free,
    assert_same,
    assert_sound,
    has_receipts,
    is_one_line,
    survivors,
    undisturbed,
    videos,
)

from muse.pipeline.store_zarr import ZarrStore

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning"),  # of ray
    pytest.mark.timeout(900),  # each kill costs as long as Ray takes to start what it hit
]
NUM_KILLS = 20


@dataclass
class TwoNodes:
    """A Ray of two nodes with a core each, of which the second may be killed."""

    cluster: Any
    second: Any
    num_killed: dict[str, int] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def workers(self) -> list[int]:
        return [pid for node in self.cluster.list_all_nodes() for pid in _workers_of(node)]

    def pids(self, target: str) -> list[int]:
        """Of one kind of process; those of the head node itself stay alive."""
        workers = self.workers()
        if target == "decoder":
            return list(decoders_of([pid for worker in workers for pid in descendants(worker)]))
        if target == "raylet":
            return [_raylet(self.second)]
        words = {"worker": "ray::decode_video", "actor": "ray::EncodeActor"}[target]
        return [pid for pid in workers if words in title(pid)]

    def kill(self, target: str, generator: random.Random) -> bool:
        """Kills one process of a kind, if there is any now."""
        pids = self.pids(target)
        is_hit = bool(pids) and kill(generator.choice(pids))
        if is_hit and target == "raylet":
            self.cluster.remove_node(self.second, allow_graceful=False)
            self.second = self.cluster.add_node(num_cpus=1)
        self.num_killed[target] = self.num_killed.get(target, 0) + is_hit
        return is_hit


def _raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def _workers_of(node: Any) -> list[int]:
    return [pid for pid in descendants(_raylet(node)) if title(pid).startswith("ray::")]


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[TwoNodes]:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": 10**8},
    )
    second = cluster.add_node(num_cpus=1, object_store_memory=10**8)
    yield TwoNodes(cluster=cluster, second=second)
    cluster.shutdown()


@pytest.mark.parametrize("num_encoders", [1, 2])
def test_ray_and_its_number_of_encoders_change_nothing(
    num_encoders: int,
    two_nodes: TwoNodes,
    videos: Path,  # noqa: F811
    undisturbed: ZarrStore,  # noqa: F811
    tmp_path: Path,
) -> None:
    run = Run(
        out=tmp_path / "store",
        videos=videos,
        engine="ray",
        address=two_nodes.address,
        num_encoders=num_encoders,
        seed=num_encoders,
    )
    assert Driver(run).outcome() == "done"
    assert_same(run.out, undisturbed)


def test_a_run_on_ray_survives_twenty_kills(
    two_nodes: TwoNodes,
    videos: Path,  # noqa: F811
    undisturbed: ZarrStore,  # noqa: F811
    tmp_path: Path,
) -> None:
    generator = random.Random(9)
    targets = [t for t in ("decoder", "worker", "actor", "raylet", "driver") for _ in range(4)]
    generator.shuffle(targets)
    endings: list[str] = []
    num_stores = 0
    while targets:
        run = Run(
            out=tmp_path / f"store{num_stores}",
            videos=videos,
            engine="ray",
            address=two_nodes.address,
            num_encoders=1 + num_stores % 2,
            seed=num_stores,
        )
        _kill_until_done(run, two_nodes, targets, generator, endings)
        assert_same(run.out, undisturbed)
        num_stores += 1
    print(f"kills {two_nodes.num_killed}, {num_stores} stores, other endings {endings}")


def _wait_for_work(run: Run, driver: Driver) -> None:
    wait_until(lambda: not driver.is_running or (run.out / "store.json").exists())


def _kill_until_done(
    run: Run,
    two_nodes: TwoNodes,
    targets: list[str],
    generator: random.Random,
    endings: list[str],
) -> None:
    """A run that is started until it ends; takes the kills that it had off the targets."""
    driver = Driver(run)
    while True:
        _wait_for_work(run, driver)
        time.sleep(generator.uniform(0.2, 1.5))
        if not driver.is_running:
            words = driver.outcome()
            if words == "done":
                return
            assert is_one_line(words, "WorkerError: Ray lost a worker or its result"), words
            endings.append(words)
            assert_sound(run.out)
            driver = Driver(run)
        elif targets and targets[-1] == "driver":
            family = descendants(driver.pid)
            theirs = [p for t in ("actor", "worker", "decoder") for p in two_nodes.pids(t)]
            driver.kill()
            targets.pop()
            assert survivors([*family, *theirs]) == []
            assert_sound(run.out)
            assert_lock_is_free(run.out)
            driver = Driver(run)
        elif targets and two_nodes.kill(targets[-1], generator):
            targets.pop()


def test_nothing_outlives_a_driver_that_started_its_own_ray(
    videos: Path,  # noqa: F811
    undisturbed: ZarrStore,  # noqa: F811
    tmp_path: Path,
) -> None:
    run = Run(out=tmp_path / "store", videos=videos, engine="ray")
    driver = Driver(run)
    assert wait_until(lambda: has_receipts(run.out))
    family = descendants(driver.pid)
    # Ray's own agents stay when a raylet is killed (Ray 2.60): they hold each other's pipes.
    agents = [pid for pid in family if title(pid).startswith("ray::") and "Agent" in title(pid)]
    assert any("ray::EncodeActor" in title(pid) for pid in family)
    assert list(decoders_of(family))
    driver.kill()
    assert survivors([pid for pid in family if pid not in agents]) == []
    for pid in agents:
        kill(pid)
    assert_lock_is_free(run.out)
    assert_sound(run.out)
    assert Driver(Run(out=run.out, videos=videos)).outcome() == "done"
    assert_same(run.out, undisturbed)
