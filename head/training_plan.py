"""Every step of a run, decided before the first: which pairs, in which order.

Reads nothing: a pair is a place in a selection.
"""

# Legend: B pairs in a batch.

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from muse.head.data import SplitSelection
from muse.head.epoch_order import PairOrder, epoch_batches
from muse.head.train_config import TrainConfig
from muse.pipeline.store import FeatureStore


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedStep:
    """One update of the weights."""

    epoch: int
    """Counted from 1."""
    batches: tuple[NDArray[np.intp], ...]
    """(B,) places of pairs each, as `muse.head.epoch_order.epoch_batches` gives them."""
    ends_epoch: bool

    @property
    def num_pairs(self) -> int:
        """Of all its batches."""
        return sum(len(places_B) for places_B in self.batches)


def pair_order(store: FeatureStore, config: TrainConfig) -> PairOrder:
    """How the settings put a store's pairs in order."""
    return PairOrder(
        batch_size=config.batch_size,
        seed=config.seed,
        captions=config.captions,
        shuffle=config.shuffle,
        window_shards=math.ceil(config.shuffle_window / store.header.shard_size),
        shard_size=store.header.shard_size,
    )


def plan_steps(
    selection: SplitSelection, order: PairOrder, *, epochs: int, accumulate: int
) -> list[PlannedStep]:
    """Every step of the run, decided by the selection and the order alone.

    Batches that do not fill a step are left out, unless nothing does: they are then one step.
    """
    plan = []
    for epoch in range(epochs):
        batches = epoch_batches(selection, order, epoch=epoch)
        num_steps = max(1, len(batches) // accumulate)
        for number in range(num_steps):
            start = number * accumulate
            plan.append(
                PlannedStep(
                    epoch=epoch + 1,
                    batches=tuple(batches[start : start + accumulate]),
                    ends_epoch=number == num_steps - 1,
                )
            )
    return plan
