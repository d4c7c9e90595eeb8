"""Functions that crash, hang or die, for a child process: a module that one imports fast."""

import gc
import os
import signal
import struct
import time
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muse.pipeline.decoder import DecodeTask
    from muse.pipeline.records import Clip, Failure


def act(action: str) -> int:
    """The id of the process that ran this, if it still can say so."""
    if action == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if action == "exit":
        os._exit(7)
    if action == "hang":
        time.sleep(60)
    if action == "die within the answer":
        pipes = [thing for thing in gc.get_objects() if isinstance(thing, Connection)]
        os.write(pipes[0].fileno(), struct.pack("!i", 1000) + b"the first of 1000 bytes")
        os._exit(0)
    return os.getpid()


def crash_on_b_and_hang_on_e(task: "DecodeTask") -> "Clip | Failure":
    """`attempt`, but the video b.mp4 ends the process and e.mp4 takes a minute."""
    from muse.pipeline.decoder import attempt

    if task.video.video_id == "b.mp4":
        act("segfault")
    if task.video.video_id == "e.mp4":
        act("hang")
    return attempt(task)
