"""Trains a head on a feature store: the page to start reading with.

Reads top to bottom: what a step reports, `train`, and what `train` is made of. The settings are in
`muse.head.train_config`, what is trained is made in `muse.head.assembly`. Knows nothing of
terminals: it reports each step to a callback and words nothing but errors.
"""

# Legend: B pairs in a batch.

import dataclasses
import itertools
import logging
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from muse.errors import CheckpointError, MuseError, UsageError
from muse.head.assembly import (
    new_head,
    new_learner,
    require_fitting,
    resolve_scan,
    token_ids_of,
)
from muse.head.checkpoint import RunConfig, open_run
from muse.head.data import HeadBatch, SplitSelection
from muse.head.determinism import deterministic_algorithms
from muse.head.devices import Precision, resolve_device, resolve_precision
from muse.head.head_config import HeadConfig, paper_head
from muse.head.learner import Learner
from muse.head.loader import read_pair_batches
from muse.head.process_group import ALONE, ProcessGroup, num_workers_of
from muse.head.run_files import CONFIG_FILE, STATE_FILE
from muse.head.run_log import RunLog
from muse.head.scan.select import ScanBackend
from muse.head.selection import ModelSelector, SelectionRecord, read_selection
from muse.head.train_config import VIDEOS_AT_ONCE, TrainConfig
from muse.head.training_pairs import choose_pairs
from muse.head.training_plan import PlannedStep, pair_order, plan_steps
from muse.head.training_state import TrainingState, read_state, write_results, write_state
from muse.pipeline.store import FeatureStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """One step; a line of ``log.jsonl``."""

    step: int
    """Counted from 1."""
    num_steps: int
    """Of the whole run."""
    epoch: int
    """Counted from 1."""
    loss: float
    lr: float
    logit_scale: float
    """After the step, natural logarithm."""
    grad_norm: float
    """Before it was scaled down."""
    seconds: float
    """Of this step, reading included; the measuring and saving between steps is not."""
    pairs_per_second: float
    """Pairs of this step over its seconds."""
    waiting_seconds: float
    """Of its seconds, the ones in which a batch was not there yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSummary:
    """How a call of `train` ended."""

    run: Path
    num_steps: int
    """Of the whole run."""
    first_step: int
    """Steps that were done before this call; ``num_steps`` if the run was finished already."""
    selection: SplitSelection
    """What was trained on, and how much of the split could not be used."""
    device: str
    precision: Precision
    """What ran, never ``auto``."""
    scan: ScanBackend
    """The backend that ran, never ``auto``."""
    chosen_by: SelectionRecord | None
    """What each epoch could do and which was chosen; None: the head is the last epoch's."""


def train(
    store: FeatureStore,
    run: Path,
    *,
    config: TrainConfig,
    head: HeadConfig | None = None,
    command: Sequence[str] = (),
    on_step: Callable[[StepReport], None] = lambda report: None,
    on_epoch: Callable[[SelectionRecord], None] = lambda record: None,
    group: ProcessGroup = ALONE,
) -> TrainSummary:
    """Trains a head into a run folder; the same call goes on with a run that was cut short.

    On a CPU a resumed run ends with the bits of one that was never cut short; on CUDA with
    `TrainConfig.deterministic`.

    Args:
        store: Finished or not; what can't be used of the split is counted in the summary.
        run: New, or a folder of the same call.
        config: How to train.
        head: What to train; `paper_head` if None.
        command: Written beside the weights.
        on_step: Called after each step.
        on_epoch: Called after each epoch that was measured, with all that was measured so far.
        group: Of several workers each makes this call, on a folder that all of them see; worker 0
            writes its files and calls back.

    Raises:
        ManifestError: If a split has no usable pair.
        CheckpointError: If the folder holds another run or something else, can't be written, or is
            not the same one to all workers.
        IncompatibleStoreError: If the run in the folder was made from another store.
        MuseError: If the loss is not finite, or device or scan can't run here.
    """
    _require_workers(config, group)
    pairs = choose_pairs(store, config)
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    head = head or paper_head(store.header)
    scan = resolve_scan(config, device, head)
    require_fitting(head, config, store)
    with group.first_before_others():
        _require_seen(run, group)
        open_run(
            run,
            RunConfig(
                head=head,
                train=dataclasses.asdict(config),
                store=store.header,
                view=store.token_view,
                root_sha256=store.root_sha256,
                timestamps_sha256=store.timestamps_sha256,
                num_videos=len(pairs.trained_on.video_rows_V),
                num_captions=len(pairs.trained_on.caption_rows_Q),
                ran_on={"device": str(device), "precision": precision, "scan": scan},
                command=tuple(command),
            ),
            store,
        )
    state = read_state(run)
    _require_same_state(run, state, group)
    order = pair_order(store, config)
    plan = plan_steps(pairs.trained_on, order, epochs=config.epochs, accumulate=config.accumulate)
    summary = TrainSummary(
        run=run,
        num_steps=len(plan),
        first_step=state.step if state else 0,
        selection=pairs.trained_on,
        device=str(device),
        precision=precision,
        scan=scan,
        chosen_by=None,
    )
    if summary.first_step >= len(plan):
        logger.info("%s is finished: all %d steps are done.", run, len(plan))
        return dataclasses.replace(summary, chosen_by=read_selection(run))

    with (
        # The one place where global random state is seeded: initial weights and dropout draw from
        # it. The caller's own state comes back at the end.
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        deterministic_algorithms(is_on=config.deterministic, device=device),
        _errors_of(run, config, device),
    ):
        torch.manual_seed(config.seed)
        module = new_head(head, store, config, device, scan)
        learner = new_learner(module, config, device, precision, group, num_steps=len(plan))
        selector = ModelSelector(
            store, pairs.measured_on, learner.head, held_out=config.hold_out, group=group
        )
        group.draw_apart(seed=config.seed, step=summary.first_step)
        if state:
            _go_on(run, state, learner, selector, group)
        logger.info("training on %s, %s, scan %s", device, precision, scan)
        read = partial(
            read_pair_batches,
            store,
            pairs.trained_on,
            device=device,
            window_shards=order.window_shards if order.shuffle == "shards" else None,
            token_ids_QC=token_ids_of(learner.head, store, pairs.trained_on),
            group=group,
        )
        log_file = RunLog(run, first_step=learner.step) if group.is_first else nullcontext()
        with log_file as log:
            for report, ends_epoch in _steps(learner, plan, read):
                if log:
                    log.add(dataclasses.asdict(report))
                record = None
                if ends_epoch:
                    record = selector.measure(learner.weights, epoch=report.epoch, step=report.step)
                if ends_epoch or report.step % config.checkpoint_every == 0:
                    saved = selector.add_to(learner.state())
                    if group.is_first:
                        write_state(run, saved)
                if group.is_first:
                    on_step(report)
                if record:
                    on_epoch(record)
    return dataclasses.replace(summary, chosen_by=selector.record)


