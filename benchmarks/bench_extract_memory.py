"""Whether an extraction's memory stays as it is, however many videos there are.

Many names of a few tiny clips are extracted; memory is looked at when a tenth of the videos is
committed and again with the last ones. It is what processes have for themselves (resident, without
what they share with others, such as Ray's object store), by kind of process. One JSON line.

Usage: python benchmarks/bench_extract_memory.py FOLDER [--num-videos 3000] [--engine ray]
           [--encoder openclip:muse-nano] [--num-frames 2] [--cores N]
"""

import argparse
import json
import os
import resource
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import corpus
from bench_extract import link_videos, processes_below

from muse.pipeline.records import Listing, VideoRef

if TYPE_CHECKING:
    from muse.pipeline.progress import Progress

NUM_MADE = 8
KINDS = {  # by a word of the command line, the first that is found
    "EncodeActor": "encoder",
    "multiprocessing.spawn": "decoders",
    "ray::": "ray's workers",
    "raylet": "ray's own",
    "gcs_server": "ray's own",
    "/ray/": "ray's own",
}


def own_bytes() -> dict[str, int]:
    """Of this process and all below it, by kind."""
    found: Counter[str] = Counter()
    for pid in processes_below(os.getpid()):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            pages = Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()
        except OSError:  # it has ended
            continue
        kind = next((kind for word, kind in KINDS.items() if word in command), "others")
        kind = "this process" if pid == os.getpid() else kind
        found[kind] += (int(pages[1]) - int(pages[2])) * resource.getpagesize()
    return dict(found)


def measured(videos: Path, out: Path, flags: argparse.Namespace) -> dict[str, object]:
    """Memory early and late, and their ratio."""
    # Not above: decoding processes import this module, and shall do without torch.
    from muse.pipeline.extract import ExtractConfig, extract
    from muse.pipeline.header import Sampling
    from muse.pipeline.schedule import Workers

    early: dict[str, int] = {}
    late: dict[str, int] = {}
    num_early = 0

    def look(progress: "Progress") -> None:
        nonlocal early, late, num_early
        if not early and progress.num_committed >= flags.num_videos / 10:
            early, num_early = own_bytes(), progress.num_committed
        if progress.num_committed == flags.num_videos and not late:
            late = own_bytes()

    refs = tuple(VideoRef(video_id=path.stem, path=path) for path in sorted(videos.iterdir()))
    config = ExtractConfig(
        out=out,
        encoder=flags.encoder,
        engine=flags.engine,
        sampling=Sampling(num_frames=flags.num_frames),
        finds_duplicates=False,
        workers=Workers(num_decoders=flags.cores),
    )
    started = time.perf_counter()
    extract(config, Listing(protocol="folder", videos=refs, captions=()), on_progress=look)
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "early": {"videos": num_early} | {kind: size // 10**6 for kind, size in early.items()},
        "late": {"videos": flags.num_videos} | {kind: n // 10**6 for kind, n in late.items()},
        "late_by_early": round(sum(late.values()) / sum(early.values()), 3),
    }


def main() -> None:
    """Prints the line; sizes in MB."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num-videos", type=int, default=3000)
    parser.add_argument("--num-frames", type=int, default=2)
    parser.add_argument("--engine", default="ray", choices=("ray", "local"))
    parser.add_argument("--encoder", default="openclip:muse-nano")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=flags.folder) as scratch:
        made = Path(scratch) / "videos"
        made.mkdir()
        for number in range(NUM_MADE):
            size = {"seconds": 0.4, "size": (128, 96), "gop": 250, "seed": 0}
            corpus.write_clip(number, folder=Path(scratch), **size)
        link_videos(sorted(made.iterdir()), Path(scratch) / "links", flags.num_videos)
        found = measured(Path(scratch) / "links", Path(scratch) / "store", flags)
    shown = {name: getattr(flags, name) for name in ("num_videos", "engine", "encoder", "cores")}
    print(json.dumps({"benchmark": "extract_memory", **shown, **found}))


if __name__ == "__main__":
    main()
