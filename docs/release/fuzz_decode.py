"""Damages real videos at random and decodes them: only a clip or a known failure may come out.

Usage: fuzz_decode.py FOLDER OUT [--seconds 3600] [--seed 0]
Prints a JSON line every minute and at the end. A case that breaks a promise is kept in OUT with
what it did: `crashed` and `timeout` (the isolation held, libav or PyAV did not), and `broken` (a
promise of ours did not hold). The same seed gives the same cases.
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np

from muse.pipeline.decoding.decoder import DecodeLimits, DecodeTask, IsolatedDecoder
from muse.pipeline.header import Preprocessing, Sampling
from muse.pipeline.records import FAILURE_REASONS, Clip, Failure, VideoRef

SIZE = 64
PREPROCESSING = Preprocessing(
    size=SIZE, resize_to=SIZE, interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1)
)
SAMPLING = Sampling(kind="uniform", num_frames=6)
SECONDS_A_CASE = 90.0  # of wall time, on a machine that may be busy
MAX_BYTES = 1 << 20  # of a seed file: larger ones spend the time on decoding


def flip_bytes(content: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Some bytes anywhere."""
    places = rng.integers(0, len(content), int(2 ** rng.uniform(0, 10)))
    content[places] = rng.integers(0, 256, len(places))
    return content


def flip_head(content: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Some bytes of the first kilobytes, where headers are."""
    places = rng.integers(0, min(len(content), 4096), int(2 ** rng.uniform(0, 6)))
    content[places] = rng.integers(0, 256, len(places))
    return content


def flip_tail(content: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Some bytes of the last kilobytes, where indices are."""
    places = (
        len(content) - 1 - rng.integers(0, min(len(content), 8192), int(2 ** rng.uniform(0, 6)))
    )
    content[places] = rng.integers(0, 256, len(places))
    return content


def truncate(content: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The first part of the file."""
    return content[: rng.integers(0, len(content))]


def zero_block(content: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A block that was never written."""
    start = rng.integers(0, len(content))
    content[start : start + int(2 ** rng.uniform(4, 16))] = 0
    return content


def swap_blocks(content: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Two blocks in each other's place."""
    size = int(2 ** rng.uniform(4, 14))
    left, right = rng.integers(0, max(1, len(content) - size), 2)
    content[left : left + size], content[right : right + size] = (
        content[right : right + size].copy(),
        content[left : left + size].copy(),
    )
    return content


def set_extremes(content: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A 32-bit field with a value that programs forget."""
    start = int(rng.integers(0, max(1, min(len(content), 8192) - 4)))
    value = rng.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFE])
    content[start : start + 4] = np.frombuffer(int(value).to_bytes(4, "big"), np.uint8)
    return content


def drop_bytes(content: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A file that lost a few bytes in the middle."""
    start, size = rng.integers(0, len(content)), int(2 ** rng.uniform(0, 8))
    return np.delete(content, slice(start, start + size))


MUTATIONS = (
    flip_bytes, flip_head, flip_tail, truncate, zero_block, swap_blocks, set_extremes, drop_bytes,
)  # fmt: skip


def broken_promise(result: Clip | Failure, seconds: float) -> str | None:
    """Which promise of the decode stage a result breaks; None if it keeps all."""
    if seconds > SECONDS_A_CASE + 10:
        return f"took {seconds:.0f} s"
    if isinstance(result, Failure):
        if result.reason not in FAILURE_REASONS or result.stage != "decode":
            return f"unknown failure {result.stage}/{result.reason}"
        return None
    frames, pts = result.frames_THWC, result.pts_seconds_T
    if frames.shape[1:] != (SIZE, SIZE, 3) or frames.dtype != np.uint8:
        return f"frames are {frames.shape} {frames.dtype}"
    if not 1 <= len(frames) == len(pts) <= SAMPLING.num_frames:
        return f"{len(frames)} frames, {len(pts)} times"
    if not np.isfinite(pts).all() or pts[0] < 0 or (np.diff(pts) <= 0).any():
        return f"times are {pts.tolist()}"
    return None


def main() -> None:
    """Runs until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    flags.out.mkdir(parents=True, exist_ok=True)
    suffixes = {".mp4", ".avi", ".mkv", ".webm", ".mov", ".gif"}
    seeds = sorted(
        f for f in flags.folder.rglob("*")
        if f.suffix in suffixes and f.stat().st_size <= MAX_BYTES
    )  # fmt: skip
    contents = [np.fromfile(file, np.uint8) for file in seeds]
    decoder = IsolatedDecoder(DecodeLimits(timeout_seconds=SECONDS_A_CASE))
    outcomes: Counter[str] = Counter()
    started = last = time.monotonic()
    case = 0
    while time.monotonic() - started < flags.seconds:
        rng = np.random.default_rng([flags.seed, case])
        place, mutation = int(rng.integers(len(seeds))), MUTATIONS[case % len(MUTATIONS)]
        path = flags.out / f"case{seeds[place].suffix}"
        mutation(contents[place].copy(), rng).tofile(path)
        task = DecodeTask(
            video=VideoRef(video_id="case", path=path),
            sampling=SAMPLING,
            preprocessing=PREPROCESSING,
        )
        begun = time.monotonic()
        result = decoder(task)
        broken = broken_promise(result, time.monotonic() - begun)
        outcome = "broken" if broken else "ok" if isinstance(result, Clip) else result.reason
        outcomes[outcome] += 1
        if outcome in ("broken", "crashed", "timeout", "out_of_memory"):
            keep = flags.out / f"{outcome}-{case:07d}-{mutation.__name__}{path.suffix}"
            path.rename(keep)
            message = broken or (result.message if isinstance(result, Failure) else "")
            facts = {"case": keep.name, "of": seeds[place].name, "message": message}
            with (flags.out / "found.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(facts) + "\n")
        case += 1
        if time.monotonic() - last > 60:
            last = time.monotonic()
            print(json.dumps({"cases": case, **outcomes}), flush=True)
    decoder.close()
    seconds = round(time.monotonic() - started)
    print(json.dumps({"seconds": seconds, "seeds": len(seeds), "cases": case, **outcomes}))


if __name__ == "__main__":
    main()
