"""What a training step takes in memory and time, and what each way of saving memory costs.

Four ways: everything at once; ``--recompute``; ``--videos-at-once`` a quarter of the batch; both.
Each is a process of its own that makes steps of the default head on random tokens; one JSON line
with all of them. Memory is the most that torch allocated on a GPU, and on a CPU the most that the
process held; what was there before the first step is not counted.

Usage: python benchmarks/bench_memory.py [--batch 128] [--frames 12] [--grid 7] [--dim 512]
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch

from muse.head.aggregator import MuseAggregator
from muse.head.data import HeadBatch, VideoBatch
from muse.head.devices import resolve_device, resolve_precision
from muse.head.head_config import HeadConfig
from muse.head.learner import Learner
from muse.head.model import RetrievalHead
from muse.head.optimizer import HeadOptimizer

WAYS = ("all at once", "recompute", "a quarter at once", "both")


def step_costs(way: str, args: argparse.Namespace) -> dict[str, Any]:
    """Peak memory in bytes and the median seconds of a step, the first left out."""
    device = resolve_device(args.device)
    torch.manual_seed(0)
    head = RetrievalHead(HeadConfig(dim=args.dim, depth=args.depth)).to(device)
    assert isinstance(head.aggregator, MuseAggregator)
    head.aggregator.recompute = way in ("recompute", "both")
    optimizer = HeadOptimizer(
        head, peak_lr=1e-3, warmup=0.0, num_steps=args.steps, weight_decay=0.2, max_grad_norm=1.0
    )
    parts = 4 if way in ("a quarter at once", "both") else 1
    learner = Learner(
        head,
        optimizer,
        duplicates="masked",
        videos_at_once=-(-args.batch // parts),
        precision=resolve_precision("auto", device),
    )
    batch = random_batch(args)
    before = _memory(device)
    seconds = []
    for _ in range(args.steps):
        start = time.perf_counter()
        learner.learn(iter([batch]))  # its loss is read, so the device has finished
        seconds.append(time.perf_counter() - start)
    return {
        "way": way,
        "bytes": _memory(device) - before,
        "seconds": round(statistics.median(seconds[1:] or seconds), 4),
    }


def random_batch(args: argparse.Namespace) -> HeadBatch:
    """As many videos as pairs, all frames there."""
    shape = (args.batch, args.frames, 1 + args.grid**2, args.dim)
    return HeadBatch(
        videos=VideoBatch(
            tokens_BTKD=torch.randn(shape).half(), valid_BT=torch.ones(shape[:2]).bool()
        ),
        video_of_pair_B=torch.arange(args.batch),
        text_BD=torch.randn(args.batch, args.dim),
        video_rows_B=torch.arange(args.batch),
    )


def _memory(device: torch.device) -> int:
    """The most so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # of Linux: in kB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    sizes = {"batch": 128, "frames": 12, "grid": 7, "dim": 512, "depth": 4, "steps": 4}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--way", choices=WAYS, help="This one, in this process.")
    args = parser.parse_args()
    if args.way:
        print(json.dumps(step_costs(args.way, args)))
        return
    found = []
    for way in WAYS:
        command = [sys.executable, *sys.argv, "--way", way]
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        found.append(json.loads(ended.stdout) if ended.returncode == 0 else {"way": way})
    device = resolve_device(args.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    settings = {size: getattr(args, size) for size in sizes}
    print(json.dumps({"benchmark": "memory", "device": name, **settings, "ways": found}))


if __name__ == "__main__":
    main()
