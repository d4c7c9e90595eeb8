"""Steps a second and memory of one worker and of several, with the same batch, on a store.

Each number of workers trains a new run; one JSON line with all of them. A step's time is the median
over the run without its first steps; starting workers and measuring epochs are not in it. With
`auto` workers take a GPU each where there are any. ``--launcher spawn`` starts them on this machine
without Ray, which a machine may lack: what a step does is the same. Peak memory is each worker's,
as torch counts it, and needs ``spawn``.

With ``--trace FOLDER`` the first worker of each run also records some steps with torch's profiler:
the line then has the share of their time that the GPU computes, the share that it only talks to
others, and its launches a step; FOLDER gets a trace for a browser. Such steps take longer, and are
not in the medians. An epoch should have six steps at least: between two a checkpoint is written.

Usage: python benchmarks/bench_workers.py STORE [--workers 1 2 4] [--batch 128] [--epochs 2]
           [--finetune top:11 [--finetune-text] [--clip-lr 1e-6]] [--launcher ray|spawn]
           [--trace FOLDER]
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing

from muse.head.finetune import view_below
from muse.head.process_group import ProcessGroup
from muse.head.run_log import read_log
from muse.head.train import StepReport, train
from muse.head.train_config import TrainConfig
from muse.pipeline.store import FeatureStore, open_store

STEPS_LEFT_OUT, STEPS_RECORDED = 3, 4


def opened(args: argparse.Namespace) -> FeatureStore:
    """The store, on the view that is trained on."""
    view = view_below(args.finetune, open_store(args.store).header)
    return open_store(args.store, view=view) if view else open_store(args.store)


def config_of(args: argparse.Namespace, num_workers: int) -> TrainConfig:
    return TrainConfig(
        split=args.split,
        epochs=args.epochs,
        batch_size=args.batch,
        select_on="none",
        device=args.device,
        num_workers=num_workers,
        finetune=args.finetune,
        finetune_text=args.finetune_text,
        clip_lr=args.clip_lr,
        videos_at_once=args.videos_at_once,
    )


def work(rank: int, args: argparse.Namespace, run: Path, num_workers: int, port: int) -> None:
    """One worker of ``spawn``; leaves its peak memory beside the run."""
    on_cuda = args.device != "cpu" and torch.cuda.is_available()
    if on_cuda:
        torch.cuda.set_device(rank)
    group = ProcessGroup.alone()
    if num_workers > 1:
        torch.distributed.init_process_group(
            "nccl" if on_cuda else "gloo",
            init_method=f"tcp://127.0.0.1:{port}",
            rank=rank,
            world_size=num_workers,
        )
        group = ProcessGroup.joined()
    recorder = StepRecorder(run) if args.trace and rank == 0 and on_cuda else None
    train(
        opened(args), run, config=config_of(args, num_workers), group=group,
        on_step=recorder or (lambda _: None),
    )  # fmt: skip
    peak = torch.cuda.max_memory_allocated() if on_cuda else 0
    run.with_name(f"peak-{rank}").write_text(str(peak), encoding="utf-8")
    if num_workers > 1:
        torch.distributed.destroy_process_group()


class StepRecorder:
    """Records the last steps of a run but for the very last, which ends with a checkpoint.

    Args:
        run: Whose folder it writes beside.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._profiler: torch.profiler.profile | None = None
        self._started = 0.0

    def __call__(self, report: StepReport) -> None:
        """After each step."""
        if report.step == report.num_steps - STEPS_RECORDED - 1:
            torch.cuda.synchronize()
            self._profiler = torch.profiler.profile()
            self._profiler.start()
            self._started = time.perf_counter()
        if report.step == report.num_steps - 1 and self._profiler is not None:
            torch.cuda.synchronize()
            seconds = time.perf_counter() - self._started
            self._profiler.stop()
            self._write(self._profiler, seconds)

    def _write(self, profiler: torch.profiler.profile, seconds: float) -> None:
        profiler.export_chrome_trace(str(self._run.with_name("trace.json")))
        kernels = [
            (event.time_range.start, event.time_range.end, event.name)
            for event in profiler.events()
            if event.device_type == torch.autograd.DeviceType.CUDA
        ]
        others = [each for each in kernels if not each[2].startswith("nccl")]
        shares = {
            "busy_share": round(covered(kernels) / seconds, 4),
            "computing_share": round(covered(others) / seconds, 4),
            "launches_a_step": round(len(kernels) / STEPS_RECORDED),
        }
        self._run.with_name("shares.json").write_text(json.dumps(shares), encoding="utf-8")


