"""Functions that crash, hang or die, for a child process: a module that one imports fast."""

import ctypes
import gc
import os
import signal
import struct
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from muse.pipeline.decoding.decoder import DecodeTask
    from muse.pipeline.records import Clip, Failure

# NumPy is loaded here after the memory limit is set, and its buffers grow with the cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

_kept: list[bytes] = []


def act(action: str) -> int:
    """The id of the process that ran this, if it still can say so."""
    if action.startswith("SIG"):
        os.kill(os.getpid(), signal.Signals[action])
    if action == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if action == "exit":
        os._exit(7)
    if action == "hang":
        time.sleep(60)
    if action == "hang and let no other thread run":
        ctypes.PyDLL(None).sleep(60)
    if action == "allocate without end":
        while True:
            _kept.append(b"1" * 1_000_000)
    if action == "keep 60 MB":
        _kept.append(b"1" * 60_000_000)
    if action == "take 60 MB and crash":
        _kept.append(b"1" * 60_000_000)
        time.sleep(0.2)
        act("segfault")
    if action == "die within the answer":
        pipes = [thing for thing in gc.get_objects() if isinstance(thing, Connection)]
        os.write(pipes[0].fileno(), struct.pack("!i", 1000) + b"the first of 1000 bytes")
        os._exit(0)
    return os.getpid()


def keep_90_mb() -> None:
    _kept.append(b"1" * 90_000_000)


def crash() -> None:
    act("segfault")


def act_at_first(what: tuple[str, int, Path]) -> int:
    """`act`, but only the first times of all; a file counts them, one byte each."""
    action, times, counter = what
    with counter.open("ab") as stream:
        stream.write(b"1")
    return act(action if counter.stat().st_size <= times else "answer")


def bytes_of_clip(number: int) -> "NDArray[np.int64]":
    """As large as twelve frames of 320 x 240; below 0, the process in place of the number."""
    import numpy as np

    return np.full(12 * 320 * 240 * 3 // 8, os.getpid() if number < 0 else number % 256)


def act_as_named(task: "DecodeTask") -> "Clip | Failure":
    """`attempt`, after what the video is called has been done."""
    act(task.video.video_id)
    from muse.pipeline.decoding.decoder import attempt

    return attempt(task)


def crash_on_b_and_hang_on_e(task: "DecodeTask") -> "Clip | Failure":
    """`attempt`, but the video b.mp4 ends the process and e.mp4 takes a minute."""
    from muse.pipeline.decoding.decoder import attempt

    if task.video.video_id == "b.mp4":
        act("segfault")
    if task.video.video_id == "e.mp4":
        act("hang")
    return attempt(task)
