"""Which read-outs find a needle: one JSON line a read-out and seed, and a table at the end.

Every head is trained by `muse.head.train` on split train of a store of needle_store.py, and asked
the captions of split test. A line says the recalls at 1, whole and with all scales foreign, and the
scales' share of the embedding's squared gradient (`muse head influence`) before and after the
training. Lines that are there are not made again.

Usage:
    python benchmarks/needle_store.py needle
    python benchmarks/bench_needle.py needle needle.jsonl --seeds 3
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any, get_args

import torch

from muse.head.devices import Device
from muse.head.evaluate import MEAN_POOL, evaluate, open_head
from muse.head.head_config import HeadConfig, paper_head
from muse.head.influence import split_shares
from muse.head.model import RetrievalHead
from muse.head.readout import Readout
from muse.head.scale_removal import ALL_SCALES, recalls_without_scales
from muse.head.train import train
from muse.head.train_config import TrainConfig
from muse.pipeline.store import FeatureStore, open_store

FIRST_SEED = 42
VIDEOS_FOR_GRADIENTS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One head to train; its fields decide whether a line is this job's."""

    readout: str
    """Of `Readout`, or ``mean-pool``."""
    seed: int
    factors: tuple[float, ...]
    depth: int
    epochs: int
    batch_size: int
    lr: float
    order: str

    def head(self, store: FeatureStore) -> HeadConfig:
        """What it trains."""
        return replace(
            paper_head(store.header), readout=self.readout, factors=self.factors,
            depth=self.depth, order=self.order,
        )  # fmt: skip


def run_job(job: Job, store_path: str, device: Device) -> dict[str, Any]:
    """The line of one head."""
    store = open_store(store_path)
    line: dict[str, Any] = asdict(job)
    if job.readout == MEAN_POOL:
        return {**line, **_recalls(store, MEAN_POOL, device)}
    started = time.perf_counter()
    config = TrainConfig(
        seed=job.seed,
        epochs=job.epochs,
        batch_size=job.batch_size,
        videos_at_once=job.batch_size,
        lr=job.lr,
        device=device,
    )
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        losses: list[float] = []
        summary = train(
            store, run, config=config, head=job.head(store),
            on_step=lambda report: losses.append(report.loss),
        )  # fmt: skip
        line |= {
            "seconds": round(time.perf_counter() - started, 1),
            "num_steps": summary.num_steps,
            "loss": round(mean(losses[-10:]), 4),
            "scan": summary.scan,
        }
        return {**line, **_recalls(store, str(run), device), **_before(job, store)}


def _recalls(store: FeatureStore, head_name: str, device: Device) -> dict[str, Any]:
    """Recalls of a head, and where it has scales, without them and what they weigh."""
    head, where = open_head(head_name, store, device=device)
    report = evaluate(store, head, device=where)
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if where.type == "cuda" else "cpu",
        "num_videos": report.num_videos,
        "t2v": report.text_to_video.recall_at[1],
        "v2t": report.video_to_text.recall_at[1],
    }
    if head_name == MEAN_POOL:
        return found
    without = recalls_without_scales(store, head, device=where)
    shares = split_shares(store, head, num_videos=VIDEOS_FOR_GRADIENTS, device=where)
    return {
        **found,
        "t2v_foreign": without.of(ALL_SCALES, "foreign").text_to_video.recall_at_1,
        "share_of_scales": shares.share_of_scales,
        "shares": {share.name: share.share for share in shares.by_scale},
    }


def _before(job: Job, store: FeatureStore) -> dict[str, float]:
    """The scales' share before the training, on the CPU; 0 where gates begin closed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.seed)
        head = RetrievalHead(job.head(store)).eval()
    found = split_shares(store, head, num_videos=2, num_probes=2, device=torch.device("cpu"))
    return {"share_of_scales_before": found.share_of_scales}


def print_table(lines: Sequence[dict[str, Any]]) -> None:
    """Mean and standard deviation over the seeds of each read-out."""
    print(f"{'read-out':12} {'seeds':>5} {'t2v R@1':>14} {'foreign':>8} {'share of scales':>16}")
    for readout in dict.fromkeys(line["readout"] for line in lines):
        own = [line for line in lines if line["readout"] == readout]
        recalls = [line["t2v"] for line in own]
        spread = f"± {stdev(recalls):4.1f}" if len(own) > 1 else ""
        text = f"{readout:12} {len(own):5} {mean(recalls):7.1f} {spread:>6}"
        if readout != MEAN_POOL:
            foreign = mean(line["t2v_foreign"] for line in own)
            text += f" {foreign:8.1f} {mean(line['share_of_scales'] for line in own):16.2g}"
        print(text)


def _use_gpu(counter: Any, num_gpus: int) -> None:
    """Each worker process on a GPU of its own turn."""
    with counter.get_lock():
        place, counter.value = counter.value, counter.value + 1
    if num_gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(place % num_gpus)  # before CUDA starts here


def main() -> None:
    """Runs what is missing, then prints the table of all that was asked for."""
    readouts = get_args(Readout)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store")
    parser.add_argument("out", type=Path)
    parser.add_argument("--readouts", default=",".join(readouts))
    parser.add_argument("--factors", default="0.5,1,2")
    parser.add_argument("--order", default="scale")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--device", default="auto", choices=get_args(Device))
    parser.add_argument("--workers", type=int, default=max(1, 2 * torch.cuda.device_count()))
    args = parser.parse_args()
    settings = Job(
        readout=MEAN_POOL, seed=0, depth=args.depth, epochs=args.epochs, lr=args.lr,
        factors=tuple(float(factor) for factor in args.factors.split(",")),
        batch_size=args.batch_size, order=args.order,
    )  # fmt: skip
    jobs = [settings] + [
        replace(settings, readout=readout, seed=FIRST_SEED + number)
        for number in range(args.seeds)
        for readout in args.readouts.split(",")
    ]
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    found = {_job_of(line): line for line in map(json.loads, lines)}
    context = get_context("spawn")
    counter = context.Value("i", 0)
    with (
        ProcessPoolExecutor(
            args.workers,
            mp_context=context,
            initializer=_use_gpu,
            initargs=(counter, torch.cuda.device_count()),
        ) as pool,
        args.out.open("a") as file,
    ):
        missing = [job for job in jobs if job not in found]
        running = [pool.submit(run_job, job, args.store, args.device) for job in missing]
        for finished in as_completed(running):
            line = finished.result()
            print(json.dumps(line), file=file, flush=True)
            print(line["readout"], line["seed"], f"{line['t2v']:.1f}", flush=True)
            found[_job_of(json.loads(json.dumps(line)))] = line
    print_table([found[job] for job in jobs])


def _job_of(line: dict[str, Any]) -> Job:
    fields = {name: line[name] for name in Job.__dataclass_fields__}
    return Job(**{**fields, "factors": tuple(fields["factors"])})


if __name__ == "__main__":
    main()