def covered(kernels: list[tuple[float, float, str]]) -> float:
    """Seconds in which at least one runs, of (start, end, name) in microseconds."""
    total, reached = 0.0, float("-inf")
    for start, end, _ in sorted(kernels):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total / 1e6


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def run_workers(args: argparse.Namespace, run: Path, *, num_workers: int) -> list[float] | None:
    """Trains; the peak memory of each worker in GB, where it is known."""
    if args.launcher == "ray":
        from muse.head.train_ray import train_on_workers

        trainer = train if num_workers == 1 else train_on_workers
        trainer(opened(args), run, config=config_of(args, num_workers))
        return None
    torch.multiprocessing.spawn(  # type: ignore[no-untyped-call]
        work, args=(args, run, num_workers, free_port()), nprocs=num_workers
    )
    peaks = [run.with_name(f"peak-{rank}").read_text() for rank in range(num_workers)]
    return [round(int(peak) / 1e9, 2) for peak in peaks]


def speed(args: argparse.Namespace, folder: Path, *, num_workers: int) -> dict[str, Any]:
    """Of one run."""
    peaks = run_workers(args, folder / "run", num_workers=num_workers)
    steps = read_log(folder / "run")
    measured = steps[STEPS_LEFT_OUT : -STEPS_RECORDED - 1 if args.trace else None] or steps
    seconds = statistics.median(step["seconds"] for step in measured)
    waiting = statistics.median(step["waiting_seconds"] for step in measured)
    return {
        "workers": num_workers,
        "steps": len(measured),
        "seconds_per_step": round(seconds, 4),
        "pairs_per_second": round(args.batch / seconds, 1),
        "waiting_seconds": round(waiting, 5),
        "first_loss": round(steps[0]["loss"], 5),
        "last_loss": round(steps[-1]["loss"], 5),
        "peak_gb": peaks,
        **recorded(args, folder, num_workers=num_workers),
    }


def recorded(args: argparse.Namespace, folder: Path, *, num_workers: int) -> dict[str, Any]:
    """What `StepRecorder` left, if anything; its trace is kept."""
    if not (folder / "shares.json").is_file():
        return {}
    args.trace.mkdir(parents=True, exist_ok=True)
    name = f"workers-{num_workers}-{args.finetune.replace(':', '')}.json"
    shutil.move(folder / "trace.json", args.trace / name)
    shares: dict[str, Any] = json.loads((folder / "shares.json").read_text(encoding="utf-8"))
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    for name, default in {"batch": 128, "epochs": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--split", default="train")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--videos-at-once", type=int, default=None)
    parser.add_argument("--finetune", default="none")
    parser.add_argument("--finetune-text", action="store_true")
    parser.add_argument("--clip-lr", type=float, default=1e-6)
    parser.add_argument("--launcher", default="spawn", choices=("ray", "spawn"))
    parser.add_argument("--trace", type=Path)
    args = parser.parse_args()
    found = []
    for num_workers in args.workers:
        with tempfile.TemporaryDirectory() as folder:
            found.append(speed(args, Path(folder), num_workers=num_workers))
    on_cuda = args.device != "cpu" and torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_cuda else "cpu"
    settings = {"cores": os.cpu_count(), **vars(args), "trace": args.trace is not None}
    print(json.dumps({"benchmark": "workers", **settings, "device": device, "runs": found}))


if __name__ == "__main__":
    main()
