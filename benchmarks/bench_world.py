"""What each head is worth on the made world: one JSON line a head and seed, axis by axis.

Every head is trained by `muse.head.train` as `muse train-head` has it, on the store's split train,
and asked the captions of split test. A line keeps each caption's recall at 1, so that differences
between heads can be tested pair by pair (world_table.py). Lines that are there are not made again.

Usage:
    muse world make world --num-videos 3000 --seed 1
    muse extract --dataset world --root world --split train,val,test --encoder openclip:muse-nano \\
        --sampling uniform --num-frames 8 --out store
    python benchmarks/bench_world.py store world.jsonl --seeds 5
"""

import argparse
import json
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from muse.head.embeddings import embed_split
from muse.head.evaluate import MEAN_POOL, open_head
from muse.head.head_config import HeadConfig, paper_head
from muse.head.metrics import text_to_video_ranks, video_to_text_ranks
from muse.head.model import VideoEmbedder
from muse.head.train import train
from muse.head.train_config import TrainConfig
from muse.pipeline.store import open_store

FIRST_SEED = 42
SCALES: dict[str, tuple[float, ...]] = {
    "3, 7, 14": (0.5, 1.0, 2.0),
    "7, 14": (1.0, 2.0),
    "3, 14": (0.5, 2.0),
    "3, 7": (0.5, 1.0),
    "14, 7, 3": (2.0, 1.0, 0.5),
    "none": (),
}
CHANGES: dict[str, dict[str, Any]] = {
    "muse, read-out ends": {"readout": "ends"},
    "muse, read-out interleaved": {"readout": "interleaved"},
    "muse, read-out pool": {"readout": "pool"},
    "muse, read-out max": {"readout": "max"},
    "muse, read-out max, scales none": {"readout": "max", "factors": ()},
    "muse, read-out max, scales 14, 7, 3": {"readout": "max", "factors": (2.0, 1.0, 0.5)},
    "muse, read-out attend": {"readout": "attend"},
    "muse, read-out attend, no blocks": {"readout": "attend", "depth": 0},
}
ARMS = (
    MEAN_POOL,
    "seq-transf",
    "seq-transf, lr 1e-4",
    *(f"muse, scales {name}" for name in SCALES),
    *CHANGES,
)


@dataclass(frozen=True, slots=True)
class ForeignPatches:
    """A trained head that sees the patches of another video: does it look at patches at all?"""

    head: VideoEmbedder
    name: str = "foreign patches"

    def embed_videos(self, tokens_BTKD: Tensor, valid_BT: Tensor) -> Tensor:
        """As the head's own."""
        shown_BTKD = tokens_BTKD.clone()
        # Half a batch away: neighbours in a world's rows show the same objects.
        shown_BTKD[:, :, 1:] = tokens_BTKD.roll(len(tokens_BTKD) // 2, dims=0)[:, :, 1:]
        return self.head.embed_videos(shown_BTKD, valid_BT)


def settings_of(arm: str, base: HeadConfig, seed: int) -> tuple[HeadConfig, TrainConfig]:
    """What an arm trains: defaults, but for what its name says."""
    config = TrainConfig(seed=seed)
    if arm.startswith("seq-transf"):
        lr = 1e-4 if arm.endswith("lr 1e-4") else config.lr
        return replace(base, aggregator="seq-transf"), replace(config, lr=lr)
    if arm in CHANGES:
        return replace(base, **CHANGES[arm]), config
    return replace(base, factors=SCALES[arm.removeprefix("muse, scales ")]), config


def run_arm(job: tuple[str, int], store_path: str) -> list[dict[str, Any]]:
    """The lines of one head and seed."""
    arm, seed = job
    store = open_store(store_path)
    started = time.perf_counter()
    if arm == MEAN_POOL:
        head, device = open_head(MEAN_POOL, store)
        return [line_of(store, head, device, arm, seed)]
    config, training = settings_of(arm, paper_head(store.header), seed)
    with tempfile.TemporaryDirectory() as folder:
        summary = train(store, Path(folder) / "run", config=training, head=config)
        seconds = time.perf_counter() - started
        head, device = open_head(str(Path(folder) / "run"), store)
    lines = [line_of(store, head, device, arm, seed)]
    if arm.startswith("muse") and config.factors:
        misled = ForeignPatches(head)
        lines.append(line_of(store, misled, device, f"{arm}; foreign patches", seed))
    extra = {"seconds": round(seconds, 1), "num_steps": summary.num_steps, "scan": summary.scan}
    return [{**line, **extra} for line in lines]


def line_of(
    store: Any, head: VideoEmbedder, device: torch.device, arm: str, seed: int
) -> dict[str, Any]:
    """Recalls at 1 of every caption and of every video."""
    found = embed_split(store, head, split="test", device=device)
    retrieval = (found.text_QD, found.video_VD, found.video_of_caption_Q)
    captions = [store.captions[row] for row in found.selection.caption_rows_Q]
    hits = {
        "text_to_video": _hits(text_to_video_ranks(*retrieval)),
        "video_to_text": _hits(video_to_text_ranks(*retrieval)),
    }
    return {
        "arm": arm,
        "seed": seed,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "num_videos": len(found.video_VD),
        "axis_of_caption": [caption.axis for caption in captions],
        "video_of_caption": found.video_of_caption_Q.tolist(),
        **hits,
    }


def _hits(ranks: Any) -> list[float]:
    """Chance of each query that its answer is first: 1, 0, or a part where scores are equal."""
    better, equal = ranks.num_better.double(), ranks.num_equal.double()
    return [round(value, 4) for value in ((1 - better) / equal).clamp(0, 1).tolist()]


def _use_gpu(counter: Any, num_gpus: int) -> None:
    """Each worker process on a GPU of its own turn."""
    with counter.get_lock():
        place, counter.value = counter.value, counter.value + 1
    os.environ["CUDA_VISIBLE_DEVICES"] = str(place % max(1, num_gpus))  # before CUDA starts here


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument("--workers", type=int, default=max(1, 2 * torch.cuda.device_count()))
    args = parser.parse_args()
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    done = {(line["arm"], line["seed"]) for line in map(json.loads, lines)}
    jobs = [
        (arm, FIRST_SEED + n)
        for n in range(args.seeds)
        for arm in args.arms
        if (arm, FIRST_SEED + n) not in done and not (arm == MEAN_POOL and n)
    ]
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
        running = [pool.submit(run_arm, job, args.store) for job in jobs]
        for finished in as_completed(running):
            for line in finished.result():
                print(json.dumps(line), file=file, flush=True)
                print(line["arm"], line["seed"], line.get("seconds"), flush=True)


if __name__ == "__main__":
    main()
