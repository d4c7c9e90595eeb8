"""One of several workers: ``python training_worker.py RUN SETTINGS RANK SIZE MEETING_POINT``.

As `training_process`; MEETING_POINT is a new file's name. Worker 0 prints the steps.
"""

import json
import sys
from datetime import timedelta
from pathlib import Path

import torch.distributed
from memory_store import make_store

from muse.head.head_config import HeadConfig
from muse.head.process_group import ProcessGroup
from muse.head.train import StepReport, train
from muse.head.train_config import TrainConfig

NUM_VIDEOS = 19  # with 4 held out, the last batch of an epoch is not full


def print_step(report: StepReport) -> None:
    print(report.step, flush=True)


def main(run: Path, settings: dict[str, object], group: ProcessGroup) -> None:
    dropout = settings.pop("dropout")
    head = HeadConfig(dim=16, factors=(0.5, 1.0), depth=2, d_state=4, dropout=dropout)  # type: ignore[arg-type]
    store = make_store(num_videos=NUM_VIDEOS, captions_per_video=2)
    config = TrainConfig(**settings, num_workers=group.size)  # type: ignore[arg-type]
    train(store, run, head=head, config=config, on_step=print_step, group=group)


if __name__ == "__main__":
    rank, size, meeting_point = int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{meeting_point}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=60),
    )
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), ProcessGroup.joined())
    torch.distributed.destroy_process_group()
