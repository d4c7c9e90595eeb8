"""Nodes that join and leave during a run: new ones get work, lost work is done again elsewhere."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chaos import Driver, Run, descendants, title, wait_until
from test_chaos import assert_same, has_receipts

from muse.pipeline.store_zarr import ZarrStore

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning"),  # of ray
    pytest.mark.timeout(900),  # more than `PATIENCE` for each that is waited for
]
NUM_VIDEOS = 300
PATIENCE = 240.0  # seconds: Ray's processes take half a minute to start on a busy machine


@pytest.fixture(scope="module")
def many_videos(tmp_path_factory: pytest.TempPathFactory, make_video: Callable[..., Path]) -> Path:
    """So many that a slow run outlasts the start of two nodes, and one that is text."""
    folder = tmp_path_factory.mktemp("videos")
    made = make_video(tmp_path_factory.mktemp("made") / "v.mp4", num_frames=5, size=(32, 32))
    for number in range(NUM_VIDEOS - 1):
        shutil.copy(made, folder / f"v{number:03}.mp4")
    (folder / "broken.mp4").write_text("no video\n" * 9, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def undisturbed_many(many_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> ZarrStore:
    """Of the local engine."""
    out = tmp_path_factory.mktemp("undisturbed") / "store"
    run = Run(out=out, videos=many_videos, settings={"finds_duplicates": False})
    assert Driver(run).outcome() == "done"
    return ZarrStore.open(out)


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A node with one core."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": 10**8},
    )
    yield made
    made.shutdown()


def workers(node: Any, name: str) -> list[int]:
    """Processes of a node that are at such a task just now, or are such an actor."""
    raylet = int(node.all_processes["raylet"][0].process.pid)
    return [pid for pid in descendants(raylet) if title(pid).startswith(f"ray::{name}")]


def test_a_node_that_joins_gets_work_and_one_that_leaves_costs_nothing(
    cluster: Any, many_videos: Path, undisturbed_many: ZarrStore, tmp_path: Path
) -> None:
    run = Run(
        out=tmp_path / "store",
        videos=many_videos,
        engine="ray",
        address=str(cluster.address),
        slow_until=tmp_path / "all are at work",
        settings={"finds_duplicates": False},
    )
    driver = Driver(run)
    assert wait_until(lambda: has_receipts(run.out), timeout=PATIENCE)
    second = cluster.add_node(num_cpus=2, object_store_memory=10**8)
    assert wait_until(lambda: len(workers(second, "decode_video")) == 2, timeout=PATIENCE)
    assert driver.is_running
    third = cluster.add_node(num_cpus=1, object_store_memory=10**8)
    assert wait_until(lambda: bool(workers(third, "decode_video")), timeout=PATIENCE)
    assert driver.is_running
    cluster.remove_node(second, allow_graceful=False)  # with clips that nobody has read yet
    (tmp_path / "all are at work").touch()
    assert driver.outcome(timeout=PATIENCE) == "done"
    assert_same(run.out, undisturbed_many)


def test_a_gpu_that_joins_gets_an_encoder(
    many_videos: Path, undisturbed_many: ZarrStore, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 10**8}  # GPUs as Ray counts them
    cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **small})
    run = Run(
        out=tmp_path / "store",
        videos=many_videos,
        engine="ray",
        address=str(cluster.address),
        device="cuda",
        slow_until=tmp_path / "both encode",
        settings={"finds_duplicates": False},
    )
    driver = Driver(run)
    assert wait_until(lambda: has_receipts(run.out), timeout=PATIENCE)
    second = cluster.add_node(**small)
    assert wait_until(lambda: bool(workers(second, "EncodeActor.encode_videos")), timeout=PATIENCE)
    (tmp_path / "both encode").touch()
    assert driver.outcome(timeout=PATIENCE) == "done"
    assert_same(run.out, undisturbed_many)
    cluster.shutdown()


def test_what_a_gpu_had_in_hand_when_it_left_is_done_by_another(
    many_videos: Path, undisturbed_many: ZarrStore, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    few = {"num_cpus": 1, "object_store_memory": 10**8}
    cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **few})
    first = cluster.add_node(num_gpus=1, **few)
    run = Run(
        out=tmp_path / "store",
        videos=many_videos,
        engine="ray",
        address=str(cluster.address),
        device="cuda",
        settings={"finds_duplicates": False},
    )
    driver = Driver(run)
    assert wait_until(lambda: has_receipts(run.out), timeout=PATIENCE)
    cluster.remove_node(first, allow_graceful=False)  # no GPU is left, until
    cluster.add_node(num_gpus=1, **few)
    assert driver.outcome(timeout=PATIENCE) == "done"
    assert_same(run.out, undisturbed_many)
    cluster.shutdown()
