"""A training that can be killed: ``python training_process.py RUN SETTINGS``, a step a line.

SETTINGS is JSON of `TrainConfig` fields. A step takes a little longer than it must, so that whoever
reads the lines finds a moment to kill the process in.
"""

import json
import sys
import time
from pathlib import Path

from memory_store import make_store

from muse.head.determinism import prepare_process
from muse.head.model import HeadConfig
from muse.head.train import StepReport, train
from muse.head.train_config import TrainConfig

HEAD = HeadConfig(dim=16, factors=(0.5, 1.0, 2.0), depth=2, d_state=4, dropout=0.5)
SETTINGS: dict[str, object] = {
    "epochs": 3,
    "batch_size": 4,
    "accumulate": 2,  # 3 steps an epoch
    "checkpoint_every": 2,
    "ema": 0.9,
    "hold_out": 0.25,
    "lr": 1e-2,
}
SECONDS_A_STEP = 0.02


def main(run: Path, settings: dict[str, object]) -> None:
    prepare_process()

    def on_step(report: StepReport) -> None:
        print(report.step, flush=True)
        time.sleep(SECONDS_A_STEP)

    store = make_store(num_videos=16, captions_per_video=2)
    train(store, run, head=HEAD, config=TrainConfig(**settings), on_step=on_step)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
