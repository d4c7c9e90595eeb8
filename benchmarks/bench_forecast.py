"""Forecast against run: `muse extract`'s forecast, then the run, each in a fresh process.

Usage: python benchmarks/bench_forecast.py FOLDER [--engine local] [--encoders SPEC ...]
       [--corpora short long mixed] [--scale 1.0] [--repeats 1]
Makes three corpora in FOLDER where they are missing (about 400 short clips of 320x240; 48 clips of
720p of mixed length; 200 of mixed sizes, codecs and lengths of which some are broken), and prints
a JSON line for each forecast and run. Ratios are actual / forecast: 1.25 is 25 % slower than said.
On a machine that others use too, cpu_ratio still means something: CPU seconds of decoding and
encoding, without what the start takes.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import av
import corpus
import numpy as np

ENCODERS = ("openclip:ViT-B-32/random:0", "conse")


# -- corpora ---------------------------------------------------------------------------------------


def _short(folder: Path, scale: float) -> list[tuple[int, Callable[..., None], dict[str, Any]]]:
    same = {"seconds": 6.0, "size": (320, 240), "gop": 250, "seed": 1}
    return [(n, corpus.write_clip, {"folder": folder, **same}) for n in range(round(400 * scale))]


def _long(folder: Path, scale: float) -> list[tuple[int, Callable[..., None], dict[str, Any]]]:
    rng = np.random.default_rng(2)
    same = {"size": (1280, 720), "gop": 60, "seed": 2, "folder": folder}
    lengths = np.clip(rng.lognormal(2.3, 0.7, round(48 * scale)), 3, 60).tolist()
    return [(n, corpus.write_clip, {**same, "seconds": s}) for n, s in enumerate(lengths)]


def _mixed(folder: Path, scale: float) -> list[tuple[int, Callable[..., None], dict[str, Any]]]:
    rng = np.random.default_rng(3)
    jobs: list[tuple[int, Callable[..., None], dict[str, Any]]] = []
    for number in range(round(200 * scale)):
        size = ((320, 240), (640, 360), (1280, 720))[rng.choice(3, p=[0.5, 0.35, 0.15])]
        kind = rng.choice(["h264", "mpeg4", "broken"], p=[0.6, 0.3, 0.1])
        seconds = float(np.clip(rng.lognormal(1.9, 0.6), 2, 40))
        flags = {"folder": folder, "seconds": seconds, "size": size, "seed": 3}
        if kind == "h264":
            jobs.append((number, corpus.write_clip, {**flags, "gop": 250}))
        else:
            jobs.append((number, _write_mpeg4, {**flags, "is_broken": kind == "broken"}))
    return jobs


def _write_mpeg4(
    number: int, *, folder: Path, seconds: float, size: tuple[int, int], seed: int, is_broken: bool
) -> None:
    """Moving noise in an .avi; a broken one is cut to its first half."""
    rng = np.random.default_rng([seed, number])
    texture = rng.integers(0, 255, (size[1] // 4, size[0] // 4, 3)).repeat(4, 0).repeat(4, 1)
    path = folder / "videos" / f"clip{number:06d}.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for step in range(round(seconds * 25)):
            image = np.ascontiguousarray(np.roll(texture, 2 * step, axis=1), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    if is_broken:
        os.truncate(path, path.stat().st_size // 2)


CORPORA = {"short": _short, "long": _long, "mixed": _mixed}


def make_corpus(name: str, folder: Path, scale: float) -> None:
    """Videos and captions, unless they are there already."""
    if (folder / "captions.csv").is_file():
        return
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    jobs = CORPORA[name](folder, scale)
    with ProcessPoolExecutor() as pool:
        for running in [pool.submit(write, number, **flags) for number, write, flags in jobs]:
            running.result()
    lines = [
        f"{path.name},{text} of {path.stem}"
        for path in sorted((folder / "videos").iterdir())
        for text in ("a square", "a colour")
    ]
    text = "\n".join(["video,caption", *lines]) + "\n"
    (folder / "captions.csv").write_text(text, encoding="utf-8")


# -- in a process of its own -----------------------------------------------------------------------


def forecast_or_run(what: str, folder: Path, out: Path, encoder: str, engine: str) -> None:
    """One JSON line on stdout."""
    from muse.pipeline.datasets.folder import list_folder
    from muse.pipeline.encoders.base import absolute_spec
    from muse.pipeline.extract import ExtractConfig, extract
    from muse.pipeline.forecasting.forecast import make_forecast
    from muse.pipeline.forecasting.pending_work import PendingWork
    from muse.pipeline.listing import rows_of_new_store, sorted_listing

    config = ExtractConfig(out=out, encoder=absolute_spec(encoder), engine=engine)  # type: ignore[arg-type]
    listing = sorted_listing(list_folder(folder / "videos", folder / "captions.csv"))
    if what == "forecast":
        work = PendingWork.of(rows_of_new_store(listing), None, shard_size=config.shard_size)
        print(json.dumps(make_forecast(config, work).as_json()))
        return
    cpu_before = _cpu_seconds()
    with _Memory() as memory:
        summary = extract(config, listing)
    arrays = [
        path
        for path in (out / "features.zarr").rglob("*")
        if path.is_file() and path.name != "zarr.json"
    ]
    content = {
        "seconds": summary.elapsed_seconds,
        "cpu_seconds": _cpu_seconds() - cpu_before,
        "bytes": sum(path.stat().st_size for path in arrays),
        "counts": dataclasses.asdict(summary.counts),
        "peak_bytes": memory.peak_bytes,
    }
    print(json.dumps(content))


class _Memory:
    """The most that this process and its children had in memory at once, looked at often."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "_Memory":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_over.wait(0.2):
            family = [os.getpid()] + [child.pid for child in multiprocessing.active_children()]
            self.peak_bytes = max(self.peak_bytes, sum(map(_resident_bytes, family)))


