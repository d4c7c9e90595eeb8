"""Videos a second of the whole extraction: muse, by hand, a pool around its decoder, decode alone.

The same files, frames, encoder, precision and cores in each way (`extraction_ways`), each run in a
process of its own, in turns. Time counts from the first video that is decoded to the last one that
is written: loading weights is in no rate. Pools are warm when it begins, while some of muse's
processes come up within it: ratios are of the rates after the first quarter of the videos
(``later``), and there have to be many shards all the same. A corpus is made where it is missing
(`corpus.py`) and linked under as many names as are asked for. Of the first round, tokens are
compared with muse's. A JSON line a run, then one of medians and ratios a corpus. Memory is the most
that a run's processes had, shared pages counted once. On a machine that others use too, CPU seconds
of the whole run still mean something.

Usage: python benchmarks/bench_extract.py FOLDER [--corpora 320x240x15g30 320x240x15g250 ...]
           [--videos PATH] [--ways muse plain pool decode] [--engine ray]
           [--encoder openclip:muse-nano] [--num-videos 512] [--shard-size 64] [--cores N]
           [--rounds 3]
On a GPU: --encoder openclip:ViT-B-32-quickgelu/random:0.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

NUM_MADE = 64  # clips of a corpus; more are links to them
NUM_COMPARED = 8
OPTIONS = (
    "encoder", "engine", "kind", "num_frames", "batch_videos", "shard_size", "cores", "view",
)  # fmt: skip
"""Of a run, which `in_fresh_process` hands on."""
_LOOK_SECONDS = 10.0  # between two looks at memory, for which a process stands still


# -- one run, in a process of its own --------------------------------------------------------------


def run_way(way: str, flags: argparse.Namespace) -> dict[str, Any]:
    """What one way took, with all that it left in ``flags.out``."""
    from extraction_ways import WAYS, Work

    from muse.pipeline.header import Sampling

    paths = tuple(sorted(flags.folder.iterdir()))
    work = Work(
        videos=paths,
        out=flags.out,
        encoder=flags.encoder,
        engine=flags.engine,
        sampling=Sampling(kind=flags.kind, num_frames=flags.num_frames),
        processes=flags.cores,
        batch_videos=flags.batch_videos,
        shard_size=flags.shard_size,
        view=flags.view,
    )
    started = time.perf_counter()
    with _Costs() as costs:
        found = WAYS[way](work)
    return {
        "way": way,
        "videos_per_second": round(len(paths) / found["seconds"], 2),
        "later_videos_per_second": round(later_rate(found["marks"]), 2),
        "frames_per_second": round(found["frames"] / found["seconds"], 1),
        "in_all_seconds": round(time.perf_counter() - started, 1),
        "in_all_cpu_seconds": round(costs.cpu_seconds, 1),
        "peak_mb": round(costs.peak_bytes / 1e6),
        "because": found.get("because"),
    }


def later_rate(marks: Sequence[tuple[float, int]]) -> float:
    """Videos a second without the first quarter of them, in which processes still come up."""
    quarter = next(mark for mark in marks if mark[1] >= marks[-1][1] / 4)
    seconds, videos = (last - first for first, last in zip(quarter, marks[-1], strict=True))
    return videos / seconds if seconds else 0.0


class _Costs:
    """The most memory and the CPU time of this process and all below it."""

    def __init__(self) -> None:
        self.peak_bytes, self.cpu_seconds = 0, 0.0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "_Costs":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._is_over.wait(_LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        """Who has ended counts with its parent, if that one waited for it."""
        family = processes_below(os.getpid())
        self.peak_bytes = max(self.peak_bytes, sum(map(_proportional_bytes, family)))
        ticks = sum(sum(map(int, fields[11:15])) for fields in family.values())
        self.cpu_seconds = max(self.cpu_seconds, ticks / os.sysconf("SC_CLK_TCK"))


def processes_below(pid: int) -> dict[int, list[str]]:
    """A process and all below it, with the fields of their ``stat`` from the third on, proc(5)."""
    fields_of: dict[int, list[str]] = {}
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        fields_of[int(stat.parent.name)] = fields
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    family, left = {}, [pid]
    while left:
        each = left.pop()
        family[each] = fields_of[each]
        left += children.get(each, [])
    return family


def _proportional_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


# -- all runs of a corpus --------------------------------------------------------------------------


def made_videos(folder: Path, name: str) -> list[Path]:
    """A corpus by its name, WIDTHxHEIGHTxSECONDSgGOP; made where it is missing."""
    found = re.fullmatch(r"(\d+x\d+)x(\d+)g(\d+)", name)
    if not found:
        raise SystemExit(f"corpus {name!r}: such as 320x240x15g30")
    size, seconds, gop = found.groups()
    if not (folder / name / "captions.csv").is_file():
        script = Path(__file__).with_name("corpus.py")
        flags = ["--seconds", seconds, "--size", size, "--gop", gop]
        own = [sys.executable, script, folder / name, "--num-videos", str(NUM_MADE), *flags]
        subprocess.run(own, check=True)
    return sorted((folder / name / "videos").iterdir())


def link_videos(videos: Sequence[Path], folder: Path, num_videos: int) -> None:
    """As many names as are asked for, in the order of the videos, again and again."""
    folder.mkdir()
    for number in range(num_videos):
        video = videos[number % len(videos)]
        (folder / f"v{number:06d}{video.suffix}").symlink_to(video.absolute())


def measured(name: str, videos: Sequence[Path], flags: argparse.Namespace) -> dict[str, Any]:
    """Runs of all ways, which take turns; medians and what muse is of each."""
    rates: dict[str, list[float]] = {way: [] for way in flags.ways}
    differs: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=flags.folder) as scratch:
        links = Path(scratch) / "videos"
        link_videos(videos, links, flags.num_videos)
        for round_ in range(flags.rounds):
            for way in flags.ways:
                out = Path(scratch) / way
                found = in_fresh_process(way, links, out, flags)
                rates[way].append(found["later_videos_per_second"])
                print(json.dumps({"corpus": name, "round": round_, **found}), flush=True)
            if round_ == 0:
                differs = _differences(Path(scratch), flags.ways)
            for way in flags.ways:
                shutil.rmtree(Path(scratch) / way, ignore_errors=True)
    medians = {way: statistics.median(found) for way, found in rates.items()}
    ours = medians.get("muse", 0.0)
    return {
        "benchmark": "extract",
        "corpus": name,
        "videos": flags.num_videos,
        **{flag: getattr(flags, flag) for flag in ("encoder", "engine", "cores", "num_frames")},
        "later_videos_per_second": medians,
        "muse_times": {
            way: round(ours / rate, 3) for way, rate in medians.items() if way != "muse"
        },
        "differs_at_most": differs,
    }


def in_fresh_process(
    way: str, videos: Path, out: Path, flags: argparse.Namespace
) -> dict[str, Any]:
    """A run in a process of its own, which has the cores that it may use."""
    given = [f"--{name.replace('_', '-')}={getattr(flags, name)}" for name in OPTIONS]
    command = [sys.executable, __file__, str(videos), f"--out={out}", f"--way={way}", *given]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    content: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return content


def _differences(scratch: Path, ways: Sequence[str]) -> dict[str, float]:
    """The most that a token differs from muse's, by way, over some videos."""
    from extraction_ways import tokens_of

    if "muse" not in ways:
        return {}
    stems = sorted(path.stem for path in (scratch / "videos").iterdir())[:NUM_COMPARED]
    ours = tokens_of("muse", scratch / "muse", stems)
    found = {}
    for way in set(ways) & {"plain", "pool"}:
        theirs = tokens_of(way, scratch / way, stems)
        pairs = [(ours[stem].astype(np.float32), theirs[stem]) for stem in stems]
        found[way] = max(float(np.abs(one - other).max()) for one, other in pairs)
    return found


