"""A function in a process of its own that may crash or hang without harm.

A segmentation fault in libav ends a process and not an exception handler, and a hang ends nothing.
So each call goes to a child; when the child dies or overstays, it is killed and the next call gets
a new one. Knows nothing of videos.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

from muse.errors import WorkerError

_START_SECONDS = 120.0
_JOIN_SECONDS = 5.0
_ORPHAN_POLL_SECONDS = 1.0

_Child = tuple[multiprocessing.process.BaseProcess, Connection]
Item = TypeVar("Item")
Result = TypeVar("Result")


class ProcessDiedError(Exception):
    """The child ended before it answered; the message says by which signal or code."""


class ProcessTimedOutError(Exception):
    """The child did not answer in time and was killed."""


class IsolatedFunction(Generic[Item, Result]):
    """``function(item)``, called in a child process that is kept between calls.

    Args:
        function: Importable by name, since the child starts afresh; may not raise.
        timeout_seconds: For one call, the start of the child not counted.
    """

    def __init__(self, function: Callable[[Item], Result], *, timeout_seconds: float) -> None:
        self._function = function
        self._timeout_seconds = timeout_seconds
        self._child: _Child | None = None
        self._lock = threading.Lock()  # of start and close, which come from different threads
        self._is_closed = False

    def __call__(self, item: Item) -> Result:
        """The result for one item.

        Raises:
            ProcessDiedError: If the child crashed.
            ProcessTimedOutError: If it was killed after the time limit.
            WorkerError: If no child can be started.
        """
        if self._child is not None and not self._child[0].is_alive():
            self._end_child()  # it was killed between two calls; that is not this item's doing
        process, connection = self._child or self._start()
        try:
            connection.send(item)
            if not connection.poll(self._timeout_seconds):
                self._end_child()
                raise ProcessTimedOutError(f"no answer in {self._timeout_seconds:g} s")
            result: Result = connection.recv()
        except (EOFError, OSError) as error:  # OSError: it died within an answer
            process.join(_JOIN_SECONDS)
            code = process.exitcode
            self._end_child()
            raise ProcessDiedError(_ending(code)) from error
        return result

    def close(self) -> None:
        """Ends the child, if there is one, and for good: a later call is a `WorkerError`."""
        with self._lock:
            self._is_closed = True
            self._end_child()

    def _end_child(self) -> None:
        if self._child is not None:
            process, connection = self._child
            self._child = None
            process.kill()
            # One that waits for a dead file server can't be killed: it is left behind.
            process.join(_JOIN_SECONDS)
            connection.close()

    def _start(self) -> "_Child":
        with self._lock:
            if self._is_closed:
                raise WorkerError("the run is ending: no process is started any more.")
            try:
                self._child = _started(self._function)
            except (EOFError, OSError) as error:
                raise WorkerError(
                    f"a decoding process can't be started ({type(error).__name__}: {error}). "
                    "Its own message is above; in a script of yours, start the run under "
                    '`if __name__ == "__main__":`.'
                ) from error
            return self._child


def _started(function: Callable[[Any], Any]) -> "_Child":
    """A child that has imported the function and waits for items."""
    # "spawn": a fork of a process that runs torch and Ray threads may deadlock.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(function, theirs), daemon=True)
    try:
        process.start()
        theirs.close()
        if not ours.poll(_START_SECONDS):
            raise TimeoutError(f"no sign of life in {_START_SECONDS:g} s")
        ours.recv()
    except BaseException:
        if process.pid is not None:
            process.kill()
        ours.close()
        raise
    return process, ours


def _serve(function: Callable[[Item], Result], connection: Connection) -> None:
    # Ctrl-C goes to the whole process group; the parent decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    connection.send(None)
    with contextlib.suppress(EOFError, ConnectionError):  # the parent is gone
        while True:
            connection.send(function(connection.recv()))


def _end_with_parent(parent_pid: int) -> None:
    """Ends this process when its parent was killed, also while libav hangs."""
    while os.getppid() == parent_pid:
        time.sleep(_ORPHAN_POLL_SECONDS)
    os._exit(1)


def _ending(exitcode: int | None) -> str:
    if exitcode is None:
        return "the process closed its end of the pipe"
    if exitcode < 0:
        return f"the process was ended by {signal.Signals(-exitcode).name}"
    return f"the process ended with code {exitcode}"