def _resident_bytes(pid: int | None) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1])
    except OSError:  # it has ended
        return 0
    return pages * resource.getpagesize()


def _cpu_seconds() -> float:
    own, children = (resource.getrusage(who) for who in (0, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _fresh(what: str, folder: Path, out: Path, encoder: str, engine: str) -> dict[str, Any]:
    command = [sys.executable, __file__, str(folder), "--child", what, str(out), encoder, engine]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    content: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return content


def compare(name: str, folder: Path, encoder: str, engine: str) -> dict[str, Any]:
    """Forecast, then run."""
    out = folder / f"store-{time.time_ns()}"
    load = os.getloadavg()[0]
    forecast = _fresh("forecast", folder, out, encoder, engine)
    actual = _fresh("run", folder, out, encoder, engine)
    shutil.rmtree(out)
    wall, low, high = (forecast[f"wall_{n}seconds"] for n in ("", "low_", "high_"))
    num_failed = actual["counts"]["failed"] - forecast["num_missing"]
    num_bytes = forecast["output_bytes"] - num_failed * forecast["row_bytes"]
    cpu_hours = forecast["decode_core_hours"]
    if forecast["encode_device"] == "cpu":
        cpu_hours += forecast["encode_hours"]
    cpu_seconds = cpu_hours * 3600
    return {
        "corpus": name,
        "encoder": encoder,
        "engine": engine,
        "videos": forecast["num_videos"],
        "time_ratio": round(actual["seconds"] / wall, 3),
        "is_within_interval": low <= actual["seconds"] <= high,
        "forecast_seconds": [round(seconds, 1) for seconds in (low, wall, high)],
        "actual_seconds": round(actual["seconds"], 1),
        "cpu_ratio": round(actual["cpu_seconds"] / cpu_seconds, 3),
        "actual_cpu_seconds": round(actual["cpu_seconds"], 1),
        "bytes_ratio": actual["bytes"] / num_bytes,  # of what does decode
        "bytes_forecast": forecast["output_bytes"],
        "memory_ratio": round(actual["peak_bytes"] / forecast["peak_memory_bytes"], 2),
        "failures": [*(round(n, 1) for n in forecast["num_failures"]), num_failed],
        "binds": forecast["binds_because"],
        "decode_cpu_share": forecast["decode_cpu_share"],
        "probe_seconds": round(forecast["probe_seconds"], 1),
        "load_before": round(load, 1),
        "load_after": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    """Prints a line a corpus and encoder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--engine", default="local")
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS))
    parser.add_argument("--corpora", nargs="+", default=list(CORPORA), choices=list(CORPORA))
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.child:
        what, out, encoder, engine = flags.child
        forecast_or_run(what, flags.folder, Path(out), encoder, engine)
        return
    for name in flags.corpora:
        folder = flags.folder / f"{name}-{flags.scale:g}"
        make_corpus(name, folder, flags.scale)
        for encoder in flags.encoders:
            for _ in range(flags.repeats):
                print(json.dumps(compare(name, folder, encoder, flags.engine)), flush=True)


if __name__ == "__main__":
    main()
