"""``muse train-head``: one training, or several that differ by their seed.

Its flags are those of `muse.cli.asked_training`, which ``muse ablate`` reads too.
"""

import functools
import sys
from typing import Any

from muse.cli.asked_training import asked_training
from muse.errors import UsageError


@functools.wraps(asked_training)
def train_head(**flags: Any) -> None:
    """Trains what the flags ask for."""
    from muse.cli.progress import TrainReporter, interruptible
    from muse.cli.seeds import train_seeds
    from muse.head.train import train

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
        summary = train(
            asked.store,
            asked.out,
            config=asked.config,
            head=asked.head,
            command=sys.argv,
            on_step=reporter.update,
            on_epoch=reporter.epoch,
        )
    reporter.finish(summary)
