"""Trains a head on a feature store: the page to start reading with.

Reads top to bottom: what a step reports, `train`, and what `train` is made of. The
settings are in `muse.head.train_config`. Knows nothing of terminals: it reports each step to a
callback and words nothing but errors.
"""

# Legend: B pairs in a batch.

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from muse.errors import CheckpointError, MuseError
from muse.head.checkpoint import (
    STATE_FILE,
    RunConfig,
    open_run,
    read_state,
    write_state,
)
from muse.head.data import HeadBatch, SplitSelection, select_split
from muse.head.devices import Precision, resolve_device, resolve_precision
from muse.head.epoch_order import PairOrder, epoch_batches
from muse.head.learner import Learner
from muse.head.loader import read_pair_batches
from muse.head.model import HeadConfig, RetrievalHead
from muse.head.optimizer import HeadOptimizer
from muse.head.run_log import RunLog
from muse.head.scan.select import ScanBackend, resolve_backend
from muse.head.train_config import VIDEOS_AT_ONCE, TrainConfig
from muse.pipeline.header import StoreHeader
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
    pairs_per_second: float
    """Pairs of this step over its seconds, reading included."""
    waiting_seconds: float
    """Of those seconds, the ones in which its batch was not there yet."""


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


def paper_head(header: StoreHeader) -> HeadConfig:
    """MUSE's head for a store: its width, most frames, and the encoder's own temperature."""
    return HeadConfig(
        dim=header.encoder.dim,
        logit_scale_init=header.encoder.logit_scale,
        max_frames=header.sampling.num_frames,
    )


def train(
    store: FeatureStore,
    run: Path,
    *,
    config: TrainConfig,
    head: HeadConfig | None = None,
    command: Sequence[str] = (),
    on_step: Callable[[StepReport], None] = lambda report: None,
) -> TrainSummary:
    """Trains a head into a run folder; the same call goes on with a run that was cut short.

    On a CPU a resumed run ends with the bits of one that was never cut short.

    Args:
        store: Finished or not; what can't be used of the split is counted in the summary.
        run: New, or a folder of the same call.
        config: How to train.
        head: What to train; `paper_head` if None.
        command: Written beside the weights.
        on_step: Called after each step.

    Raises:
        ManifestError: If the split has no usable pair.
        CheckpointError: If the folder holds another run or something else, or can't be written.
        IncompatibleStoreError: If the run in the folder was made from another store.
        MuseError: If the loss is not finite, or device or scan can't run here.
    """
    selection = select_split(store, config.split)
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    scan = resolve_backend(config.scan, device)
    head = head or paper_head(store.header)
    open_run(
        run,
        RunConfig(
            head=head,
            train=dataclasses.asdict(config),
            store=store.header,
            view=store.token_view,
            root_sha256=store.root_sha256,
            timestamps_sha256=store.timestamps_sha256,
            num_videos=len(selection.video_rows_V),
            num_captions=len(selection.caption_rows_Q),
            ran_on={"device": str(device), "precision": precision, "scan": scan},
            command=tuple(command),
        ),
        store,
    )
    state = read_state(run)
    order = _pair_order(store, config)
    plan = _plan_steps(selection, order, config.epochs)
    summary = TrainSummary(
        run=run,
        num_steps=len(plan),
        first_step=state.step if state else 0,
        selection=selection,
        device=str(device),
        precision=precision,
        scan=scan,
    )
    if summary.first_step >= len(plan):
        logger.info("%s is finished: all %d steps are done.", run, len(plan))
        return summary

    # The one place where global random state is seeded: initial weights and dropout draw from it.
    # The caller's own state comes back at the end.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        learner = _new_learner(head, config, device, precision, scan, num_steps=len(plan))
        if state:
            learner.restore(state, source=run / STATE_FILE)
        logger.info("training on %s, %s, scan %s", device, precision, scan)
        read = partial(_read_steps, store, selection, order, device=device)
        with _errors_of(run, config, device), RunLog(run, first_step=learner.step) as log:
            for report, ends_epoch in _steps(learner, plan, read):
                log.add(dataclasses.asdict(report))
                if ends_epoch or learner.step % config.checkpoint_every == 0:
                    write_state(run, learner.state())
                on_step(report)
    return summary


def _steps(
    learner: Learner,
    plan: Sequence["_PlannedStep"],
    read: Callable[[Sequence["_PlannedStep"]], Iterator[HeadBatch]],
) -> Iterator[tuple[StepReport, bool]]:
    """Makes the steps that are left; each one's report, and whether it ends an epoch."""
    left = plan[learner.step :]
    batches, start = read(left), time.perf_counter()
    for planned in left:
        asked = time.perf_counter()
        batch = next(batches)
        waiting_seconds = time.perf_counter() - asked
        loss, grad_norm = learner.learn(batch)
        seconds, start = time.perf_counter() - start, time.perf_counter()
        report = StepReport(
            step=learner.step,
            num_steps=len(plan),
            epoch=planned.epoch,
            loss=loss,
            lr=learner.optimizer.lr,
            logit_scale=learner.head.logit_scale.item(),
            grad_norm=grad_norm,
            pairs_per_second=len(batch.text_BD) / seconds,
            waiting_seconds=waiting_seconds,
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _PlannedStep:
    epoch: int
    """Counted from 1."""
    places_B: NDArray[np.intp]
    """Pairs, as `muse.head.epoch_order.epoch_batches` gives them."""
    ends_epoch: bool


def _pair_order(store: FeatureStore, config: TrainConfig) -> PairOrder:
    return PairOrder(
        batch_size=config.batch_size,
        seed=config.seed,
        captions=config.captions,
        shuffle=config.shuffle,
        window_shards=math.ceil(config.shuffle_window / store.header.shard_size),
        shard_size=store.header.shard_size,
    )


def _plan_steps(selection: SplitSelection, order: PairOrder, epochs: int) -> list[_PlannedStep]:
    """Every step of the run, decided by the selection and the order alone."""
    plan = []
    for epoch in range(epochs):
        batches = epoch_batches(selection, order, epoch=epoch)
        for number, places_B in enumerate(batches, start=1):
            ends_epoch = number == len(batches)
            plan.append(_PlannedStep(epoch=epoch + 1, places_B=places_B, ends_epoch=ends_epoch))
    return plan


def _read_steps(
    store: FeatureStore,
    selection: SplitSelection,
    order: PairOrder,
    steps: Sequence[_PlannedStep],
    *,
    device: torch.device,
) -> Iterator[HeadBatch]:
    """The steps' batches, read ahead."""
    return read_pair_batches(
        store,
        selection,
        [step.places_B for step in steps],
        device=device,
        window_shards=order.window_shards if order.shuffle == "shards" else None,
    )


def _new_learner(
    head: HeadConfig,
    config: TrainConfig,
    device: torch.device,
    precision: Precision,
    scan: ScanBackend,
    *,
    num_steps: int,
) -> Learner:
    """A head with initial weights and what trains it, from the global random state."""
    module = RetrievalHead(head, scan=scan).to(device)
    optimizer = HeadOptimizer(
        module,
        peak_lr=config.lr,
        warmup=config.warmup,
        num_steps=num_steps,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
    )
    return Learner(
        module,
        optimizer,
        duplicates=config.duplicates,
        videos_at_once=config.videos_at_once or VIDEOS_AT_ONCE[device.type],
        precision=precision,
    )
