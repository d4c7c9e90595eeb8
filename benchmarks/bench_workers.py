"""Steps a second of one worker and of several, with the same batch, on a store.

Each number of workers trains a new run; one JSON line with all of them. A step's time is the median
over the run without its first steps; starting Ray and measuring epochs are not in it. With `auto`
workers take a GPU each where there are any.

Usage: python benchmarks/bench_workers.py STORE [--workers 2] [--batch 128] [--epochs 2]
"""

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from muse.head.train import StepReport, train
from muse.head.train_config import TrainConfig
from muse.head.train_ray import train_on_workers
from muse.pipeline.store import open_store

STEPS_LEFT_OUT = 3


def speed(args: argparse.Namespace, folder: Path, *, num_workers: int) -> dict[str, Any]:
    """Of one run."""
    reports: list[StepReport] = []
    config = TrainConfig(
        split=args.split,
        epochs=args.epochs,
        batch_size=args.batch,
        select_on="none",
        device=args.device,
        num_workers=num_workers,
    )
    trainer = train if num_workers == 1 else train_on_workers
    trainer(open_store(args.store), folder / "run", config=config, on_step=reports.append)
    measured = reports[STEPS_LEFT_OUT:] or reports
    seconds = statistics.median(report.seconds for report in measured)
    waiting = statistics.median(report.waiting_seconds for report in measured)
    return {
        "workers": num_workers,
        "steps": len(measured),
        "steps_per_second": round(1 / seconds, 3),
        "pairs_per_second": round(args.batch / seconds, 1),
        "waiting_seconds": round(waiting, 5),
        "last_loss": round(reports[-1].loss, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store")
    for name, default in {"workers": 2, "batch": 128, "epochs": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--split", default="train")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    args = parser.parse_args()
    found = []
    for num_workers in (1, args.workers):
        with tempfile.TemporaryDirectory() as folder:
            found.append(speed(args, Path(folder), num_workers=num_workers))
    on_cuda = args.device != "cpu" and torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_cuda else "cpu"
    settings = {"cores": os.cpu_count(), "batch": args.batch, "store": args.store}
    print(json.dumps({"benchmark": "workers", "device": device, **settings, "runs": found}))


if __name__ == "__main__":
    main()
