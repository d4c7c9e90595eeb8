"""Trains on several workers, of this machine or a Ray cluster: Ray Train starts them again if lost.

Each worker calls `muse.head.train.train` as one of a group. A lost worker costs the steps since the
last checkpoint: all workers start again and find it in the run folder, which all of them must see.
The only importer of ray in ``muse.head``. Knows nothing of what a step is.
"""

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from muse.errors import MuseError, UsageError, WorkerError
from muse.head.determinism import prepare_process
from muse.head.head_config import HeadConfig
from muse.head.process_group import ProcessGroup
from muse.head.selection import SelectionRecord
from muse.head.train import StepReport, TrainSummary, train
from muse.head.train_config import MAX_RESTARTS, TrainConfig
from muse.pipeline.store import FeatureStore, open_store

_POLL_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """What every worker is told."""

    store: str
    """Where it opens the store."""
    view: str
    run: Path
    config: TrainConfig
    head: HeadConfig | None
    command: tuple[str, ...]


def train_on_workers(
    store: FeatureStore,
    run: Path,
    *,
    config: TrainConfig,
    head: HeadConfig | None = None,
    command: Sequence[str] = (),
    on_step: Callable[[StepReport], None] = lambda report: None,
    on_epoch: Callable[[SelectionRecord], None] = lambda record: None,
    max_restarts: int = MAX_RESTARTS,
    ray_address: str | None = None,
) -> TrainSummary:
    """`muse.head.train.train` by ``config.num_workers`` workers, one a GPU where there are GPUs.

    Args:
        store: Of a place that every worker can open.
        run: A folder that every worker sees.
        config: How to train.
        head: What to train; `paper_head` if None.
        command: Written beside the weights.
        on_step: Called with each step of worker 0; after a restart with some a second time.
        on_epoch: The same of epochs.
        max_restarts: So many times in all a lost worker is made up for.
        ray_address: Of a running cluster; None: a Ray is started here and ended.

    Raises:
        WorkerError: If workers were lost more often; the same call then goes on.
        UsageError: If Ray can't be reached, has too few GPUs or CPUs, or comes without Ray Train.
        MuseError: What `train` raises in any worker; it is not tried again.
    """
    if max_restarts < 0:
        raise UsageError(f"max_restarts {max_restarts}: choose 0 or more")
    _require_ray_train()
    job = _Job(
        store=_absolute(store.location),
        view=store.token_view,
        run=run.absolute(),
        config=config,
        head=head,
        command=tuple(command),
    )
    with _connected(ray_address, num_workers=config.num_workers):
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        reports = ray.remote(num_cpus=0, scheduling_strategy=here)(_Reports).remote()
        with tempfile.TemporaryDirectory(prefix="muse-ray-train-") as folder:
            trainer = _trainer(job, reports, folder, max_restarts, is_local=ray_address is None)
            # A task, not a thread: one that waits for Ray while Ray is shut down never ends.
            fit = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=here)(_fit)
            fitting = fit.remote(trainer)
            try:
                _relay(reports, fitting, on_step, on_epoch)
            except BaseException:  # also Ctrl-C
                ray.cancel(fitting, force=True)  # its workers end with it
                raise
        return _summary(reports, fitting, job, max_restarts)


class _Reports:
    """An actor beside the caller: what the workers have to say, whoever of them is lost."""

    def __init__(self) -> None:
        self._waiting: list[StepReport | SelectionRecord] = []
        self._summary: TrainSummary | None = None
        self._error: MuseError | None = None

    def add(self, report: StepReport | SelectionRecord) -> None:
        self._waiting.append(report)

    def take(self) -> list[StepReport | SelectionRecord]:
        taken, self._waiting = self._waiting, []
        return taken

    def finish(self, summary: TrainSummary) -> None:
        self._summary = summary

    def fail(self, error: MuseError) -> None:
        self._error = self._error or error

    def error(self) -> MuseError | None:
        return self._error

    def summary(self) -> TrainSummary | None:
        return self._summary


