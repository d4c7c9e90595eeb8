"""Videos a second that this machine decodes: by plan, and by decoding all of each.

Both give the same frames, cropped by PIL; what they share (opening, times of packets) is in both.
Videos go to one process a core, as in ``muse extract``; each way decodes all of a corpus, in turns,
and every frame of the two is compared. Corpora are made where they are missing (`corpus.py`), or a
folder of videos is given. Other decoders are measured where they are installed: torchcodec (exact
seeks) and decord, through their own batch calls on the same instants, without the crop; what
share of their frames is the same is not told, as they convert colours otherwise. One JSON line a
corpus.

Where a GPU opens, the same plan is decoded by NVDEC too, by each number of --sessions processes:
videos a second, how many videos it took (the others went to software in the same process), and
whether all its frames have the bits of software's.

Usage: python benchmarks/bench_decode.py FOLDER [--corpora 320x240x15g30 320x240x15g250 ...]
           [--videos PATH] [--kind uniform] [--num-frames 12] [--processes N] [--rounds 3]
           [--sessions 1 2 4 8 16]
"""

import argparse
import dataclasses
import hashlib
import importlib.util
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from muse.pipeline.decoding import decode
from muse.pipeline.decoding.nvdec import nvdec
from muse.pipeline.header import Preprocessing, Sampling
from muse.pipeline.records import VideoRef
from muse.pipeline.sampling import sampled_frames

PREPROCESSING = Preprocessing(
    size=224, resize_to=224, interpolation="bicubic", mean=(0.0,) * 3, std=(1.0,) * 3
)
CORPORA = ("320x240x15g30", "320x240x15g250", "640x360x120g250", "1920x1080x20g60")
_read_timeline = decode.read_timeline


def by_plan(path: Path, sampling: Sampling) -> str:
    """A hash of the frames."""
    video = VideoRef(video_id="clip", path=path)
    clip = decode.decode_clip(video, sampling=sampling, preprocessing=PREPROCESSING)
    return hashlib.sha256(clip.frames_THWC.tobytes()).hexdigest()


def by_nvdec(path: Path, sampling: Sampling) -> str:
    """The same of a GPU's frames; of a video that it does not take, nothing."""
    video = VideoRef(video_id="clip", path=path)
    clip = decode.decode_clip(video, sampling=sampling, preprocessing=PREPROCESSING, device=nvdec())
    taken = clip.decoder == "nvdec"
    return hashlib.sha256(clip.frames_THWC.tobytes()).hexdigest() if taken else ""


def by_all(path: Path, sampling: Sampling) -> str:
    """The same of decoding every frame up to the last that is wanted."""
    decode.read_timeline = lambda v: dataclasses.replace(_read_timeline(v), keyframes=None)
    try:
        return by_plan(path, sampling)
    finally:
        decode.read_timeline = _read_timeline


def by_torchcodec(path: Path, sampling: Sampling) -> str:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(path), num_ffmpeg_threads=1, seek_mode="exact")
    rate = decoder.metadata.average_fps
    decoder.get_frames_at(indices=_indices(decoder.metadata.num_frames, rate, sampling))
    return ""


def by_decord(path: Path, sampling: Sampling) -> str:
    import decord

    reader = decord.VideoReader(str(path), num_threads=1)
    reader.get_batch(_indices(len(reader), reader.get_avg_fps(), sampling)).asnumpy()
    return ""


def _indices(num_frames: int, rate: float, sampling: Sampling) -> list[int]:
    seconds = np.arange(num_frames) / rate
    return sampled_frames(seconds, num_frames / rate, sampling).tolist()


WAYS: dict[str, Callable[[Path, Sampling], str]] = {
    "plan": by_plan,
    "nvdec": by_nvdec,
    "all": by_all,
    "torchcodec": by_torchcodec,
    "decord": by_decord,
}


