"""How fast batches of tokens come from a disk: muse's loader, h5py, memmap and one file a video.

Every reader gives the same bytes, 128 videos at random a batch, as training reads them. h5py,
memmap and files are read as well as a plain loop can: into one buffer that is made once, aligned as
torch aligns it. ``…_threads`` are the same with as many threads as muse's loader has (h5py has one
lock for all). The readers are interleaved; the fastest of the rounds counts, as a machine's other
work only ever makes one slower.

Usage: python benchmarks/bench_loader.py FOLDER --num-videos 1024
       python benchmarks/bench_loader.py FOLDER --train --train-batch 128 --train-steps 60
"""

import argparse
import contextlib
import dataclasses
import gc
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from token_store import write_store

from muse.head.loader import NUM_BUFFERS, read_video_batches, reading_threads
from muse.head.train import StepReport, paper_head, train
from muse.head.train_config import TrainConfig
from muse.pipeline.store import open_store

FRAMES, VIDEOS_A_BATCH, WARM_UP_STEPS = 12, 128, 3
CPU = torch.device("cpu")

Batches = list[NDArray[np.intp]]
Read = Callable[[Batches], Iterator[NDArray[np.float16]]]


@dataclass(frozen=True)
class Size:
    """An encoder's tokens."""

    grid: int
    dim: int
    part: int
    """One in so many of ``--num-videos``."""

    @property
    def shape(self) -> tuple[int, int, int]:
        return (FRAMES, 1 + self.grid**2, self.dim)

    @property
    def video_bytes(self) -> int:
        return int(np.prod(self.shape)) * 2


SIZES = {"B/32": Size(7, 512, 1), "L/14": Size(16, 768, 4)}


def main() -> None:
    """Prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="made, filled and removed again")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--num-videos", type=int, default=1024)
    parser.add_argument("--num-batches", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--train", action="store_true", help="the wait of real steps instead")
    parser.add_argument("--train-batch", type=int, default=128)
    parser.add_argument("--train-steps", type=int, default=60)
    parser.add_argument("--train-depth", type=int, default=4)
    flags = parser.parse_args()
    flags.folder.mkdir(parents=True)
    found: dict[str, Any] = {"cores": os.cpu_count(), "threads": reading_threads()}
    try:
        for name in flags.sizes:
            size = SIZES[name]
            num_videos = max(flags.num_videos // size.part, VIDEOS_A_BATCH)
            store = flags.folder / f"dim{size.dim}"
            write_store(
                store, num_videos=num_videos, captions_each=20, num_frames=FRAMES,
                grid=size.grid, dim=size.dim,
            )  # fmt: skip
            if flags.train:
                found[name] = waiting_shares(store, flags)
            else:
                num_batches = max(flags.num_batches // size.part, 4)
                found[name] = rates(store, size, num_videos, num_batches, flags.rounds)
            shutil.rmtree(store)
    finally:
        shutil.rmtree(flags.folder)
    print(json.dumps(found))


# -- reading -------------------------------------------------------------------------------------


def rates(
    store: Path, size: Size, num_videos: int, num_batches: int, rounds: int
) -> dict[str, Any]:
    """GB/s of every reader, with the files in the page cache and without."""
    files = write_rivals(store, size)
    readers = readers_of(store, files, size, num_videos)
    everything = [path for path in [*store.rglob("*"), *files.rglob("*")] if path.is_file()]
    rng = np.random.default_rng(0)
    draw = partial(rng.choice, num_videos, VIDEOS_A_BATCH, replace=False)
    warm = [np.sort(draw()) for _ in range(num_batches)]
    cold = [np.sort(rows) for rows in np.split(rng.permutation(num_videos), num_videos // 128)]
    require_same(readers, warm[:1])
    taken: dict[str, dict[str, list[float]]] = {"warm": {}, "cold": {}, "from_disk": {}}
    for _ in range(rounds):
        for name, read in readers.items():
            evict(everything)
            before = bytes_from_disk()
            taken["cold"].setdefault(name, []).append(gb_per_second(read, cold))
            gc.collect()  # a file that is still mapped stays in the cache
            share = (bytes_from_disk() - before) / (num_videos * size.video_bytes)
            taken["from_disk"].setdefault(name, []).append(share)
        for name, read in readers.items():
            first = [*cold, *warm[:NUM_BUFFERS]]  # all is mapped, and every buffer was used
            batches = [*first, *warm, *warm[:NUM_BUFFERS]]  # reading ahead to the end
            rate = gb_per_second(read, batches, first=len(first), last=len(first) + len(warm))
            taken["warm"].setdefault(name, []).append(rate)
    shutil.rmtree(files)
    best = {
        state: {name: round(max(values), 2) for name, values in of_reader.items()}
        for state, of_reader in taken.items()
    }
    return {"video_bytes": size.video_bytes, "num_videos": num_videos, **memcpy(size), **best}


def write_rivals(store: Path, size: Size) -> Path:
    """The store's tokens in the three other forms."""
    folder = store.with_name(f"{store.name}.rivals")
    (folder / "videos").mkdir(parents=True)
    opened = open_store(store)
    num_videos = len(opened.video_ids)
    with (
        h5py.File(folder / "tokens.h5", "w") as file,
        (folder / "tokens.bin").open("wb") as whole,
    ):
        shape = (num_videos, *size.shape)
        dataset = file.create_dataset("tokens", shape, "float16", chunks=(1, *size.shape))
        for row in range(num_videos):
            tokens = opened.read_clip(row).tokens_TKD
            dataset[row] = tokens
            whole.write(tokens.tobytes())
            np.save(folder / "videos" / f"{row}.npy", tokens)
    os.sync()
    return folder