def _work(settings: dict[str, Any]) -> None:
    """One worker, from its start or its group's restart to the end of the run."""
    job: _Job = settings["job"]
    reports = settings["reports"]
    if ray.get(reports.error.remote()) is not None:
        return  # Ray starts the group again after any error; ours would only come again
    if job.config.deterministic:
        prepare_process()
    try:
        summary = train(
            open_store(job.store, view=job.view),
            job.run,
            config=job.config,
            head=job.head,
            command=job.command,
            on_step=reports.add.remote,
            on_epoch=reports.add.remote,
            group=ProcessGroup.joined(),
        )
    except MuseError as error:
        ray.get(reports.fail.remote(error))
        raise
    if ProcessGroup.joined().is_first:
        ray.get(reports.finish.remote(summary))


def _fit(trainer: Any) -> None:
    """Until the workers are done, or were lost too often."""
    trainer.fit()


def _trainer(job: _Job, reports: Any, folder: str, max_restarts: int, *, is_local: bool) -> Any:
    """What starts the workers; ``folder`` is for Ray's own notes."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    num_workers = job.config.num_workers
    on_gpu = _on_gpu(job.config)
    resources = {"GPU": 1.0, "CPU": 1.0} if on_gpu else {"CPU": 1.0}
    for kind, needed in resources.items():
        if (have := int(ray.cluster_resources().get(kind, 0))) < needed * num_workers:
            next_step = "Name fewer"
            if not have and kind == "GPU":
                next_step = "Choose --device cpu, or a cluster with GPUs by --ray-address"
            raise UsageError(
                f"num_workers {num_workers}: this Ray has {have} {kind}s, and a worker takes one. "
                f"{next_step}."
            )
    if is_local and not on_gpu:  # a worker computes with as many threads
        resources["CPU"] = max(1, int(ray.cluster_resources()["CPU"]) // num_workers)
    return TorchTrainer(
        _work,
        train_loop_config={"job": job, "reports": reports},
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=num_workers, use_gpu=on_gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name="muse",
            storage_path=folder,
            failure_config=FailureConfig(max_failures=max_restarts),
        ),
    )


def _on_gpu(config: TrainConfig) -> bool:
    """The cluster is asked, not this process: a driver may well have no GPU."""
    return config.device != "cpu" and (
        config.device == "cuda" or ray.cluster_resources().get("GPU", 0) > 0
    )


def _relay(
    reports: Any,
    fitting: Any,
    on_step: Callable[[StepReport], None],
    on_epoch: Callable[[SelectionRecord], None],
) -> None:
    """Calls back with what the workers report, until they are done."""
    is_done = False
    while not is_done:
        is_done = bool(ray.wait([fitting], timeout=_POLL_SECONDS)[0])  # before the last look
        for report in ray.get(reports.take.remote()):
            if isinstance(report, StepReport):
                on_step(report)
            else:
                on_epoch(report)


def _summary(reports: Any, fitting: Any, job: _Job, max_restarts: int) -> TrainSummary:
    """How it ended, or why it did not, in our words."""
    if (ours := ray.get(reports.error.remote())) is not None:
        raise ours
    try:
        ray.get(fitting)
    except RayError as error:
        cause = error.cause if isinstance(error, RayTaskError) else error
        words = " ".join(str(cause).split())[:300]
        raise WorkerError(
            f"{job.run}: workers were lost more than {max_restarts} times ({words}). What was "
            "saved is safe: the same command goes on, and --max-restarts allows more."
        ) from error
    summary: TrainSummary = ray.get(reports.summary.remote())
    return summary


def _absolute(location: str) -> str:
    """A worker may have another working directory."""
    return location if "://" in location else str(Path(location).absolute())


def _require_ray_train() -> None:
    try:
        import ray.train.torch  # noqa: F401
    except ImportError as error:
        words = " ".join(str(error).split())[:200]
        raise UsageError(
            f"num_workers: Ray Train is not all here ({words}). "
            "Install it with `pip install 'muse-retrieval[workers]'`."
        ) from error


@contextlib.contextmanager
def _connected(address: str | None, *, num_workers: int) -> Iterator[None]:
    """Within Ray: the caller's, the one at an address, or one that lives as long."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    here = {"num_cpus": max(num_workers, os.cpu_count() or 1), "include_dashboard": False}
    try:
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            **(here if address is None else {}),
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        words = " ".join(str(error).split())[:200]
        raise UsageError(
            f"Ray at {address or 'this machine'} can't be reached: {words}. Check --ray-address."
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(RayError):
            ray.shutdown()
