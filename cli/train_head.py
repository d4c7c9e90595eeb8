"""``muse train-head``: one training, or several that differ by their seed.

Its flags are those of `muse.cli.asked_training`, which ``muse ablate`` reads too.
"""

import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from muse.cli.asked_training import AskedTraining, asked_training
from muse.errors import UsageError

if TYPE_CHECKING:
    from muse.head.train import TrainSummary


@functools.wraps(asked_training)
def train_head(**flags: Any) -> None:
    """Trains what the flags ask for."""
    from muse.cli.interruption import interruptible
    from muse.cli.progress import TrainReporter
    from muse.cli.seeds import train_seeds

    asked = asked_training(**flags)
    if asked.num_seeds is not None:
        train_seeds(asked, num_seeds=asked.num_seeds)
        return
    if asked.evaluate_on is not None:
        raise UsageError(
            f"--evaluate-on {asked.evaluate_on}: goes with --seeds. "
            "`muse evaluate STORE --head OUT` evaluates one run."
        )
    with interruptible(), TrainReporter(json_lines=asked.json_lines) as reporter:
        summary = _trainer(asked)(
            asked.store,
            asked.out,
            config=asked.config,
            head=asked.head,
            command=sys.argv,
            on_step=reporter.update,
            on_epoch=reporter.epoch,
        )
    reporter.finish(summary)


def _trainer(asked: AskedTraining) -> "Callable[..., TrainSummary]":
    """What trains, here or on the workers that were asked for; one worker needs no Ray."""
    if asked.config.num_workers == 1:
        if asked.ray_address is not None:
            raise UsageError(
                f"--ray-address {asked.ray_address}: one worker trains here. Name how many train "
                "there with --num-workers."
            )
        from muse.head.train import train

        return train
    from muse.head.train_ray import train_on_workers

    return functools.partial(
        train_on_workers, max_restarts=asked.max_restarts, ray_address=asked.ray_address
    )