def _require_seen(run: Path, group: ProcessGroup) -> None:
    """Refuses a worker to which worker 0's new folder is not there."""
    if not group.is_first and not (run / CONFIG_FILE).exists():
        raise CheckpointError(
            f"{run}: worker {group.rank} of {group.size}, on {socket.gethostname()}, does not see "
            "what worker 0 wrote there. Name a folder on a file system that all of them share."
        )


def _require_same_state(run: Path, state: TrainingState | None, group: ProcessGroup) -> None:
    """Refuses a folder that only looks the same to every worker: they would never meet."""
    own = torch.tensor(state.step if state else 0)
    steps = [int(step) for step in group.gather_states({"step": own}).values()]
    if len(set(steps)) > 1:
        raise CheckpointError(
            f"{run}: its workers find steps {steps} there. Name a folder on a file system that all "
            "of them share."
        )


def _go_on(
    run: Path,
    state: TrainingState,
    learner: Learner,
    selector: ModelSelector,
    group: ProcessGroup,
) -> None:
    """Puts everything back to where a checkpoint was made."""
    if (before := num_workers_of(state.random)) != group.size:
        logger.info(
            "%s goes on at step %d with %d workers, saved by %d: the same but for rounding and "
            "what dropout draws",
            *(run, state.step, group.size, before),
        )
    learner.restore(state, source=run / STATE_FILE)
    selector.restore(state, source=run / STATE_FILE)
    # A kill may have left the results of a later epoch, which CUDA need not come to again.
    if group.is_first:
        write_results(run, state)


def _steps(
    learner: Learner,
    plan: Sequence[PlannedStep],
    read: Callable[[Sequence[NDArray[np.intp]]], Iterator[HeadBatch]],
) -> Iterator[tuple[StepReport, bool]]:
    """Makes the steps that are left; each one's report, and whether it ends an epoch."""
    left = plan[learner.step :]
    batches = _Stopwatch(read([places_B for step in left for places_B in step.batches]))
    for planned in left:
        start, waited, num_batches = time.perf_counter(), batches.seconds, len(planned.batches)
        loss, grad_norm = learner.learn(
            itertools.islice(batches, num_batches), num_batches=num_batches
        )
        seconds = time.perf_counter() - start
        report = StepReport(
            step=learner.step,
            num_steps=len(plan),
            epoch=planned.epoch,
            loss=loss,
            lr=learner.optimizer.lr,
            logit_scale=learner.head.logit_scale.item(),
            grad_norm=grad_norm,
            seconds=seconds,
            pairs_per_second=planned.num_pairs / seconds,
            waiting_seconds=batches.seconds - waited,
        )
        yield report, planned.ends_epoch


@contextmanager
def _errors_of(run: Path, config: TrainConfig, device: torch.device) -> Iterator[None]:
    """Words for what a machine may run out of while it trains."""
    try:
        yield
    except MuseError:  # some are an OSError too
        raise
    except OSError as error:
        raise CheckpointError(
            f"{run}: can't be written ({error.strerror or error}). Mend it, and the same command "
            "goes on at the last checkpoint."
        ) from error
    except torch.OutOfMemoryError as error:
        now = config.videos_at_once or VIDEOS_AT_ONCE[device.type]
        raise MuseError(
            f"{device} ran out of memory with {now} videos at once. "
            f"Go on with --videos-at-once {max(1, now // 2)}: same gradient, less memory."
        ) from error


class _Stopwatch:
    """Batches, and how long each was waited for."""

    def __init__(self, batches: Iterator[HeadBatch]) -> None:
        self._batches = batches
        self.seconds = 0.0
        """Of all so far."""

    def __iter__(self) -> Iterator[HeadBatch]:
        return self

    def __next__(self) -> HeadBatch:
        start = time.perf_counter()
        batch = next(self._batches)
        self.seconds += time.perf_counter() - start
        return batch


def _require_workers(config: TrainConfig, group: ProcessGroup) -> None:
    """Refuses to train alone what was meant for several."""
    if config.num_workers != group.size:
        raise UsageError(
            f"num_workers {config.num_workers}: this call is made by {group.size}. `muse train-head"
            f" --num-workers {config.num_workers}` without --seeds starts them, and so does "
            "muse.head.train_ray.train_on_workers."
        )
