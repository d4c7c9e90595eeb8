"""Videos a second of an extraction by the number of GPUs, of a large encoder, so that these bind.

`muse extract` with Ray on one node, the same files and cores each time, a run in a process of its
own that sees so many GPUs; numbers take turns. Class tokens alone are kept: maps of a large encoder
can bind at the disk. Rates are of the videos after the first quarter of them, as in
`bench_extract`, and so is a corpus. A JSON line a run, with what muse says bound it, then one of
medians and of times one GPU's.

Usage: python benchmarks/bench_extract_gpus.py FOLDER [--gpus 1 2 4] [--corpus 320x240x15g30]
           [--encoder openclip:ViT-L-14-quickgelu/random:0] [--num-videos 4096] [--rounds 2]
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

from bench_extract import in_fresh_process, link_videos, made_videos


def rates_by_gpus(flags: argparse.Namespace) -> dict[int, list[float]]:
    """Videos a second of each round; prints each run's line as it is done."""
    rates: dict[int, list[float]] = {number: [] for number in flags.gpus}
    with tempfile.TemporaryDirectory(dir=flags.folder) as scratch:
        links, out = Path(scratch) / "videos", Path(scratch) / "store"
        link_videos(made_videos(flags.folder, flags.corpus), links, flags.num_videos)
        for round_ in range(flags.rounds):
            for number in flags.gpus:
                found = run_with(number, links, out, flags)
                rates[number].append(found["later_videos_per_second"])
                print(json.dumps({"gpus": number, "round": round_, **found}), flush=True)
    return rates


def run_with(num_gpus: int, videos: Path, out: Path, flags: argparse.Namespace) -> dict[str, Any]:
    """One run that sees so many GPUs, its store removed."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(num_gpus)))
    found = in_fresh_process("muse", videos, out, flags)
    shutil.rmtree(out)
    return found


def main() -> None:
    """Prints each run's line as it is done, and what several GPUs gain."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gpus", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--corpus", default="320x240x15g30")
    parser.add_argument("--encoder", default="openclip:ViT-L-14-quickgelu/random:0")
    sizes = {"num-frames": 12, "num-videos": 4096, "batch-videos": 8, "shard-size": 64, "rounds": 2}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.set_defaults(engine="ray", kind="uniform", view="class")
    flags = parser.parse_args()
    flags.folder.mkdir(exist_ok=True)
    medians = {gpus: statistics.median(found) for gpus, found in rates_by_gpus(flags).items()}
    one = medians[min(medians)]
    shape = {flag: getattr(flags, flag) for flag in ("corpus", "encoder", "cores", "num_videos")}
    times = {number: round(rate / one, 3) for number, rate in medians.items()}
    line = {"benchmark": "extract-gpus", **shape, "later_videos_per_second": medians}
    print(json.dumps({**line, f"times_{min(medians)}_gpu": times}), flush=True)


if __name__ == "__main__":
    main()