def decode_all(
    way: str, paths: Sequence[Path], sampling: Sampling, processes: int
) -> tuple[float, list[str]]:
    """Seconds, with the processes there already, and a hash for each video."""
    work = partial(WAYS[way], sampling=sampling)
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pool.map(work, paths[:processes], chunksize=1)
        started = time.perf_counter()
        hashes = pool.map(work, paths, chunksize=1)
        return time.perf_counter() - started, hashes


def has_nvdec() -> bool:
    """Whether a GPU opens, in a process that ends at once."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(opens)


def opens() -> bool:
    return nvdec() is not None


def measured_on_gpu(
    paths: Sequence[Path], sampling: Sampling, software: Sequence[str], flags: argparse.Namespace
) -> dict[str, object]:
    """Medians of NVDEC by its number of processes; nothing where no GPU opens."""
    if not has_nvdec():
        return {}
    rates, hashes = {}, []
    for sessions in flags.sessions:
        seconds = []
        for _ in range(flags.rounds):
            took, hashes = decode_all("nvdec", paths, sampling, sessions)
            seconds.append(took)
        rates[sessions] = round(len(paths) / statistics.median(seconds), 2)
    pairs = [(own, other) for own, other in zip(hashes, software, strict=True) if own]
    return {
        "nvdec_videos_per_second": rates,
        "nvdec_took": len(pairs),
        "nvdec_same_frames": all(own == other for own, other in pairs),
    }


def videos_of(folder: Path, name: str, num_videos: int) -> list[Path]:
    """A corpus by its name, WIDTHxHEIGHTxSECONDSgGOP; made where it is missing."""
    found = re.fullmatch(r"(\d+x\d+)x(\d+)g(\d+)", name)
    if not found:
        raise SystemExit(f"corpus {name!r}: such as 320x240x15g30")
    size, seconds, gop = found.groups()
    if not (folder / name / "captions.csv").is_file():
        script = Path(__file__).with_name("corpus.py")
        flags = ["--seconds", seconds, "--size", size, "--gop", gop]
        own = [sys.executable, script, folder / name, "--num-videos", str(num_videos), *flags]
        subprocess.run(own, check=True)
    return sorted((folder / name / "videos").iterdir())


def measured(name: str, paths: list[Path], flags: argparse.Namespace) -> dict[str, object]:
    """Medians of all ways, which take turns."""
    sampling = Sampling(kind=flags.kind, num_frames=flags.num_frames)
    own = ("plan", "all")
    others = [way for way in WAYS if way not in (*own, "nvdec") and importlib.util.find_spec(way)]
    ways = [*own, *others]
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    hashes: dict[str, list[str]] = {}
    for _ in range(flags.rounds):
        for way in ways:
            took, hashes[way] = decode_all(way, paths, sampling, flags.processes)
            seconds[way].append(took)
    rates = {way: len(paths) / statistics.median(took) for way, took in seconds.items()}
    return {
        "benchmark": "decode",
        "corpus": name,
        "videos": len(paths),
        "sampling": f"{flags.kind} {flags.num_frames}",
        "processes": flags.processes,
        "videos_per_second": {way: round(rate, 2) for way, rate in rates.items()},
        "times_all": {way: round(rate / rates["all"], 2) for way, rate in rates.items()},
        "same_frames": hashes["plan"] == hashes["all"],
        **measured_on_gpu(paths, sampling, hashes["plan"], flags),
    }


def main() -> None:
    """Prints each corpus's line as it is done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--corpora", nargs="*", default=list(CORPORA))
    parser.add_argument("--videos", type=Path, help="A folder of videos, measured too.")
    parser.add_argument("--kind", default="uniform", choices=("uniform", "fps", "keyframes"))
    for name, default in {"num-frames": 12, "num-videos": 64, "rounds": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    flags = parser.parse_args()
    for name in flags.corpora:
        paths = videos_of(flags.folder, name, flags.num_videos)
        print(json.dumps(measured(name, paths, flags)), flush=True)
    if flags.videos:
        paths = sorted(path for path in flags.videos.iterdir() if path.is_file())
        print(json.dumps(measured(flags.videos.name, paths, flags)), flush=True)


if __name__ == "__main__":
    main()