def readers_of(store: Path, files: Path, size: Size, num_videos: int) -> dict[str, Read]:
    """By name; each opens its files anew, so that nothing stays mapped."""
    shape = (num_videos, *size.shape)

    def muse(batches: Batches) -> Iterator[NDArray[np.float16]]:
        for videos in read_video_batches(open_store(store), batches, device=CPU):
            yield videos.tokens_BTKD.numpy()

    def hdf5(batches: Batches) -> Iterator[NDArray[np.float16]]:
        with h5py.File(files / "tokens.h5", "r") as file:
            tokens, buffer = file["tokens"], buffer_of(size)
            for rows in batches:
                for place, row in enumerate(rows.tolist()):
                    tokens.read_direct(buffer, np.s_[row], np.s_[place])
                yield buffer[: len(rows)]

    def copies(
        batches: Batches, video: Callable[[int], NDArray[np.float16]], num_threads: int
    ) -> Iterator[NDArray[np.float16]]:
        buffer = buffer_of(size)

        def copy(places: NDArray[np.intp], rows: NDArray[np.intp]) -> None:
            for place, row in zip(places.tolist(), rows.tolist(), strict=True):
                buffer[place] = video(row)

        with ThreadPoolExecutor(num_threads) as pool:
            for rows in batches:
                parts = np.array_split(np.arange(len(rows)), num_threads)
                list(pool.map(copy, parts, [rows[part] for part in parts]))
                yield buffer[: len(rows)]

    def memmap(batches: Batches, num_threads: int = 1) -> Iterator[NDArray[np.float16]]:
        tokens = np.memmap(files / "tokens.bin", np.float16, "r", shape=shape)
        yield from copies(batches, lambda row: tokens[row], num_threads)

    def raw(batches: Batches, num_threads: int = 1) -> Iterator[NDArray[np.float16]]:
        yield from copies(
            batches, lambda row: np.load(files / "videos" / f"{row}.npy"), num_threads
        )

    return {
        "muse": muse,
        "h5py": hdf5,
        "memmap": memmap,
        "files": raw,
        "memmap_threads": partial(memmap, num_threads=reading_threads()),
        "files_threads": partial(raw, num_threads=reading_threads()),
    }


