"""A function in a process of its own that may crash, hang or eat memory without harm.

A segmentation fault in libav ends a process and not an exception handler, and a hang ends nothing.
So each call goes to a child; when the child dies or overstays, the next call gets a new one.
Decides whose fault a death is: an earlier item's, somebody else's or this one's. Knows nothing of
videos.
"""

import itertools
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from muse.errors import WorkerError
from muse.pipeline.decoding.child_process import (
    ChildProcess,
    ProcessDiedError,
    ProcessKilledError,
)

MAX_ATTEMPTS = 3
_CLOSE_SECONDS = 5.0

Item = TypeVar("Item")
Result = TypeVar("Result")


class IsolatedFunction(Generic[Item, Result]):
    """``function(item)``, called in a child process that is kept between calls.

    Args:
        function: Importable by name, since the child starts afresh. Of errors it may raise
            `MemoryError` only.
        timeout_seconds: For one call, the start of the child not counted.
        memory_bytes: What a call may take, on top of what a fresh child has; None for no limit.
        prepare: Called in a fresh child before it is ready; importable by name too.
    """

    def __init__(
        self,
        function: Callable[[Item], Result],
        *,
        timeout_seconds: float,
        memory_bytes: int | None = None,
        prepare: Callable[[], object] | None = None,
    ) -> None:
        self._function = function
        self._prepare = prepare
        self._timeout_seconds = timeout_seconds
        self._memory_bytes = memory_bytes
        self._child: ChildProcess[Item, Result] | None = None
        self._call = threading.Lock()  # held during a call
        self._lock = threading.Lock()  # of start and close, which come from different threads
        self._is_closed = False

    def __call__(self, item: Item) -> Result:
        """The result for one item.

        A child that crashes, or has no memory left, after it served other items proves nothing of
        this one, which is tried again in a fresh child. So is one whose child somebody killed, up
        to `MAX_ATTEMPTS`. An item that takes too long is not tried again.

        Raises:
            ProcessDiedError: If the child crashed.
            ProcessOutOfMemoryError: If memory ran out in it.
            ProcessKilledError: If each of `MAX_ATTEMPTS` children was ended by somebody else.
            ProcessTimedOutError: If it was killed after the time limit.
            WorkerError: If no child can be started.
        """
        with self._call:
            for attempt in itertools.count(1):
                child = self._ready_child()
                is_fresh = child.num_asked == 0
                try:
                    return child.ask(item, timeout_seconds=self._timeout_seconds)
                except BaseException as error:
                    self._end_child()
                    self._check_open()
                    if attempt == MAX_ATTEMPTS or not _may_be_innocent(error, is_fresh=is_fresh):
                        raise
        raise AssertionError

    def start(self) -> None:
        """Starts the child, unless there is one; a call does it otherwise.

        Raises:
            WorkerError: If none can be started.
        """
        with self._call:
            self._ready_child()

    @property
    def cpu_seconds(self) -> float | None:
        """CPU time that the present child has used until its last answer; None without one."""
        child = self._child
        return child.cpu_seconds if child is not None else None

    @property
    def is_near_limit(self) -> bool:
        """True if the last answer came from a child that had half of what it may take, or more."""
        return self._child is not None and self._child.is_near_limit

    def close(self) -> None:
        """Ends the child, if there is one, and for good: a later call is a `WorkerError`."""
        with self._lock:
            self._is_closed = True
            child = self._child
        if child is not None:
            child.kill()  # a call that waits for it now returns
            has_call = self._call.acquire(timeout=_CLOSE_SECONDS)
            self._end_child()
            if has_call:
                self._call.release()

    def _ready_child(self) -> ChildProcess[Item, Result]:
        child = self._child
        if child is not None and child.is_alive:
            return child
        self._end_child()  # it was killed between two calls; that is not this item's doing
        with self._lock:
            self._check_open()
            self._child = self._started(attempts=MAX_ATTEMPTS)
            return self._child

    def _check_open(self) -> None:
        if self._is_closed:
            raise WorkerError("the run is ending: no process is started any more.")

    def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end()

    def _started(self, *, attempts: int) -> ChildProcess[Item, Result]:
        try:
            return ChildProcess(
                self._function, memory_bytes=self._memory_bytes, prepare=self._prepare
            )
        except (ProcessDiedError, OSError) as error:
            if isinstance(error, ProcessKilledError) and attempts > 1:
                return self._started(attempts=attempts - 1)
            raise WorkerError(
                f"a decoding process can't be started ({type(error).__name__}: {error}). "
                "Its own message is above; in a script of yours, start the run under "
                '`if __name__ == "__main__":`.'
            ) from error


def _may_be_innocent(error: BaseException, *, is_fresh: bool) -> bool:
    """True if another attempt in a fresh child could end otherwise."""
    return isinstance(error, ProcessKilledError) or (
        isinstance(error, ProcessDiedError) and not is_fresh
    )