def main() -> None:
    """Prints each run's line as it is done, and each corpus's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--corpora", nargs="*", default=["320x240x15g30", "320x240x15g250"])
    parser.add_argument("--videos", type=Path, help="A folder of videos, measured too.")
    ways = ("muse", "plain", "pool", "decode")
    parser.add_argument("--ways", nargs="+", default=list(ways), choices=ways)
    parser.add_argument("--engine", default="ray", choices=("ray", "local"))
    parser.add_argument("--encoder", default="openclip:muse-nano")
    parser.add_argument("--kind", default="uniform", choices=("uniform", "fps", "keyframes"))
    sizes = {"num-frames": 12, "num-videos": 512, "batch-videos": 8, "shard-size": 64, "rounds": 3}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--view", default="tokens", help="What muse keeps.")
    parser.add_argument("--way", choices=ways, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.way:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: flags.cores])
        print(json.dumps(run_way(flags.way, flags)))
        return
    flags.folder.mkdir(exist_ok=True)
    for name in flags.corpora:
        videos = made_videos(flags.folder, name)
        print(json.dumps(measured(name, videos, flags)), flush=True)
    if flags.videos:
        videos = sorted(path for path in flags.videos.iterdir() if path.is_file())
        print(json.dumps(measured(flags.videos.name, videos, flags)), flush=True)


if __name__ == "__main__":
    main()
