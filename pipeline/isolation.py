"""A function in a process of its own that may crash or hang without harm.

A segmentation fault in libav ends a process and not an exception handler, and a hang ends nothing.
So each call goes to a child; when the child dies or overstays, it is killed and the next call gets
a new one. Knows nothing of videos.
"""

import contextlib
import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Generic, TypeVar

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
        self._child: tuple[multiprocessing.process.BaseProcess, Connection] | None = None

    def __call__(self, item: Item) -> Result:
        """The result for one item.

        Raises:
            ProcessDiedError: If the child crashed.
            ProcessTimedOutError: If it was killed after the time limit.
        """
        if self._child is not None and not self._child[0].is_alive():
            self.close()  # it was killed between two calls; that is not this item's doing
        process, connection = self._child or self._start()
        try:
            connection.send(item)
            if not connection.poll(self._timeout_seconds):
                self.close()
                raise ProcessTimedOutError(f"no answer in {self._timeout_seconds:g} s")
            result: Result = connection.recv()
        except (EOFError, OSError) as error:  # OSError: it died within an answer
            process.join(5)
            code = process.exitcode
            self.close()
            raise ProcessDiedError(_ending(code)) from error
        return result

    def close(self) -> None:
        """Ends the child, if there is one."""
        if self._child is not None:
            process, connection = self._child
            self._child = None
            process.kill()
            process.join()
            connection.close()

    def _start(self) -> tuple[multiprocessing.process.BaseProcess, Connection]:
        # "spawn": a fork of a process that runs torch and Ray threads may deadlock.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(self._function, theirs), daemon=True)
        process.start()
        theirs.close()
        if not ours.poll(120):
            process.kill()
            raise ProcessDiedError("the process did not start within 120 s")
        try:
            ours.recv()
        except EOFError:
            process.join(5)
            raise ProcessDiedError(f"on its start: {_ending(process.exitcode)}") from None
        self._child = (process, ours)
        return self._child


def _serve(function: Callable[[Item], Result], connection: Connection) -> None:
    # Ctrl-C goes to the whole process group; the parent decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection.send(None)
    with contextlib.suppress(EOFError, ConnectionError):  # the parent is gone
        while True:
            connection.send(function(connection.recv()))


def _ending(exitcode: int | None) -> str:
    if exitcode is None:
        return "the process closed its end of the pipe"
    if exitcode < 0:
        return f"the process was ended by {signal.Signals(-exitcode).name}"
    return f"the process ended with code {exitcode}"
