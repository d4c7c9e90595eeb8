"""How long five epochs take from the cache on a store of MSR-VTT's size, and how busy the GPU is.

Writes the store (9,000 videos of 12 frames, 20 captions each, random tokens of ViT-B/32's shape,
5.5 GB), makes some steps of `muse.head.train.train` with its defaults, and says what their mean
comes to over five epochs. Busy is what nvidia-smi samples while steps run. One JSON line.

Usage: python benchmarks/bench_epochs.py FOLDER [--steps 300] [--mixer bimamba-v2] [--scan auto]
"""

import argparse
import contextlib
import dataclasses
import json
import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path

import torch
from token_store import write_store

from muse.head.head_config import paper_head
from muse.head.train import StepReport, train
from muse.head.train_config import TrainConfig
from muse.pipeline.store import open_store

WARM_UP_STEPS = 20
EPOCHS = 5


class _EnoughError(Exception):
    """The steps that were wanted are made."""


@contextlib.contextmanager
def busy_samples(samples: list[float]) -> Iterator[None]:
    """Percents of the time that a kernel ran, five times a second; none without nvidia-smi."""
    own = f"GPU-{torch.cuda.get_device_properties(0).uuid}" if torch.cuda.is_available() else "0"
    command = (
        f"nvidia-smi -i {own} --query-gpu=utilization.gpu --format=csv,noheader,nounits -lms 200"
    )
    try:
        watcher = subprocess.Popen(command.split(), stdout=subprocess.PIPE, text=True)
    except FileNotFoundError:
        yield
        return
    try:
        yield
    finally:
        watcher.terminate()
        samples += [float(line) for line in watcher.communicate()[0].split()]


def main() -> None:
    """Writes, trains and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num-videos", type=int, default=9_000)
    parser.add_argument("--captions-each", type=int, default=20)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--mixer", default="bimamba-v2")
    parser.add_argument("--scan", default="auto")
    parser.add_argument("--only-write", action="store_true")
    flags = parser.parse_args()
    path = flags.folder / f"store-{flags.num_videos}"
    if not path.is_dir():
        write_store(
            path, num_videos=flags.num_videos, captions_each=flags.captions_each, num_frames=12,
            grid=7, dim=512,
        )  # fmt: skip
    if flags.only_write:
        return
    store, reports, samples = open_store(path), [], []  # type: ignore[var-annotated]
    config = TrainConfig(
        split="all", batch_size=flags.batch, epochs=EPOCHS, select_on="none", scan=flags.scan
    )
    head = dataclasses.replace(paper_head(store.header), mixer=flags.mixer)

    def stop(report: StepReport) -> None:
        reports.append(report)
        if len(reports) == WARM_UP_STEPS + flags.steps:
            raise _EnoughError

    run = flags.folder / f"run-{flags.mixer}-{flags.scan}"
    with contextlib.suppress(_EnoughError), busy_samples(samples):
        train(store, run, config=config, head=head, on_step=stop)
    measured = reports[WARM_UP_STEPS:]
    seconds = [report.seconds for report in measured]
    steps = reports[0].num_steps
    steady = samples[len(samples) // 3 :]  # behind what starts the run
    print(
        json.dumps(
            {
                "mixer": flags.mixer,
                "scan": flags.scan,
                "steps_of_five_epochs": steps,
                "seconds_a_step": round(statistics.median(seconds), 4),
                "mean_seconds_a_step": round(statistics.fmean(seconds), 4),
                "waiting_share": round(sum(r.waiting_seconds for r in measured) / sum(seconds), 4),
                "minutes_of_five_epochs": round(statistics.fmean(seconds) * steps / 60, 2),
                "busy_percent": round(statistics.fmean(steady), 1) if steady else None,
                "peak_GB": round(torch.cuda.max_memory_allocated() / 1e9, 2)
                if torch.cuda.is_available()
                else None,
            }
        )
    )


if __name__ == "__main__":
    main()