def buffer_of(size: Size) -> NDArray[np.float16]:
    """For a batch, touched once."""
    return torch.zeros((VIDEOS_A_BATCH, *size.shape), dtype=torch.float16).numpy()


def require_same(readers: dict[str, Read], batches: Batches) -> None:
    """Nothing, if all give the same bytes."""
    sums = {name: [batch.tobytes() for batch in read(batches)] for name, read in readers.items()}
    assert all(found == sums["muse"] for found in sums.values())


def gb_per_second(
    read: Read, batches: Batches, *, first: int = 0, last: int | None = None
) -> float:
    """Of the batches after the ``first`` so many, up to the ``last``."""
    num_bytes, started = 0, time.perf_counter()
    for number, batch in enumerate(read(batches), start=1):
        if number == first:
            started = time.perf_counter()
        elif number > first:
            num_bytes += batch.nbytes
        if number == (last or len(batches)):
            break
    return num_bytes / (time.perf_counter() - started) / 1e9


def evict(files: Sequence[Path]) -> None:
    """Drops files from the page cache, as far as the system lets one."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def bytes_from_disk() -> int:
    """That this process has made the system fetch."""
    lines = Path("/proc/self/io").read_text(encoding="utf-8").splitlines()
    return int(dict(line.split(": ") for line in lines)["read_bytes"])


def memcpy(size: Size) -> dict[str, float]:
    """GB/s of copying a batch in memory, with one thread and with all."""
    source, target = buffer_of(size), buffer_of(size)
    source[...] = 1

    def copy(places: NDArray[np.intp]) -> None:
        target[places[0] : places[-1] + 1] = source[places[0] : places[-1] + 1]

    found = {}
    for name, num_threads in (("memcpy", 1), ("memcpy_threads", reading_threads())):
        parts = np.array_split(np.arange(VIDEOS_A_BATCH), num_threads)
        fastest = float("inf")
        with ThreadPoolExecutor(num_threads) as pool:
            for _ in range(10):
                started = time.perf_counter()
                list(pool.map(copy, parts))
                fastest = min(fastest, time.perf_counter() - started)
        found[name] = round(source.nbytes / fastest / 1e9, 2)
    return found


# -- training ------------------------------------------------------------------------------------


class _EnoughError(Exception):
    """The steps that were wanted are made."""


def waiting_shares(store: Path, flags: argparse.Namespace) -> dict[str, Any]:
    """Of the steps after the first few: their seconds, and the part of those spent waiting."""
    opened, found = open_store(store), {}
    head = dataclasses.replace(paper_head(opened.header), depth=flags.train_depth)
    for shuffle in ("full", "shards"):
        reports: list[StepReport] = []
        config = TrainConfig(
            split="all", epochs=100, batch_size=flags.train_batch, shuffle=shuffle,
            shuffle_window=max(flags.train_batch, flags.num_videos // 8),
        )  # fmt: skip
        run = store.with_name(f"{store.name}.{shuffle}")
        with contextlib.suppress(_EnoughError):
            train(
                opened, run, config=config, head=head,
                on_step=partial(stop_after, flags.train_steps, reports),
            )  # fmt: skip
        found[shuffle] = waiting_of(reports[WARM_UP_STEPS:], flags.train_batch)
    return found


def stop_after(num_steps: int, reports: list[StepReport], report: StepReport) -> None:
    """Keeps a step's report; ends the training after so many, beside the first few."""
    reports.append(report)
    if len(reports) == WARM_UP_STEPS + num_steps:
        raise _EnoughError


def waiting_of(reports: Sequence[StepReport], batch_size: int) -> dict[str, float]:
    """Seconds a step, those spent waiting, and their part of the whole."""
    seconds = [batch_size / report.pairs_per_second for report in reports]
    waiting = [report.waiting_seconds for report in reports]
    return {
        "step_seconds": round(float(np.median(seconds)), 5),
        "waiting_seconds": round(float(np.median(waiting)), 5),
        "waiting_share": round(sum(waiting) / sum(seconds), 5),
    }


if __name__ == "__main__":
    main()
