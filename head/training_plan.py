"""Every step of a run, decided before the first: which pairs, in which order.

Knows nothing of stores: a pair is a place in a selection.
"""

# Legend: B pairs in a batch.

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from muse.head.data import epoch_batches
from muse.head.train_config import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedStep:
    """One update of the weights."""

    epoch: int
    """Counted from 1."""
    batches: tuple[NDArray[np.intp], ...]
    """(B,) places of pairs each, as `muse.head.data.read_pairs` takes them."""
    ends_epoch: bool

    @property
    def num_pairs(self) -> int:
        """Of all its batches."""
        return sum(len(places_B) for places_B in self.batches)


def plan_steps(num_pairs: int, config: TrainConfig) -> list[PlannedStep]:
    """Every step of the run, decided by the number of pairs and the settings alone.

    Batches that do not fill a step are left out, unless nothing does: they are then one step.
    """
    plan = []
    for epoch in range(config.epochs):
        batches = epoch_batches(
            num_pairs, batch_size=config.batch_size, seed=config.seed, epoch=epoch
        )
        num_steps = max(1, len(batches) // config.accumulate)
        for number in range(num_steps):
            start = number * config.accumulate
            plan.append(
                PlannedStep(
                    epoch=epoch + 1,
                    batches=tuple(batches[start : start + config.accumulate]),
                    ends_epoch=number == num_steps - 1,
                )
            )
    return plan
