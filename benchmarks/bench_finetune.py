"""GPU memory and time of a training step: head only, with CLIP's top blocks, end to end.

The tables of the MUSE paper: memory by frames (its Figure 3), by depth and by scales (Tables 7 and
8), time of an epoch with and without MUSE (Table 9), each beside training from the cache. Content
and weights are random; `muse.head.train.train` makes the steps, from a store, in a process of its
own for each row. One JSON line a row. Memory is the most that torch allocated and reserved; an
epoch is what the median step says of 180,000 pairs.

Usage: python benchmarks/bench_finetune.py FOLDER --table frames|depth|scales|epoch|training
"""

import argparse
import contextlib
import dataclasses
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from block_store import write_store

from muse.head.head_config import paper_head
from muse.head.train import StepReport, train
from muse.head.train_config import TrainConfig
from muse.pipeline.encoders.base import build_encoder
from muse.pipeline.header import EncoderInfo
from muse.pipeline.store import open_store

WARM_UP_STEPS = 3
PAIRS_OF_MSRVTT = 180_000
MEAN_POOLING: dict[str, Any] = {"depth": 0, "factors": ()}
HEADS: dict[str, dict[str, Any]] = {
    "mean pooling": MEAN_POOLING,
    "MUSE": {},
    "flash attention": {"mixer": "flash-attention"},
    "attention": {"mixer": "transformer"},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a table."""

    name: str
    finetune: str
    head: dict[str, Any]
    num_frames: int = 12
    batch: int = 16
    recompute: bool = False


def rows_of_table(table: str) -> Iterator[Row]:
    """Head only from the cache and end to end, for whatever the table varies."""
    ways = ("none", "all")
    if table == "frames":
        for num_frames in (4, 8, 12, 16, 32, 64):
            for name, head in HEADS.items():
                yield Row(name=name, finetune="all", head=head, num_frames=num_frames)
    if table == "depth":
        for depth in (0, 2, 4, 8, 16):
            for way in ways:
                yield Row(name=f"depth {depth}", finetune=way, head={"depth": depth})
    if table == "scales":
        for factors in ((), (0.5,), (0.5, 1.0), (0.5, 1.0, 2.0), (0.5, 1.0, 2.0, 4.0)):
            for way in ways:
                yield Row(name=f"scales {factors}", finetune=way, head={"factors": factors})
    if table == "epoch":
        for way in ("none", "top:2", "all"):
            for name in ("mean pooling", "MUSE", "flash attention"):
                yield Row(name=name, finetune=way, head=HEADS[name], batch=128)
    if table == "training":
        for recompute in (False, True):
            yield Row(name="MUSE", finetune="all", head={}, recompute=recompute)


def views_of(encoder: EncoderInfo) -> dict[str, str]:
    """What each way of training reads."""
    below = f"block:{encoder.num_blocks - 2}"
    return {"none": "tokens", "top:2": below, "all": "frames:uint8"}


def store_of(folder: Path, row: Row, encoder: EncoderInfo) -> Path:
    """A store of random maps with enough videos for a batch, made once for a number of frames."""
    path = folder / f"store-{row.num_frames}-{row.batch}"
    if not path.is_dir():
        write_store(
            path,
            encoder=encoder,
            views=tuple(views_of(encoder).values()),
            num_videos=2 * row.batch,
            captions_each=1,
            num_frames=row.num_frames,
            test_every=2 * row.batch + 1,
        )
    return path


class _EnoughError(Exception):
    """The steps that were wanted are made."""


def costs_of(folder: Path, row: Row, flags: argparse.Namespace) -> dict[str, Any]:
    """Memory and seconds of one row's step."""
    encoder = build_encoder(flags.encoder, device="cpu", precision="fp32").info
    store = open_store(store_of(folder, row, encoder), view=views_of(encoder)[row.finetune])
    head = dataclasses.replace(paper_head(store.header), **row.head)
    config = TrainConfig(
        batch_size=row.batch,
        epochs=1000,
        select_on="none",
        finetune=row.finetune,
        finetune_text=row.finetune != "none",
        recompute=row.recompute,
        checkpoint_every=10**6,
        device=flags.device,
    )
    reports: list[StepReport] = []

    def stop(report: StepReport) -> None:
        reports.append(report)
        if len(reports) == WARM_UP_STEPS + flags.steps:
            raise _EnoughError

    run = folder / f"run-{len(list(folder.iterdir()))}"
    with contextlib.suppress(_EnoughError):
        train(store, run, config=config, head=head, on_step=stop)
    seconds = statistics.median(report.seconds for report in reports[WARM_UP_STEPS:])
    waiting = statistics.median(report.waiting_seconds for report in reports[WARM_UP_STEPS:])
    return {
        "seconds": round(seconds, 4),
        "waiting_seconds": round(waiting, 4),
        "epoch_minutes": round(seconds * PAIRS_OF_MSRVTT / row.batch / 60, 2),
        **memory(),
    }


def memory() -> dict[str, float]:
    """Gigabytes (10^9 bytes), the most so far; none on a CPU."""
    if not torch.cuda.is_available():
        return {}
    return {
        "allocated_GB": round(torch.cuda.max_memory_allocated() / 1e9, 2),
        "reserved_GB": round(torch.cuda.max_memory_reserved() / 1e9, 2),
    }


def main() -> None:
    """Prints each row's line as it is done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--table", default="epoch")
    parser.add_argument("--encoder", default="openclip:ViT-B-32-quickgelu/random:0")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--row", type=int, help="This row alone, in this process.")
    flags = parser.parse_args()
    flags.folder.mkdir(parents=True, exist_ok=True)
    rows = list(rows_of_table(flags.table))
    if flags.row is not None:
        print(json.dumps(costs_of(flags.folder, rows[flags.row], flags)))
        return
    for number, row in enumerate(rows):
        own = [sys.executable, *sys.argv, "--row", str(number)]
        done = subprocess.run(own, capture_output=True, text=True, check=False)
        words = done.stderr.strip().splitlines()[-1:] if done.returncode else []
        costs = json.loads(done.stdout.splitlines()[-1]) if not done.returncode else {}
        print(json.dumps({**dataclasses.asdict(row), **costs, "error": words}), flush=True)


if __name__ == "__main__":
    main()
